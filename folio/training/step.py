"""One training step: the gradient of a batch in micro-batches, clipped, and one step of every optimizer.

The loss of a batch is a sum, of the cross-entropies of its counted targets where a text is learned, divided by their
number in the whole batch, over all micro-batches and processes. So gradients are summed, never averaged, and unequal
counts need no weights.

What kinds of training differ in comes as arguments of TrainStep:
- precision: what computes and what learns, and how a loss becomes gradients (MasterWeights)
- forward: how the network is called on a batch (folio/training/carried_state.py)
- loss: what is minimized, as a sum (folio/training/lessons.py)
- sum_gradients: how the gradients of several processes become one (folio/training/distributed.py)
A network sharded over processes would bring its own precision and leave nothing for sum_gradients to do.
"""

import math
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import torch
from tqdm import tqdm

from folio.base import hardware
from folio.base.errors import FolioError, is_out_of_memory
from folio.networks import build as networks
from folio.training import distributed
from folio.training.optimizers import set_rates

LAST_GOOD = "What is saved is from before. Try a lower --learning-rate, or --precision fp32."


@dataclass(frozen=True)
class StepResult:
    """What a step found."""
    loss: float                 # mean over what is counted, such as targets, in nats; 0 where there is nothing
    grad_norm: float | None     # before clipping; None where it exceeded the range of fp16


class TrainStep:
    """Update a network by the gradient of one batch. Called by all processes, each with its rows of the batch."""

    def __init__(self, training, *, precision, forward, loss, optimizers, micro_batches, sum_gradients):
        """training: TrainingParams, resolved; optimizers: of precision.net; sum_gradients(net): works in place

        loss(forward, *arrays of a Batch): the summed loss
        """
        self.training = training
        self.precision, self.forward, self.optimizers = precision, forward, optimizers
        self.micro_batches, self.sum_gradients = micro_batches, sum_gradients
        self.loss = partial(loss, forward)

    def __call__(self, batch, step, learning_rate, tokens):
        """Take the step of number `step`. -> StepResult

        batch: Batch, this process's rows; tokens: the number of counted targets of the whole batch, in all processes.
        Without any, no weight changes. Raises FolioError, with no weight changed, where the loss or its gradient is not
        finite.
        """
        loss = distributed.summed(self.micro_batches.fit(lambda: self._gradient(batch, step, tokens), step))
        net = self.precision.net
        self.sum_gradients(net)
        self.precision.unscale(self.optimizers)
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), self.training.gradient_clip or math.inf).item()
        overflowed = not math.isfinite(norm)
        if not math.isfinite(loss) or overflowed and not self.precision.is_scaled:
            raise FolioError(f"At step {step} the loss is {loss} and the gradient norm {norm}: nothing can be "
                             f"learned from that. {LAST_GOOD}")
        set_rates(self.optimizers, step, learning_rate, self.training)
        if tokens and not overflowed:           # where fp16 overflowed, the step is left out and the scale halved
            for optimizer in self.optimizers:
                optimizer.step()
        self.precision.update()
        self.forward.end()
        return StepResult(loss, None if overflowed else norm)

    def compile(self, batch):
        """Let torch.compile make the loss; where it cannot, print that in one line. -> whether it could

        batch: Batch of the shape of the next step's.
        """
        try:
            compiled = torch.compile(self.loss, dynamic=False)
            micro_batch = batch.rows(slice(self.micro_batches.rows(batch.row_tokens)))
            self.precision.gradients(compiled(*micro_batch.arrays))
        except Exception as error:              # no failure of a compiler is a reason not to train
            if not is_out_of_memory(error):     # the first step meets that too, and handles it
                tqdm.write(f"torch.compile does not work here ({type(error).__name__}); training without it.")
                return False
        self.loss = compiled
        return True

    def _gradient(self, batch, step, tokens):
        """Leave the gradient of the batch's loss in the parameters. -> that loss

        tokens: divides the loss; the rows of the other processes count too.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.forward.begin(step)
        rows = self.micro_batches.rows(batch.row_tokens)
        total = 0.0
        for number, first in enumerate(range(0, len(batch), rows)):
            micro_batch = batch.rows(slice(first, first + rows))
            torch.manual_seed(dropout_seed(self.training.seed, step, number, distributed.rank()))
            loss = self.loss(*micro_batch.arrays) / max(1, tokens)
            self.precision.add_gradient(loss)
            total += loss.item()
        return total


class MasterWeights:
    """Learn in float32 and multiply matrices in another type, with copies of them (Micikevicius et al., 2018).

    net: learns, writes samples and is saved; working_net: computes. They are one network where the type is float32.
    """

    def __init__(self, net, training):
        self.net = net
        self.working_net = networks.in_type(net, hardware.TYPES[training.precision])
        self._pairs = networks.pairs(net, self.working_net)
        self.scaler = hardware.gradient_scaler(training)

    @property
    def is_scaled(self):
        """Return whether gradients are scaled, so that an overflow may be the scale's."""
        return self.scaler.get_scale() > 1          # without a scaler it is 1

    def gradients(self, loss):
        """Return the gradients of a loss by the parameters of working_net."""
        return torch.autograd.grad(loss, [working for _, working in self._pairs], materialize_grads=True)

    def add_gradient(self, loss):
        """Add the gradient of a loss, scaled, to the gradients of net, in float32."""
        for (parameter, _), gradient in zip(self._pairs, self.gradients(self.scaler.scale(loss))):
            if parameter.grad is None:
                parameter.grad = gradient.float().contiguous()
            else:
                parameter.grad.add_(gradient)

    def unscale(self, optimizers):
        """Divide the gradients of net by the scale."""
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)

    def update(self):
        """Adapt the scale to what the step met, and copy the new weights."""
        self.scaler.update()
        self.copy_weights()

    @torch.no_grad()
    def copy_weights(self):
        """Give working_net the weights of net."""
        for parameter, working in self._pairs:
            if working is not parameter:
                working.copy_(parameter)


class MicroBatches:
    """How many sequences a forward/backward pass takes; fewer from the moment that memory runs out."""

    def __init__(self, training, model):
        """training: TrainingParams, model: ModelParams, both resolved."""
        self.size = training.micro_batch_size           # as a setting; a process's share of a batch may be less
        self.share = training.batch_size // distributed.count()
        self.block_size, self.device = model.block_size, training.device
        self.rounding = "rounding and dropout" if model.dropout or model.attention_dropout else "rounding"

    @property
    def _limit(self):
        return min(self.size, self.share)

    def rows(self, length):
        """Return the number of sequences of a length in a micro-batch: as many tokens as in sequences of block_size."""
        return max(1, self._limit * self.block_size // length)

    def fit(self, compute, step):
        """Return compute(), repeated with smaller micro-batches as often as memory runs out.

        step: the steps done so far, for the message.
        """
        while True:
            result, ran_out = None, False
            try:
                result = compute()
            except (MemoryError, RuntimeError) as error:
                ran_out = is_out_of_memory(error) and self._limit > 1
                if not ran_out:
                    raise
            if not distributed.any_says(ran_out):       # out here the error holds on to no tensors any more
                return result
            self._shrink(step)

    def _shrink(self, step):
        before = self._limit
        self.size = next(size for size in range(before // 2, 0, -1) if self.share % size == 0)
        if self.device != "cpu":
            torch.accelerator.empty_cache()             # it holds blocks of the old sizes
        tqdm.write(f"Step {step:,}: {before} sequences at once need more memory than there is; from here on "
                   f"{self.size} at once. Batches and results are the same but for {self.rounding} "
                   f"(micro_batch_size={self.size}).")


def dropout_seed(seed, step, micro_batch, rank=0):
    """Return 32 bits, all that torch's CPU generator keeps of a seed, that differ for every part of every step."""
    return int.from_bytes(sha256(repr((seed, step, micro_batch, rank)).encode()).digest()[:4], "little")
