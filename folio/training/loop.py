"""The training loop, and what is saved so that a killed run ends as if nothing had happened.

Step n is a function of the weights before it and of (seed, n). What the next step needs (the weights, the optimizers'
state, the step's number, the decisions that depended on time) is in the resume file, so resuming from it repeats the
lost steps to the bit.
"""

import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import torch

from folio.base import hardware
from folio.base.errors import FolioError
from folio.formats import checkpoint
from folio.formats.run_log import RunLog
from folio.networks import build as networks
from folio.networks import lora
from folio.training import distributed, optimizers
from folio.training.deadline import Deadline
from folio.training.pace import Stopwatch
from folio.training.report import Reporter
from folio.training.schedules import Schedule, decay_start_for
from folio.training.step import LAST_GOOD, MasterWeights, MicroBatches, TrainStep
from folio.training.tensorboard import Events
from folio.training.tracking import Tracking

SAVE_SECONDS = 60               # a killed run loses at most about this much
REPORTS_PER_EVALUATION = 10     # in the log
SIGHUP = getattr(signal, "SIGHUP", None)        # the terminal was closed; Windows has none
STOP_SIGNALS = [number for number in (signal.SIGINT, signal.SIGTERM, SIGHUP) if number]
NO_LONGER_KEPT = {"evaluation_seconds"}         # fields of Progress in the resume files of older versions


@dataclass
class Progress:
    """How far a run has come: plain values, all of them in the resume file."""
    step: int = 0                           # steps done
    started_from: dict | None = None        # name and fingerprint of the initial weights, unless they were random
    seconds: float = 0.0                    # of all processes of the run, one after another, from their starts
    training_seconds: float = 0.0           # of these, in steps
    evaluation_steps: float | None = None   # that take as long as an evaluation with its sample and saved weights
    # The only decisions that depend on time: the step at which the learning rate decay starts, and
    # [step, total_steps from then on] each time that the end was moved after that.
    decay_start: int | None = None
    moved_ends: list = field(default_factory=list)
    # Of each step since the last report.
    recent_losses: list = field(default_factory=list)       # in nats per token
    recent_tokens: list = field(default_factory=list)       # targets that the loss is the mean of
    recent_bytes: list = field(default_factory=list)        # of text that these targets stand for
    measured_step: float | None = None      # seconds per step, as folio/training/fastest.py measured it
    best_nats: float | None = None          # per byte of validation text
    best_step: int | None = None
    validations_since_best: int = 0
    finished: bool = False

    @classmethod
    def of(cls, values):
        """Return the Progress in a resume file. Raises TypeError for one of another program."""
        return cls(**{name: value for name, value in values.items() if name not in NO_LONGER_KEPT})

    def count_step(self, loss, tokens, text_bytes):
        """Note that a step was made."""
        self.step += 1
        self.recent_losses.append(loss)
        self.recent_tokens.append(tokens)
        self.recent_bytes.append(text_bytes)

    def count_validation(self, nats_per_byte):
        """Note what a validation found. -> whether it is the best so far"""
        is_best = self.best_nats is None or nats_per_byte < self.best_nats
        if is_best:
            self.best_nats, self.best_step, self.validations_since_best = nats_per_byte, self.step, 0
        else:
            self.validations_since_best += 1
        return is_best

    def recent_loss(self, tokens_per_step):
        """Return the mean loss per token since the last report, or None without any counted target."""
        shares = self._recent_shares(tokens_per_step)
        return self._sum_of_losses(shares) / sum(shares) if any(shares) else None

    def recent_nats_per_byte(self, tokens_per_step):
        """Return the loss per byte of text since the last report, or None where the targets stand for no text."""
        count = len(self.recent_bytes)              # the resume file of an older version has losses without bytes
        if not any(self.recent_bytes):
            return None
        nats = tokens_per_step * self._sum_of_losses(self._recent_shares(tokens_per_step), count)
        return nats / sum(self.recent_bytes)

    def forget_recent(self):
        """Start to collect for the next report."""
        self.recent_losses, self.recent_tokens, self.recent_bytes = [], [], []

    def _recent_shares(self, tokens_per_step):
        """Return of each recent step the share of its targets that count: 1.0 where none is ignored."""
        older = [1.0] * (len(self.recent_losses) - len(self.recent_tokens))         # which ignored none
        return older + [tokens / tokens_per_step for tokens in self.recent_tokens]

    def _sum_of_losses(self, shares, count=None):
        """Return the sum of the last `count` losses (default: all), each times its share."""
        pairs = list(zip(self.recent_losses, shares, strict=True))
        return sum(loss * share for loss, share in (pairs if count is None else pairs[len(pairs) - count:]))


class Run:
    """One training run: composes its parts, takes its steps, decides when to evaluate and to save, and resumes."""

    def __init__(self, home, name, params, lessons, *, started_at, base=None, clock=time.perf_counter):
        """params: Params, resolved and probed for this machine; lessons: Lessons, what is learned from

        started_at: what `clock` read at the process's start; base: Base, where adapters on it are trained
        """
        self.home, self.name, self.lessons = home, name, lessons
        self.base = base and replace(base, net=None)    # the run's own network has its weights
        self._params = params
        lessons.settle(params)
        training = params.training
        hardware.use(training)
        torch.manual_seed(training.seed)
        self.net = (networks.build_network(params.model).to(training.device) if base is None else
                    base.network(params, lessons.chat))
        self.precision = MasterWeights(self.net, training)
        self.micro_batches = MicroBatches(training, params.model)
        self.train_step = TrainStep(training, precision=self.precision, loss=lessons.loss,
                                    forward=lessons.forward(self.precision.working_net),
                                    optimizers=optimizers.build(self.net, training), micro_batches=self.micro_batches,
                                    sum_gradients=distributed.sum_gradients)
        self.progress = Progress()
        if training.steps:
            self.progress.decay_start = decay_start_for(training.steps, training.decay_fraction)
        self.schedule = Schedule(training, self.progress)
        self.stopwatch = Stopwatch(started_at, clock)
        self.tokens_per_step = training.batch_size * params.model.block_size
        self.evaluator = lessons.evaluator(training, self.precision, self.micro_batches)
        self.deadline = Deadline(training, self.progress, self.schedule, self.stopwatch, self.evaluator)
        followers = [Events(home.tensorboard(name))] if training.tensorboard else []
        if training.track and distributed.is_first():
            followers.append(Tracking(training.track, home.tracking, name, params.values()))
        log = RunLog(home.log(name), followers)
        self.reporter = Reporter(name, training, log, self.progress, self.schedule, self.stopwatch,
                                 self.tokens_per_step, lessons.unit, lessons.remedy)
        self.grad_norm = None               # of the last step
        self._compiles = training.compile

    @property
    def tokenizer(self):
        """Return the tokenizer of the network."""
        return self.lessons.tokenizer

    @property
    def corpus(self):
        """Return what the lessons are made of."""
        return self.lessons.corpus

    @property
    def training(self):
        """Return the TrainingParams that hold now: memory may have reduced some of them since the start."""
        return replace(self._params.training, micro_batch_size=self.micro_batches.size, compile=self._compiles)

    @property
    def params(self):
        """Return the Params that hold now, as a resumed run will have them."""
        return replace(self._params, training=self.training)

    @property
    def settings(self):
        """Return {field: value} of every setting that is in effect, as the log has them."""
        return {name: value for name, value in self.params.values().items() if value is not None}

    @property
    def done(self):
        """Return whether the last step has been made, or the run is out of patience."""
        total_steps = self.schedule.total_steps
        return total_steps is not None and self.progress.step >= total_steps or self.out_of_patience

    @property
    def out_of_patience(self):
        """Return whether `patience` validations in a row brought no improvement."""
        patience = self._params.training.patience
        return patience is not None and self.progress.validations_since_best >= patience

    @property
    def processor_share(self):
        """Return the processor time of this process's training, as a share of what its threads could have used."""
        return self.stopwatch.processor_share(self._params.training.threads)

    def train(self):
        """Train to the end, or until one of STOP_SIGNALS. -> the signal's number, or None at the end

        Raises FolioError, with the last good files kept, where the loss stops being finite.
        """
        with stop_signals() as received, self.reporter.bar_of_run():
            self.compile()
            self.reporter.start()
            self.deadline.start()
            self.stopwatch.start_training()
            self._saved_at = self.stopwatch.clock()
            while not self.done and not distributed.any_says(received):
                self._step_and_report()
        if self.done:
            return None
        self._refuse_useless_weights()
        self.save_resume()
        if self.progress.best_step is None:         # so that there is something to run
            self.save_weights(None)
        return received[0] if received else signal.SIGTERM          # which then another process received

    def _step_and_report(self):
        """Take one step, and report, evaluate and save where it is time to."""
        clock, progress = self.stopwatch.clock, self.progress
        started_at = clock()
        self.step()
        stepped_at = clock()
        self.deadline.count_step(stepped_at - started_at)
        self.reporter.bar.update(self.tokens_per_step)
        decided = self.deadline.decide()
        evaluates = self.done or progress.step % self.evaluator.interval == 0
        saves = evaluates or decided or distributed.first_says(clock() - self._saved_at >= SAVE_SECONDS)
        if saves:
            self._refuse_useless_weights()
        if evaluates or decided or progress.step % max(1, self.evaluator.interval // REPORTS_PER_EVALUATION) == 0:
            self._report(evaluates, decided)
        if evaluates:
            self.deadline.count_evaluation(clock() - stepped_at)
        if saves:
            progress.finished = self.done
            self.save_resume()
            self._saved_at = clock()

    def step(self):
        """Learn from one batch. -> its loss in nats per token

        Raises FolioError, with no weight changed, where the loss or its gradient is not finite.
        """
        step = self.progress.step
        batch = self._batch(step)
        tokens, text_bytes = distributed.sums(*self.lessons.count(batch))
        result = self.train_step(batch, step, self.schedule.learning_rate(step), tokens)
        self.grad_norm = result.grad_norm
        self.progress.count_step(result.loss, tokens, text_bytes)
        return result.loss

    def _batch(self, step):
        """Return this process's rows of the Batch of a step, as tensors."""
        batch = self.lessons.batch(step, self.schedule)
        batch = batch.rows(distributed.share(len(batch)))
        return batch.mapped(lambda array: torch.from_numpy(array).to(self._params.training.device))

    def compile(self):
        """Compile the step, if the settings say so and it can be."""
        if self._compiles:
            hardware.keep_compiled(self.home.compiled)
            self._compiles = self.train_step.compile(self._batch(self.progress.step))

    def _report(self, evaluates, decided):
        """Write a report to the log; evaluates: also measure, keep the best weights, and print a sample"""
        report = self.reporter.report(self.grad_norm, self.micro_batches.size, decided, self.settings)
        if evaluates:
            trained, score = self.evaluator.measure_training_text(self.progress.step), self.evaluate()
            is_best = self.progress.count_validation(score.nats_per_byte)
            if is_best:
                self.save_weights(score)
            self.reporter.add_evaluation(report, trained, score, is_best)
            if self._params.training.sample_tokens:
                self.reporter.add_sample(report, self.evaluator.sample())
            self.reporter.warn_of_overfitting(self.out_of_patience)
        self.reporter.write(report)

    def evaluate(self):
        """Return the Score of the network on the whole validation text. Raises FolioError where it is not finite."""
        return self.evaluator.validate(self.progress.step)

    def keep_start(self):
        """Measure the network before its first step and keep it, so that training that makes it worse is not kept.

        -> Score
        """
        self.lessons.begin(self.evaluator)
        score = self.evaluate()
        self.progress.count_validation(score.nats_per_byte)
        self.save_weights(score)
        return score

    def save_weights(self, score):
        """Write all that is needed to run the network as it is. score: Score on the validation text, or None"""
        if not distributed.is_first():
            return
        params = self.params
        checkpoint.save(self.home.weights(self.name), {
            "name": self.name, "params": asdict(params.model), "text": asdict(params.text),
            "training": asdict(params.training), "tuning": asdict(params.tuning), **self._trained(),
            "step": self.progress.step, "started_from": self.progress.started_from,
            "seconds": self.stopwatch.seconds, "torch": str(torch.__version__),
            **self.lessons.in_weights_file(), "val_bpb": None, "val_nats_per_byte": None,
            **(score.in_report() if score else {})})

    def _trained(self):
        """Return the fields of a weights file that hold what was trained."""
        if self.base is not None:
            return {"adapter": self.base.entry(self.net, self.tokenizer)}
        return {"tokenizer": self.tokenizer.to_dict(), "weights": self.net.state_dict()}

    def save_resume(self):
        """Write all that is needed to continue exactly."""
        state = self.train_step.forward.tensors()
        if state is not None:
            state = {name: distributed.joined_rows(part, dim=1) for name, part in state.items()}
        if not distributed.is_first():
            return
        self.progress.seconds = self.stopwatch.seconds
        checkpoint.save(self.home.resume(self.name), {
            "name": self.name, "params": asdict(self.params), "tokenizer": self.tokenizer.fingerprint,
            "corpus": self.corpus.fingerprint, "lessons": self.lessons.in_resume_file(),
            "torch": str(torch.__version__), "processes": distributed.count(),
            "progress": asdict(self.progress), "weights": self._state(),
            "optimizers": [optimizer.state_dict() for optimizer in self.train_step.optimizers],
            "scaler": self.precision.scaler.state_dict(), "streams": state})

    def _state(self):
        """Return {name: tensor} of all weights that training changes, in float32."""
        return self.net.state_dict() if self.base is None else lora.trained_weights(self.net)

    def restore(self, contents):
        """Continue from the contents of a resume file; the log is cut back to its step."""
        if self.base is None:
            self.net.load_state_dict(contents["weights"])
        else:
            lora.load_trained(self.net, contents["weights"])
        self.precision.copy_weights()
        for optimizer, state in zip(self.train_step.optimizers, contents["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.precision.scaler.load_state_dict(contents.get("scaler", {}))       # older runs had none and needed none
        if contents.get("streams"):
            rows = distributed.share(self._params.training.batch_size)
            self.train_step.forward.restore({name: part[:, rows] for name, part in contents["streams"].items()})
        self.lessons.restore(contents.get("lessons"))
        planned_decay_start = self.progress.decay_start
        vars(self.progress).update(vars(Progress.of(contents["progress"])))     # in place: other parts hold it too
        length, training = contents["params"]["training"], self._params.training
        if (training.steps, training.minutes) != (length["steps"], length["minutes"]):      # a new length, a new decay
            self.progress.decay_start, self.progress.moved_ends = planned_decay_start, []
        self.progress.finished = False
        self.stopwatch.earlier_seconds = self.progress.seconds
        self.reporter.cut_back()

    def _refuse_useless_weights(self):
        if not all(parameter.isfinite().all() for parameter in self.net.parameters()):
            raise FolioError(f"After step {self.progress.step} the weights are not finite. {LAST_GOOD}")


@contextmanager
def stop_signals():
    """Yield a list that receives the first of STOP_SIGNALS instead of the process dying of it; the second one kills.

    Under torchrun no signal kills: torchrun repeats to each of its processes what the terminal has sent them already,
    and kills them itself after a while.
    """
    received, previous = [], {}

    def receive(number, frame):
        received.append(number)
        if number == SIGHUP:            # comes twice where a terminal is closed: from the shell and from the system
            signal.signal(number, signal.SIG_IGN)
            del previous[number]
        restore()

    def restore():
        if distributed.count() == 1:
            for number, handler in previous.items():
                signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():       # Python lets no other thread handle signals
        for number in STOP_SIGNALS:
            if not (number == SIGHUP and signal.getsignal(number) == signal.SIG_IGN):       # as nohup sets it
                previous[number] = signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()
