"""Any text is taken: whatever its files are called, packed or written in, the same documents come out, or one message says why not."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from conftest import ROOT, InMemory, refusal, run_python, run_script
from hypothesis import example, given
from hypothesis import strategies as st

from folio.data import corpus, encoding, mending, paths, sources
from folio.base import parallel
from folio.kernels import splitting
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.data.paths import absolute_paths, find_files
from folio.data.sources import Documents
from Model_Params import TextParams
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer

SMALL = TextParams(vocab_size=300)
WORDS = "To be, or not to be, that is the question.\n" * 40
STORIES = ["Once upon a time.\n", "Zwei Bären\n\nund ein \"Fuchs\".", "三\u2028", "<|endoftext|> in the middle of a line", "\ttab"]


def texts_in(documents):
    """The documents' texts, as a list."""
    texts, text = [], ""
    for chunk, ends_document in documents:
        text += chunk
        if ends_document:
            texts.append(text)
            text = ""
    assert text == ""
    return texts


def read(content, name="text.txt", invalid_bytes="refuse", field="text"):
    return texts_in(Documents([InMemory(content, name)], invalid_bytes, field))


def json_lines(texts, field="text"):
    return "".join(json.dumps({"id": number, field: text}) + "\n" for number, text in enumerate(texts)).encode()


def trained_on(made, tokenizer):
    """The documents that the tokens of a corpus spell."""
    text = tokenizer.decode(made.tokens)
    return text.removesuffix(END_OF_TEXT).split(END_OF_TEXT)


def as_mended(text):
    """What a reader of whole documents would make of line ends and byte order marks."""
    return "\n".join(line.lstrip("\ufeff") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def message_of(action, *arguments, **options):
    with pytest.raises((FolioError, FileNotFoundError)) as caught:
        action(*arguments, **options)
    assert type(caught.value) in (FolioError, FileNotFoundError) and "\n" not in str(caught.value)
    return str(caught.value)


# --- Documents in plain text ---

def documents_of(text):
    """What a reader line by line would make of a text."""
    documents = [""]
    for line in text.splitlines(keepends=True):
        if line.removesuffix("\n") == END_OF_TEXT:
            documents.append("")
        else:
            documents[-1] += line
    return [document for document in documents if document]


@given(st.lists(st.sampled_from([END_OF_TEXT, "\n", END_OF_TEXT + "\n", "\n" + END_OF_TEXT, "a", "<|endof", "text|>", " ", "é"])).map("".join),
       st.integers(3, 30))
@example(f"a\n{END_OF_TEXT}\n{END_OF_TEXT}\nb", 1 << 20)
@example(f"{END_OF_TEXT}\na\n{END_OF_TEXT}", 5)
def test_a_line_of_end_of_text_alone_separates_documents_wherever_a_block_ends(text, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block_bytes)
        assert read(text.encode()) == documents_of(text)
        assert read(text.replace("\n", "\r\n").encode()) == documents_of(text)
        assert read(gzip.compress(text.encode()), "text.txt.gz") == documents_of(text)


def test_the_stories_of_a_plain_file_become_documents_of_the_corpus(home):
    stories = [f"Story {number}.\n" * 10 for number in range(30)]
    tokenizer, made = corpus.open_corpus(home(f"{END_OF_TEXT}\n".join(stories)), SMALL)
    assert (made.documents, trained_on(made, tokenizer)) == (30, stories)


def test_an_empty_document_counts_as_none(home):
    project = home({"a.txt": "", "b.txt": WORDS, "c.txt": f"{END_OF_TEXT}\n" * 3, "d.jsonl": b'{"text": ""}\n'})
    tokenizer, made = corpus.open_corpus(project, SMALL)
    assert made.documents == 1 and tokenizer.end_of_text not in made.tokens


@pytest.mark.parametrize("end", ["</s>", "<|end_of_text|>", "<eos>", "[EOS]"])
def test_an_imported_tokenizer_ends_documents_with_its_own_token(home, end):
    project = home({"a.jsonl": json_lines(["The yak sleeps."] * 60)})
    BPETokenizer([], special_tokens=["<s>", "<pad>", end, "<unk>"]).save(project.tokenizer)
    tokenizer, made = corpus.open_corpus(project, say=lambda sentence: None)
    assert tokenizer.special_tokens[2] == end and tokenizer.end_of_text == 258 and (made.tokens == 258).sum() == made.documents == 60


def test_without_an_end_token_a_line_end_sets_documents_apart_and_that_is_said(home):
    said = []
    project = home({"a.txt": WORDS.strip(), "b.txt": WORDS, "c.txt": WORDS})
    CharTokenizer.train([WORDS]).save(project.tokenizer)
    tokenizer, made = corpus.open_corpus(project, say=said.append)
    assert tokenizer.decode(made.tokens) == WORDS * 3 and made.train_bytes + made.val_bytes == 3 * len(WORDS)
    assert "a line end sets the 3 documents apart" in said[-1]


def test_documents_that_nothing_can_set_apart_are_refused(home):
    project = home({"a.txt": "tobe" * 100, "b.txt": "ornot" * 100})
    CharTokenizer.train(["tobeornot"]).save(project.tokenizer)
    message = message_of(corpus.open_corpus, project, say=lambda sentence: None)
    assert "The text has 2 documents, and the tokenizer nothing to set them apart" in message and "Put them into one file" in message
    (project.train_data / "b.txt").unlink()
    assert corpus.open_corpus(project, say=lambda sentence: None)[1].documents == 1


# --- Formats ---

def parquet_file(path, texts, field="text", **how):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    column = texts if isinstance(texts, (pyarrow.Array, pyarrow.ChunkedArray)) else pyarrow.array(texts)
    parquet.write_table(pyarrow.table({"id": list(range(len(column))), field: column}), path, **how)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL", "a.jsonl.gz", "a.NDJSON.GZ", "a.parquet", "a.PARQUET"])
def test_the_format_is_told_by_the_suffix_in_folders_too(tmp_path, name):
    file = tmp_path / "deep" / name
    file.parent.mkdir()
    if "parquet" in name.lower():
        parquet_file(file, STORIES)
    else:
        content = json_lines(STORIES)
        file.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    assert texts_in(Documents(find_files([tmp_path]))) == STORIES


@pytest.mark.parametrize("name", ["a.ipynb", "a.csv", "a.html", "a.json", "a", "a.TXT.gz", "a.md.gz"])
def test_everything_else_is_plain_text(name):
    content = b'{"text": "one"}\r\n{"text": "two"}'
    packed = gzip.compress(content) if name.endswith(".gz") else content
    assert read(packed, name) == ['{"text": "one"}\n{"text": "two"}']


@given(st.lists(st.text() | st.text(st.sampled_from("\r\n\ufeffa"))), st.integers(1, 50), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n  \n"]))
def test_json_lines_come_out_as_the_json_module_reads_them(texts, block_bytes, ascii_only, line_end):
    content = "".join(json.dumps({"text": text}, ensure_ascii=ascii_only) + line_end for text in texts).encode("utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block_bytes)
        expected = [mended for text in texts if (mended := as_mended(text.replace("\0", "\ufffd")))]
        assert read(content, "a.jsonl", "replace") == expected
        assert read(gzip.compress(content), "a.jsonl.gz", "replace") == expected


@given(st.data(), st.integers(1, 7), st.integers(0, 9), st.booleans())
def test_a_line_too_long_to_be_held_is_read_as_any_other(data, block_bytes, long_line, ascii_only):
    text = st.text() | st.text(st.sampled_from('"\\\\{}[]:,\r\n\ufeffaé😀'))
    values = st.recursive(st.none() | st.booleans() | st.integers() | text, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=9)
    records = data.draw(st.lists(st.tuples(text, st.dictionaries(text, values), st.dictionaries(text, values)), max_size=3))
    lines = [json.dumps({**before, "text": text, **{key: value for key, value in after.items() if key != "text"}}, ensure_ascii=ascii_only)
             for text, before, after in records]
    mark = "\ufeff" if records and data.draw(st.booleans()) else ""
    content = (mark + "\n".join(lines)).encode("utf-8", errors="surrogatepass")
    expected = read(content, "a.jsonl", "replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block_bytes)
        patch.setattr(sources, "LONG_LINE", long_line)
        assert read(content, "a.jsonl", "replace") == expected


@pytest.mark.parametrize("line, said", [
    (b'{"title": "x", "body": [{"text": 1}]}', "has no field 'text', only 'title', 'body'. Say which one has the text: --field NAME."),
    (b'{"text": 5, "body": "y"}', "has a number in its field 'text', not text. Its fields are 'text', 'body'. "),
    (b'["a", "b"]', "is no JSON object but a list. Each line should be like"),
    (b'{"text": "unfinished', "is not JSON ("), (b'{"text": "a"', "is not JSON ("), (b'{"text": "a" "b"}', "is not JSON ("),
    (b'{"text": "a\\u12"}', "is not JSON ("), (b'{"text": "a\\q"}', "is not JSON ("), (b"[" * 10_000, "is not JSON ("),
    (b'{"text": "a", "text": "b"}', "is not JSON (it has two fields 'text')"),
    (b'{"text": "a\0b"}', "is not UTF-8 text: byte 0x00 at"), (b'{"text": "a\\u0000b"}', "is not UTF-8 text: byte 0x00 at offset 1."),
    (b'{"text": "caf\xe9"}', "is not UTF-8 text: byte 0xE9 at offset 3."),
], ids=lambda value: str(value[:30]))
def test_a_long_line_that_has_no_text_is_named_as_well(monkeypatch, line, said):
    monkeypatch.setattr(sources, "LONG_LINE", 0)
    for block_bytes in (1, 3):
        monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
        message = message_of(read, b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n', "a.jsonl")
        assert ", line 3," in message and said in message


def test_line_ends_and_byte_order_marks_are_mended_whatever_the_text_lies_in(tmp_path):
    wrong, right = "\ufeffone\r\ntwo\rthree\n", "one\ntwo\nthree\n"
    mended = {"byte order mark": 2, "CRLF": 2, "CR": 2}
    for name, content in (("a.txt", (wrong * 2).encode()), ("a.txt.gz", gzip.compress(wrong.encode()) * 2),
                          ("a.jsonl", json_lines([wrong] * 2)), ("a.jsonl.gz", gzip.compress(json_lines([wrong])) * 2)):
        documents = Documents([InMemory(content, name)])
        assert ("".join(texts_in(documents)), documents.mended) == (right * 2, mended), name
    documents = Documents([parquet_file(tmp_path / "a.parquet", [wrong, wrong])])
    assert (texts_in(documents), documents.mended) == ([right, right], mended)


def test_a_separator_inside_a_line_is_counted_and_said(home, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 7)
    stories = f"<|startoftext|>Once.{END_OF_TEXT}\n" * 3 + f"{END_OF_TEXT}\n{END_OF_TEXT} \nThe end.\n{END_OF_TEXT}"
    for name, content, count in ("a.txt", stories.encode(), 4), ("a.jsonl", json_lines([stories]), 6), ("b.txt", WORDS.encode(), 0):
        documents = Documents([InMemory(content, name)])
        list(documents)
        assert documents.mended[mending.STRAY_SEPARATOR] == count
    done = run_script("init.py", "--home", home((stories + "\n") * 20).folder, "--vocab-size", 300)
    assert f"{END_OF_TEXT} stands 80 times inside a line, where it is ordinary text and ends no document. To separate documents it" in done.stdout


def test_the_last_line_may_lack_its_end_and_the_first_may_have_a_byte_order_mark():
    documents = Documents([InMemory(b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}', "a.jsonl")])
    assert (texts_in(documents), documents.mended) == (["a", "b"], {"byte order mark": 1})


def test_the_field_has_the_name_that_is_asked_for(home, tmp_path):
    project = home({"a.jsonl": json_lines([WORDS, WORDS], "body")})
    parquet_file(project.train_data / "b.parquet", [WORDS], "body")
    done = run_script("init.py", "--home", project.folder, "--field", "body", "--vocab-size", 300)
    assert "3 documents" in done.stdout, done.stderr
    (project.train_data / "a.jsonl").write_bytes(json_lines([WORDS], "body"))       # and train.py remembers it
    assert corpus.open_corpus(project, say=lambda sentence: None)[1].documents == 2


def test_a_nul_in_a_json_line_and_half_a_pair_are_replaced_and_counted_when_asked_for():
    lines = b'{"text": "a\0b"}\n{"text": "c\\ud800"}\n'
    for how, texts, count in ("replace", ["a\ufffdb", "c\ufffd"], 2), ("keep", ["a\0b", "c\ufffd"], 1):
        documents = Documents([InMemory(lines, "a.jsonl")], how)
        assert texts_in(documents) == texts and documents.mended == {"U+FFFD for what was no text": count}


def test_parquet_inside_gzip_is_to_be_unpacked_first(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    assert "unpacked first: gunzip a.parquet.gz" in message_of(list, Documents([tmp_path / "a.parquet.gz"]))


@pytest.mark.parametrize("line, said", [
    (b'{"title": "x", "body": "y"}', "has no field 'text', only 'title', 'body'. Say which one has the text: --field NAME."),
    (b'{}', "has no field 'text', only none at all"),
    (b'{"text": 5, "body": "y"}', "has a number in its field 'text', not text. Its fields are 'text', 'body'. "),
    (b'{"text": null}', "has null in its field 'text', not text"),
    (b'{"text": true}', "has a truth value"),
    (b'{"text": ["a"]}', "has a list"),
    (b'["a", "b"]', "is no JSON object but a list. Each line should be like"),
    (b'"a"', "is no JSON object but a string"),
    (b'{"text": "unfinished', "is not JSON ("),
    (b"Once upon a time", "is not JSON (Expecting value"),
    (b"[" * 100_000, "is not JSON ("),
    (b'{"text": "caf\xe9"}', "is not UTF-8 text: byte 0xE9 at offset 3. It may be in another encoding"),
    ('{"text": "a"}'.encode("utf-16"), "is not UTF-8 text: byte 0x00 at offset 3. It looks like UTF-16"),
    (b'{"text": "a\\u0000b"}', "is not UTF-8 text: byte 0x00 at offset 1. NUL belongs to no text: take it out. Or pass --invalid-bytes"),
    (b'{"text": "\\ud83d"}', "is not UTF-8 text: U+D83D at offset 0. Half of a surrogate pair is no character: take it out. Or pass"),
], ids=lambda value: str(value[:30]))
def test_a_line_that_has_no_text_is_named_with_its_number_and_fields(line, said):
    content = b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n'
    message = message_of(read, content, "a.jsonl")
    assert ", line 3," in message and said in message


def test_what_is_no_text_in_a_line_is_replaced_or_kept_when_asked_for():
    line = b'{"text": "a\\u0000\xe9\\ud83d\\ud83d\\ude00"}'
    documents = Documents([InMemory(line, "a.jsonl")], "replace")
    assert (texts_in(documents), documents.mended) == (["a\ufffd\ufffd\ufffd😀"], {"U+FFFD for what was no text": 3})
    assert read(line, "a.jsonl", "keep") == ["a\0\udce9\ufffd😀"]


def test_a_line_that_is_no_document_is_one_message_of_init(home):
    message = refusal(run_script("init.py", "--home", home({"a.jsonl": json_lines([WORDS], "body")}).folder))
    assert "a.jsonl, line 1, has no field 'text', only 'id', 'body'." in message and message.count("\n") == 1


PACKED = gzip.compress(random.Random(1).randbytes(20_000).hex().encode())


@pytest.mark.parametrize("content", [PACKED[:-9], PACKED[:5000], PACKED[:3], PACKED[:9000] + b"\0" * 50 + PACKED[9050:], b"plain text",
                                     PACKED + b"x"],
                         ids=["checksum missing", "truncated", "nothing but its beginning", "damaged", "not packed", "something behind it"])
@pytest.mark.parametrize("name", ["book.txt.gz", "data.jsonl.gz"])
def test_a_damaged_gzip_file_is_one_message_with_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    if name == "data.jsonl.gz" and content[:2] == PACKED[:2]:
        content = gzip.compress(json_lines(["a" * 50] * 5000), mtime=0)
        (tmp_path / name).write_bytes(content[:len(content) // 2])
    message = message_of(list, Documents([tmp_path / name]))
    assert message.startswith(f"{tmp_path / name} is damaged, or no gzip file (") and message.endswith("Fetch it anew.")


# --- Parquet ---

def test_rows_are_documents_and_nulls_are_passed_over(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    texts = [*STORIES, None, "", "last"]
    expected = [*STORIES, "last"]
    for number, column in enumerate([pyarrow.array(texts), pyarrow.array(texts, pyarrow.large_string()), pyarrow.array(texts).dictionary_encode(),
                                     pyarrow.array([text and text.encode() for text in texts])]):
        file = parquet_file(tmp_path / f"{number}.parquet", column, row_group_size=3, compression="zstd")
        documents = Documents([file])
        assert texts_in(documents) == expected, column.type
        assert documents.bytes_read == documents.file_bytes
    monkeypatch.setattr(sources, "BLOCK_BYTES", 10)
    assert texts_in(documents) == expected


def test_a_missing_column_and_one_of_numbers_are_named_with_the_columns_there_are(tmp_path):
    file = parquet_file(tmp_path / "a.parquet", ["one"], "body")
    assert message_of(list, Documents([file])) == f"{file} has no column 'text', only 'id', 'body'. Say which one has the text: --field NAME."
    assert f"{file} has int64 in its column 'id', not text. Its columns are 'id', 'body'." in message_of(list, Documents([file], field="id"))


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-30], lambda content: b"just text, nothing else",
                                    lambda content: content[:4] + b"\0" * (len(content) // 2) + content[4 + len(content) // 2:]],
                         ids=["empty", "truncated", "text", "zeros inside"])
def test_a_damaged_parquet_file_is_one_message_with_its_name(tmp_path, damage):
    file = parquet_file(tmp_path / "a.parquet", [str(number) for number in range(5000)])
    file.write_bytes(damage(file.read_bytes()))
    assert message_of(list, Documents([file])).startswith(f"{file} is damaged, or no Parquet file (")


def test_bytes_of_a_row_that_are_not_utf_8_are_named_with_the_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    file = parquet_file(tmp_path / "a.parquet", pyarrow.array([b"good", None, b"caf\xe9"]))
    assert f"{file}, row 3, is not UTF-8 text: byte 0xE9 at offset 3." in message_of(list, Documents([file]))
    assert texts_in(Documents([file], "keep")) == ["good", "caf\udce9"]
    assert texts_in(Documents([file], "replace")) == ["good", "caf\ufffd"]


def test_without_pyarrow_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    file = parquet_file(tmp_path / "a.parquet", ["one"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert message_of(list, Documents([file])) == f"To read {file} takes pyarrow, which is not installed: python -m pip install pyarrow"


# --- Large files and many documents ---

@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt.gz", "a.parquet"])
def test_a_large_file_is_never_held_whole(tmp_path, name):
    texts = [f"{number} " + "to be or not " * 400 for number in range(6000)]            # 30 MB
    content = json_lines(texts) if "jsonl" in name else " ".join(texts).encode()
    if name == "a.parquet":
        parquet_file(tmp_path / name, texts, row_group_size=500)
    else:
        (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    characters = sum(map(len, texts)) + ("txt" in name) * (len(texts) - 1)
    del texts, content
    documents = Documents([tmp_path / name])
    tracemalloc.start()
    assert sum(len(chunk) for chunk, _ in documents) == characters
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000 and documents.bytes_read == documents.file_bytes


def test_small_documents_reach_other_processes_together(home, monkeypatch):
    messages = []

    def watched(work, pieces, *others):
        pieces = list(pieces)
        messages.append(len(pieces))
        return parallel.in_order(work, pieces, *others)

    monkeypatch.setattr(encoding, "in_order", watched)
    texts = [f"document {number}" for number in range(20_000)]
    tokenizer, made = corpus.open_corpus(home({"a.jsonl": json_lines(texts)}), SMALL)
    assert made.documents == 20_000 and trained_on(made, tokenizer) == texts
    assert len(messages) == 2 and max(messages) <= 3


@pytest.mark.parametrize("message_characters, processes", [(1, 1), (1000, 2), (10**9, 1)])
def test_tokens_do_not_depend_on_what_goes_together(home, plays, monkeypatch, message_characters, processes):
    texts = [plays[start:start + 300] for start in range(0, 60_000, 300)]
    expected = corpus.open_corpus(home({"a.jsonl": json_lines(texts), "b.txt": plays[:50_000]}), SMALL)
    monkeypatch.setattr(splitting, "BATCH", message_characters)
    monkeypatch.setattr(encoding, "_processes", lambda survey: processes)
    tokenizer, made = corpus.open_corpus(home({"a.jsonl": json_lines(texts), "b.txt": plays[:50_000]}), SMALL)
    assert tokenizer.merges == expected[0].merges
    assert (made.tokens.tolist(), made.fingerprint, made.train_tokens) == (
        expected[1].tokens.tolist(), expected[1].fingerprint, expected[1].train_tokens)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=40), st.floats(0.02, 0.5), st.integers(20, 500))
def test_the_split_is_the_one_that_all_document_ends_together_would_give(lengths, val_fraction, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "VAL_BYTES_LIMIT", limit)
        patch.setattr(Documents, "file_bytes", 0)
        documents = Documents([InMemory(b"x" * length) for length in lengths])
        survey = encoding.survey_text(documents, val_fraction)
    total = sum(lengths)
    ends = [sum(lengths[:number + 1]) for number in range(len(lengths))]
    wanted = min(total - int(total * (1 - val_fraction)), limit)
    suitable = [end for end in ends if wanted / 2 <= total - end <= min(wanted * 2, total / 2, limit)]
    assert survey.train_bytes == min(suitable, key=lambda end: abs(end - (total - wanted)), default=total - wanted)
    assert survey.documents == len(lengths)


# --- Paths ---

@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder with some notes, which is the current one."""
    for name in ("notes/a.md", "notes/deep/b.md", "notes/deep/c.txt", "notes/.hidden/d.md", "novel.txt", "list [1].txt"):
        (tmp_path / "shelf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shelf" / name).write_text(name, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "shelf")
    return Home(tmp_path / "shelf" / "project")


def found(home, *names):
    return [file.relative_to(Path.cwd()).as_posix() for file in find_files(absolute_paths(names, home), ignored=[home.tokens, home.downloads])]


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
    for link, target in {"notes/books": tmp_path / "data", "notes/deep/up": "..", "notes/deep/again": "..", "notes/0.md": "a.md", "notes/lost": "x",
                         "notes/round": "round", "other": "notes"}.items():
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
    assert f"{Path.cwd() / 'loop'} is a symbolic link to loop, which leads to no file." in message_of(found, shelf, "loop")


def test_an_empty_path_is_refused(home):
    assert refusal(run_script("init.py", "--home", home({}).folder, "")).startswith("A path is empty, as where a variable of the shell has no value.")


# --- Standard input ---

@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no pipes with names here")
def test_a_pipe_with_a_name_is_read_as_standard_input_is(home, tmp_path):
    project = home({})
    how = ["init.py", "--home", project.folder, "--vocab-size", 300]
    assert run_script(*how, "/dev/stdin", input=WORDS).returncode == 0 and kept(project) == [WORDS]
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen([sys.executable, "-c", f"open({str(tmp_path / 'pipe')!r}, 'w').write({WORDS * 2!r})"]):
        done = run_script(*how, tmp_path / "pipe")
    assert (done.returncode, done.stderr) == (0, "") and kept(project) == [WORDS * 2]
    assert corpus.open_corpus(project, say=pytest.fail)[1].train_bytes > len(WORDS)
    reading, writing = os.pipe()
    os.write(writing, WORDS.encode())
    os.close(writing)
    done = subprocess.run([sys.executable, ROOT / "init.py", *map(str, how[1:]), f"/dev/fd/{reading}"], pass_fds=[reading], capture_output=True)
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
    assert done.returncode == 1 and f"byte 0xFF at offset {len(WORDS)}".encode() in done.stderr and b"Traceback" not in done.stderr


# --- tiny shakespeare ---

@pytest.fixture
def server(monkeypatch):
    """A web server on this machine in the place of the real one; `contents` is what it has, `asked` who came."""
    class Handler(BaseHTTPRequestHandler):
        contents, asked = {}, []

        def do_GET(self):
            self.asked.append(self.path)
            content = self.contents.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"") + 5 * ("short" in self.path)))       # promises more than comes
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    Handler.contents, Handler.asked = {"/input.txt": WORDS.encode(), "/wrong": b"Log in to this network.", "/short": WORDS.encode()}, []
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


def everything_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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
                                         ("/missing", "cannot be downloaded (HTTP Error 404"), ("/short", "cannot be downloaded (IncompleteRead")])
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
    assert message.startswith("tinyshakespeare cannot be downloaded (") and str(project.downloads / "tinyshakespeare.txt") in message


def test_a_file_put_there_by_hand_is_taken_if_it_is_the_right_one(home, server):
    place = Path("downloads") / "tinyshakespeare.txt"
    project = home({place: WORDS})
    assert corpus.open_corpus(project, SMALL, ["tinyshakespeare"])[1].documents == 1
    (project.train_data / place).write_text(WORDS[:-1], encoding="utf-8")
    assert f"{project.train_data / place} is not tinyshakespeare" in message_of(corpus.open_corpus, project, SMALL, ["tinyshakespeare"])
    assert server.asked == []


def test_a_file_or_folder_of_that_name_comes_first(home, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tinyshakespeare").mkdir()
    Path("tinyshakespeare/mine.txt").write_text(WORDS, encoding="utf-8")
    made = corpus.open_corpus(home({}), SMALL, ["tinyshakespeare"])[1]
    assert (made.documents, server.asked) == (1, [])


def test_the_checksum_is_that_of_the_text_everybody_uses(tiny_shakespeare):
    assert sha256(tiny_shakespeare.encode()).hexdigest() == paths.TINY_SHAKESPEARE_SHA256


# --- The front door ---

def test_help_names_what_may_be_read():
    shown = " ".join(run_python(ROOT / "init.py", "--help").stdout.split())
    for said in ("globs", ".jsonl", ".parquet", ".gz", "standard input", "tinyshakespeare", "--field NAME"):
        assert said in shown
