"""What the server does, as numbers for Prometheus and as one line of the log per request; never a text."""

import dataclasses
import itertools
import logging
import re
import time
import traceback
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

import folio
from folio.base.visible import on_one_line
from folio.server.errors import OURS, ApiError, response

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ALWAYS = ("/health", "/metrics", "/version")        # answered while the server ends, and not in the log
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# Seconds. A token of the shipped model takes 0.3 ms alone, one of a large model on a CPU 0.1 s.
TOKEN_SECONDS = (.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS = (.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60)
log = logging.getLogger("folio.serve")


@dataclass
class Record:
    """What is counted of one HTTP request."""
    started: float = field(default_factory=time.perf_counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


_record: ContextVar[Record | None] = ContextVar("record", default=None)     # of the request that this task answers


@dataclass
class Activity:
    """What the server is doing."""
    in_flight: int = 0          # requests that are being answered
    is_draining: bool = False   # it takes no new ones, and ends when the last one has its answer


class Metrics:
    """The numbers of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()

        def make(kind, name, about, labels=(), **options):
            return kind(f"folio_{name}", about, labels, registry=self.registry, **options)
        self.requests = make(Counter, "requests", "HTTP requests answered", ("route", "status"))
        self.seconds = make(Histogram, "request_seconds", "From a request to the end of its answer", ("route",),
                            buckets=SECONDS)
        self.tokens = make(Counter, "tokens", "Tokens read and written", ("model", "kind"))
        self.cancelled = make(Counter, "cancelled", "Answers that ended because nobody waits for them", ("model",))
        self.first = make(Histogram, "time_to_first_token_seconds", "From the queue to the first token", ("model",),
                          buckets=SECONDS)
        self.pace = make(Histogram, "time_per_token_seconds", "Between the tokens of an answer, mean of a request",
                         ("model",), buckets=TOKEN_SECONDS)
        self.models: Any = None

    def watch(self, models) -> None:
        """Show the state of these models' engines, as it is when the metrics are read."""
        self.models = models
        self.registry.register(self)

    def collect(self):
        """Yield the state of the engines, as prometheus-client asks for it."""
        served = self.models.with_engines()
        stats = {each.name: each.engine.stats for each in served}
        for name, about in (("running", "Answers being written"), ("waiting", "Answers that wait for a row")):
            family = GaugeMetricFamily(f"folio_{name}", about, labels=["model"])
            for model, found in stats.items():
                family.add_metric([model], getattr(found, name))
            yield family
        family = HistogramMetricFamily("folio_batch_rows", "Answers written in the same step", labels=["model"])
        for model, found in stats.items():
            below = list(itertools.accumulate(found.rows))
            buckets = [(str(float(rows)), below[rows]) for rows in ROWS if rows < len(below)]
            family.add_metric([model], [*buckets, ("+Inf", below[-1])],
                              sum(rows * steps for rows, steps in enumerate(found.rows)))
        yield family
        family = InfoMetricFamily("folio_model", "Models in memory", labels=["model"])
        for each in served:
            family.add_metric([each.name], {"fingerprint": each.fingerprint, "version": folio.__version__})
        yield family

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text form."""
        return generate_latest(self.registry)

    def wrap(self, engine: Any, model: str) -> "MeasuredEngine":
        """Return an engine whose requests are counted under a model's name."""
        return MeasuredEngine(engine, model, self)


class MeasuredEngine:
    """An engine whose requests are counted; all else is the engine's own."""

    def __init__(self, engine, model, metrics):
        self._engine, self._model, self._metrics = engine, model, metrics

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def submit(self, request):
        """Return the engine's Ticket of a request whose tokens are counted as they come."""
        counted = _Counted(request, self._metrics, self._model, _record.get())
        ticket = self._engine.submit(dataclasses.replace(request, deliver=counted))
        counted.count("prompt", ticket.prompt_tokens)
        return ticket


class _Counted:
    """Counts the events of one request on their way. The engine calls it in its thread, at every step."""

    def __init__(self, request, metrics, model, record):
        self._deliver, self._record = request.deliver, record
        self._unfinished = self._answers = len(request.prompts) * request.count
        self._first, self._pace = metrics.first.labels(model), metrics.pace.labels(model)
        self._cancelled = metrics.cancelled.labels(model)
        self._tokens = {kind: metrics.tokens.labels(model, kind) for kind in ("prompt", "completion")}
        self._started, self._first_at, self._written = time.perf_counter(), None, 0

    def __call__(self, events):
        new = 0
        for event in events:
            new += len(event.tokens)
            if event.finish is not None:
                self._unfinished -= 1
                self._cancelled.inc(event.finish == "cancelled")
        if new:
            self.count("completion", new)
            if self._first_at is None:
                self._first_at = time.perf_counter()
                self._first.observe(self._first_at - self._started)
                new = 0             # the pace is that of what follows
            self._written += new
        if self._written and not self._unfinished:
            self._pace.observe((time.perf_counter() - self._first_at) * self._answers / self._written)
        self._deliver(events)

    def count(self, kind, number):
        """Add tokens to the metrics, and to the log's line."""
        self._tokens[kind].inc(number)
        if self._record is not None:
            name = f"{kind}_tokens"
            setattr(self._record, name, getattr(self._record, name) + number)


class Recorded:
    """ASGI middleware, the outermost: request ids, the log, the metrics, and a JSON body where all else fails."""

    def __init__(self, app, metrics: Metrics, activity: Activity):
        self.app, self.metrics, self.activity = app, metrics, activity

    async def __call__(self, scope, receive, send):
        """Serve one request; refuse it while the server ends."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["path"] = scope["path"].rstrip("/") or "/"        # a trailing slash is no error
        path, record, status, name = scope["path"], Record(), 0, _request_id(scope)

        async def sent(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                elapsed = 1000 * (time.perf_counter() - record.started)
                added = {"x-request-id": name, "openai-processing-ms": str(round(elapsed)),
                         "x-content-type-options": "nosniff"}
                message = {**message, "headers": [*message.get("headers", []), *(
                    (name.encode(), value.encode()) for name, value in added.items())]}
            await send(message)
        token = _record.set(record)
        is_counted = path not in ALWAYS
        self.activity.in_flight += is_counted
        try:
            if self.activity.is_draining and is_counted:
                await response(draining())(scope, receive, sent)
            else:
                await self.app(scope, receive, sent)
        except Exception as error:          # not its message, which may have a user's text in it
            log.error("Failed at %s, request %s: %s\n%s", on_one_line(path), name, type(error).__name__,
                      "".join(traceback.format_tb(error.__traceback__)))
            if not status:
                await response(error)(scope, receive, sent)
        finally:
            self.activity.in_flight -= is_counted
            _record.reset(token)
            self._note(scope, path, status, record, is_counted)

    def _note(self, scope, path, status, record, is_logged):
        seconds = time.perf_counter() - record.started
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, status or "left").inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if is_logged:
            log.info("%s %s %s %d+%d tokens %.0f ms", scope["method"], on_one_line(path[:200]), status or "left",
                     record.prompt_tokens, record.completion_tokens, 1000 * seconds)


def draining() -> ApiError:
    """Return what a client is told while the server ends."""
    return ApiError(503, "The server is ending and takes no more requests.", OURS, code="shutting_down",
                    headers={"retry-after": "5", "connection": "close"})


def _request_id(scope):
    """Return the client's X-Request-Id, if it is a plain one, or else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value.decode("latin-1")):
            return value.decode("latin-1")
    return uuid.uuid4().hex
