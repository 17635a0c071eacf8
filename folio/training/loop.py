"""Training: the step, the loop around it, and what is kept so that a killed run ends as if nothing had happened.

Step n is a function of the weights before it and of (seed, n). What the next step needs (the weights, the optimizers' memory, the
step's number, what time has decided) is in the resume file, so that going on from it repeats the lost steps to the bit.
"""

import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from statistics import median

import torch
import torch.nn.functional as F
from tqdm import tqdm

from folio.formats import checkpoint
from folio.training import distributed, optimizers
from folio.base import hardware
from folio.networks import build as networks
from folio.data.batches import batch_at, parts_of_a_sequence, windows_per_stream
from folio.evaluation.bits_per_byte import Score, bytes_of_tokens, evaluate, evaluate_windows, spread_windows, window_len
from folio.generation.decoder import generate
from folio.base.errors import FolioError, is_out_of_memory
from folio.training.pace import Pace
from folio.formats.run_log import RunLog
from folio.training.schedules import decay_start_for, end_in_time, seconds_needed, share_of_peak, time_to_decay, total_steps_for
from folio.training.carried_state import Streams
from folio.training.tensorboard import Events

CLOSING_SECONDS = 0.8           # the last sample, saving, and leaving Python, here
SAVE_SECONDS = 60               # a killed run loses at most about this much
FEW_STEPS = 3                   # of a sitting: the first is slow, and one more says little
OFF_TIME = 0.02                 # of the time limit: an end that is expected so much too early or too late is moved
SETTLED = 0.25                  # of the time left, or of the steps: so long a moved end stays; every move is saved at once
LINES_PER_EVALUATION = 10       # in the log
EVALUATION_SHARE = 0.05         # of the time, where eval_interval is not given; training and validation text together
TRAIN_EVAL_SHARE = 0.01         # of the time, for the training text in it: a short run needs its steps more
OVERFITTING = 3                 # validations in a row that are no better: one or two may be chance
_OVERFITTING = ("The model begins to learn its text by heart: it gets no better on text it has not seen. The best weights so far are kept; "
                "more text, more --bpe-dropout or fewer steps help.")
_LAST_GOOD = "What is saved is from before. Try a lower --learning-rate, or --precision fp32."
SIGHUP = getattr(signal, "SIGHUP", None)        # the terminal was closed; Windows has none
STOP_SIGNALS = [each for each in (signal.SIGINT, signal.SIGTERM, SIGHUP) if each]
SAMPLE_TEMPERATURE = 0.8        # a little below 1 reads better than the model's own distribution


@dataclass
class Progress:
    """How far a run has come: plain values, all of them in the resume file."""
    step: int = 0                           # steps done
    started_from: dict | None = None        # the name and the fingerprint of the weights before the first step, if they were not random
    seconds: float = 0.0                    # of all sittings, from the start of their processes
    training_seconds: float = 0.0           # of these, in steps
    evaluation_steps: float | None = None   # that an evaluation takes as long as, with its sample and the weights saved
    # All that time ever decides: the step at which the learning rate begins to fall, and [step, total_steps from then on]
    # each time that the end was moved after that.
    decay_start: int | None = None
    moved_ends: list = field(default_factory=list)
    recent_losses: list = field(default_factory=list)       # since the last line in the log, in nats per token
    recent_bytes: list = field(default_factory=list)        # of text, that the targets of the same steps stand for
    measured_step: float | None = None      # seconds, as folio/training/fastest.py saw it before the first one
    best_nats: float | None = None          # per byte of validation text
    best_step: int | None = None
    validations_since_best: int = 0
    finished: bool = False

    @classmethod
    def of(cls, values):
        """Return the Progress in a resume file. Raises TypeError for one of another program."""
        return cls(**{name: value for name, value in values.items() if name not in _NO_LONGER_KEPT})


_NO_LONGER_KEPT = {"evaluation_seconds"}        # in the resume files of older runs


class Run:
    """One training run: a network, its optimizers, and its files."""

    def __init__(self, home, name, params, tokenizer, corpus, *, started_at, clock=time.perf_counter):
        """params: Params, resolved and probed for this machine; started_at: what `clock` (in seconds) said when the process began."""
        self.home, self.name, self.params, self.tokenizer, self.corpus = home, name, params, tokenizer, corpus
        self.training = params.training
        self.started_at, self.clock = started_at, clock
        hardware.use(self.training)
        torch.manual_seed(self.training.seed)
        self.net = networks.build_network(params.model).to(self.training.device)
        self.working_net = networks.in_type(self.net, hardware.TYPES[self.training.precision])         # what computes; self.net is what learns
        self.parameters = networks.pairs(self.net, self.working_net)
        self.optimizers = optimizers.build(self.net, self.training)
        self.scaler = hardware.gradient_scaler(self.training)
        self.streams = None                 # where batches are consecutive: the network as it reads them on
        if self.training.batches == "consecutive":
            self.windows_per_stream = windows_per_stream(corpus.train_tokens, self.training.batch_size, params.model.block_size)
            self.streams = Streams(self.working_net, self.training.batch_size // distributed.count())
        self.loss = self._loss
        self.log = RunLog(home.log(name), Events(home.tensorboard(name)) if self.training.tensorboard else None)
        self._logged_decay_start = None
        self.progress = Progress()
        self.pace = Pace(60 * (self.training.minutes or 0))
        self._evaluations = []          # steps that each took as long as: far off where the machine just changed its speed
        self._grace = 0.0               # seconds that a restart has cost since the descent began: no reason to end earlier
        self._settled_until = 0.0, 0    # by the clock, and the step
        self._trained_from = None       # the clock, and the processor time of this process
        self.earlier_seconds = 0.0
        self.tokens_per_step = self.training.batch_size * params.model.block_size
        self.eval_interval = self.training.eval_interval or default_eval_interval(corpus.val_tokens, self.tokens_per_step)
        self.token_bytes = torch.from_numpy(bytes_of_tokens(tokenizer)).to(self.training.device)
        # Without a text before it, a new document begins like all the others: after a separator, or else after a line's end.
        self.opening = [tokenizer.end_of_text] if corpus.documents > 1 and tokenizer.end_of_text is not None else line_end(tokenizer)
        if self.training.steps:
            self.progress.decay_start = decay_start_for(self.training.steps, self.training.decay_fraction)

    # --- One step ---

    def step(self):
        """Learn from one batch. -> its loss in nats per token. Raises FolioError, with no weight changed, where it is not finite."""
        step = self.progress.step
        inputs, targets = self._batch(step)                                             # (this process's share of the batch, time) each
        total = distributed.summed(self._in_memory(lambda: self._gradient(inputs, targets))) / distributed.count()
        distributed.average_gradients(self.net)
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        length = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.training.gradient_clip or math.inf).item()
        overflowed = not math.isfinite(length)
        if not math.isfinite(total) or overflowed and self.scaler.get_scale() <= 1:         # without a scaler it is 1
            raise FolioError(f"At step {step} the loss is {total} and the gradient's length {length}: nothing can be "
                             f"learned from that. {_LAST_GOOD}")
        optimizers.schedule(self.optimizers, step, self.learning_rate(step), self.training)
        for optimizer in self.optimizers * (not overflowed):        # where fp16 overflowed, the step is left out and the scale halved
            optimizer.step()
        self.scaler.update()
        if self.streams:
            self.streams.keep()
        self.gradient_length = None if overflowed else length
        self.renew_working_net()
        self.progress.step += 1
        self.progress.recent_losses.append(total)
        self.progress.recent_bytes.append(distributed.summed(self.token_bytes[targets].sum().item()))
        return total

    def _gradient(self, inputs, targets):
        """Leave the gradient of these windows' mean loss in the parameters, computed in micro-batches. -> that loss"""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if self.streams:
            self.streams.begin(anew=self.progress.step % self.windows_per_stream == 0)
        at_once = self._at_once(inputs.shape[1])
        micro_batches = list(zip(inputs.split(at_once), targets.split(at_once)))
        total = 0.0
        for number, (some_inputs, some_targets) in enumerate(micro_batches):
            torch.manual_seed(dropout_seed(self.training.seed, self.progress.step, number, distributed.rank()))
            loss = self.loss(some_inputs, some_targets) / len(micro_batches)
            self._add_gradient_of(self.scaler.scale(loss))
            total += loss.item()
        return total

    def _add_gradient_of(self, loss):
        """Add the loss's gradient to the gradients of self.net, in float32."""
        gradients = torch.autograd.grad(loss, [working for _, working in self.parameters], materialize_grads=True)
        for (parameter, _), gradient in zip(self.parameters, gradients):
            parameter.grad = gradient.float().contiguous() if parameter.grad is None else parameter.grad.add_(gradient)

    @torch.no_grad()
    def renew_working_net(self):
        """Give the network that computes the weights of the one that learns."""
        for parameter, working in self.parameters:
            if working is not parameter:
                working.copy_(parameter)

    def _in_memory(self, compute):
        """compute(), begun again with smaller micro-batches as often as the memory runs out."""
        while True:
            result, ran_out = None, False
            try:
                result = compute()
            except (MemoryError, RuntimeError) as error:
                ran_out = is_out_of_memory(error) and self._windows_at_once > 1
                if not ran_out:
                    raise
            if not distributed.any_says(ran_out):       # out here, where the error no longer holds on to what was computed by then
                return result
            self._shrink_micro_batch()

    @property
    def _windows_at_once(self):
        return min(self.training.micro_batch_size, self.training.batch_size // distributed.count())

    def _at_once(self, length):
        """Return how many sequences of a length are computed at once: as many tokens as in training's windows."""
        return max(1, self._windows_at_once * self.params.model.block_size // length)

    def _shrink_micro_batch(self):
        before = self._windows_at_once
        now = next(size for size in range(before // 2, 0, -1) if self.training.batch_size // distributed.count() % size == 0)
        self._change(micro_batch_size=now)
        if self.training.device != "cpu":
            torch.accelerator.empty_cache()     # it holds pieces of the old sizes
        dropout = " and dropout" if self.params.model.dropout or self.params.model.attention_dropout else ""
        tqdm.write(f"Step {self.progress.step:,}: {before} windows at once need more memory than there is; from here on {now} at once. "
                   f"Batches and results are the same but for rounding{dropout} (micro_batch_size={now}).")

    def _change(self, **fields):
        """Go on with other values of some TrainingParams, which a resumed run then has too."""
        self.training = replace(self.training, **fields)
        self.params = replace(self.params, training=self.training)

    def learning_rate(self, step):
        """What the schedule says for a step."""
        return self.training.learning_rate * self._share_of_peak(step)

    def bpe_dropout(self, step):
        """The share of merges left out at a step."""
        # It goes down with the learning rate, so that the last steps learn from the text as it will be encoded: on tiny shakespeare that
        # makes 1.445 nats per byte of 1.472, on the plays 1.635 of 1.644 (without any BPE-dropout 1.447 and 1.714).
        return self.training.bpe_dropout * self._share_of_peak(step)

    def _share_of_peak(self, step):
        return share_of_peak(self.training.schedule, step, warmup_steps=self.training.warmup_steps,
                             decay_start=self.progress.decay_start, total_steps=self._first_total_steps,
                             moved_ends=self.progress.moved_ends)

    def _loss(self, inputs, targets):
        """inputs, targets: (batch, time) -> mean cross-entropy in nats per token"""
        logits = (self.streams or self.working_net)(inputs)                             # (batch, time, vocabulary)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def _batch(self, step):
        dropout = self.bpe_dropout(step)
        warms_up = step < min(self.training.length_warmup, step + 1 if self.progress.decay_start is None else self.progress.decay_start)
        shorter = parts_of_a_sequence(self.params.model.block_size) if warms_up else 1
        parts = batch_at(self.corpus.train, step, batch_size=self.training.batch_size * shorter, block_size=self.params.model.block_size // shorter,
                         seed=self.training.seed, batches=self.training.batches,
                         resegment=dropout and (lambda windows, random: self.tokenizer.resegment(windows, dropout, random)))
        return [torch.from_numpy(part[distributed.share(len(part))]).to(self.training.device) for part in parts]

    # --- All steps ---

    def train(self):
        """Train to the end, or until one of STOP_SIGNALS. -> the signal's number, or None at the end.

        Raises FolioError, with the last good files kept, where the loss stops being finite.
        """
        with stop_signals() as received, self._bar() as bar:
            self._compile()
            bar.unpause()               # else compiling would count as slow steps
            saved_at = self._marked_at = self.clock()
            self._marked_step = self.progress.step
            self._grace, self._trained_from = self._lost_seconds(), (self.clock(), time.process_time())
            while not self.done and not distributed.any_says(received):
                began = self.clock()
                self.step()
                stepped = self.clock()
                self.progress.training_seconds += stepped - began
                self.pace.add(stepped - began)
                bar.update(self.tokens_per_step)
                decided = self._decide_end()
                evaluating = self.done or self.progress.step % self.eval_interval == 0
                saving = evaluating or decided or distributed.first_says(self.clock() - saved_at >= SAVE_SECONDS)
                if saving:
                    self._refuse_useless_weights()
                if evaluating or decided or self.progress.step % max(1, self.eval_interval // LINES_PER_EVALUATION) == 0:
                    self._report(evaluating, decided, bar)
                if evaluating:
                    self._evaluations.append(self._in_steps(self.clock() - stepped))
                    self.progress.evaluation_steps = median(self._evaluations)
                if saving:
                    self.progress.finished = self.done
                    self.save_resume()
                    saved_at = self.clock()
        if not self.done:
            self._refuse_useless_weights()
            self.save_resume()
            if self.progress.best_step is None:         # so that there is something to run
                self.save_weights(None)
            return received[0] if received else signal.SIGTERM          # which then another process received

    @property
    def total_steps(self):
        """Steps of the whole run, by the latest decision; None as long as time has not decided."""
        return self.progress.moved_ends[-1][1] if self.progress.moved_ends else self._first_total_steps

    @property
    def _first_total_steps(self):
        if self.training.steps:
            return self.training.steps
        return None if self.progress.decay_start is None else total_steps_for(self.progress.decay_start, self.training.decay_fraction)

    @property
    def done(self):
        """Whether the last step has been made, or the patience is at its end."""
        return self.total_steps is not None and self.progress.step >= self.total_steps or self.out_of_patience

    @property
    def out_of_patience(self):
        """Whether so many validations in a row were no better than the best that the run is to stop."""
        return self.training.patience is not None and self.progress.validations_since_best >= self.training.patience

    @property
    def seconds(self):
        """Time spent on this run, in all sittings."""
        return self.earlier_seconds + self.clock() - self.started_at

    @property
    def processor_share(self):
        """Processor time that this sitting's training has had, as a share of what its threads could have."""
        elapsed, used = self.clock() - self._trained_from[0], time.process_time() - self._trained_from[1]
        return used / max(elapsed * self.training.threads, 1e-9)

    def _decide_end(self):
        """In a run with a time limit, begin the descent when it would take just the time that is left; later move its end
        to where it ends on time. -> whether something was decided

        Decisions are in the log and in the resume file before the next step uses them: a resumed run repeats them.
        """
        progress, pace = self.progress, self.pace
        if self.training.steps:
            return False
        if progress.evaluation_steps is None and pace.steps == FEW_STEPS:
            progress.evaluation_steps = self._guess_evaluation_steps()
        left, costs = self._seconds_left(), self._costs(pace.seconds_per_step)
        if not distributed.first_says(pace.steps >= FEW_STEPS or left < 2 * pace.seconds_per_step):
            return False                    # too little is known of the pace, and there is time to wait for more
        begins = progress.decay_start is None
        if begins:
            if not distributed.first_says(time_to_decay(progress.step, seconds_left=left, **costs,
                                                        decay_fraction=self.training.decay_fraction)):
                return False
            progress.decay_start = progress.step
        end = end_in_time(progress.step, seconds_left=left, **costs)
        moves = distributed.first_says(self._is_off_time(end, left, costs))
        if moves:
            progress.moved_ends.append([progress.step, distributed.agreed(end)])
        if begins or moves:
            self._settled_until = (self.clock() + SETTLED * left,
                                   progress.step + SETTLED * (self.total_steps - progress.step))
        return begins or moves

    def _is_off_time(self, end, left, costs):
        """Return whether the run's end has to be moved to `end`, the one that suits the seconds left."""
        step, total = self.progress.step, self.total_steps
        # Every move is saved at once, so there are few; but an end that is due is never put off.
        settled = self.clock() < self._settled_until[0] and step < self._settled_until[1] and end > step
        if settled or end == total or step >= total:
            return False
        return abs(seconds_needed(step, total, **costs) - left) > OFF_TIME * 60 * self.training.minutes

    def _seconds_left(self):
        """Return the time for steps and evaluations until the time limit."""
        return 60 * self.training.minutes + self._grace - self.seconds - CLOSING_SECONDS

    def _costs(self, seconds_per_step):
        """Return what `seconds_needed` wants to know."""
        steps = self.progress.evaluation_steps
        if steps is None:
            steps = evaluation_steps(self.corpus.val_tokens, self.tokens_per_step)
        return {"seconds_per_step": seconds_per_step, "seconds_per_evaluation": steps * seconds_per_step,
                "eval_interval": self.eval_interval}

    def _in_steps(self, seconds):
        """Return how many steps take as long at present: a cost that stays the same where the machine becomes slower."""
        return seconds / self.pace.seconds_per_step

    def _guess_evaluation_steps(self):
        """Return what an evaluation costs, from what one batch of it does."""
        length = window_len(self.working_net)
        part = distributed.share_of_windows(self.corpus.val, length)
        batch = part[:self._at_once(length) * length + 1]
        began = self.clock()
        self._measured(evaluate, batch, self.corpus.val_bytes, block_size=length)
        return self._in_steps(self.clock() - began) * (len(part) - 1) / max(1, len(batch) - 1)

    def _lost_seconds(self):
        """Return by how much a run that goes on in its descent would end late at its usual pace.

        That is what killing and starting it again has cost.
        """
        progress = self.progress
        if self.training.steps or progress.decay_start is None:
            return 0.0
        seconds_per_step = progress.training_seconds / progress.step
        costs = self._costs(seconds_per_step)
        after_next = seconds_needed(progress.step + 1, self.total_steps, **costs)          # what this step had is done
        return max(0.0, seconds_per_step + after_next - self._seconds_left())

    def _compile(self):
        """Let torch.compile make the step; where it cannot, say so in one line and go on without."""
        if not self.training.compile:
            return
        hardware.keep_compiled(self.home.compiled)
        try:
            compiled = torch.compile(self._loss, dynamic=False)
            inputs, targets = self._batch(self.progress.step)
            at_once = self._at_once(inputs.shape[1])
            torch.autograd.grad(compiled(inputs[:at_once], targets[:at_once]), [working for _, working in self.parameters])
        except Exception as error:          # whatever keeps a compiler from working is no reason not to train
            if not is_out_of_memory(error):         # which the first step will find out about, and what to do
                tqdm.write(f"torch.compile does not work here ({type(error).__name__}); training without it.")
                return self._change(compile=False)
        self.loss = compiled

    # --- What is said and kept ---

    def _report(self, evaluating, decided, bar):
        """Write a line to the log; at an evaluation also measure, keep the best weights, and show a sample."""
        progress, now = self.progress, self.clock()
        line = {"step": progress.step, "seconds": round(self.seconds, 2), "tokens": progress.step * self.tokens_per_step,
                "train_loss": sum(progress.recent_losses) / len(progress.recent_losses),
                "train_nats_per_byte": self._recent_nats_per_byte(),
                "learning_rate": self.learning_rate(progress.step - 1),
                "bpe_dropout": self.bpe_dropout(progress.step - 1), "gradient_length": self.gradient_length,
                "micro_batch_size": self.training.micro_batch_size,
                "tokens_per_second": round((progress.step - self._marked_step) * self.tokens_per_step / max(now - self._marked_at, 1e-9))}
        if decided or self.training.schedule == "trapezoid" and progress.decay_start not in (None, self._logged_decay_start):
            line["decay_start"] = self._logged_decay_start = progress.decay_start
        if decided:
            line["total_steps"] = self.total_steps
            bar.total = self.total_steps * self.tokens_per_step
        if self.total_steps is None:        # a guess, until the descent begins
            bar.total = int(bar.n * 60 * self.training.minutes / self.seconds)
        if line["train_nats_per_byte"] is not None:
            bar.set_postfix_str(f"training {line['train_nats_per_byte']:.3f} nats/byte", refresh=False)
        if evaluating:
            trained, score = self.evaluate_training_text(), self.evaluate()
            line |= {"train_eval_nats_per_byte": trained.nats_per_byte} if trained else {}
            line |= {"val_nats_per_byte": score.nats_per_byte, "val_bpb": score.bits_per_byte}
            best = progress.best_nats is None or score.nats_per_byte < progress.best_nats
            progress.validations_since_best = 0 if best else progress.validations_since_best + 1
            if best:
                progress.best_nats, progress.best_step = score.nats_per_byte, progress.step
                self.save_weights(score)
            line["seconds"] = round(self.seconds, 2)            # with what the evaluation took
            tqdm.write(f"{clock_time(self.seconds):>7}  step {progress.step:<6,}  {training_figure(line)}  "
                       f"validation {score.nats_per_byte:.4f} nats/byte = {score.bits_per_byte:.4f} bits/byte{'  best' if best else ''}")
            if self.training.sample_tokens:
                line["sample"] = self.sample()
                tqdm.write(with_margin(line["sample"]))
            if progress.validations_since_best == OVERFITTING:
                tqdm.write(_OVERFITTING)
            if self.out_of_patience:
                tqdm.write(f"{progress.validations_since_best} validations in a row were no better than step {progress.best_step}'s: stopping here.")
        if distributed.is_first():
            self.log.append(**line)
        progress.recent_losses, progress.recent_bytes = [], []
        self._marked_at, self._marked_step = self.clock(), progress.step

    def _recent_nats_per_byte(self):
        """Return the loss per byte of text since the last report, or None where the tokens stand for none."""
        sizes = self.progress.recent_bytes          # an older run's resume file has losses without them
        nats = self.tokens_per_step * sum(self.progress.recent_losses[-len(sizes):])
        return nats / sum(sizes) if any(sizes) else None

    def keep_start(self):
        """Measure the network before its first step and keep it, so that training which makes it worse is not kept. -> Score"""
        score = self.evaluate()
        self.progress.best_nats, self.progress.best_step = score.nats_per_byte, 0
        self.save_weights(score)
        return score

    def evaluate(self):
        """The Score of the network as it is on the whole validation part, computed in the run's precision."""
        part = distributed.share_of_windows(self.corpus.val, window_len(self.working_net))
        score = self._measured(evaluate, part, self.corpus.val_bytes, block_size=window_len(self.working_net))
        nats = distributed.summed(score.nats)
        if not math.isfinite(nats):         # nothing would ever be better than that
            raise FolioError(f"After step {self.progress.step} the text held out costs {nats} nats. {_LAST_GOOD}")
        return Score(nats, self.corpus.val_tokens, self.corpus.val_bytes)

    def evaluate_training_text(self):
        """Return the Score of the network on a fixed sample of the training text, measured as the validation part is.

        None as long as TRAIN_EVAL_SHARE of the run is too short for that.
        """
        total = self.corpus.train_tokens
        tokens = train_eval_tokens(self.corpus.val_tokens, self.eval_interval, self.tokens_per_step)
        length = min(window_len(self.working_net), total - 1)
        starts = spread_windows(total, max(1, tokens // length), length)
        if evaluation_steps(length * len(starts), self.tokens_per_step) > TRAIN_EVAL_SHARE * self.progress.step:
            return None
        part = starts[distributed.share(len(starts))]
        token_sizes = self.token_bytes.cpu().numpy()
        score = self._measured(evaluate_windows, self.corpus.train, token_sizes, part, block_size=length)
        return Score(distributed.summed(score.nats), length * len(starts), distributed.summed(score.bytes))

    def _measured(self, measure, *text, block_size):
        """Return what a function of folio.evaluation.bits_per_byte finds for the network as it is."""
        self.working_net.eval()
        score = self._in_memory(lambda: measure(self.working_net, *text, block_size=block_size,
                                                batch_size=self._at_once(block_size), device=self.training.device))
        self.working_net.train()
        return score

    def sample(self):
        """What the network writes by now: a few lines."""
        self.net.eval()
        tokens = list(generate(self.net, self.opening, tokens=self.training.sample_tokens, temperature=SAMPLE_TEMPERATURE,
                               sampling_seed=self.training.seed, end=self.tokenizer.end_of_text))
        self.net.train()
        return self.tokenizer.decode(tokens).strip()

    def _bar(self):
        total = self.total_steps and self.total_steps * self.tokens_per_step
        return tqdm(total=total, initial=self.progress.step * self.tokens_per_step, unit=" tokens", unit_scale=True, desc=self.name,
                    dynamic_ncols=True, leave=False, disable=None, smoothing=0.05)

    def save_weights(self, score):
        """Write all that is needed to run the network as it is."""
        if not distributed.is_first():
            return
        checkpoint.save(self.home.weights(self.name), {
            "name": self.name, "params": asdict(self.params.model), "text": asdict(self.params.text), "training": asdict(self.training),
            "tokenizer": self.tokenizer.to_dict(), "opening": self.opening, "weights": self.net.state_dict(),
            "step": self.progress.step, "started_from": self.progress.started_from, "seconds": self.seconds, "torch": str(torch.__version__),
            "learned_from": self.corpus.training_part,
            "val_bpb": score and score.bits_per_byte, "val_nats_per_byte": score and score.nats_per_byte})

    def save_resume(self):
        """Write all that is needed to go on exactly."""
        streams = self.streams and {name: distributed.joined_rows(part, dim=1) for name, part in self.streams.tensors().items()}
        if not distributed.is_first():
            return
        self.progress.seconds = self.seconds
        checkpoint.save(self.home.resume(self.name), {
            "name": self.name, "params": asdict(self.params), "tokenizer": self.tokenizer.fingerprint, "corpus": self.corpus.fingerprint,
            "torch": str(torch.__version__), "processes": distributed.count(), "progress": asdict(self.progress), "weights": self.net.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers], "scaler": self.scaler.state_dict(), "streams": streams})

    def _refuse_useless_weights(self):
        if not all(parameter.isfinite().all() for parameter in self.net.parameters()):
            raise FolioError(f"After step {self.progress.step} the weights are not finite. {_LAST_GOOD}")

    def restore(self, contents):
        """Go back to where a loaded resume file was written; the log is cut back to there."""
        self.net.load_state_dict(contents["weights"])
        self.renew_working_net()
        for optimizer, state in zip(self.optimizers, contents["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.scaler.load_state_dict(contents.get("scaler", {}))         # what older runs did not have they did not need
        if self.streams:
            rows = distributed.share(self.training.batch_size)
            self.streams.restore({name: part[:, rows] for name, part in contents["streams"].items()})
        fresh, self.progress = self.progress, Progress.of(contents["progress"])
        length = contents["params"]["training"]
        if (self.training.steps, self.training.minutes) != (length["steps"], length["minutes"]):        # a new length needs a new descent
            self.progress.decay_start, self.progress.moved_ends = fresh.decay_start, []
        self.progress.finished = False
        self.earlier_seconds = self.progress.seconds
        kept = self.log.cut_back(self.progress.step) if distributed.is_first() else []
        self._logged_decay_start = next((report["decay_start"] for report in reversed(kept) if "decay_start" in report), None)


# --- Small parts ---

def default_eval_interval(val_tokens, tokens_per_step):
    """Steps from one evaluation to the next: a hundred, or more where the validation part is large."""
    steps = evaluation_steps(val_tokens, tokens_per_step)
    return max(100, math.ceil(round(steps / (EVALUATION_SHARE - TRAIN_EVAL_SHARE), 6)))


def train_eval_tokens(val_tokens, eval_interval, tokens_per_step):
    """Return the size of the sample of the training text that evaluations measure.

    It is as large as the validation part, or what TRAIN_EVAL_SHARE allows; where evaluations are frequent because somebody
    wants them so, a quarter of the validation part.
    """
    affordable = int(TRAIN_EVAL_SHARE * eval_interval / evaluation_steps(1, tokens_per_step))
    return min(val_tokens, max(val_tokens // 4, affordable))


def evaluation_steps(val_tokens, tokens_per_step):
    """How many steps take as long as an evaluation: it has no backward pass, which is two thirds of a step."""
    return val_tokens / 3 / tokens_per_step


def training_figure(report):
    """Return what an evaluation says of the training text: as measured, or else the running mean of its steps.

    >>> training_figure({"train_nats_per_byte": 1.5, "train_eval_nats_per_byte": 1.25})
    'training 1.2500'
    >>> training_figure({"train_nats_per_byte": 1.5})
    'training 1.5000 (running mean)'
    """
    if "train_eval_nats_per_byte" in report:
        return f"training {report['train_eval_nats_per_byte']:.4f}"
    running = report["train_nats_per_byte"]
    return "training -" if running is None else f"training {running:.4f} (running mean)"


def dropout_seed(seed, step, micro_batch, rank=0):
    """32 bits, all that torch's CPU generator keeps of a seed, different for every part of every step."""
    return int.from_bytes(sha256(repr((seed, step, micro_batch, rank)).encode()).digest()[:4], "little")


def line_end(tokenizer):
    """The ids of a line's end, or of token 0 where a character tokenizer has never seen one."""
    try:
        return tokenizer.encode("\n")
    except FolioError:
        return [0]


def with_margin(text):
    """A text to show, set apart by a margin, without anything in it that could command the terminal."""
    return "\n".join("         | " + "".join(c if c.isprintable() else " " for c in line) for line in text.split("\n"))


def clock_time(seconds):
    """clock_time(83) -> "1:23" """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@contextmanager
def stop_signals():
    """Yield a list that gets the number of the first of STOP_SIGNALS instead of the process dying of it; the second one kills.

    Not so under torchrun: it repeats to each of its processes what the terminal has sent them already, and kills them itself after a while.
    """
    received, previous = [], {}

    def receive(number, frame):
        received.append(number)
        if number == SIGHUP:            # comes twice where a terminal is closed: from the shell and from the system
            signal.signal(number, signal.SIG_IGN)
            del previous[number]
        restore()

    def restore():
        for each, handler in previous.items() if distributed.count() == 1 else ():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():       # Python lets no other thread handle signals
        wanted = [each for each in STOP_SIGNALS if not (each == SIGHUP and signal.getsignal(each) == signal.SIG_IGN)]       # as nohup has it
        previous = {each: signal.signal(each, receive) for each in wanted}
    try:
        yield received
    finally:
        restore()
