"""The same work on many pieces, in several processes, the results in order and never many of them waiting."""

import multiprocessing
import os
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor


def cores():
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work, pieces, processes, set_up=None, *arguments):
    """Yield work(piece) for every piece, in their order; with one process, here and now.

    `work`, and `set_up`, which is called once in each process with `arguments`, are functions of a module: a new process imports them.
    """
    if processes == 1:
        if set_up:
            set_up(*arguments)
        yield from map(work, pieces)
        return
    # spawn works alike on every system, and a process made so has no threads or locks of ours to inherit.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (set_up, arguments)) as pool:
        waiting = deque()
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * processes:        # enough that no process waits for us, few enough for any memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(set_up, arguments):
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # Ctrl-C is for the process that started this one; it ends us
    if set_up:
        set_up(*arguments)
