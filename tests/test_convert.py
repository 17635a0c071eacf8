"""python -m folio.convert exports and imports models and tokenizers, and replaces only what it may."""

import json
import os
import re
import shlex
import shutil
import socket
import sys

os.environ["HF_HUB_OFFLINE"] = "1"          # before transformers is imported

import pytest
import torch

from conftest import ROOT, refusal, run_python
from folio import convert as program
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.data import corpus
from folio.formats import checkpoint, trained_model
from folio.formats.tokenizers import WRITERS, write
from folio.kernels.splitting import SPLIT_PATTERNS
from test_exports import BPE, CLASSIC, LSTM, SMALL, random_model
from test_hub import TOKEN, contents, server  # noqa: F401  (the fixture)
from test_tokenizer_files import saved
from tokenizer import BPETokenizer, load

PRETRAINED = ROOT / "Saved_Weights" / "weights-pretrained.pth"
TARGETS = {"huggingface": "out", "gguf": "out.gguf", "ollama": "out", "page": "out.html"}


def convert(*words):
    return run_python("-m", "folio.convert", *words)


@pytest.fixture
def here(monkeypatch, capsys):
    """Calls the command in this process: here("export", ...) -> what it printed"""
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, words)])
        capsys.readouterr()
        assert not program.main()
        return capsys.readouterr().out
    return call


@pytest.fixture
def usage_error(here, capsys):
    """The message with which the command refuses a command line, with exit code 2."""
    def call(*words):
        with pytest.raises(SystemExit) as ended:
            here(*words)
        assert ended.value.code == 2
        return capsys.readouterr().err
    return call


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A home with three small models; the newest is `llama`."""
    made = Home(tmp_path_factory.mktemp("project"))
    models = {"gpt": CLASSIC, "recurrent": LSTM, "llama": SMALL}
    for age, (name, params) in enumerate(models.items()):
        model = random_model(made.folder, params, BPE)
        checkpoint.save(made.weights(name), model.contents | {"name": name})
        os.utime(made.weights(name), (1e9 + age, 1e9 + age))
    (made.folder / "weights-random.pth").unlink()
    return made


def everything_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def exported(tokenizer, path):
    """Write a tokenizer.json. -> its path"""
    write(tokenizer, "huggingface", path)
    return path


# --- Tokenizers ---

def test_an_exported_tokenizer_is_imported_as_it_was(tmp_path):
    shipped = load(ROOT / "tokenizer_save")
    targets = {"huggingface": tmp_path / "tokenizer.json", "gpt2": tmp_path / "gpt2", "tiktoken": tmp_path / "ranks"}
    assert targets.keys() == WRITERS.keys()
    for format, target in targets.items():
        done = convert("export", format, target)
        assert done.returncode == 0 and done.stdout.startswith(f"tokenizer   1,024 tokens -> {target}"), done.stderr
        assert (SPLIT_PATTERNS["qwen2"] in done.stdout) == (format != "huggingface")
    imports = {"huggingface": [targets["huggingface"]],
               "gpt2": [targets["gpt2"] / "vocab.json", targets["gpt2"] / "merges.txt", "--pattern", "qwen2"],
               "tiktoken": [targets["tiktoken"], "--pattern", "qwen2"]}
    for format, words in imports.items():
        project = tmp_path / f"project-{format}"
        done = convert("import", *words, "--home", project)
        assert done.returncode == 0, done.stderr
        assert "bpe, 1,024 tokens, 767 merges, split as qwen2, special: <|endoftext|>" in done.stdout
        assert f"Next: python train.py --home {project} (" in done.stdout
        assert load(project / "tokenizer_save").to_dict() == shipped.to_dict()


def test_training_uses_the_imported_tokenizer(tmp_path, home, plays):
    path = exported(BPETokenizer.train([plays[:20_000]], 400, "gpt2"), tmp_path / "tokenizer.json")
    project = home(plays[:20_000])
    assert convert("import", path, "--home", project.folder).returncode == 0
    tokenizer, made = corpus.open_corpus(project, say=lambda message: None)
    assert (tokenizer.vocab_size, tokenizer.pattern) == (400, "gpt2")
    assert tokenizer.decode(made.tokens) == plays[:20_000]


@pytest.mark.parametrize("missing", [[], ["merges.json"]], ids=["whole", "damaged"])
def test_an_existing_tokenizer_is_replaced_only_when_asked(tmp_path, missing):
    path = exported(BPETokenizer([(97, 98)]), tmp_path / "tokenizer.json")
    BPETokenizer([]).save(tmp_path / "tokenizer_save")
    for name in missing:
        (tmp_path / "tokenizer_save" / name).unlink()
    before = saved(tmp_path / "tokenizer_save")
    message = refusal(convert("import", path, "--home", tmp_path))
    assert f"There is already a tokenizer in {tmp_path / 'tokenizer_save'}; pass --replace to replace it." in message
    assert saved(tmp_path / "tokenizer_save") == before
    assert convert("import", path, "--home", tmp_path, "--replace").returncode == 0
    assert load(tmp_path / "tokenizer_save").merges == [(97, 98)]


def test_a_refused_import_leaves_the_existing_tokenizer(tmp_path):
    path = exported(BPETokenizer([(97, 98)]), tmp_path / "tokenizer.json")
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "normalizer": {"type": "NFC"}}), encoding="utf-8")
    BPETokenizer([]).save(tmp_path / "tokenizer_save")
    before = saved(tmp_path / "tokenizer_save")
    message = refusal(convert("import", path, "--home", tmp_path, "--replace"))
    assert "--drop normalizer" in message and saved(tmp_path / "tokenizer_save") == before
    assert convert("import", path, "--home", tmp_path, "--replace", "--drop", "normalizer").returncode == 0


@pytest.mark.parametrize("words, said", [
    (["export", "hugging", "x"], "export huggingface|gguf|ollama|page|peft|gpt2|tiktoken PATH"),
    (["export", "gpt2"], "export huggingface|gguf|ollama|page|peft|gpt2|tiktoken PATH"),
    (["import", "a", "b", "c"], "one path or two"), (["import"], "WORD"), (["improt", "a"], "'improt'"),
    (["import", "a", "--patern", "gpt2"], "did you mean --pattern?"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_wrong_command_line_exits_with_code_2_and_shows_the_right_one(tmp_path, words, said):
    message = refusal(convert(*words, "--home", tmp_path), code=2)
    assert message.startswith("folio.convert: ") and said in message and "python -m folio.convert --help" in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_reported_in_one_sentence(tmp_path):
    assert "There is no nowhere.json. An import takes" in refusal(convert("import", "nowhere.json", "--home", tmp_path))
    assert "python init.py" in refusal(convert("export", "gpt2", tmp_path / "out", "--home", tmp_path))


def test_a_wrong_file_is_named_before_a_tokenizer_that_it_cannot_replace(here, tmp_path):
    BPETokenizer([]).save(tmp_path / "tokenizer_save")
    with pytest.raises(FileNotFoundError, match=r"There is no nowhere.json. An import takes"):
        here("import", "nowhere.json", "--home", tmp_path)


def test_a_suffix_in_capitals_names_the_tokenizer_alone(here, tmp_path):
    BPETokenizer([(97, 98)]).save(tmp_path / "tokenizer_save")
    here("export", "huggingface", tmp_path / "MINE.JSON", "--home", tmp_path)
    assert (tmp_path / "MINE.JSON").is_file()


def test_an_export_does_not_overwrite_a_novel(tmp_path):
    novel = tmp_path / "novel.txt"
    novel.write_text("Once upon a time.", encoding="utf-8")
    assert "novel.txt exists, and is not a tokenizer" in refusal(convert("export", "tiktoken", novel))
    assert novel.read_text(encoding="utf-8") == "Once upon a time."


# --- Models: out ---

@pytest.mark.parametrize("format", TARGETS)
def test_an_export_says_what_was_written_and_how_to_run_it(here, project, tmp_path, format):
    target = tmp_path / TARGETS[format]
    printed = here("export", format, target, "--home", project.folder)
    model = trained_model.load(project.weights("llama"))
    types = {"huggingface": "", "gguf": " in f32", "ollama": " in f32", "page": " in f16"}
    count = sum(parameter.numel() for parameter in model.net.parameters())
    written = sum(len(content) for content in everything_in(tmp_path).values())
    assert printed.startswith(f"llama   {count:,} parameters{types[format]}, {written:,} bytes -> {target}\nNext")
    following = {"huggingface": f'write = pipeline("text-generation", "{target}")',
                 "gguf": f"Next: llama-completion -m {target} -no-cnv ",
                 "ollama": f"ollama create llama -f {target / 'Modelfile'}\n    ollama run llama\n",
                 "page": f"Next: open it in a browser: {target.as_uri()}\n"}
    assert following[format] in printed
    here("export", format, target, "--home", project.folder)           # an earlier export is replaced


def test_the_program_that_is_printed_runs_the_model(here, tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.set_verbosity_error()
    printed = here("export", "huggingface", tmp_path / "out", "--weights", PRETRAINED)
    shown = []
    lines = re.findall(r"^    (.*)$", printed, re.MULTILINE)
    assert len(lines) == 3
    exec("\n".join(lines), {"print": shown.append})
    assert shown[0].startswith("\n") and len(shown[0]) > 100
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "\n".join(lines).replace(str(tmp_path / "out"), "path/to/this/folder") in card


def test_weights_are_chosen_by_name_and_the_type_by_its_flag(here, project, tmp_path):
    sizes = {}
    for type in ("f32", "f16", "q8_0"):
        printed = here("export", "gguf", tmp_path / "out.gguf", "--home", project.folder, "--weights", "lla*", "--type",
                       type)
        assert printed.startswith("llama   ") and f" in {type}, " in printed
        sizes[type] = (tmp_path / "out.gguf").stat().st_size
    assert sizes["f32"] > sizes["f16"] > sizes["q8_0"]
    with pytest.raises(FolioError, match="huggingface has no place for family=lstm"):
        here("export", "huggingface", tmp_path / "lstm", "--home", project.folder, "--weights", "recurrent")
    with pytest.raises(FileNotFoundError, match="There are no weights named lama; did you mean llama?"):
        here("export", "gguf", tmp_path / "lama.gguf", "--home", project.folder, "--weights", "lama")
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


WRONG = [
    ("export huggingface out --type f32", "the format huggingface keeps the numbers as they are"),
    ("export gguf out.gguf --type int8", "the format gguf has f32, f16, q8_0; that is a type of page (f16, f32, int8)"),
    ("export page out.html --type q8_0", "the format page has f16, f32, int8; that is a type of gguf"),
    ("export page story", "name a file that ends in .html, as in: export page story.html"),
    ("export gguf night.bin --type f16", "name a file that ends in .gguf, as in: export gguf night.gguf"),
    ("export ollama out --type q4_0", "the format ollama has f32, f16, q8_0\n"),
    ("export gguf out.gguf --push me/night", "this is gguf: export huggingface FOLDER --push me/night"),
    ("export page out.html --push me/night", "this is page"),
    ("export huggingface out.json --weights llama", "a path that ends in .json is the tokenizer alone: name a folder"),
    ("export huggingface out.json --push me/night", "--push is for the export of a model"),
    ("export gpt2 out --type f16", "--type is for the export of a model, and this is the export of a tokenizer"),
    ("export tiktoken out --weights llama", "--weights is for the export of a model"),
    ("export gguf out.gguf --name night", "--name is for the import of a model, and this is the export of a model"),
    ("export gguf out.gguf --pattern gpt2", "--pattern is for the import of a tokenizer"),
    ("export gguf out.gguf --replace", "--replace is for the import of a tokenizer"),
    ("import out.gguf --name night --weights llama", "--weights is for the export of a model"),
    ("import out.gguf --name night --drop normalizer", "--drop is for the import of a tokenizer"),
    ("import tokenizer.json --type f16", "--type is for the export of a model, and this is the import of a tokenizer"),
    ("import out.gguf --name a/b", "--name a/b cannot be part of a file's name"),
    ("import out.gguf --name ..", "--name .. cannot be part of a file's name"),
    ("import vocab.json merges.txt --name night", "import takes one path of a model"),
]


@pytest.mark.parametrize("words, said", WRONG, ids=[words for words, _ in WRONG])
def test_flags_that_do_not_go_together_are_a_usage_error(usage_error, project, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    message = usage_error(*shlex.split(words), "--home", project.folder)
    assert message.startswith("convert.py: ") and said in message and message.count("\n") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", TARGETS)
def test_an_export_replaces_nothing_but_an_earlier_one(here, project, tmp_path, format):
    target = tmp_path / TARGETS[format]
    is_folder = format in ("huggingface", "ollama")
    novel = target / "novel.txt" if is_folder else target
    novel.parent.mkdir(exist_ok=True)
    novel.write_text("Once upon a time.", encoding="utf-8")
    with pytest.raises(FileExistsError, match="left as it is|left as it was"):
        here("export", format, target, "--home", project.folder)
    assert everything_in(tmp_path) == {novel.relative_to(tmp_path): b"Once upon a time."}
    novel.unlink()
    if is_folder:
        target.rmdir()
        target.write_text("a file where a folder is to be", encoding="utf-8")
    else:
        target.mkdir()
    with pytest.raises(OSError, match="Name a f"):
        here("export", format, target, "--home", project.folder)


@pytest.mark.parametrize("format", TARGETS)
@pytest.mark.parametrize("before", ["nothing", "an export"])
def test_a_full_disk_and_ctrl_c_leave_what_was_there(here, project, tmp_path, monkeypatch, format, before):
    resource = pytest.importorskip("resource")
    call = ("export", format, tmp_path / TARGETS[format], "--home", project.folder)
    if before == "an export":
        here(*call)
    found = everything_in(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError) as refused:
            here(*call)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "out" in str(refused.value.filename) and everything_in(tmp_path) == found

    def interrupted(descriptor):
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here(*call)
    assert everything_in(tmp_path) == found
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({path.parts[0] for path in found})


def test_a_damaged_weights_file_is_not_exported(here, tmp_path):
    path = tmp_path / "weights-torn.pth"
    path.write_bytes(PRETRAINED.read_bytes()[:-1000])
    for format, name in TARGETS.items():
        with pytest.raises(FolioError, match="weights-torn.pth is "):
            here("export", format, tmp_path / name, "--weights", path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_without_weights_the_next_command_is_named(here, tmp_path):
    with pytest.raises(FileNotFoundError, match="Train first: python train.py"):
        here("export", "gguf", tmp_path / "out.gguf", "--home", tmp_path)


# --- Models: to Hugging Face ---

def test_a_push_uploads_the_folder_that_it_wrote(server, project, tmp_path):  # noqa: F811
    folder = tmp_path / "out"
    environment = {**os.environ, "HF_ENDPOINT": server.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
                   "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    done = run_python("-m", "folio.convert", "export", "huggingface", folder, "--home", project.folder,
                      "--push", "me/llama", env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"pushed   -> {server.address}/me/llama\n")
    assert server.repositories == {"me/llama": contents(folder)}


def test_nothing_is_sent_without_being_asked(here, project, tmp_path, monkeypatch):
    def connect(*words):
        raise AssertionError("a connection was opened")
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    for format, name in TARGETS.items():
        here("export", format, tmp_path / format / name, "--home", project.folder)


def test_a_push_that_cannot_work_is_refused_before_anything_is_written(here, project, tmp_path, monkeypatch):
    call = ("export", "huggingface", tmp_path / "out", "--home", project.folder, "--push")
    with pytest.raises(FolioError, match="cannot be a repository's name"):
        here(*call, "a/b/c")
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FolioError, match="not installed: python -m pip install huggingface-hub"):
        here(*call, "me/night")
    assert list(tmp_path.iterdir()) == []


# --- Models: in ---

@pytest.fixture
def originals(here, project, tmp_path):
    """A folder of Hugging Face and a GGUF file to import."""
    here("export", "huggingface", tmp_path / "folder", "--home", project.folder)
    here("export", "gguf", tmp_path / "file.gguf", "--home", project.folder)
    return [tmp_path / "folder", tmp_path / "file.gguf"]


def test_an_imported_model_is_the_same_model(here, project, originals, tmp_path):
    model = trained_model.load(project.weights("llama"))
    tokens = torch.arange(model.params.block_size)[None]
    for path, name in zip(originals, ["folder", "file.v2"], strict=True):
        printed = here("import", path, "--name", name, "--home", tmp_path / "new")
        weights = Home(tmp_path / "new").weights(name)
        count = sum(parameter.numel() for parameter in model.net.parameters())
        assert f"{name}   {count:,} parameters, 280 tokens, {weights.stat().st_size:,} bytes -> {weights}\n" in printed
        assert f"Next: python run.py --weights {name} --home {tmp_path / 'new'}\n" in printed
        assert f"python train.py --start-from {name} --home {tmp_path / 'new'}\n" in printed
        back = trained_model.load(weights)
        assert back.name == name and back.tokenizer.encode("the harbour") == model.tokenizer.encode("the harbour")
        with torch.no_grad():
            torch.testing.assert_close(back.net(tokens), model.net(tokens))


def test_the_progress_of_an_import_counts_every_byte_twice(project, tmp_path):
    contents, counts = checkpoint.load(project.weights("llama")), []
    checkpoint.save(tmp_path / "counted.pth", contents, counts.append)
    checkpoint.save(tmp_path / "plain.pth", contents)
    sizes = sum(tensor.nbytes for tensor in contents["weights"].values())
    assert 2 * sizes <= sum(counts) <= sizes + (tmp_path / "plain.pth").stat().st_size
    assert checkpoint.load(tmp_path / "counted.pth").keys() == checkpoint.load(tmp_path / "plain.pth").keys()


def test_a_model_without_a_name_is_a_usage_error_with_both_commands(usage_error, originals):
    folder, file = originals
    message = usage_error("import", folder)
    assert f"python -m folio.convert import {folder} --name NAME; for its tokenizer alone: " in message
    assert f"python -m folio.convert import {folder / 'tokenizer.json'}\n" in message
    message = usage_error("import", file)
    assert f"python -m folio.convert import {file} --name NAME\n" in message and "tokenizer" not in message


def test_an_import_overwrites_no_run(here, originals, tmp_path):
    home = Home(tmp_path / "new")
    for path, taken in ((originals[0], home.weights("night")), (originals[1], home.log("night")),
                        (originals[1], home.resume("night"))):
        shutil.rmtree(home.folder, ignore_errors=True)
        taken.parent.mkdir(parents=True)
        taken.write_bytes(b"a run")
        with pytest.raises(FileExistsError, match="There is a run named night already"):
            here("import", path, "--name", "night", "--home", home.folder)
        assert everything_in(home.folder) == {taken.relative_to(home.folder): b"a run"}


def test_a_full_disk_and_ctrl_c_leave_no_half_of_an_import(here, originals, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    call = ("import", originals[1], "--name", "night", "--home", tmp_path / "new")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            here(*call)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything_in(tmp_path / "new") == {}

    def interrupted(descriptor):
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here(*call)
    assert everything_in(tmp_path / "new") == {}


def test_what_is_no_model_is_answered_with_what_to_name(here, originals, tmp_path):
    folder, file = originals
    (tmp_path / "novel.txt").write_text("Once upon a time.", encoding="utf-8")
    (tmp_path / "for-ollama").mkdir()
    shutil.copy(file, tmp_path / "for-ollama" / "model.gguf")
    for path, said in ((tmp_path / "nowhere", "There is no .*nowhere. A model is a folder with config.json"),
                       (folder / "tokenizer.json", f"Without it: python -m folio.convert import {folder}"),
                       (folder / "model.safetensors", f"Name the folder it lies in: .* import {folder} --name NAME"),
                       (PRETRAINED, "needs no import: python run.py --weights"),
                       (tmp_path / "for-ollama", r"Name that file: .* import .*model\.gguf --name NAME"),
                       (tmp_path / "novel.txt", "is no model that can be imported")):
        with pytest.raises((FolioError, FileNotFoundError), match=said):
            here("import", path, "--name", "night")
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "torn.gguf").write_bytes(file.read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    for name in ("empty.gguf", "torn.gguf", "empty"):
        with pytest.raises((FolioError, OSError)) as refused:
            here("import", tmp_path / name, "--name", "night", "--home", tmp_path / "new")
        assert name in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "new").exists()
