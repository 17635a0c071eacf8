"""The same work on many pieces, in several processes, the results in order and never many of them waiting."""

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

MOST_PROCESSES = 61 if sys.platform == "win32" else math.inf        # what Windows can wait for at once


def cores():
    """Processor cores this process may use: those of its affinity, or its container's share if less."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, cgroup_cores())


def cgroup_cores(membership=Path("/proc/self/cgroup"), root=Path("/sys/fs/cgroup")):
    """Cores that Linux control groups, which containers are made of, allow this process; math.inf without a limit.

    The limit is processor time per period, so 1.5 cores are possible; they count as two. Versions 1 and 2 are read, and
    all groups around this process's own, each of which may set a limit. In a container its own is often `root`.
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
        for each in (folder, *folder.parents):
            if each.is_relative_to(top):
                with suppress(OSError, ValueError, ZeroDivisionError):
                    limits.append(read(each))
    return max(1, min(limits))


def _limit_v2(folder):
    quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()        # "max 100000" without a limit
    return math.inf if quota == "max" else math.ceil(int(quota) / int(period))


def _limit_v1(folder):
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period"))
    return math.inf if quota < 0 else math.ceil(quota / period)         # -1 without a limit


def in_order(work, pieces, processes, set_up=None, *arguments):
    """Yield work(piece) for every piece, in their order; with one process, or where no others can be had, here and now.

    With `set_up` it is work(set_up(*arguments), piece), set up once in each process. Both are functions of a module: a
    new process imports them. Raises FolioError where a process is ended from outside.
    """
    pool = _make_pool(processes, set_up, arguments) if processes > 1 else None
    if pool is None:
        yield from map(partial(work, *_made(set_up, arguments)), pieces)
        return
    with pool:
        waiting = deque()
        try:
            for piece in pieces:
                with _deaf_to_interrupts():             # a process may be started here
                    future = pool.submit(_work_on, work, piece)
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


def _make_pool(processes, set_up, arguments):
    """A pool of processes, or None where they have no means to talk, as in a container without /dev/shm."""
    try:
        # spawn works alike on every system, and a process made so has no threads or locks of ours to inherit.
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(min(processes, MOST_PROCESSES), spawn, _begin, (set_up, arguments))
    except (OSError, ImportError, NotImplementedError):     # no semaphores: of the system, of this Python, or too few
        return None


@contextmanager
def _deaf_to_interrupts():
    """Block SIGINT in this thread: a process started in the block takes that over, and hears no Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):          # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)          # one that came meanwhile is heard now


def _made(set_up, arguments):
    return [set_up(*arguments)] if set_up else []


# --- In a process of the pool, which serves one in_order and nothing else ---

def _begin(set_up, arguments):
    global _made_here
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for the process that started this one; it ends us
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process().sentinel,), daemon=True).start()
    _made_here = _made(set_up, arguments)


def _end_with(parent):
    """End this process when its parent has ended, however that came: else it would wait for work for ever."""
    wait([parent])
    os._exit(1)


def _work_on(work, piece):
    return work(*_made_here, piece)
