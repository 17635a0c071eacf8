"""python -m folio.serve as a process: what it prints, what it refuses to begin with, how signals end it."""

import asyncio
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from conftest import ROOT, refusal, run_python
from folio import serve
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.server import listening
from folio.server import models as models_module
from folio.server.models import Models
from folio.server.security import Limits
from running import ask, connect, parsed, running, until_closed, within
from tiny_models import write_weights

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals")
TEXT = "a text that nobody may find in the log"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("serve"))
    write_weights(home, "tiny")
    return home


class Serving:
    """A process that serves, its address, and what it says on stderr."""

    def __init__(self, home, *words):
        self.process = subprocess.Popen([sys.executable, "-m", "folio.serve", "--home", str(home.folder), "--port", "0",
                                         *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        encoding="utf-8")
        self.lines = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self._reader.start()
        self.said = self.process.stdout.readline()
        assert self.said, "".join(self.lines)
        self.port = int(re.search(r":(\d+)/", self.said)[1])

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds):
        """Wait for the end. -> exit code, what was said on stderr"""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code, "".join(self.lines)


@contextmanager
def serving(home, *words):
    found = Serving(home, *words)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        found.process.stdout.close()


def asked(port, **fields):
    """Send a request for a completion and return its connection."""
    content = json.dumps({"prompt": TEXT, "temperature": 1, "seed": 1, "ignore_eos": True, **fields}).encode()
    connection = connect(port, 30)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
                       b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
    return connection


def events(answer):
    """The values of a stream's events."""
    status, headers, content = answer
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    parts = [part.removeprefix("data: ") for part in content.decode("ascii").split("\n\n") if part.startswith("data")]
    assert parts[-1] == "[DONE]"
    return [json.loads(part) for part in parts[:-1]]


# --- What it refuses to begin with ---

def refused(monkeypatch, *words):
    """The sentence with which the command, in this process, refuses to begin."""
    monkeypatch.setattr(sys, "argv", ["serve", *map(str, words)])
    with pytest.raises((FolioError, OSError)) as problem:
        serve.main()
    return str(problem.value)


def test_a_port_in_use_is_one_sentence(project, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(monkeypatch, "--home", project.folder, "--port", port)
    assert said == (f"Port {port} of 127.0.0.1 is in use by another program. Take another one with --port, "
                    "or --port 0 for any that is free.")


def test_other_machines_are_let_in_only_with_a_key_or_by_name(project, monkeypatch):
    assert "--api-key-file FILE" in refused(monkeypatch, "--home", project.folder, "--host", "0.0.0.0")
    said = refused(monkeypatch, "--home", project.folder, "--host", "192.0.2.1", "--open", "--port", 0)
    assert said.startswith("192.0.2.1 is no address of this machine.")
    assert refused(monkeypatch, "--home", project.folder, "--host", "no such", "--open").startswith("no such is no")


def test_key_files_that_cannot_be_used_are_one_sentence(project, monkeypatch, tmp_path):
    assert "keys.txt" in refused(monkeypatch, "--home", project.folder, "--api-key-file", tmp_path / "keys.txt")
    (tmp_path / "keys.txt").write_text("short\n", encoding="utf-8")
    said = refused(monkeypatch, "--home", project.folder, "--api-key-file", tmp_path / "keys.txt")
    assert said.startswith(f"Key 1 of {tmp_path / 'keys.txt'} is not one") and "short" not in said
    (tmp_path / "keys.txt").write_bytes(b"bytes-that-are-no-text-\xff\xfe\n")
    said = refused(monkeypatch, "--home", project.folder, "--api-key-file", tmp_path / "keys.txt")
    assert said.startswith(f"Key 1 of {tmp_path / 'keys.txt'} is not one") and "bytes" not in said
    assert str(tmp_path) in refused(monkeypatch, "--home", project.folder, "--api-key-file", tmp_path)


def test_without_weights_or_with_damaged_ones_it_does_not_begin(monkeypatch, tmp_path):
    assert "There are no weights" in refused(monkeypatch, "--home", tmp_path, "--port", 0)
    write_weights(Home(tmp_path), "tiny").write_bytes(b"no weights")
    assert "is not a valid Folio checkpoint" in refused(monkeypatch, "--home", tmp_path, "--port", 0)
    assert "There are no weights named night" in refused(monkeypatch, "--home", tmp_path, "--weights", "night")


def test_a_missing_extra_is_one_sentence_with_the_command_that_installs_it(project):
    code = ("import runpy, sys; sys.modules['uvicorn'] = sys.modules['prometheus_client'] = None; "
            "runpy.run_module('folio.serve', run_name='__main__')")
    said = refusal(run_python("-c", code, "--home", project.folder))
    assert "lacks: uvicorn, prometheus-client. Install it: " in said and "Traceback" not in said


@pytest.mark.parametrize("words, problem", [
    (["--port", "70000"], "above the largest"), (["--grace", "-1"], "is not between"), (["--grace", "nan"], "between"),
    (["--cors-origin", "*"], "is no origin"), (["--cors-origin", "https://x.org/y"], "is no origin"),
    (["--rows", "0"], "below the smallest"), (["--models", "x"], "invalid int value")])
def test_wrong_flags_are_refused(words, problem, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["serve", *words])
    with pytest.raises(SystemExit, match="2"):
        serve.main()
    assert problem in capsys.readouterr().err


def test_the_image_has_files_that_exist_and_a_command_that_is_accepted():
    lines = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert "folio" in copied and [name for name in copied if not (ROOT / name).exists()] == []
    [command] = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD [")]
    arguments = serve._parser().parse(command[2:])
    assert command[:2] == ["folio", "serve"] and arguments.host == "0.0.0.0" and arguments.api_key_file
    compose = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    assert float(re.search(r"stop_grace_period: (\d+)s", compose)[1]) > arguments.grace
    assert "read_only: true" in compose and "proxy_buffering off;" in (ROOT / "deploy" / "nginx.conf").read_text(
        encoding="utf-8")


# --- How it ends ---

@POSIX
def test_sigterm_lets_a_stream_end_refuses_others_and_leaves_no_text_in_the_log(project):
    with serving(project) as server:
        assert server.said == f"Folio serves tiny at http://127.0.0.1:{server.port}/\n"
        with asked(server.port, stream=True, max_tokens=3000) as stream, asked(server.port, max_tokens=3000) as whole:
            begun = stream.recv(1000)               # it is being written
            server.signal(signal.SIGTERM)
            within(3, lambda: ask(server.port, "/health")[0] == 503)
            assert ask(server.port, "/v1/models")[0] == 503
            found = events(parsed(begun + until_closed(stream)))
            status, _, content = parsed(until_closed(whole))
        assert found[-1]["choices"][0]["finish_reason"] == "length"
        assert status == 200 and content["usage"]["completion_tokens"] == 3000
        assert "".join(each["choices"][0]["text"] for each in found) == content["choices"][0]["text"]
        code, log = server.wait(10)
        assert server.process.stdout.read() == "Stopped.\n"
    assert code == 0
    assert re.search(r"POST /v1/completions 200 \d+\+3000 tokens \d+ ms", log)
    assert "nobody may find" not in log and content["choices"][0]["text"][:20] not in log and "Traceback" not in log


@POSIX
def test_what_runs_after_the_grace_is_cut_off_and_told_so(project):
    with serving(project, "--grace", "0.3", "--max-tokens", "1000000") as server:
        with asked(server.port, stream=True, max_tokens=1_000_000) as stream, \
                asked(server.port, max_tokens=1_000_000) as whole:
            begun = stream.recv(1000)
            started = time.monotonic()
            server.signal(signal.SIGINT)
            found = events(parsed(begun + until_closed(stream)))
            status, _, content = parsed(until_closed(whole))
        code, log = server.wait(10)
    assert found[-1]["error"]["type"] == "server_error" and len(found) > 1
    assert status == 503 and content["error"]["type"] == "server_error"
    assert code == 0 and 0.3 <= time.monotonic() - started < 5
    assert "requests in progress (2) have 0.3 s to finish" in log and "Traceback" not in log


@POSIX
def test_a_second_signal_ends_it_at_once(project):
    with serving(project, "--max-tokens", "1000000") as server:
        with asked(server.port, stream=True, max_tokens=1_000_000) as stream:
            stream.recv(1000)
            server.signal(signal.SIGTERM)
            within(3, lambda: ask(server.port, "/health")[0] == 503)
            started = time.monotonic()
            server.signal(signal.SIGINT)
            code, _ = server.wait(3)
        assert code == 128 + signal.SIGINT and time.monotonic() - started < 1


def test_the_log_has_no_message_of_an_exception_since_it_may_be_a_text(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    listening.write_log(written)
    try:
        raise ValueError(TEXT)
    except ValueError:
        logging.getLogger("folio.generation.engine").exception("A step failed.")
    assert "A step failed." in written.getvalue() and written.getvalue().endswith("ValueError\n")
    assert "in test_the_log" in written.getvalue() and TEXT not in written.getvalue()


@pytest.mark.parametrize("path, fields", [
    ("/v1/completions", {"prompt": "a"}), ("/v1/completions", {"prompt": "a", "stream": True}),
    ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 0}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ("/folio/generate", {"prompt": "a"}), ("/folio/surprise", {"text": "a"})])
def test_an_engine_that_is_closing_sends_clients_away_for_a_moment(project, path, fields):
    models = Models(project)
    with running(models) as server:
        models.load_first().engine.close()
        status, headers, content = ask(server.port, path, "POST", json.dumps(fields).encode())
    assert (status, headers["retry-after"]) == (503, "1")
    assert content["error"] == {"message": "The engine is closed.", "type": "server_error", "param": None,
                                "code": "shutting_down"}


# --- While it trains ---

def test_new_weights_are_served_and_a_stream_ends_on_the_old_ones(project, tmp_path, monkeypatch):
    monkeypatch.setattr(models_module, "CHECKED", 0.05)
    monkeypatch.setattr(models_module, "UNUSED", 0.1)
    home = Home(tmp_path)
    write_weights(home, "night", seed=1)

    def answer(port, **fields):
        with asked(port, **fields) as connection:
            return parsed(until_closed(connection))[2]
    with running(Models(home)) as server:
        alone = answer(server.port, max_tokens=3000)
        with asked(server.port, max_tokens=3000, stream=True) as stream:
            begun = stream.recv(1000)
            write_weights(home, "night", seed=2)
            within(5, lambda: answer(server.port, max_tokens=5)["system_fingerprint"] != alone["system_fingerprint"])
            found = events(parsed(begun + until_closed(stream)))
        assert "choices" in found[-1], found[-1]
        assert "".join(each["choices"][0]["text"] for each in found) == alone["choices"][0]["text"]
        assert answer(server.port, max_tokens=3000)["choices"][0]["text"] != alone["choices"][0]["text"]
        within(5, lambda: sum(thread.name == "folio-engine" for thread in threading.enumerate()) == 1)
        home.weights("night").write_bytes(b"damaged")
        assert answer(server.port, max_tokens=5)["choices"]


# --- A thousand requests at once ---

def body_of(number):
    """The request with this number: one of 40 kinds, of different lengths."""
    kind = number % 40
    return {"prompt": ["", "a", "ab" * 20, "some words of a text"][kind % 4] + "b" * (kind // 4),
            "max_tokens": 1 + 7 * kind % 40, "seed": kind, "temperature": 1, "ignore_eos": True,
            "stream": number % 3 == 0}


async def answered(port, number, leaves=False):
    """Send a request with this number. -> its whole text, or None where the client leaves before the end"""
    content = json.dumps(body_of(number)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
                 b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
    try:
        if leaves:
            await asyncio.sleep(0.001 * (number % 500))
            return None
        answer = parsed(await reader.read())
    finally:
        writer.close()
    if body_of(number)["stream"]:
        return "".join(each["choices"][0]["text"] for each in events(answer))
    assert answer[0] == 200, answer
    return answer[2]["choices"][0]["text"]


def test_a_thousand_requests_at_once_a_tenth_cancelled_lose_and_cross_nothing(project):
    count = min(1000, (listening.room_for_connections(2200) - 100) // 2)
    models = Models(project, rows=32, queue=count)

    async def all_of(port):
        return await asyncio.gather(*(answered(port, number, leaves=number % 10 == 7) for number in range(count)))
    with running(models, Limits(rows=32, queue=count, connections=2 * count)) as server:
        alone = [asyncio.run(answered(server.port, kind)) for kind in range(40)]
        assert len(set(alone)) > 30
        started = time.monotonic()
        found = asyncio.run(all_of(server.port))
        assert time.monotonic() - started < 60
        wrong = [number for number in range(count) if number % 10 != 7 and found[number] != alone[number % 40]]
        assert wrong == []
        engine = models.loaded()[0].engine
        within(5, lambda: server.app.state.activity.in_flight == 0)
        within(5, lambda: (engine.stats.running, engine.stats.waiting) == (0, 0))
        numbers = ask(server.port, "/metrics")[2].decode()
        assert re.search(r'folio_running\{model="tiny"\} 0.0', numbers)
        assert float(re.search(r'folio_tokens_total\{kind="completion",model="tiny"\} (\S+)', numbers)[1]) > 10 * count


def test_a_full_queue_is_said_with_the_time_to_wait(project):
    models = Models(project, rows=1, queue=1)
    with running(models, Limits(rows=1, queue=1, most_tokens=100_000)) as server:
        busy = [asked(server.port, max_tokens=100_000)]
        within(5, lambda: models.loaded() and models.loaded()[0].engine.stats.running == 1)
        busy.append(asked(server.port, max_tokens=100_000))
        within(5, lambda: models.loaded()[0].engine.stats.waiting == 1)
        with asked(server.port) as third:
            status, headers, content = parsed(until_closed(third))
        assert status == 429 and content["error"]["code"] == "rate_limit_exceeded" and int(headers["retry-after"]) >= 1
        for connection in busy:                     # who leaves makes room at once
            connection.close()
        within(2, lambda: (models.loaded()[0].engine.stats.running, models.loaded()[0].engine.stats.waiting) == (0, 0))
        with asked(server.port, max_tokens=5) as last:
            assert parsed(until_closed(last))[0] == 200
        assert 'folio_cancelled_total{model="tiny"} 2.0' in ask(server.port, "/metrics")[2].decode()
