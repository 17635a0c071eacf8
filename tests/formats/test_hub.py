"""Pushing to Hugging Face: everything arrives at a stand-in server, and whatever goes wrong is one sentence."""

import base64
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from folio.base.errors import FolioError
from folio.formats import hub

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")

TOKEN = "hf_of_the_stand_in"            # noqa: S105  (of the server below)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(BaseHTTPRequestHandler):
    """As much of Hugging Face's server as an upload takes: a repository is a {path: bytes}."""
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *values):
        pass

    def do_GET(self):
        self.server.requests.append(("GET", self.path))
        self._answer(404, {"error": "Repository not found"})

    def do_PUT(self):
        content = self._body()
        self.server.requests.append(("PUT", self.path))
        self.server.large[self.path.rpartition("/")[2]] = content
        self._answer(200, {})

    def do_POST(self):
        body, path = self._body(), self.path.partition("?")[0]
        self.server.requests.append(("POST", path))
        if status := self.server.refuses.get(path.split("/")[-2 if "/main" in path else -1]):
            return self._answer(status, {"error": "not on a Sunday"})
        if not self._is_known():
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            self.server.created.append(wanted)
            name = f"{wanted['organization'] or 'somebody'}/{wanted['name']}"
            exists = name in self.server.repositories
            self.server.repositories.setdefault(name, {})
            return self._answer(409 if exists else 200, {"url": f"{self.server.address}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            return self._answer(200, {"files": [
                {"path": each["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if each["path"].endswith(self.server.large_suffix) else "regular"}
                for each in json.loads(body)["files"]]})
        if path.endswith("/info/lfs/objects/batch"):
            return self._answer(200, {"transfer": "basic", "objects": [
                {**each, "actions": {"upload": {"href": f"{self.server.address}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]]})
        if path.endswith("/commit/main"):
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            self._commit(name, body)
            return self._answer(200, {"commitUrl": f"{self.server.address}/{name}/commit/{COMMIT}",
                                      "commitOid": COMMIT})
        self._answer(404, {"error": f"The stand-in has no {path}"})

    def _commit(self, name, body):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.server.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.repositories[name][value["path"]] = self.server.large[value["oid"]]

    def _is_known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status, values):
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server():
    """A stand-in for Hugging Face's server on this machine."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    made.address = f"http://127.0.0.1:{made.server_port}"
    made.requests, made.created, made.repositories, made.large, made.refuses = [], [], {}, {}, {}
    made.large_suffix = ".safetensors"
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def plain_uploads(monkeypatch, tmp_path):
    """Neither a stored token nor a network beyond this machine, and large files by git's protocol, which is open."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    (made / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# night\n", encoding="utf-8")
    (made / "config.json").write_text("{}", encoding="utf-8")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    return made


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(*words, **named):
    """The one sentence with which a push is refused."""
    with pytest.raises(FolioError) as refused:
        hub.push(*words, **named)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("repository", ["somebody/night", "night"])
def test_every_file_arrives_in_a_new_private_repository(server, folder, repository):
    address = hub.push(folder, repository, server.address, TOKEN)
    assert address == f"{server.address}/somebody/night"
    assert server.repositories == {"somebody/night": contents(folder)}
    assert [wanted["visibility"] for wanted in server.created] == ["private"]
    assert hashlib.sha256(contents(folder)["model.safetensors"]).hexdigest() in server.large


def test_a_second_push_replaces_what_the_first_one_wrote(server, folder):
    hub.push(folder, "somebody/night", server.address, TOKEN)
    (folder / "config.json").write_text('{"changed": true}', encoding="utf-8")
    hub.push(folder, "somebody/night", server.address, TOKEN)
    assert server.repositories == {"somebody/night": contents(folder)}


def test_the_upload_in_parts_that_the_library_prefers_brings_the_same(server, folder, monkeypatch):
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    server.large_suffix = ".never"      # large files would go to a server of another kind
    hub.push(folder, "somebody/night", server.address, TOKEN)
    assert server.repositories == {"somebody/night": contents(folder)}


def test_without_a_token_nothing_is_sent(server, folder):
    message = refusal(folder, "somebody/night", server.address)
    assert "needs an access token" in message and "hf auth login" in message and str(folder) in message
    assert server.requests == []


def test_a_token_that_the_server_does_not_take_is_one_sentence(server, folder):
    message = refusal(folder, "somebody/night", server.address, "hf_of_somebody_else")
    assert f"{server.address} refused somebody/night: HTTP 401" in message and "hf auth login" in message
    assert "hf_of_somebody_else" not in message and server.repositories == {}


@pytest.mark.parametrize("step", ["create", "preupload", "batch", "commit"])
@pytest.mark.parametrize("status", [403, 400])
def test_a_refusal_at_any_step_is_one_sentence(server, folder, step, status):
    server.refuses[step] = status
    before = contents(folder)
    message = refusal(folder, "somebody/night", server.address, TOKEN)
    assert f"HTTP {status}" in message and "refused somebody/night" in message
    assert contents(folder) == before
    assert server.repositories.get("somebody/night", {}) == {}


def test_no_network_is_one_sentence(server, folder, monkeypatch):
    server.shutdown()
    server.server_close()
    message = refusal(folder, "somebody/night", server.address, TOKEN)
    assert f"to {server.address} failed" in message and "is there a network?" in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert "HF_HUB_OFFLINE" in refusal(folder, "somebody/night", server.address, TOKEN)


@pytest.mark.parametrize("name", ["a/b/c", "", "two words", "../x", "a--b", "x" * 200, "somebody/"])
def test_a_name_that_no_repository_can_have_is_refused_before_anything_is_sent(server, folder, name):
    assert "cannot be a repository's name" in refusal(folder, name, server.address, TOKEN)
    assert server.requests == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(folder, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert "python -m pip install huggingface-hub" in refusal(folder, "somebody/night")
