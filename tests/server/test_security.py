"""What may come in, by raw sockets: names, origins, keys, types, sizes, times, garbage. Refusals have one JSON body."""

import asyncio
import logging
import os
import time

import pytest
from starlette.responses import StreamingResponse
from starlette.routing import Route

from folio.base.errors import FolioError
from folio.server.errors import Json
from folio.server.security import Access, Guard, Keys, Limits
from running import ask, connect, parsed, refused, running, until_closed, within

KEY, NEXT_KEY = "secret-key-of-the-test-1", "secret-key-of-the-test-2"
QUICK = Limits(body_bytes=1000, header_bytes=2000, header_seconds=0.5, body_seconds=0.5, write_seconds=0.5,
               connections=20)


async def echo(request):
    return Json({"length": len(await request.body())})


async def broken(request):
    raise RuntimeError("the user's text: " + (await request.body()).decode("utf-8"))


ROUTES = [Route("/echo", echo, methods=["POST"]), Route("/broken", broken, methods=["POST"])]


@pytest.fixture(scope="module")
def server():
    with running(limits=QUICK, routes=ROUTES, access=Access(origins=("https://example.org",))) as found:
        yield found


@pytest.fixture(scope="module")
def port(server):
    return server.port


def test_names_of_this_machine_are_answered(port):
    for host in (f"127.0.0.1:{port}", "localhost", "LocalHost:80", f"[::1]:{port}"):
        status, headers, content = ask(port, headers={"host": host})
        assert status == 200 and list(content) == ["version"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "[::1",
                                  "", "127.0.0.1@evil.example"])
def test_foreign_names_are_refused_as_after_dns_rebinding(port, host):
    refused(ask(port, headers={"host": host}), 403, "forbidden_host")
    assert ask(port, "/health", headers={"host": host})[0] == 200


def test_pages_of_other_servers_may_not_ask(port):
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}", "http://["):
        answer = ask(port, headers={"origin": origin})
        refused(answer, 403, "forbidden_origin")
        assert "access-control-allow-origin" not in answer[1]
    status, headers, _ = ask(port, headers={"origin": f"http://127.0.0.1:{port}"})
    assert status == 200 and "access-control-allow-origin" not in headers


def test_an_allowed_origin_gets_cors_headers_and_its_preflight(port):
    origin = {"origin": "https://example.org"}
    status, headers, _ = ask(port, headers=origin)
    assert status == 200 and headers["access-control-allow-origin"] == "https://example.org"
    status, headers, content = ask(port, "/echo", "OPTIONS", headers=origin | {"access-control-request-method": "POST"})
    assert (status, content) == (204, b"") and "authorization" in headers["access-control-allow-headers"]
    refused(ask(port, "/echo", "OPTIONS", headers={"origin": "http://evil.example",
                                                   "access-control-request-method": "POST"}), 403, "forbidden_origin")


def test_bodies_are_json_and_not_compressed(port):
    assert ask(port, "/echo", "POST", b"{}")[2] == {"length": 2}
    assert ask(port, "/echo", "POST", b"{}", {"content-type": "Application/JSON; charset=utf-8"})[0] == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", "", None):
        refused(ask(port, "/echo", "POST", b"{}", {"content-type": kind}), 415, "unsupported_media_type")
    refused(ask(port, "/echo", "POST", b"{}", {"content-encoding": "gzip"}), 415, "unsupported_media_type")


def test_too_large_bodies_are_refused_with_and_without_a_length(port):
    assert ask(port, "/echo", "POST", b"x" * 1000)[2] == {"length": 1000}
    refused(ask(port, "/echo", "POST", b"x" * 1001), 413, "request_too_large")
    # Said in advance: refused before any of it was sent, and not for being late.
    refused(ask(port, "/echo", "POST", b"", {"content-length": "1000000000"}), 413, "request_too_large")
    chunks = b"".join(b"100\r\n" + b"x" * 256 + b"\r\n" for _ in range(5)) + b"0\r\n\r\n"
    headers = {"transfer-encoding": "chunked", "content-length": None}
    refused(ask(port, "/echo", "POST", chunks, headers), 413, "request_too_large")
    assert ask(port, "/echo", "POST", chunks[263 * 2:], headers)[2] == {"length": 768}


def test_a_body_that_comes_too_slowly_ends_after_its_time(port):
    with connect(port) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                           b"content-length: 100\r\n\r\nhalf")
        refused(parsed(until_closed(connection)), 408, "request_timeout")


def test_headers_that_come_too_slowly_end_after_their_time(port):
    with connect(port) as connection:
        started = time.monotonic()
        for byte in b"GET /version HTTP/1.1":
            connection.sendall(bytes([byte]))
        time.sleep(0.3)
        connection.sendall(b"\r\n")             # which does not begin the time anew
        refused(parsed(until_closed(connection)), 408, "request_timeout")
        assert 0.4 < time.monotonic() - started < 3


def test_a_connection_without_a_request_is_closed(port):
    with connect(port) as connection:
        assert until_closed(connection) == b""
        assert ask(port)[0] == 200


def test_a_connection_is_used_again_and_closed_when_it_is_left(port):
    request = b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with connect(port) as connection:
        for _ in range(3):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.2)
        connection.sendall(request * 2)                 # two at once
        assert until_closed(connection).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("garbage", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), b"hello\r\n\r\n", b"GET /\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", bytes(3000), b"\xff" * 3000,
    b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 3000,
    b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + b"9" * 50 + b"\r\n\r\n"])
def test_garbage_gets_a_json_error_and_the_connection_ends(port, garbage):
    with connect(port) as connection:
        connection.sendall(garbage)
        status, _, content = parsed(until_closed(connection))
    assert status in (400, 413) and content["error"]["type"] == "invalid_request_error"
    assert ask(port)[0] == 200


def test_half_a_request_and_good_bye_leaves_nothing_behind(server):
    for part in (b"POST /echo HTT", b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                                    b"content-length: 100\r\n\r\nhalf"):
        with connect(server.port) as connection:
            connection.sendall(part)
    within(3, lambda: server.app.state.activity.in_flight == 0 and not server.server.server_state.connections)


def test_connections_that_are_opened_and_left_make_room_for_others(server):
    left = [connect(server.port) for _ in range(200)]
    try:
        assert ask(server.port)[0] == 200
        assert len(server.server.server_state.connections) <= QUICK.connections
        within(3, lambda: not server.server.server_state.connections)
    finally:
        for connection in left:
            connection.close()


def test_unknown_paths_and_methods_are_json_too(port):
    for path in ("/nothing", "/v1", "/%00", "/../x", "//", "/" + "x" * 500):
        assert ask(port, path)[0] in (200, 404)
    assert "/openapi.json" in refused(ask(port, "/nothing"), 404, "not_found")
    answer = ask(port, "/version", "DELETE")
    refused(answer, 405, "method_not_allowed")
    assert set(answer[1]["allow"].split(", ")) == {"GET", "HEAD"}
    assert ask(port, "/version/")[0] == 200


def test_a_bug_tells_the_client_nothing_and_the_log_no_text(port, caplog):
    log = logging.getLogger("folio.serve")
    log.propagate = True
    with caplog.at_level(logging.INFO, "folio.serve"):
        message = refused(ask(port, "/broken", "POST", b"private"), 500)
    assert "private" not in message and "RuntimeError" not in message
    assert "RuntimeError" in caplog.text and "in broken" in caplog.text and "private" not in caplog.text
    assert "POST /broken 500 0+0 tokens" in caplog.text


def test_request_ids_are_echoed_where_they_are_plain(port):
    assert ask(port, headers={"x-request-id": "my-id.1"})[1]["x-request-id"] == "my-id.1"
    own = [ask(port, headers={"x-request-id": wrong})[1]["x-request-id"] for wrong in ("a b", "x" * 200, "\xe9")]
    assert len(set(own)) == 3 and all(len(each) == 32 for each in own)
    assert int(ask(port)[1]["openai-processing-ms"]) < 1000


# --- Keys ---

@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_text(f"# for the test\n\n{KEY}\n", encoding="utf-8")
    return path


def test_a_key_is_wanted_but_for_health_and_the_page(key_file):
    with running(access=Access(hosts=(), keys=Keys(key_file))) as server:
        port = server.port
        assert ask(port, "/health")[0] == 200
        assert ask(port, "/folio/web/nothing")[0] == 404
        for wrong in (None, "", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer \xe9"):
            for path in ("/version", "/metrics", "/nothing", "/folio/webx", "/folio/generate"):
                answer = ask(port, path, headers={"authorization": wrong})
                refused(answer, 401, "invalid_api_key")
                assert answer[1]["www-authenticate"] == "Bearer"
        assert ask(port, headers={"authorization": f"Bearer {KEY}", "host": "any.example"})[0] == 200
        assert ask(port, headers={"authorization": f"bearer  {KEY} "})[0] == 200


def test_keys_change_with_their_file_and_stay_where_it_is_broken(key_file, monkeypatch):
    monkeypatch.setattr("folio.server.security.KEYS_CHECKED", 0.0)
    keys = Keys(key_file)
    assert keys.matches(KEY.encode()) and not keys.matches(NEXT_KEY.encode())
    key_file.write_text(f"{KEY}\n{NEXT_KEY}\n", encoding="utf-8")
    os.utime(key_file, (2e9, 2e9))
    assert keys.matches(KEY.encode()) and keys.matches(NEXT_KEY.encode())
    key_file.write_text(f"{NEXT_KEY}\n", encoding="utf-8")
    os.utime(key_file, (2e9, 2e9))      # as within one tick of the file system
    assert not keys.matches(KEY.encode())
    key_file.write_text(f"{KEY}\n{NEXT_KEY}\n", encoding="utf-8")
    key_file.write_text("", encoding="utf-8")
    assert keys.matches(NEXT_KEY.encode())
    key_file.unlink()
    assert keys.matches(NEXT_KEY.encode())
    key_file.mkdir()                    # it cannot be read, whoever the user is
    assert keys.matches(NEXT_KEY.encode())
    key_file.rmdir()
    key_file.write_text(f"{NEXT_KEY}\n", encoding="utf-8")
    assert not keys.matches(KEY.encode()) and keys.matches(NEXT_KEY.encode())


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n", "with space in the key\n", "schlüssel-schlüssel\n"])
def test_a_file_without_good_keys_is_refused(tmp_path, content):
    (tmp_path / "keys").write_text(content, encoding="utf-8")
    with pytest.raises(FolioError, match="secrets.token_urlsafe") as problem:
        Keys(tmp_path / "keys")
    assert not content.strip() or content.strip() not in str(problem.value) or content.startswith("#")


# --- Clients that leave or do not read ---

@pytest.fixture
def left():
    """Routes that wait, streamed and not, and how each ended."""
    ended = []

    async def wait(request):
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            ended.append("answer")
            raise

    async def stream(request):
        async def parts():
            try:
                while True:
                    yield b"x" * 100_000
                    await asyncio.sleep(0.001)
            finally:
                ended.append("stream")
        return StreamingResponse(parts())
    return [Route("/wait", wait, methods=["POST"]), Route("/stream", stream, methods=["POST"])], ended


@pytest.mark.parametrize("path, kind", [("/wait", "answer"), ("/stream", "stream")])
def test_the_work_ends_when_its_client_leaves(left, path, kind):
    routes, ended = left
    with running(routes=routes) as server:
        with connect(server.port) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                               "content-length: 2\r\n\r\n{}".encode())
            within(3, lambda: server.app.state.activity.in_flight == 1)
            time.sleep(0.1)
        within(1, lambda: ended == [kind] and server.app.state.activity.in_flight == 0)
        numbers = ask(server.port, "/metrics")[2].decode()
        assert f'folio_requests_total{{route="{path}",status="{"left" if kind == "answer" else 200}"}} 1.0' in numbers


def test_a_client_that_does_not_read_is_left_after_a_time(left):
    routes, ended = left
    with running(routes=routes, limits=QUICK) as server:
        with connect(server.port) as connection:
            connection.sendall(b"POST /stream HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                               b"content-length: 2\r\n\r\n{}")
            within(10, lambda: ended == ["stream"] and server.app.state.activity.in_flight == 0)


def test_a_client_that_does_not_read_its_refusal_is_no_failure_of_the_server():
    async def never(message):
        await asyncio.sleep(20)
    guard = Guard(None, Access(), Limits(write_seconds=0.05))
    scope = {"type": "http", "method": "GET", "path": "/version", "headers": [(b"host", b"foreign.example")]}
    asyncio.run(asyncio.wait_for(guard(scope, None, never), 5))


def test_while_it_ends_new_requests_are_refused_and_old_ones_answered():
    async def answer(request):
        await asyncio.sleep(0.6)
        return Json({"whole": True})
    with running(routes=[Route("/answer", answer)]) as server:
        with connect(server.port) as connection:
            connection.sendall(b"GET /answer HTTP/1.1\r\nhost: localhost\r\n\r\n")
            within(3, lambda: server.app.state.activity.in_flight == 1)
            server.app.state.activity.is_draining = True
            status, headers, content = ask(server.port, "/health")
            assert status == 503 and content["status"] == "draining" and headers["retry-after"]
            refused(ask(server.port, "/answer"), 503, "shutting_down")
            assert parsed(until_closed(connection))[::2] == (200, {"whole": True})
        server.thread.join(5)
        assert not server.thread.is_alive()

