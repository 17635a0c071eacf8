"""The log of a run: one JSON line a report, in a file that a resumed run cuts back to its step.

    step                steps made so far
    seconds             spent on them in all sittings, each from the start of its process
    tokens              learned from so far: step x batch_size x block_size
    train_loss          nats per token: the mean of the steps since the report before, with dropout and BPE-dropout as they are in training
    train_nats_per_byte     the same per byte of text that these tokens stand for. Above what the network could do by as
                            much as dropout and BPE-dropout cost it; null where the tokens stand for no text
    learning_rate       of the last step
    bpe_dropout         of the last step: a share of merges
    gradient_length     of the last step, before it was clipped; null where it was beyond what fp16 can hold
    micro_batch_size    windows computed at once
    tokens_per_second   in training since the report before, without evaluations
    decay_start         the step from which on the learning rate falls: once, in the first report that knows
    total_steps         the step at which the run is to end, each time that time decides: when the learning rate begins
                        to fall, and when the end is moved because the machine has become faster or slower
    train_eval_nats_per_byte    at an evaluation, where the run is long enough for it: a fixed sample of the training text,
                                measured as the validation is: without dropout, as it is encoded, in windows that do not
                                overlap. Far below val_nats_per_byte while that one rises: overfitting
    val_nats_per_byte   at an evaluation: how well the validation part is predicted
    val_bpb             the same in bits per byte
    sample              at an evaluation: what the network writes by now

A reader does without the fields that an older run did not write, and passes over those it does not know.
"""

import json

from folio.base.files import ordinary, replacing


class RunLog:
    """Appends reports to a .jsonl file and hands each to the system at once: a killed process loses none, a power cut perhaps the last ones."""

    def __init__(self, path, events=None):
        """events: a tensorboard.Events that is to show the same reports."""
        self.path, self.events = path, events

    def append(self, **report):
        """Write one line."""
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(report) + "\n")
        if self.events:
            self.events.append(report)

    def cut_back(self, step):
        """Forget the reports after a step, and a last line that a kill left half-written. -> the reports that are left"""
        kept = [report for report in read(self.path) if report["step"] <= step]
        with replacing(self.path) as file:
            file.write("".join(json.dumps(report) + "\n" for report in kept).encode("utf-8"))
        if self.events:
            self.events.replace(kept)
        return kept


def read(path):
    """The reports in a log, oldest first; a line that is not whole is passed over."""
    return [report for report in each_line(path) if report is not None] if path.exists() else []


def each_line(path):
    """Yield the report of every line in a log, oldest first, or None for a line that is not whole."""
    with open(path, encoding="utf-8", errors="replace", opener=ordinary) as file:         # damage is a line that is no JSON, whatever its bytes
        for line in file:
            try:
                report = json.loads(line)
            except (ValueError, RecursionError):        # the latter of brackets in brackets
                report = None
            yield report if isinstance(report, dict) and type(report.get("step")) is int else None
