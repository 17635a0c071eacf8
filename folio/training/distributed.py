"""Several processes that make one run: torchrun starts them, each computes its share of every batch, and all have the same weights.

The first one (rank 0) alone reads the clock, saves and is heard. Messages between them go by gloo, gradients by NCCL where there is a
GPU for each. Without torchrun there is one process, and everything here is what it is for one.
"""

import importlib
import os
import sys
from contextlib import contextmanager
from datetime import timedelta

import folio.base.hardware           # noqa: F401  (notes what the user has set before `joined` imports torch's compiler)
import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from folio.base.commands import command
from folio.base.parallel import cores

PATIENCE = timedelta(minutes=30)        # with a process that does not answer: to encode ten gigabytes takes less. One that dies is missed at once


@contextmanager
def joined():
    """Join the processes that torchrun started, and leave them together; the first that fails is heard, the others end with it."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield
        return
    # torch.compile imports this. Where it comes after the group, gloo's threads outlive the group, and abort a Python that ends while
    # they still hold a tensor (seen with torch 2.13).
    importlib.import_module("torch._dynamo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.set_num_threads(max(1, cores() // _processes_here()))         # torchrun says one
    store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield
        any_says(False)         # nobody leaves before all is saved
    except BaseException:
        if not _fails_first(store):
            os._exit(1)             # in silence: gloo's threads may abort a Python that takes its time
        sys.stderr = sys.__stderr__         # what went wrong here is to be heard
        raise
    dist.destroy_process_group()


def count():
    """How many processes make this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_first():
    """Whether this is the one that saves."""
    return rank() == 0


def launcher():
    """What starts as many processes as there are here: "python", or torchrun and a number."""
    return "python" if count() == 1 else f"torchrun --nproc-per-node {_processes_here()}"


def problems(training):
    """Yield a sentence for everything that keeps several processes from computing what TrainingParams (resolved and probed) say."""
    kind, _, number = training.device.partition(":")
    if count() == 1:
        return
    if kind not in ("cpu", "cuda") or number:
        yield f"Several processes compute on device=cpu or device=cuda, each on a GPU of its own, not on {training.device}."
    elif kind == "cuda" and _processes_here() > torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        yield f"{_processes_here()} processes need a GPU each, and there is {gpus}: take --nproc-per-node {gpus}, or --device cpu."
    windows, rest = divmod(training.batch_size, count())
    if rest or windows % min(windows, training.micro_batch_size):
        unit = count() * (training.micro_batch_size if training.micro_batch_size < windows else 1)
        yield (f"batch_size={training.batch_size} does not split among {count()} processes with micro_batch_size={training.micro_batch_size}; "
               f"take a multiple of {unit}.")


# --- What each computes ---

def share(total):
    """This process's part of the numbers below `total`, as a slice; the parts differ by one at most.
    >>> share(16)
    slice(0, 16, None)
    """
    return slice(rank() * total // count(), (rank() + 1) * total // count())


def share_of_windows(tokens, block_size):
    """This process's part of all windows of block_size that do not overlap. tokens: (total,) -> (part,), the first again only a beginning"""
    part = share(-(-(len(tokens) - 1) // block_size))
    return tokens[part.start * block_size:part.stop * block_size + 1]


# --- What they tell each other; each of these has to be called by all of them ---

def average_gradients(net):
    """Put the mean of all processes' gradients in place of each one's own."""
    if count() > 1:
        gradients = [parameter.grad for parameter in net.parameters()]
        together = parameters_to_vector(gradients)          # one message instead of many
        _exchange(dist.all_reduce, together)
        vector_to_parameters(together.div_(count()), gradients)


def summed(number):
    """The sum of all processes' numbers."""
    return _reduced(number, dist.ReduceOp.SUM) if count() > 1 else number


def joined_rows(part, dim):
    """All processes' parts of a tensor, which are of the same shape, one after the other along a dimension."""
    if count() == 1:
        return part
    parts = [torch.empty_like(part, dtype=torch.float32) for _ in range(count())]           # which every backend carries, and holds any half
    _exchange(dist.all_gather, parts, part.float().contiguous())
    return torch.cat(parts, dim).to(part.dtype)


def any_says(condition):
    """Whether a condition holds in any process."""
    return bool(_reduced(bool(condition), dist.ReduceOp.MAX)) if count() > 1 else bool(condition)


def first_says(condition):
    """Whether a condition, such as one about the clock, holds in the first process."""
    return any_says(is_first() and condition)


def agreed(value):
    """The first process's value, in all of them."""
    box = [value]
    if count() > 1:
        _exchange(dist.broadcast_object_list, box, src=0, device=torch.device("cpu"))
    return box[0]


def after_the_first(function, *arguments):
    """function(*arguments), in the first process before the others, who find what it wrote."""
    result = function(*arguments) if is_first() else None
    any_says(False)
    return result if is_first() else function(*arguments)


def _reduced(number, operation):
    box = torch.tensor(number, dtype=torch.float64)
    _exchange(dist.all_reduce, box, operation)
    return box.item()


def _exchange(function, *arguments, **how):
    try:
        function(*arguments, **how)
    except RuntimeError as error:
        raise ConnectionError("Another process of this run has ended or does not answer, so all of them end. What is saved is whole; "
                              f"to go on from it: {command('train.py', '--resume', launcher=launcher())}, with the same --name") from error


def _processes_here():
    return int(os.environ["LOCAL_WORLD_SIZE"])


def _fails_first(store):
    """Whether no other process has failed before. Whoever asks is taken to fail now."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:            # there is nobody left who would know
        return True
