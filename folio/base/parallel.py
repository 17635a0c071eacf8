"""Map a function over a stream in several processes: results come in order, and only few are held in memory."""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from folio.base.errors import FolioError

MOST_PROCESSES = 61 if sys.platform == "win32" else math.inf        # as many as Windows can wait for at once


def cores():
    """Return how many processor cores this process may use: those of its affinity, or its container's share if less."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, cgroup_cores())


def cgroup_cores(membership=Path("/proc/self/cgroup"), root=Path("/sys/fs/cgroup")):
    """Return how many cores the control groups of Linux (containers) allow this process; math.inf without a limit.

    The limit is processor time per period, so 1.5 cores are possible; they count as two. Versions 1 and 2 are read.
    Every group around this process's own may set a limit as well. In a container its own group is often `root`.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return math.inf
    limits = [math.inf]
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            top, read = root, _limit_v2
        elif "cpu" in controllers.split(","):
            top, read = root / "cpu", _limit_v1
        else:
            continue
        folder = top / group.strip("/")
        for level in (folder, *folder.parents):
            if level.is_relative_to(top):
                with suppress(OSError, ValueError, ZeroDivisionError):
                    limits.append(read(level))
    return max(1, min(limits))


def _limit_v2(folder):
    quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()        # "max 100000" without a limit
    return math.inf if quota == "max" else math.ceil(int(quota) / int(period))


def _limit_v1(folder):
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period"))
    return math.inf if quota < 0 else math.ceil(quota / period)         # -1 without a limit


def in_order(function, items, processes, initialize=None, *arguments):
    """Yield function(item) for every item, in their order.

    With `initialize`, yield function(initialize(*arguments), item): that first argument is made once in each process.
    Both functions have to be importable, as a new process imports them. With one process, or if the system provides no
    others, everything is done in this one. Raises FolioError if a process is killed.
    """
    pool = _make_pool(processes, initialize, arguments) if processes > 1 else None
    if pool is None:
        yield from map(partial(function, *_initial_arguments(initialize, arguments)), items)
        return
    with pool:
        waiting = deque()
        try:
            for item in items:
                with _sigint_blocked():                 # submit may start a process
                    future = pool.submit(_call, function, item)
                waiting.append(future)
                if len(waiting) > 2 * processes:        # enough that no process waits for us, few enough for any memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise FolioError("One of the processes that this work is spread over was ended from outside, probably "
                             "because memory ran out. What was there before is as it was. "
                             "Close other programs, and run this again.") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _make_pool(processes, initialize, arguments):
    """Return a pool of processes, or None if they cannot communicate, as in a container without /dev/shm."""
    try:
        # spawn works alike on every system, and such a process inherits no threads or locks of this one.
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(min(processes, MOST_PROCESSES), spawn, _initialize_worker, (initialize, arguments))
    except (OSError, ImportError, NotImplementedError):     # no semaphores: of the system, of this Python, or too few
        return None


@contextmanager
def _sigint_blocked():
    """Block SIGINT in this thread: a process started in the block inherits that, and ignores Ctrl-C from its start."""
    if not hasattr(signal, "pthread_sigmask"):          # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)          # a signal that came meanwhile is delivered now


def _initial_arguments(initialize, arguments):
    """Return what precedes an item in a call of the function: [initialize(*arguments)], or [] without `initialize`."""
    return [initialize(*arguments)] if initialize else []


# --- In a worker: a process that belongs to one pool, and so to one call of in_order ---

def _initialize_worker(initialize, arguments):
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for the parent, which ends its workers
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    # The pool calls functions only: what they share is kept by the worker's own process object.
    multiprocessing.current_process().initial_arguments = _initial_arguments(initialize, arguments)


def _exit_with(parent):
    """Exit when the parent has ended in whatever way: otherwise a worker would wait for work for ever."""
    wait([parent])
    os._exit(1)


def _call(function, item):
    return function(*multiprocessing.current_process().initial_arguments, item)
