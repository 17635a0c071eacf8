"""folio/data/paths.py: files, folders, globs, links, standard input, pipes and tiny shakespeare."""

import os
import shutil
import subprocess
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from conftest import ROOT, refusal, run_script
from folio.base.home import Home
from folio.data import corpus, paths
from folio.data.paths import absolute_paths, find_files
from Model_Params import TextParams
from small_texts import SMALL, WORDS, message_of
from tokenizer import CharTokenizer

# --- Reading ---


def test_files_are_read_in_sorted_order_without_hidden_ones_and_tokens(home):
    project = home(dict.fromkeys(["b.txt", "a/z.txt", "a/b/c.md", ".hidden", "a/.hidden/x.txt", "tokens/t.txt",
                                  "a/tokens/kept.txt", "C.txt"], WORDS))
    found = paths.find_files([project.train_data], ignored=[project.tokens])
    names = [path.relative_to(project.train_data).as_posix() for path in found]
    assert names == sorted(["b.txt", "a/z.txt", "a/b/c.md", "a/tokens/kept.txt", "C.txt"], key=Path)
    b = project.train_data / "b.txt"
    assert paths.find_files([b, project.train_data / "a" / "b", project.train_data / ".hidden"]) == [
        b, project.train_data / "a" / "b" / "c.md", project.train_data / ".hidden"]


# --- Paths ---

@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Make a folder with some notes the current folder. -> a Home in it"""
    for name in ("notes/a.md", "notes/deep/b.md", "notes/deep/c.txt", "notes/.hidden/d.md", "novel.txt",
                 "list [1].txt"):
        (tmp_path / "shelf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shelf" / name).write_text(name, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "shelf")
    return Home(tmp_path / "shelf" / "project")


def found(home, *names):
    """Return the files that names stand for, relative to the current folder."""
    files = find_files(absolute_paths(names, home), ignored=[home.tokens, home.downloads])
    return [file.relative_to(Path.cwd()).as_posix() for file in files]


@pytest.mark.parametrize("names, files", [
    (["notes/*.md"], ["notes/a.md"]),
    (["notes/**/*.md"], ["notes/a.md", "notes/deep/b.md"]),
    (["notes/**"], ["notes/a.md", "notes/deep/b.md", "notes/deep/c.txt"]),
    (["notes/*"], ["notes/a.md", "notes/deep/b.md", "notes/deep/c.txt"]),
    (["n*l.tx?", "notes/[ab].md"], ["novel.txt", "notes/a.md"]),
    (["notes/../nov*"], ["novel.txt"]),
    (["list [1].txt"], ["list [1].txt"]),
])
def test_a_glob_stands_for_the_files_it_matches(shelf, names, files):
    assert found(shelf, *names) == files


def test_a_glob_matches_in_a_folder_whose_own_name_looks_like_one(shelf, monkeypatch):
    shutil.copytree("notes", "[old] notes/x")
    monkeypatch.chdir("[old] notes")
    assert found(shelf, "x/*.md") == ["x/a.md"]


def test_a_glob_does_not_match_token_files(home):
    project = home(WORDS)
    corpus.open_corpus(project, SMALL)
    for name in ("**", "**/*", "*"):
        files = find_files([project.train_data / name, project.train_data / "input.txt"])
        assert {file.name for file in files} == {"input.txt"}, name


def test_a_glob_is_remembered_and_a_new_match_is_a_change(home, tmp_path, monkeypatch):
    project = home({"notes/a.md": WORDS})
    monkeypatch.chdir(project.train_data)
    corpus.open_corpus(project, SMALL, ["notes/*.md"])
    (project.train_data / "notes" / "b.md").write_text("And more.", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert corpus.open_corpus(project, say=lambda sentence: None)[1].documents == 2


@pytest.mark.parametrize("name, hint", [
    ("novle.txt", "novel.txt"), ("Novel.TXT", "novel.txt"), ("note/a.md", "notes"), ("notes/deep/bb.md", "b.md"),
    ("tiny_shakespeare", "tinyshakespeare"), ("zzz", None),
])
def test_a_path_that_is_not_there_gets_the_nearest_one_that_is(shelf, name, hint):
    if Path(name).exists():
        pytest.skip("this system takes both spellings for the same")
    message = message_of(found, shelf, name)
    assert f"There is no {Path(name).resolve()}" in message and "Put your text at Train_Data/input.txt" in message
    assert (f"; did you mean {hint}? " if hint else f"{name}. ") in message


def test_a_glob_that_matches_nothing_is_named(shelf):
    assert message_of(found, shelf, "notes/*.rst").startswith(f"No file matches {Path('notes/*.rst').resolve()}. ")


LINKS = pytest.mark.skipif(os.name != "posix", reason="symbolic links may take a privilege here")


@LINKS
def test_links_are_followed_and_no_file_is_read_twice(shelf, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "z.md").write_text("z", encoding="utf-8")
    for link, target in {"notes/books": tmp_path / "data", "notes/deep/up": "..", "notes/deep/again": "..",
                         "notes/0.md": "a.md", "notes/lost": "x", "notes/round": "round", "other": "notes"}.items():
        Path(link).symlink_to(target)
    everything = ["notes/a.md", "notes/books/z.md", "notes/deep/b.md", "notes/deep/c.txt"]
    for name in ("notes", "notes/**", "notes/*"):
        assert found(shelf, name) == everything, name
    assert found(shelf, "notes/**/*.md") == [name for name in everything if name.endswith(".md")]
    assert found(shelf, "notes/**/deep") == ["notes/deep/b.md", "notes/deep/c.txt"]
    assert found(shelf, "notes", "notes/a.md", "other", tmp_path / "data" / "z.md") == everything
    assert found(shelf, "notes/**/.hidden/*") == ["notes/.hidden/d.md"]


@LINKS
def test_a_link_that_leads_to_no_file_is_named(shelf):
    Path("loop").symlink_to("loop")
    said = f"{Path.cwd() / 'loop'} is a symbolic link to loop, which leads to no file."
    assert said in message_of(found, shelf, "loop")


def test_an_empty_path_is_refused(home):
    message = refusal(run_script("init.py", "--home", home({}).folder, ""))
    assert message.startswith("A path is empty, as where a variable of the shell has no value.")


# --- Standard input ---

@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no pipes with names here")
def test_a_pipe_with_a_name_is_read_as_standard_input_is(home, tmp_path):
    project = home({})
    words = ["init.py", "--home", project.folder, "--vocab-size", 300]
    assert run_script(*words, "/dev/stdin", input=WORDS).returncode == 0 and kept(project) == [WORDS]
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen([sys.executable, "-c", f"open({str(tmp_path / 'pipe')!r}, 'w').write({WORDS * 2!r})"]):
        done = run_script(*words, tmp_path / "pipe")
    assert (done.returncode, done.stderr) == (0, "") and kept(project) == [WORDS * 2]
    assert corpus.open_corpus(project, say=pytest.fail)[1].train_bytes > len(WORDS)
    reading, writing = os.pipe()
    os.write(writing, WORDS.encode())
    os.close(writing)
    done = subprocess.run([sys.executable, ROOT / "init.py", *map(str, words[1:]), f"/dev/fd/{reading}"],
                          pass_fds=[reading], capture_output=True)
    os.close(reading)
    assert done.returncode == 0 and kept(project) == [WORDS]


def test_standard_input_is_kept_for_train_and_read_by_no_later_init(home):
    project = home({})
    done = run_script("init.py", "--home", project.folder, "--vocab-size", 300, "-", input=WORDS)
    assert (done.returncode, done.stderr) == (0, "")
    tokenizer, made = corpus.open_corpus(project, say=pytest.fail)
    assert tokenizer.decode(made.tokens) == WORDS
    assert "There is no text in" in refusal(run_script("init.py", "--home", project.folder))
    CharTokenizer.train([WORDS]).save(project.tokenizer)            # now the text itself is needed again
    tokenizer, made = corpus.open_corpus(project, say=lambda sentence: None)
    assert (tokenizer.kind, tokenizer.decode(made.tokens)) == ("char", WORDS)


def kept(project):
    return [path.read_text(encoding="utf-8") for path in project.tokens.glob("standard-input-*.txt")]


def test_only_the_standard_input_in_use_is_kept_and_a_refused_one_leaves_it_alone(home):
    project = home({})
    words = "init.py", "--home", project.folder, "--vocab-size", 300, "-"
    run_script(*words, input=WORDS)
    assert kept(project) == [WORDS]
    for text in ("", "a"):
        refusal(run_script(*words, input=text))
        assert kept(project) == [WORDS]
        assert corpus.open_corpus(project, say=pytest.fail)[1].documents == 1
    run_script(*words, input=WORDS * 2)
    assert kept(project) == [WORDS * 2]
    (project.train_data / "input.txt").write_text(WORDS, encoding="utf-8")
    run_script(*words[:-1])
    assert kept(project) == []


def test_standard_input_outlives_a_damaged_record_of_what_was_encoded_and_a_failed_init(home):
    project = home({})
    run_script("init.py", "--home", project.folder, "--vocab-size", 300, "-", input=WORDS)
    (project.tokens / "corpus.json").write_text("{", encoding="utf-8")
    refusal(run_script("init.py", "--home", project.folder, "nothing.txt"))
    assert kept(project) == [WORDS]


def test_standard_input_is_bytes_like_any_file(home):
    project = home({})
    words = [sys.executable, ROOT / "init.py", "--home", project.folder, "-"]
    done = subprocess.run(words, input=WORDS.encode() + b"\xff", capture_output=True)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert f"byte 0xFF at offset {len(WORDS)}".encode() in done.stderr


# --- tiny shakespeare ---

@pytest.fixture
def server(monkeypatch):
    """Run a web server on this machine in place of the real one. `contents` is what it has, `asked` the requests."""
    class Handler(BaseHTTPRequestHandler):
        contents, asked = {}, []

        def do_GET(self):
            self.asked.append(self.path)
            content = self.contents.get(self.path)
            self.send_response(404 if content is None else 200)
            missing = 5 if "short" in self.path else 0          # bytes that are announced and do not come
            self.send_header("Content-Length", str(len(content or b"") + missing))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    Handler.contents = {"/input.txt": WORDS.encode(), "/wrong": b"Log in to this network.", "/short": WORDS.encode()}
    Handler.asked = []
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Handler.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(paths, "TINY_SHAKESPEARE_ADDRESS", f"{Handler.address}/input.txt")
    monkeypatch.setattr(paths, "TINY_SHAKESPEARE_SHA256", sha256(WORDS.encode()).hexdigest())
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_tiny_shakespeare_is_downloaded_once_and_is_no_part_of_train_data(home, server):
    project = home({"input.txt": "A text of my own. " * 20})
    for _ in range(2):
        tokenizer, made = corpus.open_corpus(project, SMALL, ["tinyshakespeare"])
        assert tokenizer.decode(made.tokens) == WORDS
    assert server.asked == ["/input.txt"]
    assert (project.train_data / "downloads" / "tinyshakespeare.txt").read_bytes() == WORDS.encode()
    assert corpus.open_corpus(project, say=pytest.fail)[1].fingerprint == made.fingerprint
    assert corpus.open_corpus(project, SMALL)[1].train_bytes < 400


@pytest.mark.parametrize("path, error", [("/wrong", "What came from the network is not tinyshakespeare"),
                                         ("/missing", "cannot be downloaded (HTTP Error 404"),
                                         ("/short", "cannot be downloaded (IncompleteRead")])
def test_what_is_not_tiny_shakespeare_is_not_kept(home, server, monkeypatch, path, error):
    project = home({})
    monkeypatch.setattr(paths, "TINY_SHAKESPEARE_ADDRESS", server.address + path)
    message = message_of(corpus.open_corpus, project, SMALL, ["tinyshakespeare"])
    place = project.downloads / "tinyshakespeare.txt"
    assert error in message and message.endswith(f"; put the file from {server.address + path} at {place}.")
    assert not project.folder.exists()


def test_offline_one_sentence_says_where_to_put_the_file(home, monkeypatch):
    project = home({})
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(paths, "TINY_SHAKESPEARE_ADDRESS", "http://127.0.0.1:9/input.txt")      # nobody listens there
    message = message_of(corpus.open_corpus, project, SMALL, ["tinyshakespeare"])
    assert message.startswith("tinyshakespeare cannot be downloaded (")
    assert str(project.downloads / "tinyshakespeare.txt") in message


def test_a_file_put_there_by_hand_is_taken_if_it_is_the_right_one(home, server):
    place = Path("downloads") / "tinyshakespeare.txt"
    project = home({place: WORDS})
    assert corpus.open_corpus(project, SMALL, ["tinyshakespeare"])[1].documents == 1
    (project.train_data / place).write_text(WORDS[:-1], encoding="utf-8")
    message = message_of(corpus.open_corpus, project, SMALL, ["tinyshakespeare"])
    assert f"{project.train_data / place} is not tinyshakespeare" in message
    assert server.asked == []


def test_a_file_or_folder_of_that_name_comes_first(home, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tinyshakespeare").mkdir()
    Path("tinyshakespeare/mine.txt").write_text(WORDS, encoding="utf-8")
    made = corpus.open_corpus(home({}), SMALL, ["tinyshakespeare"])[1]
    assert (made.documents, server.asked) == (1, [])


def test_the_checksum_is_that_of_the_text_everybody_uses(tiny_shakespeare):
    assert sha256(tiny_shakespeare.encode()).hexdigest() == paths.TINY_SHAKESPEARE_SHA256


def test_kept_choices_are_no_text_to_train_on(home):
    project = home({"input.txt": "Once.", "preferences.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'})
    assert find_files([project.train_data], [project.preferences]) == [project.train_data / "input.txt"]
    assert corpus.documents_in(project, TextParams(), [project.train_data]).files == [project.train_data / "input.txt"]
