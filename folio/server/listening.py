"""Connections and signals: a deadline for headers, room for new connections, JSON also for garbage, a graceful end."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import sys
import time
import traceback

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from folio.base.errors import FolioError
from folio.server.errors import ApiError, body
from folio.server.security import Limits

BACKLOG = 2048          # connections that the system keeps until they are accepted
LAST_WORDS = 2.0        # seconds for the last events of streams that were cut off at the end of the grace
SPARE_FILES = 64        # files that a process opens beside its connections: weights, logs, libraries
log = logging.getLogger("folio.serve")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 takes a free one. Raises FolioError where that is not possible."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise FolioError(f"{host} is no address of this machine. --host takes one of its names or addresses; "
                         "0.0.0.0 stands for all.") from None
    try:
        # Windows lets a second program take a port that is in use unless the first one says so.
        option = socket.SO_EXCLUSIVEADDRUSE if os.name == "nt" else socket.SO_REUSEADDR
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        return listener
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise FolioError(f"Port {port} of {host} is in use by another program. Take another one with --port, "
                             "or --port 0 for any that is free.") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise FolioError(f"This user may not open port {port} of {host}. Ports from 1024 on are free to all: "
                             "--port 8000") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise FolioError(f"{host} is no address of this machine. --host takes one of its names or addresses; "
                             "0.0.0.0 stands for all.") from None
        raise


def room_for_connections(wanted: int) -> int:
    """Return how many connections may be open at once: `wanted`, or fewer where the system allows fewer files."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            if soft < wanted + SPARE_FILES:
                soft = wanted + SPARE_FILES if hard == resource.RLIM_INFINITY else min(hard, wanted + SPARE_FILES)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return max(1, min(wanted, soft - SPARE_FILES))
    return wanted


class Connection(H11Protocol):
    """uvicorn's connection, with a deadline for headers, and JSON for what is no HTTP."""

    limits: Limits
    idle: dict["Connection", None]          # connections that await headers, the one idle for longest first

    def connection_made(self, transport) -> None:
        """Begin the deadline; where there are too many connections, close the one that has been idle for longest."""
        super().connection_made(transport)
        self._deadline, self._has_begun = None, False
        self._await_headers()
        if len(self.connections) > self.limits.connections:
            oldest = next(iter(self.idle))              # this one is among them
            oldest._end_deadline()
            self.connections.discard(oldest)            # now; the loop tells it later that it is lost
            oldest.transport.abort()

    def connection_lost(self, exc) -> None:
        """Forget the deadline."""
        self._end_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass on what came; the deadline ends where the headers are whole."""
        self._has_begun = True
        super().data_received(data)
        if not self.is_idle:
            self._end_deadline()

    def on_response_complete(self) -> None:
        """Begin the deadline for the headers of the connection's next request."""
        self._await_headers()
        super().on_response_complete()          # which handles a request that has already come
        if not self.is_idle:
            self._end_deadline()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with a JSON body, as every other failure."""
        self._refuse(ApiError(400, "This is not a valid HTTP request, or its headers have more than "
                              f"{self.limits.header_bytes:,} bytes.", code="bad_request"))

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_headers(self):
        self._end_deadline()
        self._has_begun, self.idle[self] = False, None
        self._deadline = self.loop.call_later(self.limits.header_seconds, self._too_late)

    def _end_deadline(self):
        self.idle.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self):
        if self._has_begun:
            self._refuse(ApiError(408, f"The headers were not there after {self.limits.header_seconds:g} s.",
                                  code="request_timeout"))
        else:
            self.transport.abort()

    def _refuse(self, error):
        """Answer with an error, unless an answer has begun, and close the connection."""
        self._end_deadline()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not (self.cycle and self.cycle.response_started
                                                                         and not self.cycle.response_complete):
            content = json.dumps(body(error)).encode("ascii")
            headers = [("content-type", "application/json"), ("content-length", str(len(content))),
                       ("connection", "close")]
            for event in (h11.Response(status_code=error.status, headers=headers), h11.Data(data=content),
                          h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server, with an end that loses nothing: at the first signal it finishes, at the second it ends at once.

    Until the last answer is there, /health and new requests get 503. What still runs after `grace` seconds is told so.
    """

    def __init__(self, app: Starlette, limits: Limits, grace: float = 30.0):
        """grace: seconds that requests have to end in."""
        protocol = type("LimitedConnection", (Connection,), {"limits": limits, "idle": {}})
        super().__init__(uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False,
            server_header=False, timeout_keep_alive=limits.header_seconds + 1, backlog=BACKLOG,
            timeout_graceful_shutdown=1, h11_max_incomplete_event_size=limits.header_bytes))
        self.models, self.activity, self.grace = app.state.models, app.state.activity, grace
        self._ends_at = None
        self._cut_off = None

    def handle_exit(self, sig, frame) -> None:
        """Begin to end at the first signal; end at once at the second."""
        if self.activity.is_draining:
            os._exit(128 + sig)
        self.end()

    def end(self) -> None:
        """Begin to end, as at the first signal; from any thread."""
        self.activity.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server should stop; uvicorn asks ten times a second."""
        if await super().on_tick(counter):
            return True
        if not self.activity.is_draining:
            return False
        now = time.monotonic()
        if self._ends_at is None:
            self._ends_at = now + self.grace
            if self.activity.in_flight:
                log.warning("Ending: requests in progress (%d) have %g s to finish; Ctrl-C again ends at once.",
                            self.activity.in_flight, self.grace)
        if not self.activity.in_flight:
            return True
        if now >= self._ends_at and self._cut_off is None:
            self._cut_off = asyncio.ensure_future(asyncio.to_thread(self.models.close, 0))
        return now >= self._ends_at + LAST_WORDS

    def serve_forever(self, listener: socket.socket) -> None:
        """Serve until a signal."""
        with self._quiet():
            self.run(sockets=[listener])
        self.models.close(0)

    @contextlib.contextmanager
    def _quiet(self):
        """Leave of uvicorn's own messages only those about failures; its texts about requests are ours to write."""
        logger = logging.getLogger("uvicorn.error")
        before, logger.level = logger.level, logging.CRITICAL
        try:
            yield
        finally:
            logger.level = before


def address_of(listener: socket.socket) -> str:
    """Return the URL of a socket that listens."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class _WithoutTexts(logging.Formatter):
    """Exceptions without their messages, which may have a user's text in them."""

    def formatException(self, ei) -> str:
        """Return where an exception was raised, and its type."""
        return "".join(traceback.format_tb(ei[2])) + ei[0].__name__


def write_log(stream=None) -> None:
    """Write the log of all modules to stderr, or to a stream, each line with its time."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_WithoutTexts("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger().handlers[:] = [handler]
    log.setLevel(logging.INFO)
