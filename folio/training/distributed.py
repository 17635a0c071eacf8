"""Data-parallel training: torchrun starts several processes, each computes its share of every batch.

All processes have the same weights. Only the first one (rank 0) reads the clock, saves and prints. They communicate by
gloo, and exchange gradients by NCCL where each has a GPU. Without torchrun there is one process, and every function
here returns what holds for one.
"""

import importlib
import os
import sys
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import folio.base.hardware  # noqa: F401  (reads the user's settings before `joined` imports torch's compiler)
from folio.base.commands import command
from folio.base.parallel import cores

# For a process that does not answer: encoding ten gigabytes takes less. One that dies is noticed at once.
TIMEOUT = timedelta(minutes=30)


@contextmanager
def joined():
    """Join the processes that torchrun started, and leave them together.

    Where one fails, the others end with it, and only the first to fail prints why.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield
        return
    # torch.compile imports this. Where that happens after the group was made, gloo's threads outlive the group, and
    # abort a Python that ends while they still hold a tensor (seen with torch 2.13).
    importlib.import_module("torch._dynamo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.set_num_threads(max(1, cores() // _processes_here()))         # torchrun sets one
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield
        any_says(False)         # nobody leaves before all is saved
    except BaseException:
        if not _fails_first(store):
            os._exit(1)             # silently: gloo's threads may abort a Python that takes its time
        sys.stderr = sys.__stderr__         # the message has to reach the user
        raise
    dist.destroy_process_group()


def count():
    """Return the number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """Return the number of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_first():
    """Return whether this process is the one that saves and prints."""
    return rank() == 0


def launcher():
    """Return the command that starts as many processes as run here: "python", or torchrun and a number."""
    return "python" if count() == 1 else f"torchrun --nproc-per-node {_processes_here()}"


def problems(training):
    """Yield a sentence for everything that keeps several processes from training with these settings.

    training: TrainingParams, resolved and probed
    """
    kind, _, number = training.device.partition(":")
    if count() == 1:
        return
    if kind not in ("cpu", "cuda") or number:
        yield ("Several processes compute on device=cpu or device=cuda, each on a GPU of its own, "
               f"not on {training.device}.")
    elif kind == "cuda" and _processes_here() > torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        yield (f"{_processes_here()} processes need a GPU each, and there is {gpus}: take --nproc-per-node {gpus}, "
               "or --device cpu.")
    sequences, rest = divmod(training.batch_size, count())
    if rest or sequences % min(sequences, training.micro_batch_size):
        unit = count() * (training.micro_batch_size if training.micro_batch_size < sequences else 1)
        yield (f"batch_size={training.batch_size} does not split among {count()} processes with "
               f"micro_batch_size={training.micro_batch_size}; take a multiple of {unit}.")


# --- The share of each process ---

def share(total):
    """Return this process's part of range(total) as a slice; the parts differ by one at most.

    >>> share(16)
    slice(0, 16, None)
    """
    return slice(rank() * total // count(), (rank() + 1) * total // count())


def share_of_windows(tokens, block_size):
    """Return the tokens of this process's part of all windows of block_size that do not overlap.

    tokens: (total,) -> (part,), of which the first only serves to predict the second
    """
    part = share(-(-(len(tokens) - 1) // block_size))
    return tokens[part.start * block_size:part.stop * block_size + 1]


# --- Communication: every process has to call each of these ---

def sum_gradients(net):
    """Put the sum of all processes' gradients in place of each one's own."""
    if count() > 1:
        gradients = [parameter.grad for parameter in net.parameters() if parameter.requires_grad]
        together = parameters_to_vector(gradients)          # one message instead of many
        _exchange(dist.all_reduce, together)
        vector_to_parameters(together, gradients)


def summed(number):
    """Return the sum of all processes' numbers."""
    return sums(number)[0]


def sums(*numbers):
    """Return the sum of all processes' numbers for each argument, in one message."""
    if count() == 1:
        return list(numbers)
    totals = _reduced(numbers, dist.ReduceOp.SUM)
    return [int(total) if isinstance(number, int) else total for number, total in zip(numbers, totals)]


def joined_rows(part, dim):
    """Return all processes' parts of a tensor, all of one shape, concatenated along a dimension."""
    if count() == 1:
        return part
    # Every backend carries float32, and it holds every value of the 16-bit types.
    parts = [torch.empty_like(part, dtype=torch.float32) for _ in range(count())]
    _exchange(dist.all_gather, parts, part.float().contiguous())
    return torch.cat(parts, dim).to(part.dtype)


def any_says(condition):
    """Return whether a condition holds in any process."""
    return bool(_reduced([bool(condition)], dist.ReduceOp.MAX)[0]) if count() > 1 else bool(condition)


def first_says(condition):
    """Return whether a condition, such as one about the clock, holds in the first process."""
    return any_says(is_first() and condition)


def agreed(value):
    """Return the first process's value in all processes."""
    box = [value]
    if count() > 1:
        _exchange(dist.broadcast_object_list, box, src=0, device=torch.device("cpu"))
    return box[0]


def after_the_first(function, *arguments):
    """Return function(*arguments), called in the first process before the others, so that they find what it wrote."""
    result = function(*arguments) if is_first() else None
    any_says(False)
    return result if is_first() else function(*arguments)


def _reduced(numbers, operation):
    values = torch.tensor(numbers, dtype=torch.float64)
    _exchange(dist.all_reduce, values, operation)
    return values.tolist()


def _exchange(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except RuntimeError as error:
        raise ConnectionError(
            "Another process of this run has ended or does not answer, so all of them end. What is saved is complete; "
            f"to resume it: {command('train.py', '--resume', launcher=launcher())}, with the same --name") from error


def _processes_here():
    return int(os.environ["LOCAL_WORLD_SIZE"])


def _fails_first(store):
    """Return whether no other process has failed before. Call it only when this one fails."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:            # no other process is left to answer
        return True
