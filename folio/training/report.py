"""What a run measures of itself, writes to its log and prints."""

import json
import math
import sys

from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.lines import cut, folded, terminal_width, wrapped
from folio.chat.template import ends_of_text
from folio.evaluation.bits_per_byte import (
    Score,
    bytes_of_tokens,
    evaluate,
    evaluate_windows,
    spread_windows,
    window_len,
)
from folio.generation.decoder import generate
from folio.training import distributed
from folio.training.step import LAST_GOOD

EVALUATION_SHARE = 0.05         # of the time, where eval_interval is not given; training and validation text together
TRAIN_EVAL_SHARE = 0.01         # of the time, for the training text in it: a short run needs its steps more
OVERFITTING = 3                 # validations in a row that are no better: one or two may be chance
OVERFITTING_MESSAGE = ("The model is overfitting: it gets no better on the validation text. The best weights so far "
                       "are kept; {} or fewer steps help.")
MARGIN = "         | "          # of a sample: below the step, which is after the time
LONGEST_NAME = 12               # columns of a run's name before the progress bar, which has 18 then in a line of 80
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}, {rate_fmt}{postfix}"
SAMPLE_TEMPERATURE = 0.8        # a little below 1 reads better than the model's own distribution


class Evaluator:
    """Measure a network on validation and training text, and let it write samples."""

    def __init__(self, training, precision, micro_batches, corpus, tokenizer, opening):
        """training: TrainingParams, resolved; opening: the tokens that a sample starts after."""
        self.training, self.precision, self.micro_batches = training, precision, micro_batches
        self.corpus, self.tokenizer, self.opening = corpus, tokenizer, opening
        self.token_bytes = bytes_of_tokens(tokenizer)
        self.tokens_per_step = training.batch_size * precision.net.params.block_size
        self.interval = training.eval_interval or default_eval_interval(corpus.val_tokens, self.tokens_per_step)

    @property
    def expected_steps(self):
        """Return about how many steps take as long as an evaluation of the validation text."""
        return evaluation_steps(self.corpus.val_tokens, self.tokens_per_step)

    def validate(self, step):
        """Return the Score on the whole validation text, computed in the run's precision.

        step: the steps done so far. Raises FolioError where the score is not finite.
        """
        block_size = window_len(self.precision.working_net)
        tokens = distributed.share_of_windows(self.corpus.val, block_size)
        score = self._measured(evaluate, tokens, self.corpus.val_bytes, block_size=block_size, step=step)
        nats = distributed.summed(score.nats)
        if not math.isfinite(nats):         # nothing would ever be better than that
            raise FolioError(f"After step {step} the loss on the validation text is {nats}. {LAST_GOOD}")
        return Score(nats, self.corpus.val_tokens, self.corpus.val_bytes)

    def measure_training_text(self, step):
        """Return the Score on a fixed sample of the training text, measured as the validation text is.

        Return None as long as TRAIN_EVAL_SHARE of the run is too short for that. step: the steps done so far
        """
        total = self.corpus.train_tokens
        tokens = train_eval_tokens(self.corpus.val_tokens, self.interval, self.tokens_per_step)
        length = min(window_len(self.precision.working_net), total - 1)
        starts = spread_windows(total, max(1, tokens // length), length)
        if evaluation_steps(length * len(starts), self.tokens_per_step) > TRAIN_EVAL_SHARE * step:
            return None
        score = self._measured(evaluate_windows, self.corpus.train, self.token_bytes,
                               starts[distributed.share(len(starts))], block_size=length, step=step)
        return Score(distributed.summed(score.nats), length * len(starts), distributed.summed(score.bytes))

    def seconds_of_validation(self, step, clock):
        """Return about how long `validate` takes, from the time of one batch of it."""
        block_size = window_len(self.precision.working_net)
        tokens = distributed.share_of_windows(self.corpus.val, block_size)
        batch = tokens[:self.micro_batches.rows(block_size) * block_size + 1]
        started_at = clock()
        self._measured(evaluate, batch, self.corpus.val_bytes, block_size=block_size, step=step)
        return (clock() - started_at) * (len(tokens) - 1) / max(1, len(batch) - 1)

    def sample(self):
        """Return a few lines that the network writes."""
        net = self.precision.net
        net.eval()
        tokens = list(generate(net, self.opening, tokens=self.training.sample_tokens, temperature=SAMPLE_TEMPERATURE,
                               sampling_seed=self.training.seed, ends=ends_of_text(self.tokenizer)))
        net.train()
        return self.tokenizer.decode(tokens).strip()

    def _measured(self, measure, *text, block_size, step):
        """Return what a function of folio.evaluation.bits_per_byte finds for the network without dropout."""
        net = self.precision.working_net
        net.eval()
        score = self.micro_batches.fit(
            lambda: measure(net, *text, block_size=block_size, batch_size=self.micro_batches.rows(block_size),
                            device=self.training.device), step)
        net.train()
        return score


class Reporter:
    """Write the log of a run, print its evaluations, and move its progress bar."""

    def __init__(self, name, training, log, progress, schedule, stopwatch, tokens_per_step, unit, remedy):
        """log: RunLog; training: TrainingParams; progress, schedule, stopwatch: the run's own, which change

        unit: of what the loss is printed in nats per; remedy: what helps against overfitting beside fewer steps
        """
        self.name, self.training, self.log = name, training, log
        self.progress, self.schedule, self.stopwatch = progress, schedule, stopwatch
        self.tokens_per_step, self.unit, self.remedy = tokens_per_step, unit, remedy
        self.bar = None
        self._logged_decay_start = self._logged_settings = None
        self._last_report = None        # the clock, and the step

    def bar_of_run(self):
        """Return the progress bar, in tokens. Use it in a `with`."""
        total = self.schedule.total_steps and self.schedule.total_steps * self.tokens_per_step
        self.bar = tqdm(total=total, initial=self.progress.step * self.tokens_per_step, unit=" tokens", unit_scale=True,
                        desc=cut(self.name, LONGEST_NAME), dynamic_ncols=True, leave=False, disable=None,
                        smoothing=0.05, bar_format=BAR)
        return self.bar

    def start(self):
        """Note when the first step starts."""
        self.bar.unpause()              # else compiling would count as slow steps
        self._last_report = self.stopwatch.clock(), self.progress.step

    def cut_back(self):
        """Remove the reports of later steps, which a killed process wrote after its last save."""
        kept = self.log.cut_back(self.progress.step) if distributed.is_first() else []
        self._logged_decay_start = next((report["decay_start"] for report in reversed(kept)
                                         if "decay_start" in report), None)
        self._logged_settings = next((report["settings"] for report in reversed(kept) if "settings" in report), None)

    def report(self, grad_norm, micro_batch_size, decided, settings):
        """Return the report of the steps since the last one.

        decided: whether the end of the run was just decided; settings: {field: value}, reported where they are new
        """
        progress, total_steps = self.progress, self.schedule.total_steps
        reported_at, reported_step = self._last_report
        seconds = max(self.stopwatch.clock() - reported_at, 1e-9)
        tokens = (progress.step - reported_step) * self.tokens_per_step
        report = {"step": progress.step, "seconds": round(self.stopwatch.seconds, 2),
                  "tokens": progress.step * self.tokens_per_step,
                  "train_loss": progress.recent_loss(self.tokens_per_step),
                  "train_nats_per_byte": progress.recent_nats_per_byte(self.tokens_per_step),
                  "learning_rate": self.schedule.learning_rate(progress.step - 1),
                  "bpe_dropout": self.schedule.bpe_dropout(progress.step - 1), "gradient_length": grad_norm,
                  "micro_batch_size": micro_batch_size, "tokens_per_second": round(tokens / seconds)}
        settings = json.loads(json.dumps(settings))         # as they are read back
        if settings != self._logged_settings:
            report["settings"] = self._logged_settings = settings
        is_new = self.training.schedule == "trapezoid" and progress.decay_start not in (None, self._logged_decay_start)
        if decided or is_new:
            report["decay_start"] = self._logged_decay_start = progress.decay_start
        if decided:
            report["total_steps"] = total_steps
            self.bar.total = total_steps * self.tokens_per_step
        if total_steps is None:             # a guess, until the decay starts
            self.bar.total = int(self.bar.n * 60 * self.training.minutes / self.stopwatch.seconds)
        if report["train_nats_per_byte"] is not None:
            self.bar.set_postfix_str(f"train {report['train_nats_per_byte']:.3f}", refresh=False)
        return report

    def add_evaluation(self, report, trained, score, is_best):
        """Add to a report what an evaluation found, and print that. trained: Score of the training text, or None"""
        if trained:
            report["train_eval_nats_per_byte"] = trained.nats_per_byte
        report |= {**score.in_report(), "seconds": round(self.stopwatch.seconds, 2)}    # with that of the evaluation
        best = "  best" if is_best else ""
        _print(f"{clock_time(self.stopwatch.seconds):>7}  step {self.progress.step:<6,}  {training_figure(report)}  "
               f"{score.in_words(self.unit)}{best}")

    def add_sample(self, report, sample):
        """Add to a report what the network writes, and print that."""
        report["sample"] = sample
        tqdm.write(with_margin(sample, terminal_width(sys.stdout)))

    def warn_of_overfitting(self, out_of_patience):
        """Print a message where validations in a row were no better."""
        progress = self.progress
        if progress.validations_since_best == OVERFITTING:
            _print(OVERFITTING_MESSAGE.format(self.remedy))
        if out_of_patience:
            _print(f"{progress.validations_since_best} validations in a row were no better than step "
                   f"{progress.best_step}'s: stopping here.")

    def write(self, report):
        """Append a report to the log, and start to collect the next one."""
        if distributed.is_first():
            self.log.append(**report)
        self.progress.forget_recent()
        self._last_report = self.stopwatch.clock(), self.progress.step


def default_eval_interval(val_tokens, tokens_per_step):
    """Return the steps from one evaluation to the next: 100, or more where the validation text is large."""
    steps = evaluation_steps(val_tokens, tokens_per_step)
    return max(100, math.ceil(round(steps / (EVALUATION_SHARE - TRAIN_EVAL_SHARE), 6)))


def train_eval_tokens(val_tokens, eval_interval, tokens_per_step):
    """Return the size of the sample of the training text that evaluations measure.

    It is as large as the validation text, or what TRAIN_EVAL_SHARE allows; at least a quarter of the validation text,
    where the user wants evaluations so often that neither is possible.
    """
    affordable = int(TRAIN_EVAL_SHARE * eval_interval / evaluation_steps(1, tokens_per_step))
    return min(val_tokens, max(val_tokens // 4, affordable))


def evaluation_steps(val_tokens, tokens_per_step):
    """Return how many steps take as long as an evaluation.

    An evaluation has no backward pass, which is two thirds of a step.
    """
    return val_tokens / 3 / tokens_per_step


def training_figure(report):
    """Return what an evaluation prints of the training text: as measured, or else the running mean of its steps.

    >>> training_figure({"train_nats_per_byte": 1.5, "train_eval_nats_per_byte": 1.25})
    'train 1.250'
    >>> training_figure({"train_nats_per_byte": 1.5})
    'train 1.500 (mean)'
    """
    if "train_eval_nats_per_byte" in report:
        return f"train {report['train_eval_nats_per_byte']:.3f}"
    running = report["train_loss" if "val_nats_per_pair" in report else "train_nats_per_byte"]
    return "train -" if running is None else f"train {running:.3f} (mean)"


def _print(message):
    """Print a message above the progress bar, wrapped at the terminal's width."""
    tqdm.write(wrapped(message, terminal_width(sys.stdout)))


def with_margin(text, width=None):
    """Return a text to print with a margin, without any character that could command the terminal.

    width: of the lines in columns, None to break none.
    """
    lines = ["".join(c if c.isprintable() else " " for c in line) for line in text.split("\n")]
    if width is not None:
        lines = [part for line in lines for part in folded(line, max(1, width - len(MARGIN)))]
    return "\n".join(MARGIN + line for line in lines)


def clock_time(seconds):
    """Return seconds as minutes and seconds.

    >>> clock_time(83)
    '1:23'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
