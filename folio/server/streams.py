"""From the engine's thread to a client: events collected in the event loop, whole answers, and server-sent events."""

import asyncio
import json
import logging
import secrets
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from folio.generation.engine import Event, Ticket
from folio.server import errors
from folio.server.errors import ApiError

log = logging.getLogger("folio.serve")
# Events of so long a time go out as one chunk: 32 answers of a fast model would be 100,000 events a second. A chunk
# takes the interpreter, which the engine's thread needs as well, for 0.07 ms. So with more streams than STREAMS the
# time grows with their number, and chunks take 4 % of it: 60 ms with 32.
PAUSE_SECONDS, STREAMS = 0.015, 8
WHOLE_SECONDS = 0.5             # the same for an answer that is sent whole
PING_SECONDS = 15               # silence after which a comment keeps the connection open in proxies
PING, DONE = b": ping\n\n", b"data: [DONE]\n\n"
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache",
                  "x-accel-buffering": "no"}


class Inbox:
    """The events of one request: `deliver` takes them in the engine's thread, `batches` yields them in the loop's.

    The loop is woken for the first event after a silence and for the end, not for what comes in between: it looks
    again when the pause is over.
    """

    def __init__(self, count: int):
        """count: number of answers. Call this in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._running = count                   # answers that `batches` has not seen end
        self._lock = threading.Lock()           # over the next three
        self._unended = count                   # answers that have not ended
        self._waiting: list[Event] = []
        self._is_asleep = False                 # whether `batches` waits for an event
        self._there = asyncio.Event()
        self._ended = self._loop.create_future()

    def deliver(self, events: list[Event]) -> None:
        """Take events of the engine; return at once."""
        with self._lock:
            self._waiting += events
            self._unended -= sum(event.finish is not None for event in events)
            is_needed, self._is_asleep = self._is_asleep or self._unended <= 0, False
        if is_needed:
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:                # the loop is closed: nobody is left who could read them
                pass

    def _wake(self):
        self._there.set()
        if self._unended <= 0 and not self._ended.done():
            self._ended.set_result(None)

    def _taken(self):
        """Return what has come; where that is nothing, the next event wakes the loop."""
        with self._lock:
            events, self._waiting = self._waiting, []
            if not events:
                self._there.clear()
                self._is_asleep = True
        return merged(events)

    async def batches(self, pause: Callable[[], float] = lambda: 0.0) -> AsyncIterator[list[Event]]:
        """Yield what has come, one Event for each answer that goes on, until all answers have ended.

        pause: returns the seconds to the next batch; the first and the last one come at once. An empty batch stands for
        PING_SECONDS without any event. Raises ApiError where the engine could not finish an answer.
        """
        while self._running:
            if not (events := self._taken()):
                try:
                    await asyncio.wait_for(self._there.wait(), PING_SECONDS)
                except TimeoutError:
                    yield []
                continue
            for event in events:
                if event.finish in ("failed", "cancelled"):
                    raise _failure(event)
            self._running -= sum(event.finish is not None for event in events)
            yield events
            if self._running:
                await asyncio.wait((self._ended,), timeout=pause())

    async def answers(self) -> list[Event]:
        """Return the whole answers, one Event each, by index. Raises ApiError like `batches`."""
        events = []
        async for batch in self.batches(lambda: WHOLE_SECONDS):
            events += batch
        return sorted(merged(events), key=lambda event: event.index)


def _failure(event):
    if event.finish == "cancelled":
        return ApiError(503, event.error or "The server is stopping, and this answer is not complete.", "server_error",
                        code="cancelled", headers={"retry-after": "1"})
    return ApiError(500, event.error or "The model failed at this answer.", "server_error")


def merged(events: Iterable[Event]) -> list[Event]:
    """Return one Event for each index, in the order in which they began."""
    by_index: dict[int, list[Event]] = {}
    for event in events:
        by_index.setdefault(event.index, []).append(event)
    return [parts[0] if len(parts) == 1 else
            parts[-1]._replace(text="".join(part.text for part in parts),
                               tokens=tuple(token for part in parts for token in part.tokens))
            for parts in by_index.values()]


# --- What all responses to one request share ---

@dataclass
class Report:
    """Id, time, model and usage of one response; the same in all its chunks."""
    prefix: str                     # of its id: "cmpl", "chatcmpl"
    object: str                     # "text_completion", "chat.completion", "chat.completion.chunk"
    model: str
    fingerprint: str
    prompt_tokens: int              # once per prompt, whatever the number of answers
    extra: dict[str, Any]           # of a whole response and of last chunks: {"folio": ...} of what was cut
    final_usage: bool = False       # usage in an event of its own
    continuous_usage: bool = False  # and in all others
    completion_tokens: int = 0

    def __post_init__(self):
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())

    @property
    def usage(self) -> dict[str, int]:
        """The tokens so far."""
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens}

    def _frame(self, choices):
        return {"id": self.id, "object": self.object, "created": self.created, "model": self.model,
                "system_fingerprint": self.fingerprint, "choices": choices}

    def whole(self, choices: list[dict]) -> dict[str, Any]:
        """Return the body of a response without a stream."""
        return self._frame(choices) | {"usage": self.usage} | self.extra

    def chunk(self, choices: list[dict]) -> dict[str, Any]:
        """Return an event of a stream; the one without choices has the usage."""
        made = self._frame(choices)
        if self.final_usage:
            made["usage"] = self.usage if self.continuous_usage or not choices else None
        is_last = not choices or any(choice["finish_reason"] for choice in choices)
        return made | self.extra if is_last else made


def report_of(prefix: str, object: str, wanted: Any, served: Any, ticket: Ticket,
              turns_left_out: int = 0) -> tuple[Report, dict[str, str]]:
    """Return the Report of a request, and the headers of its response.

    turns_left_out: of a conversation, because they do not fit into the context
    """
    starts, options = list(ticket.window_starts), wanted.stream_options
    extra, headers = {}, {}
    if any(starts):
        extra = {"folio": {"window_start": starts[0] if len(starts) == 1 else starts}}
        headers = {"folio-window-start": ",".join(map(str, starts))}
    if turns_left_out:
        extra = {"folio": extra.get("folio", {}) | {"turns_left_out": turns_left_out}}
        headers["folio-turns-left-out"] = str(turns_left_out)
    wants_usage = options is not None and options.include_usage
    return Report(prefix, object, served.name, served.fingerprint, ticket.prompt_tokens, extra, wants_usage,
                  wants_usage and options.continuous_usage_stats), headers


async def chunks(inbox: Inbox, report: Report, writer: Any) -> AsyncIterator[list[dict]]:
    """Yield lists of chunks as the answers are written; an empty list stands for silence.

    writer: has `choices(event, whether it is the first of its answer)` -> choices, one chunk each; and
    `repeated(event)` -> how many tokens of a first event are the prompt's
    """
    begun = set()
    async for events in inbox.batches(EventStream.pause):
        made = []
        for event in events:
            is_first = event.index not in begun
            report.completion_tokens += len(event.tokens) - (writer.repeated(event) if is_first else 0)
            made += [report.chunk([choice]) for choice in writer.choices(event, is_first)]
            begun.add(event.index)
        if made or not events:
            yield made
    if report.final_usage:
        yield [report.chunk([])]


# --- Server-sent events ---

def framed(value: Any) -> bytes:
    """Return a JSON value as one event, on one line."""
    return b"data: " + json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n\n"


class EventStream(Response):
    """A response of server-sent events, which ends with [DONE].

    A failure after the first byte is an event with the body that every failure has.
    """
    running = 0         # of this process

    @classmethod
    def pause(cls) -> float:
        """Return the seconds between two chunks of a stream."""
        return PAUSE_SECONDS * max(1.0, cls.running / STREAMS)

    def __init__(self, chunks: AsyncIterator[list[dict]], ticket: Ticket, headers: dict[str, str]):
        """chunks: lists of JSON values; an empty one becomes a comment that keeps the connection open."""
        super().__init__(headers=STREAM_HEADERS | headers)
        del self.headers["content-length"]
        self._chunks, self._ticket = chunks, ticket

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Send all events. Where this ends early, as when the client leaves, nothing more is computed for it."""
        EventStream.running += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for content in self._parts():
                await send({"type": "http.response.body", "body": content, "more_body": True})
            await send({"type": "http.response.body", "body": DONE, "more_body": False})
        finally:
            EventStream.running -= 1
            self._ticket.cancel()

    async def _parts(self):
        try:
            async for chunks in self._chunks:
                yield b"".join(map(framed, chunks)) or PING
        except Exception as error:
            if not isinstance(error, ApiError):     # a bug in Folio; its message may have a user's text in it
                log.error("A stream failed: %s\n%s", type(error).__name__,
                          "".join(traceback.format_tb(error.__traceback__)))
            yield framed(errors.body(errors.explain(error)))
