"""The log of a run, Saved_Weights/log-NAME.jsonl: one JSON object a line, one line a report.

A resumed run cuts the file back to its step. The fields of a report:

    step                int: training steps made so far
    seconds             float: spent on them in all sittings, each from the start of its process
    tokens              int: trained on so far: step x batch_size x block_size
    train_loss          nats per token: the mean of the steps since the last report, with dropout and BPE-dropout as
                        they are in training
    train_nats_per_byte     the same per byte of text that these tokens stand for. Dropout and BPE-dropout raise it
                            above what the network could reach; null where the tokens stand for no text
    learning_rate       of the last step
    bpe_dropout         of the last step: share of merges left out
    gradient_length     gradient norm of the last step, before it was clipped; null where fp16 cannot hold it
    micro_batch_size    sequences per forward and backward pass
    tokens_per_second   in training since the last report, without evaluations
    decay_start         the step from which on the learning rate falls: in the first report that knows it
    total_steps         the step at which the run is to end, each time that the clock decides it: when the learning rate
                        begins to fall, and when the end is moved because the machine has become faster or slower
    settings            {field of Model_Params: value} in effect: in the first report, and where they are new
    train_eval_nats_per_byte    at an evaluation, if the run is long enough for it: a fixed sample of the training text,
                                measured as the validation set is: without dropout, as it is encoded, in windows that
                                do not overlap. Far below val_nats_per_byte while that one rises: overfitting
    val_nats_per_byte   at an evaluation: how well the validation set is predicted
    val_bpb             the same in bits per byte
    val_nats_per_pair   of a run that learns from preferences, in place of val_nats_per_byte: the loss on the pairs held
                        out, as train_loss is on those to learn from, which also has that of the ordinary text
    val_ordered         share of these pairs whose chosen answer has become likelier, compared with the rejected one;
                        val_bpb is then of the project's held-out text, or without one of the held-out chosen answers
    sample              at an evaluation: text that the network generates

A reader does without the fields that an older run did not write, and passes over those it does not know.
"""

import json
import os

from folio.base.files import ordinary, replacing


class RunLog:
    """Append reports to a .jsonl file.

    Each is handed to the system at once: a killed process loses none, a power cut perhaps the last ones.
    """

    def __init__(self, path, followers=()):
        """followers: told of every report, by append(report), replace(all reports so far) and close()"""
        self.path, self.followers = path, list(followers)

    def append(self, **report):
        """Write one line."""
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(report) + "\n")
        for follower in self.followers:
            follower.append(report)

    def close(self):
        """Tell the followers that nothing more comes."""
        for follower in self.followers:
            follower.close()

    def cut_back(self, step):
        """Remove the reports after a step, and a line that a kill left half-written. -> the reports that are left"""
        kept = [report for report in read(self.path) if report["step"] <= step]
        with replacing(self.path) as file:
            file.write("".join(json.dumps(report) + "\n" for report in kept).encode("utf-8"))
        for follower in self.followers:
            follower.replace(kept)
        return kept


def read(path):
    """Return the reports in a log, oldest first. A line that is incomplete is passed over, a missing file is empty."""
    return [report for report in each_line(path) if report is not None] if path.exists() else []


def each_line(path, last_bytes=None):
    """Yield the report of every line in a log, oldest first, or None for a line that is incomplete.

    last_bytes: read no more than about as much of the end of the file (default: all of it)
    """
    with open(path, "rb", opener=ordinary) as file:
        skipped = 0 if last_bytes is None else max(0, os.fstat(file.fileno()).st_size - last_bytes)
        if skipped:
            file.seek(skipped - 1)
            file.readline()             # the rest of a line
        yield from map(_report_in, file)


def first_report(path, most_bytes):
    """Return the report of the first line in a log; None where that is incomplete, or longer than `most_bytes`."""
    with open(path, "rb", opener=ordinary) as file:
        return _report_in(file.readline(most_bytes))


def _report_in(line):
    try:
        # errors="replace": damage becomes a line that is no JSON, whatever its bytes.
        report = json.loads(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):        # the latter for thousands of nested brackets
        return None
    return report if isinstance(report, dict) and type(report.get("step")) is int else None
