"""Run the cases of a campaign in worker processes, each with a time limit and a memory limit, and collect what fell.

A case is a function of (campaign, seed, number) alone, so every fall can be reproduced by its number.
"""

import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

from folio.base.errors import FolioError
from folio.cli.command_line import sentence

SHOWN_FALLS = 20            # different ones, in a report


def _starting_workers():
    """The way to start workers: from a server that has imported torch, which each would need seconds for, if possible.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():         # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pytest"])
    return context


_CONTEXT = _starting_workers()


class Fall(Exception):
    """The program did not do what it should: the text says what happened instead."""


class Campaign:
    """Cases of one kind. An instance is pickled and sent to the workers."""

    name = ""
    seconds = 10            # a case may take
    megabytes = 1000        # a worker may take beyond what it has when it is set up

    def set_up(self, folder):
        """Prepare a worker, which has `folder` to itself."""

    def attempt(self, number, draw):
        """Make case `number`, with `draw`, a random.Random of its own. Raises Fall, or anything else, where it fell."""
        raise NotImplementedError

    def describe(self):
        """What the last case of this worker was, for the report of its fall."""
        return ""


def answer_or_refusal(read):
    """read() -> (its result, None), or (None, the message) where it refuses as it should: by FolioError or OSError."""
    try:
        return read(), None
    except (FolioError, OSError) as error:
        message = sentence(error)
        if not message.strip() or len(message) > 4000:
            raise Fall(f"A refusal whose message has {len(message)} characters") from error
        return None, message


def run(campaign, numbers, seed, processes):
    """Yield (number, complaint) for every case, as they end; None is the complaint about a case that held."""
    waiting = iter(numbers)
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        try:
            for _ in range(processes):
                if (number := next(waiting, None)) is not None:
                    workers.append(_Worker(campaign, seed, Path(folder) / str(len(workers)), number))
            while workers:
                first_deadline = min(worker.deadline for worker in workers)
                wait([worker.pipe for worker in workers], timeout=max(0, first_deadline - time.monotonic()))
                for worker in list(workers):
                    if (ended := worker.poll()) is None:
                        continue
                    yield ended
                    if (number := next(waiting, None)) is None:
                        workers.remove(worker)
                        worker.end()
                    else:
                        worker.begin(number)
        finally:
            for worker in workers:
                worker.end()


class _Worker:
    """A process that works on one case at a time, and is replaced when it dies or hangs."""

    set_up_seconds = 600        # importing torch on a busy machine takes a while

    def __init__(self, campaign, seed, folder, number):
        self.campaign, self.seed, self.folder = campaign, seed, folder
        self.process = None
        self.begin(number)

    def begin(self, number):
        self.number = number
        self.deadline = time.monotonic() + self.campaign.seconds
        if self.process is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self.pipe, theirs = _CONTEXT.Pipe()
            arguments = self.campaign, self.seed, self.folder, theirs
            self.process = _CONTEXT.Process(target=_work, args=arguments, daemon=True)
            self.process.start()
            theirs.close()
            self.deadline += self.set_up_seconds
        self.pipe.send(number)

    def poll(self):
        """(number, complaint) where the case has ended, in whatever way, and else None."""
        if self.pipe.poll():
            with suppress(EOFError):
                number, complaint = self.pipe.recv()
                if number is None:          # it is set up only now, and its time begins
                    if complaint:
                        raise RuntimeError(complaint)
                    self.deadline = time.monotonic() + self.campaign.seconds
                    return None
                return number, complaint
            self.process.join()
            complaint = f"The process died of it (exit code {self.process.exitcode})"
        elif time.monotonic() >= self.deadline:
            complaint = f"Still at work after {self.campaign.seconds} seconds"
        else:
            return None
        self.end()
        return self.number, complaint

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None


def _work(campaign, seed, folder, pipe):
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    with suppress(EOFError):                # the parent has no more work
        try:
            campaign.set_up(folder)
        except BaseException:
            return pipe.send((None, traceback.format_exc()))
        _limit_memory(campaign.megabytes)
        pipe.send((None, None))
        while True:
            number = pipe.recv()
            pipe.send((number, _complaint(campaign, number, random.Random(f"{campaign.name} {seed} {number}"))))


def _complaint(campaign, number, draw):
    try:
        return campaign.attempt(number, draw)
    except Fall as fall:
        return f"{fall} | {fall.__cause__ or ''} {campaign.describe()}"
    except MemoryError:
        return f"MemoryError: more than {campaign.megabytes} MB | {campaign.describe()}"
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)
                  if not {"site-packages", "campaigns"} & set(Path(frame.filename).parts)]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
        return f"{type(error).__name__} at {where}: {str(error)[:120]} | {campaign.describe()}"


def _limit_memory(megabytes):
    """Let this process take no more than that beyond what it has; where the system has no such limit, there is none."""
    with suppress(ImportError, OSError):
        import resource
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + megabytes * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def report(falls):
    """Lines about (number, complaint): each complaint once, with how often it came and numbers that reproduce it."""
    kinds = {}
    for number, complaint in sorted(falls):
        kinds.setdefault(complaint.partition(" | ")[0], []).append((number, complaint.partition(" | ")[2]))
    lines = []
    for kind, cases in sorted(kinds.items(), key=lambda item: -len(item[1])):
        numbers = ", ".join(str(number) for number, _ in cases[:5])
        lines.append(f"{len(cases):6,} x {kind}\n           cases {numbers}; the first: {cases[0][1]}")
    return "\n".join(lines[:SHOWN_FALLS] + [f"and {len(lines) - SHOWN_FALLS} other kinds"] * (len(lines) > SHOWN_FALLS))
