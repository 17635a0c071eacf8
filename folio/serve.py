"""Serve models over HTTP: a page to write with, and an API in OpenAI's form.

    python -m folio.serve                                   # on this machine only; prints the address
    python -m folio.serve --weights night --port 8080
    python -m folio.serve --host 0.0.0.0 --api-key-file keys.txt
"""

import argparse
import ipaddress
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from folio.base.commands import command, quoted
from folio.base.errors import FolioError
from folio.cli.command_line import Parser, front_door

PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
HIGHEST_PORT = 65535
MOST_SECONDS = 86400.0


def main():
    """Parse the arguments, load the first model, and serve until a signal."""
    arguments = _parser().parse()
    _require_packages()
    # Read when NumPy is imported. The engine's thread and the event loop have a core each; more threads would spin.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not is_loopback(arguments.host) and not arguments.api_key_file and not arguments.open:
        raise FolioError(f"With --host {arguments.host} other machines can reach this server. Give --api-key-file FILE "
                         "so that only those with a key may use it, or --open if everybody may.")
    from folio.base.hardware import settle_device
    from folio.formats.find_weights import find_weights
    from folio.server import listening, security
    from folio.server.app import create_app
    from folio.server.models import Models
    connections = listening.room_for_connections(security.Limits.connections)
    limits = security.Limits(rows=arguments.rows, queue=arguments.queue, most_tokens=arguments.max_tokens,
                             strict_context=arguments.strict_context, connections=connections)
    keys = security.Keys(arguments.api_key_file) if arguments.api_key_file else None
    access = security.Access(_hosts(arguments), tuple(arguments.cors_origin), keys)
    device = settle_device(arguments.device)
    first = find_weights(arguments.home, arguments.weights) if arguments.weights else None
    models = Models(arguments.home, first, arguments.models, device, arguments.rows, arguments.queue)
    app = create_app(models, limits, access)
    listener = listening.listen(arguments.host, arguments.port)
    listening.write_log()
    try:
        models.load_first()
        print(f"Folio serves {models.default} at {listening.address_of(listener)}", flush=True)
        listening.Server(app, limits, arguments.grace).serve_forever(listener)
        print("Stopped.", flush=True)
    finally:
        listener.close()
        models.close(0)


def is_loopback(host):
    """Return whether only this machine can reach a server at a host.
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("192.168.1.2")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _hosts(arguments):
    """Return the names by which the server may be called; () for any.

    A page behind DNS rebinding cannot send a key, so with keys any name will do.
    """
    from folio.server.security import OWN_HOSTS
    if arguments.api_key_file:
        return ()
    names = [*OWN_HOSTS, arguments.host.strip("[]").lower(), *(name.lower() for name in arguments.host_name)]
    if not is_loopback(arguments.host):
        names += [socket.gethostname().lower(), *_own_addresses()]
    return tuple(dict.fromkeys(names))


def _own_addresses():
    """Return the addresses of this machine, as far as it knows them."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return []
    return [address[0] for *_, address in found]


def _parser():
    parser = Parser("Serve models over HTTP: a page to write with, and an API in OpenAI's form.")
    add = parser.add_argument
    add("--weights", metavar="NAME", help="run, file or path of the model that requests without one get "
                                          "(default: the newest); all runs are served by name")
    add("--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen at (default: 127.0.0.1, which only this machine can reach; 0.0.0.0: all addresses)")
    parser.add_number("--port", 8000, "port to listen at; 0: any that is free (default: 8000)", 0, HIGHEST_PORT)
    parser.add_number("--rows", 32, "answers that a model writes at the same time (default: 32)", 1, 1024)
    parser.add_number("--queue", 256, "requests that wait for them; further ones are refused (default: 256)", 0, 65536)
    parser.add_number("--models", 2, "models in memory at once (default: 2)", 1, 1024)
    parser.add_number("--max-tokens", 4096, "tokens of an answer at most (default: 4096)", 1, 1 << 24)
    add("--grace", type=_seconds, default=30.0, metavar="SECONDS",
        help="time that requests have to finish when the server is told to end (default: 30)")
    add("--strict-context", action="store_true",
        help="refuse prompts and answers beyond the model's context, rather than go on with its last tokens")
    add("--api-key-file", type=Path, metavar="FILE",
        help="file with the API keys, one per line, of which a request needs one; it is read again when it changes")
    add("--open", action="store_true", help="let everybody who can reach --host use the server without a key")
    add("--host-name", action="append", default=[], metavar="NAME",
        help="another name by which clients call the server, as behind a proxy; may be given several times")
    add("--cors-origin", action="append", default=[], type=_origin, metavar="ORIGIN",
        help="let pages from there use the API, as in https://example.org; may be given several times")
    add("--device", default="cpu", metavar="cpu|cuda|mps|auto", help="where to compute (default: cpu)")
    return parser


def _seconds(word):
    if not 0 <= float(word) <= MOST_SECONDS:        # also for NaN
        raise argparse.ArgumentTypeError(f"{word} is not between 0 and {MOST_SECONDS:g} seconds")
    return float(word)


_seconds.__name__ = "float"         # what argparse says of a word that is no number


def _origin(word):
    parts = urlsplit(word)
    if parts.scheme not in ("http", "https") or not parts.netloc or word != f"{parts.scheme}://{parts.netloc}":
        raise argparse.ArgumentTypeError(f"{word} is no origin; one looks like https://example.org, without a path")
    return word.lower()


def _require_packages():
    """Raise FolioError where a package of the extra `serve` is missing."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise FolioError(f"{command('-m folio.serve')} needs what this Python lacks: {', '.join(missing)}. Install it: "
                         f"{quoted(sys.executable)} -m pip install {' '.join(missing)}")


if __name__ == "__main__":
    front_door(main)
