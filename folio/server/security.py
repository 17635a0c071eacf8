"""Who may ask, for what, how much and for how long: checked before a request reaches its route."""

import asyncio
import contextlib
import hmac
import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from folio.base.errors import FolioError
from folio.base.files import ordinary
from folio.server.errors import ApiError, response

KEYS_CHECKED = 1.0                      # seconds between two looks at the file of keys
KEY_FILE_BYTES = 1 << 16
SHORTEST_KEY = 16                       # characters; 16 of 64 kinds cannot be guessed over a network
NEW_KEY = "python -c \"import secrets; print(secrets.token_urlsafe(32))\""
OWN_HOSTS = ("localhost", "127.0.0.1", "::1")
UNCHECKED = ("/health",)                # a health check has no key, and comes by any name
PAGE = ("/", "/folio/web/")             # files of the page: a browser sends no key before the page has asked for it
SENDING = ("POST", "PUT", "PATCH")      # methods whose body is read as JSON
log = logging.getLogger("folio.serve")


@dataclass(frozen=True)
class Limits:
    """How much one client may take. Times are in seconds."""
    rows: int = 32                      # answers that a model writes at the same time
    queue: int = 256                    # requests that wait
    body_bytes: int = 1 << 20           # of a request; a novel's chapter has 30 kB
    header_bytes: int = 1 << 16         # of a request's first line and headers
    header_seconds: float = 10.0        # from the opening of a connection, or its last response, to the next headers
    body_seconds: float = 30.0          # for a request's body
    write_seconds: float = 60.0         # that a client may take to read what was written to it
    connections: int = 1000             # open ones; the one idle for longest makes room for another
    most_tokens: int = 4096             # per answer
    most_answers: int = 128             # per prompt
    strict_context: bool = False        # refuse prompts beyond the context, rather than move the window


@dataclass(frozen=True)
class Access:
    """Who may ask."""
    hosts: tuple[str, ...] = OWN_HOSTS      # names by which this server may be called; () for any
    origins: tuple[str, ...] = ()           # of pages of other servers that may ask, as in https://example.org
    keys: "Keys | None" = None              # one of which a request has to bring


class Keys:
    """The API keys in a file, one per line; it may be replaced while the server runs."""

    def __init__(self, path: Path):
        """Raises OSError where the file cannot be read, FolioError where it holds no keys."""
        self._path, self._stamp, self._checked = Path(path), _stamp(path), time.monotonic()
        self._keys = _keys_in(self._path)
        self._lock = threading.Lock()

    def matches(self, given: bytes) -> bool:
        """Return whether this is one of the keys, in a time that does not depend on how much of it is right."""
        with self._lock:
            if time.monotonic() - self._checked >= KEYS_CHECKED:
                self._checked = time.monotonic()
                self._read_again()
        return any([hmac.compare_digest(given, key) for key in self._keys])

    def _read_again(self):
        """Take the keys that the file holds now; where it cannot be read, keep the old ones and say so."""
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp, self._keys = stamp, _keys_in(self._path)
                log.info("The API keys were read again from %s.", self._path)
        except (OSError, FolioError) as error:
            log.error("The API keys stay as they were: %s", error)


def _stamp(path):
    """Return numbers that differ where a file was written anew, also twice within one tick of the file system."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_ino


def _keys_in(path):
    """Return the keys in a file, as bytes. Empty lines do not count, nor those that begin with #."""
    with open(path, "rb", opener=ordinary) as file:
        lines = file.read(KEY_FILE_BYTES).decode("utf-8", errors="replace").removeprefix("\ufeff").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise FolioError(f"{path} holds no API key. Write one per line, for example what this prints: {NEW_KEY}")
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise FolioError(f"Key {number} of {path} is not one: it takes at least {SHORTEST_KEY} ASCII characters "
                             f"without spaces, for example what this prints: {NEW_KEY}")
    return [key.encode("ascii") for key in keys]


class Guard:
    """ASGI middleware: refuse what may not come in, read the body within bounds, end the work when the client leaves.

    Behind it `receive` gives the whole body at once, and then http.disconnect when the client has gone. In that
    case the route's task is canceled, so a route gives back what it holds in a `finally`.
    """

    def __init__(self, app, access: Access, limits: Limits):
        self.app, self.access, self.limits = app, access, limits

    async def __call__(self, scope, receive, send):
        """Serve one request, or refuse it with a JSON body."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = _headers(scope)
        origin = headers.get("origin")
        allowed = _cors(origin) if origin in self.access.origins else {}
        sending = _with_headers(self._in_time(send), allowed)
        with contextlib.suppress(_Gone):
            try:
                self._check_caller(scope, headers)
                if allowed and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                    return await _empty(sending)
                self._check_key(scope, headers)
                self._check_kind(scope, headers)
                body = await self._body(receive)
            except ApiError as error:
                # What is left of the body is not read, so the connection cannot be used again.
                error.headers.setdefault("connection", "close")
                return await response(error)(scope, receive, sending)
            await self._run(scope, body, receive, sending)

    # --- What may come in ---

    def _check_caller(self, scope, headers):
        """Raise ApiError for a request by a foreign name, as after DNS rebinding, or from a foreign page."""
        if scope["path"] in UNCHECKED:
            return
        hosts = self.access.hosts
        if hosts and _host_name(headers.get("host", "")) not in hosts:
            raise ApiError(403, "This server is not called by that name: the header Host is not one of "
                           f"{', '.join(hosts)}.", code="forbidden_host")
        origin = headers.get("origin")
        if origin is not None and origin not in self.access.origins and not _is_same(origin, headers.get("host", "")):
            raise ApiError(403, "Pages of other servers may not ask this one; --cors-origin allows one.",
                           code="forbidden_origin")

    def _check_key(self, scope, headers):
        """Raise ApiError for a request without a key, where one is wanted."""
        path = scope["path"]
        if self.access.keys is None or path in UNCHECKED or path == PAGE[0] or path.startswith(PAGE[1]):
            return
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip().encode("latin-1") if kind.lower() == "bearer" else b""
        if not self.access.keys.matches(given):
            problem = "The API key is not right." if given else "An API key is missing."
            raise ApiError(401, f"{problem} Send it as the header Authorization: Bearer KEY.", code="invalid_api_key",
                           headers={"www-authenticate": "Bearer"})

    def _check_kind(self, scope, headers):
        """Raise ApiError for a body that is not JSON, is compressed, or says that it is too large."""
        if "content-length" in headers and int(headers["content-length"][:20]) > self.limits.body_bytes:
            raise self._too_large()
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "Compressed bodies are not taken; send the JSON as it is.",
                           code="unsupported_media_type")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        # A page of another server can send any other type without asking the browser first.
        if scope["method"] in SENDING and kind != "application/json":
            raise ApiError(415, "The body has to be JSON, with the header Content-Type: application/json.",
                           code="unsupported_media_type")

    def _too_large(self):
        return ApiError(413, f"The body is larger than {self.limits.body_bytes:,} bytes.", code="request_too_large")

    async def _body(self, receive):
        """Return the body. Raises ApiError where it is too large or takes too long, _Gone where the client leaves."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.limits.body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, f"The body was not there after {self.limits.body_seconds:g} s.",
                           code="request_timeout") from None

    # --- While it is answered ---

    async def _run(self, scope, body, receive, send):
        """Run the route until it has answered or the client has gone."""
        messages, gone, ended = [{"type": "http.request", "body": body, "more_body": False}], asyncio.Event(), False

        async def received():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def sent(message):
            nonlocal ended
            ended = ended or message["type"] == "http.response.body" and not message.get("more_body", False)
            try:
                await send(message)
            except _Gone:
                gone.set()

        async def watch():
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        route, watcher = asyncio.ensure_future(self.app(scope, received, sent)), asyncio.ensure_future(watch())
        leaving = asyncio.ensure_future(gone.wait())
        try:
            await asyncio.wait({route, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if gone.is_set() and not ended:
                route.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await route
        finally:
            for task in (route, watcher, leaving):
                task.cancel()

    def _in_time(self, send):
        """Return a `send` that raises _Gone where the client does not read what was sent before."""
        async def sent(message):
            try:
                async with asyncio.timeout(self.limits.write_seconds):
                    await send(message)
            except TimeoutError:
                raise _Gone from None
        return sent


class _Gone(Exception):
    """The client has left, or does not read."""


def _headers(scope):
    """Return {name: value} of a request's headers; of several with one name the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _host_name(host):
    """Return the name in a Host header, without its port and the brackets of IPv6.
    >>> _host_name("LocalHost:8000"), _host_name("[::1]:8000")
    ('localhost', '::1')
    """
    with contextlib.suppress(ValueError):
        return (urlsplit(f"//{host}").hostname or "").lower()
    return ""


def _is_same(origin, host):
    """Return whether a page comes from the server that it asks."""
    with contextlib.suppress(ValueError):
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    return False


def _cors(origin):
    return {"access-control-allow-origin": origin, "vary": "Origin",
            "access-control-allow-headers": "authorization, content-type, x-request-id",
            "access-control-allow-methods": "GET, POST", "access-control-expose-headers": "x-request-id",
            "access-control-max-age": "600"}


def _with_headers(send, headers: dict[str, str]):
    """Return a `send` that adds headers to the response."""
    added: Iterable[tuple[bytes, bytes]] = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def sent(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)
    return sent


async def _empty(send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})

