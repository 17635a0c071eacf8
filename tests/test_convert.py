"""python -m folio.convert exports and imports tokenizers, and replaces one only when asked."""

import json

import pytest

from conftest import ROOT, refusal, run_python
from folio.data import corpus
from folio.formats.tokenizers import WRITERS, write
from folio.kernels.splitting import SPLIT_PATTERNS
from test_tokenizer_files import saved
from tokenizer import BPETokenizer, load


def convert(*words):
    return run_python("-m", "folio.convert", *words)


def exported(tokenizer, path):
    """Write a tokenizer.json. -> its path"""
    write(tokenizer, "huggingface", path)
    return path


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
    (["export", "hugging", "x"], "export huggingface|gpt2|tiktoken PATH"),
    (["export", "gpt2"], "export huggingface|gpt2|tiktoken PATH"),
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


def test_an_export_does_not_overwrite_a_novel(tmp_path):
    novel = tmp_path / "novel.txt"
    novel.write_text("Once upon a time.", encoding="utf-8")
    assert "novel.txt exists, and is not a tokenizer" in refusal(convert("export", "tiktoken", novel))
    assert novel.read_text(encoding="utf-8") == "Once upon a time."
