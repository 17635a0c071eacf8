"""A server in a thread of this process, and raw requests to it."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

from folio.server import listening
from folio.server.app import create_app
from folio.server.security import Access, Limits


class NoModels:
    """As much of Models as an application takes that is asked for no model."""
    default = "none"

    def with_engines(self):
        return []

    def names(self):
        return []

    def close(self, grace=0.0):
        pass


@contextmanager
def running(models=None, limits=None, access=None, routes=(), grace=5.0):
    """Serve on a free port; yield the port, the application and the server."""
    app = create_app(models or NoModels(), limits or Limits(), access or Access())
    app.router.routes.extend(routes)
    listener = listening.listen("127.0.0.1", 0)
    server = listening.Server(app, limits or Limits(), grace)
    thread = threading.Thread(target=server.serve_forever, args=(listener,), daemon=True)
    thread.start()
    try:
        yield SimpleNamespace(port=listener.getsockname()[1], app=app, server=server, thread=thread)
    finally:
        server.end()
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def connect(port, timeout=10.0):
    """Open a connection."""
    return socket.create_connection(("127.0.0.1", port), timeout)


def until_closed(connection):
    """All bytes that come until the other side closes."""
    found = b""
    while True:
        try:
            part = connection.recv(1 << 16)
        except ConnectionError:
            return found
        if not part:
            return found
        found += part


def ask(port, path="/version", method="GET", content=None, headers=None, timeout=10.0):
    """Send one request in a connection of its own. -> status, {header: value}, body"""
    sent = {"host": f"127.0.0.1:{port}", "connection": "close", **(headers or {})}
    if content is not None:
        sent = {"content-type": "application/json", "content-length": str(len(content)), **sent}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items() if value is not None)]
    with connect(port, timeout) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + (content or b""))
        return parsed(until_closed(connection))


def parsed(response):
    """A response's status, headers and body. JSON bodies as values."""
    head, _, content = response.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        content = unchunked(content)
    if headers.get("content-type") == "application/json" and content:
        content = json.loads(content)
    return int(first.split()[1]), headers, content


def unchunked(content):
    """The body that chunks add up to."""
    parts = []
    while content:
        size, _, content = content.partition(b"\r\n")
        parts.append(content[:int(size, 16)])
        content = content[int(size, 16) + 2:]
    return b"".join(parts)


def refused(answer, status, code=None):
    """Check that an answer is an error in the form of all errors. -> its message"""
    found, _, content = answer
    assert found == status, answer
    assert set(content) == {"error"} and set(content["error"]) == {"message", "type", "param", "code"}
    assert content["error"]["code"] == code and content["error"]["message"].endswith((".", "!"))
    return content["error"]["message"]


def within(seconds, condition):
    """Wait until a condition holds; fail where it does not within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.01)
