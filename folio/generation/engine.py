"""The engine: one thread owns a network, and writes the answers of all requests in one batch.

    engine = Engine(model)
    ticket = engine.submit(Request(prompts=["MERRAN:\\n"], settings=GenerationParams(tokens=50), deliver=print))

Requests join and leave at any step, first come, first served: one that wants more rows than are free gets them one by
one, and those after it wait. The same seed and settings give the same text alone or in company (see batch.py).
"""

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from inspect import isgenerator
from typing import Any

import torch

from folio.base.errors import FolioError, failure
from folio.base.spelling import counted
from folio.chat.template import ends_of_text
from folio.generation.answers import Adjustments, Answer, Event, TokenEvent
from folio.generation.batch import APART_ROWS, STALL_SECONDS, Batch, part_length
from folio.generation.decoder import Sequence as Continued
from folio.generation.decoder import window_start
from folio.generation.language_model import LanguageModel
from folio.generation.scoring import scored
from folio.generation.voices import Mix
from Model_Params import GenerationParams

__all__ = ["Adjustments", "Closed", "Engine", "Event", "Full", "Request", "Stats", "Ticket", "TokenEvent"]

# A step's time counts a tenth in the mean: it follows the load within a second.
PACE_SHARE = 0.1
LONGEST_RETRY = 60          # seconds: what a client is told to wait at most


class Full(Exception):
    """The queue is full."""

    def __init__(self, retry_after: int):
        """retry_after: whole seconds after which a place may be free"""
        super().__init__(f"Too many requests are waiting; try again in {retry_after} s.")
        self.retry_after = retry_after


class Closed(FolioError):
    """The engine is closing or has ended, and takes no more requests."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be written, and whom to tell."""
    prompts: Sequence[str | Sequence[int]]          # texts; or ids, which are read as they are; "" or []: a new text
    deliver: Callable[[list[Event]], None]          # called in the engine's thread, once per step; must not wait
    settings: GenerationParams = GenerationParams()     # without a seed: a new one
    count: int = 1                                  # answers to each prompt
    logprobs: int | None = None                     # how many of the likeliest tokens each TokenEvent names
    adjustments: Adjustments = Adjustments()
    heal: bool = True                               # heal the ends of texts (folio/generation/healing.py)
    echo: bool = False                              # each answer begins with its prompt
    mix: Mix | None = None                          # of a mixture's models, where it is not the usual one
    ends: tuple[int, ...] | None = None             # of prompts of ids: those that end an answer, if not end_of_text


@dataclass
class Stats:
    """What an engine does and has done: plain numbers."""
    running: int = 0            # rows
    waiting: int = 0            # answers without a row
    tokens: int = 0             # written
    prompt_tokens: int = 0      # of the prompts of all requests
    cancelled: int = 0          # answers
    failed: int = 0             # answers
    rows: list[int] = field(default_factory=list)   # steps with so many rows; the index is the number of rows


class Ticket:
    """A request that was accepted."""

    def __init__(self, engine, request, answers, prompt_tokens, window_starts):
        self.prompt_tokens: int = prompt_tokens             # of all prompts, each counted once
        self.window_starts: list[int] = window_starts       # token of each prompt at which the model's view begins
        self.is_cancelled = False
        self._engine = engine
        self._deliver = request.deliver
        self._unfinished = {answer.index: answer for answer in answers}

    def cancel(self) -> None:
        """End all its answers: their rows are free at the next step. Any thread may call it, at any time."""
        self.is_cancelled = True
        self._engine._wake_up()

    def _tell(self, answers):
        """Deliver the Events of these answers."""
        events = []
        for answer in answers:
            if answer.index in self._unfinished:
                events.append(event := answer.event())
                if event.finish is not None:
                    del self._unfinished[event.index]
        if events:
            try:
                self._deliver(events)
            except Exception:
                logging.getLogger(__name__).exception("A request was cancelled, because its events could not be taken.")
                self.is_cancelled = True


class _Waiting:
    """A prompt of a Ticket some of whose answers have no row yet."""

    def __init__(self, ticket, batch, reading, answers):
        self.ticket, self.batch, self.reading, self.answers = ticket, batch, reading, deque(answers)


class Engine:
    """A thread that writes the answers of many requests at once."""

    def __init__(self, model: LanguageModel, *, rows: int = 32, queue: int = 256, apart_rows: int = APART_ROWS):
        """rows: answers that are written at once; queue: requests that may wait for rows

        apart_rows: rows up to which each is computed apart, with the same bits in any company; `rows`: always
        """
        self.model = model
        self.rows, self.queue = rows, queue
        self.apart_rows = apart_rows
        self._condition = threading.Condition()
        self._arriving = deque()                # lists of _Waiting, one list for each request
        self._jobs = deque()                    # (Future, function or generator, arguments)
        self._waiting = deque()                 # _Waiting that the thread has accepted
        self._tickets = {}                      # Answer -> Ticket
        self._batches = {}                      # precision -> Batch
        self._is_closing = False
        self._is_ending = False                 # what still runs is cancelled
        self._dead = None                       # a sentence: why the thread has ended
        self._stats = Stats(rows=[0] * (rows + 1))
        self._step_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="folio-engine", daemon=True)
        self._thread.start()

    # --- Any thread ---

    def submit(self, request: Request) -> Ticket:
        """Accept a request. -> its Ticket

        Raises Full where the queue is full, Closed where the engine is closing, FolioError where a setting is wrong.
        """
        self._check_open()
        seed = random.SystemRandom().getrandbits(32)
        settings = request.settings
        if settings.sampling_seed is None:
            settings = replace(settings, sampling_seed=seed)
        settings = settings.resolved()
        self._check(request, settings)
        answers, waiting, prompt_tokens, starts = [], [], 0, []
        with self._condition:
            batch = self._batches.get(settings.weight_precision)
        batch = batch or Batch(self.model.net, settings.weight_precision, self.apart_rows)
        for number, prompt in enumerate(request.prompts):
            ids, sequence = self._sequence(prompt, settings, request)
            own = [Answer(index, replace(sequence, number=index), self.model.tokenizer, request.logprobs,
                          request.adjustments)
                   for index in range(number * request.count, (number + 1) * request.count)]
            repeated = (ids, prompt if isinstance(prompt, str) else None, request.logprobs) if request.echo else None
            answers += own
            waiting.append((sequence.prompt, own, repeated))
            prompt_tokens += len(ids)
            starts.append(window_start(len(sequence.prompt), self.model.net.context))
        ticket = Ticket(self, request, answers, prompt_tokens, starts)
        with self._condition:
            self._check_open()
            if len(self._queued()) >= self.queue:
                raise Full(self._retry_after())
            batch = self._batches.setdefault(settings.weight_precision, batch)
            self._arriving.append([_Waiting(ticket, batch, batch.reading(prompt, [], repeated, request.mix), own)
                                   for prompt, own, repeated in waiting])
            self._stats.prompt_tokens += prompt_tokens
            self._condition.notify()
        return ticket

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Call a function in the engine's thread, between two steps. -> the Future of its result

        Where it is a generator function, it is advanced once per step, and what it returns is the result.
        """
        future = Future()
        with self._condition:
            self._check_open()
            self._jobs.append((future, function, arguments))
            self._condition.notify()
        return future

    def score(self, ids: Sequence[int], top: int = 0) -> Future:
        """Return the Future of [(logprob, ((id, logprob), ...))], one for each id, in nats.

        The first is predicted from nothing, and has None and (); top: how many of the likeliest tokens to name.
        """
        return self.call(scored, self.model.net, list(ids), top, part_length(self.model.net))

    @property
    def stats(self) -> Stats:
        """A copy of the present Stats."""
        with self._condition:
            accepted = sum(len(item.answers) for item in self._waiting)
            arriving = sum(len(item.answers) for items in self._arriving for item in items)
            return replace(self._stats, rows=list(self._stats.rows), running=len(self._tickets) - accepted,
                           waiting=accepted + arriving)

    def close(self, grace: float = 0.0) -> bool:
        """Accept nothing more, end what runs within `grace` seconds, cancel the rest. -> whether all was ended"""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        self._thread.join(grace)
        in_time = not self._thread.is_alive()
        with self._condition:
            self._is_ending = True
            self._condition.notify()
        self._thread.join()
        return in_time

    def _wake_up(self):
        with self._condition:
            self._condition.notify()

    def _check_open(self):
        if self._dead or self._is_closing:
            raise Closed(self._dead or "The engine is closing and takes no more requests.")

    def _check(self, request, settings):
        """Raise FolioError with a sentence for everything that is wrong."""
        problems = list(replace(settings, beams=None, length_penalty=None).problems())
        if settings.beams is not None:
            problems.append("Beam search is not computed in company: leave beams out.")
        vocab_size, wanted = self.model.tokenizer.vocab_size, request.adjustments
        if not request.prompts:
            problems.append("There is no prompt: give one, which may be empty.")
        if request.count < 1:
            problems.append(f"count={request.count} is below 1.")
        if request.logprobs is not None and request.logprobs < 0:
            problems.append(f"logprobs={request.logprobs} is below 0.")
        for name, ids in [("prompt", prompt) for prompt in request.prompts if not isinstance(prompt, str)] + [
                ("logit_bias", wanted.logit_bias), ("stop_ids", wanted.stop_ids)]:
            if (wrong := next((token for token in ids if not 0 <= token < vocab_size), None)) is not None:
                problems.append(f"{name} has the id {wrong}, and the tokenizer's are 0 to {vocab_size - 1}.")
        parts = max(1, len(self.model.voices))
        if request.mix is not None and len(request.mix.shares) != parts:
            problems.append(f"The mix has {len(request.mix.shares)} shares, and this model has "
                            f"{counted(parts, 'part')}.")
        numbers = [*wanted.logit_bias.values(), wanted.presence_penalty, wanted.frequency_penalty]
        if not all(map(math.isfinite, numbers)):
            problems.append("A bias or a penalty is not a finite number.")
        if problems:
            raise FolioError("\n".join(problems))

    def _sequence(self, prompt, settings, request):
        """Return the ids of a prompt, and the decoder's Sequence that continues it."""
        model = self.model
        ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if isinstance(prompt, str) and request.heal:
            return ids, model.after(prompt, settings)
        ends = ends_of_text(model.tokenizer) if request.ends is None else request.ends
        return ids, Continued(ids or model.opening, settings, 0, ends, None, 0 if ids else len(model.opening))

    def _queued(self):
        """Return the requests that have answers without a row."""
        return {item.ticket for items in (self._waiting, *self._arriving) for item in items if item.answers}

    def _running(self):
        return sum(batch.rows for batch in list(self._batches.values()))

    def _retry_after(self):
        """Return the seconds until the first running answer has ended, as far as its settings and the pace tell."""
        left = [answer.sequence.settings.tokens - answer.count
                for batch in list(self._batches.values()) for answer in list(batch.answers)]
        return min(LONGEST_RETRY, max(1, math.ceil(min(left, default=0) * self._step_seconds)))

    # --- The engine's thread ---

    def _run(self):
        # Results would depend on the number of threads, and theirs wait actively after each call.
        torch.set_num_threads(1)
        try:
            while self._wait():
                try:
                    self._step()
                except Exception as error:
                    logging.getLogger(__name__).exception("A step of the engine failed.")
                    self._fail(error)
        except BaseException as error:
            self._dead = f"The engine has ended by {type(error).__name__}: start the program again."
            raise
        finally:
            self._dead = self._dead or "The engine is closed."
            self._end()

    def _wait(self):
        """Wait until there is something to do. -> whether the thread goes on"""
        with self._condition:
            while True:
                if self._is_ending:
                    return False
                if self._arriving or self._jobs or self._tickets:
                    break
                if self._is_closing:
                    return False
                self._condition.wait()
            while self._arriving:
                for item in self._arriving.popleft():
                    self._waiting.append(item)
                    self._tickets |= dict.fromkeys(item.answers, item.ticket)
        return True

    def _step(self):
        begun = time.perf_counter()
        if touched := self._drop_cancelled():
            self._let_go()
        touched += self._admit()
        self._work()
        for batch in list(self._batches.values()):
            is_writing = any(other.answers for other in list(self._batches.values()))
            seconds = max(0.0, STALL_SECONDS - self._step_seconds) if is_writing else 0.0
            for reading in batch.read_parts(seconds):
                self._begin(batch, reading, reading.answers)
                touched += reading.answers
        for batch in list(self._batches.values()):
            with self._condition:
                self._stats.rows[len(batch.answers)] += 1
            touched += batch.write()
        self._let_go()
        self._tell(touched)
        self._step_seconds += PACE_SHARE * (time.perf_counter() - begun - self._step_seconds)

    def _begin(self, batch, reading, answers):
        try:
            batch.begin(reading, answers)
        except Exception as error:
            self._stop(answers, "failed", failure(error))

    def _drop_cancelled(self):
        """End the answers of cancelled requests. -> them"""
        dropped = [answer for answer, ticket in self._tickets.items() if ticket.is_cancelled]
        self._stop(dropped, "cancelled")
        return dropped

    def _let_go(self):
        for batch in list(self._batches.values()):
            batch.let_go()

    def _stop(self, answers, finish, error=None):
        for answer in answers:
            answer.stop(finish, error)

    def _admit(self):
        """Give free rows to those who have waited longest. -> the answers that have begun"""
        begun = []
        while self._waiting:
            item = self._waiting[0]
            kept = [answer for answer in item.answers if answer.finish is None]
            free = self.rows - self._running()
            if kept and not free:
                break
            with self._condition:
                item.answers = deque(kept[free:])
            own, reading = kept[:free], item.reading
            if reading.is_done:
                self._begin(item.batch, reading, own)
                begun += own
            elif own:
                if not reading.answers:
                    item.batch.readings.append(reading)
                reading.answers += own
            if item.answers:
                break
            with self._condition:
                self._waiting.popleft()
        return begun

    def _work(self):
        """Call the first function that waits, or advance it."""
        if not self._jobs:
            return
        with self._condition:
            future, function, arguments = self._jobs.popleft()
        try:
            if not isgenerator(function):
                if not future.set_running_or_notify_cancel():
                    return
                function = function(*arguments)
                if not isgenerator(function):
                    return future.set_result(function)
            try:
                next(function)
            except StopIteration as end:
                return future.set_result(end.value)
        except Exception as error:
            return future.set_exception(error)
        with self._condition:
            self._jobs.append((future, function, ()))

    def _tell(self, answers):
        """Deliver what these answers have to tell, one list for each request; forget the answers that have ended."""
        answers = [answer for answer in dict.fromkeys(answers) if answer in self._tickets]
        by_ticket = {}
        for answer in answers:
            by_ticket.setdefault(self._tickets[answer], []).append(answer)
        with self._condition:
            for answer in answers:
                self._stats.tokens += answer.count - answer.counted
                answer.counted = answer.count
                if answer.finish is not None:
                    del self._tickets[answer]
                    self._stats.cancelled += answer.finish == "cancelled"
                    self._stats.failed += answer.finish == "failed"
        for ticket, own in by_ticket.items():
            ticket._tell(own)

    def _fail(self, error):
        """End all answers of the requests that have begun, and go on with empty rows."""
        for batch in list(self._batches.values()):
            batch.clear()
        waiting = {answer for item in self._waiting for answer in item.answers}
        begun = {ticket for answer, ticket in self._tickets.items() if answer not in waiting}
        failed = [answer for answer, ticket in self._tickets.items() if ticket in begun]
        self._stop(failed, "failed", failure(error))
        self._tell(failed)

    def _end(self):
        """Tell all who still wait that nothing comes."""
        with self._condition:
            self._is_closing = True
            while self._arriving:
                self._tickets |= {answer: item.ticket for item in self._arriving.popleft() for answer in item.answers}
            self._waiting.clear()
            jobs, self._jobs = self._jobs, deque()
        answers = list(self._tickets)
        self._stop(answers, "cancelled", self._dead)
        self._tell(answers)
        for batch in list(self._batches.values()):
            batch.clear()
        for future, _, _ in jobs:
            if future.running() or future.set_running_or_notify_cancel():       # else nobody waits for it any more
                future.set_exception(Closed(self._dead))
