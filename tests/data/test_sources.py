"""folio/data/sources.py: the same documents from every format and compression, or one message that says why not."""

import gzip
import json
import random
import sys
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import InMemory, refusal, run_script
from folio.data import corpus
from folio.data.paths import find_files
from folio.data.sources import Documents
from folio.readers import mending, parquet, source
from Model_Params import TextParams
from small_texts import SMALL, STORIES, WORDS, json_lines, message_of, parquet_file, texts_in, trained_on
from tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer


def read(content, name="text.txt", invalid_bytes="refuse", field="text"):
    return texts_in(Documents([InMemory(content, name)], TextParams(invalid_bytes=invalid_bytes, field=field)))


def as_mended(text):
    """Return a text as a reader of whole documents would mend its line ends and byte order marks."""
    return "\n".join(line.lstrip("\ufeff") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


# --- Documents in plain text ---

def documents_of(text):
    """Return the documents of a text as a reader line by line would find them."""
    documents = [""]
    for line in text.splitlines(keepends=True):
        if line.removesuffix("\n") == END_OF_TEXT:
            documents.append("")
        else:
            documents[-1] += line
    return [document for document in documents if document]


@given(st.lists(st.sampled_from([END_OF_TEXT, "\n", END_OF_TEXT + "\n", "\n" + END_OF_TEXT, "a", "<|endof", "text|>",
                                 " ", "é"])).map("".join),
       st.integers(3, 30))
@example(f"a\n{END_OF_TEXT}\n{END_OF_TEXT}\nb", 1 << 20)
@example(f"{END_OF_TEXT}\na\n{END_OF_TEXT}", 5)
def test_a_line_of_end_of_text_alone_separates_documents_wherever_a_block_ends(text, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", block_bytes)
        assert read(text.encode()) == documents_of(text)
        assert read(text.replace("\n", "\r\n").encode()) == documents_of(text)
        assert read(gzip.compress(text.encode()), "text.txt.gz") == documents_of(text)


def test_the_stories_of_a_plain_file_become_documents_of_the_corpus(home):
    stories = [f"Story {number}.\n" * 10 for number in range(30)]
    tokenizer, made = corpus.open_corpus(home(f"{END_OF_TEXT}\n".join(stories)), SMALL)
    assert (made.documents, sorted(trained_on(made, tokenizer))) == (30, sorted(stories))


def test_an_empty_document_counts_as_none(home):
    project = home({"a.txt": "", "b.txt": WORDS, "c.txt": f"{END_OF_TEXT}\n" * 3, "d.jsonl": b'{"text": ""}\n'})
    tokenizer, made = corpus.open_corpus(project, SMALL)
    assert made.documents == 1 and tokenizer.end_of_text not in made.tokens


@pytest.mark.parametrize("end", ["</s>", "<|end_of_text|>", "<eos>", "[EOS]"])
def test_an_imported_tokenizer_ends_documents_with_its_own_token(home, end):
    project = home({"a.jsonl": json_lines(["The yak sleeps."] * 60)})
    BPETokenizer([], special_tokens=["<s>", "<pad>", end, "<unk>"]).save(project.tokenizer)
    tokenizer, made = corpus.open_corpus(project, say=lambda sentence: None)
    assert tokenizer.special_tokens[2] == end and tokenizer.end_of_text == 258
    assert (made.tokens == 258).sum() == made.documents == 60


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
    assert "The text has 2 documents, and the tokenizer nothing to set them apart" in message
    assert "Put them into one file" in message
    (project.train_data / "b.txt").unlink()
    assert corpus.open_corpus(project, say=lambda sentence: None)[1].documents == 1


# --- Formats ---

@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL", "a.jsonl.gz", "a.NDJSON.GZ", "a.parquet",
                                  "a.PARQUET"])
def test_the_format_is_told_by_the_suffix_in_folders_too(tmp_path, name):
    file = tmp_path / "deep" / name
    file.parent.mkdir()
    if "parquet" in name.lower():
        parquet_file(file, STORIES)
    else:
        content = json_lines(STORIES)
        file.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    assert texts_in(Documents(find_files([tmp_path]))) == STORIES


@pytest.mark.parametrize("name", ["a.ipynb", "a.csv", "a.md", "a", "a.TXT.gz", "a.md.gz"])
def test_everything_else_is_plain_text(name):
    content = b'{"text": "one"}\r\n{"text": "two"}'
    packed = gzip.compress(content) if name.endswith(".gz") else content
    assert read(packed, name) == ['{"text": "one"}\n{"text": "two"}']


@given(st.lists(st.text() | st.text(st.sampled_from("\r\n\ufeffa"))), st.integers(1, 50), st.booleans(),
       st.sampled_from(["\n", "\r\n", "\n\n  \n"]))
def test_json_lines_come_out_as_the_json_module_reads_them(texts, block_bytes, ascii_only, line_end):
    content = "".join(json.dumps({"text": text}, ensure_ascii=ascii_only) + line_end for text in texts).encode("utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", block_bytes)
        expected = [mended for text in texts if (mended := as_mended(text.replace("\0", "\ufffd")))]
        assert read(content, "a.jsonl", "replace") == expected
        assert read(gzip.compress(content), "a.jsonl.gz", "replace") == expected


@given(st.data(), st.integers(1, 7), st.integers(0, 9), st.booleans())
def test_a_line_too_long_to_be_held_is_read_as_any_other(data, block_bytes, long_line, ascii_only):
    text = st.text() | st.text(st.sampled_from('"\\\\{}[]:,\r\n\ufeffaé😀'))
    values = st.recursive(st.none() | st.booleans() | st.integers() | text,
                          lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=9)
    objects = st.dictionaries(text, values)
    records = data.draw(st.lists(st.tuples(text, objects, objects), max_size=3))
    lines = []
    for text, before, after in records:
        after.pop("text", None)
        lines.append(json.dumps({**before, "text": text, **after}, ensure_ascii=ascii_only))
    mark = "\ufeff" if records and data.draw(st.booleans()) else ""
    content = (mark + "\n".join(lines)).encode("utf-8", errors="surrogatepass")
    expected = read(content, "a.jsonl", "replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", block_bytes)
        patch.setattr("folio.readers.json_lines.LONG_LINE", long_line)
        assert read(content, "a.jsonl", "replace") == expected


@pytest.mark.parametrize("line, said", [
    (b'{"text": 5, "body": "y"}', "has a number in its field 'text', not text. Its fields are 'text', 'body'. "),
    (b'["a", "b"]', "is no JSON object but a list. Each line should be like"),
    (b'{"text": "unfinished', "is not JSON ("), (b'{"text": "a"', "is not JSON ("),
    (b'{"text": "a" "b"}', "is not JSON ("),
    (b'{"text": "a\\u12"}', "is not JSON ("), (b'{"text": "a\\q"}', "is not JSON ("), (b"[" * 10_000, "is not JSON ("),
    (b'{"text": "a", "text": "b"}', "is not JSON (it has two fields 'text')"),
    (b'{"text": "a\0b"}', "is not UTF-8 text: byte 0x00 at"),
    (b'{"text": "a\\u0000b"}', "is not UTF-8 text: byte 0x00 at offset 1."),
    (b'{"text": "caf\xe9"}', "is not UTF-8 text: byte 0xE9 at offset 3."),
], ids=lambda value: str(value[:30]))
def test_a_long_line_that_has_no_text_is_named_as_well(monkeypatch, line, said):
    monkeypatch.setattr("folio.readers.json_lines.LONG_LINE", 0)
    for block_bytes in (1, 3):
        monkeypatch.setattr(source, "BLOCK_BYTES", block_bytes)
        message = message_of(read, b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n', "a.jsonl")
        assert ", line 3," in message and said in message


@pytest.mark.parametrize("long_line", [0, 1 << 22])
def test_lines_without_the_field_are_left_out_unless_all_are(monkeypatch, long_line):
    monkeypatch.setattr("folio.readers.json_lines.LONG_LINE", long_line)
    monkeypatch.setattr(source, "BLOCK_BYTES", 3)
    lacking = b'{"title": "x", "body": [{"text": 1}]}\n{"text": null}\n{"text": ""}\n'
    documents = Documents([InMemory(b'{"text": "good"}\n' + lacking, "a.jsonl")])
    assert texts_in(documents) == ["good"]
    assert documents.mended == {"{count|line|lines} without a value in 'text', left out.": 3}
    assert (", line 1, has no field 'text', only 'title', 'body'. Say which one has the text: --field NAME."
            in message_of(read, lacking.splitlines()[0], "a.jsonl"))
    assert ", line 1, has no field 'text', only none at all." in message_of(read, b"{}", "a.jsonl")


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
    monkeypatch.setattr(source, "BLOCK_BYTES", 7)
    stories = f"<|startoftext|>Once.{END_OF_TEXT}\n" * 3 + f"{END_OF_TEXT}\n{END_OF_TEXT} \nThe end.\n{END_OF_TEXT}"
    for name, content, count in (("a.txt", stories.encode(), 4), ("a.jsonl", json_lines([stories]), 6),
                                 ("b.txt", WORDS.encode(), 0)):
        documents = Documents([InMemory(content, name)])
        list(documents)
        assert documents.mended[mending.STRAY_SEPARATOR] == count
    done = run_script("init.py", "--home", home((stories + "\n") * 20).folder, "--vocab-size", 300)
    assert (f"{END_OF_TEXT} stands 80 times inside a line, where it is ordinary text and ends no document. "
            "To separate documents it") in done.stdout


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
    for invalid_bytes, texts, count in ("replace", ["a\ufffdb", "c\ufffd"], 2), ("keep", ["a\0b", "c\ufffd"], 1):
        documents = Documents([InMemory(lines, "a.jsonl")], TextParams(invalid_bytes=invalid_bytes))
        assert texts_in(documents) == texts and documents.mended == {"U+FFFD for what was no text": count}


def test_parquet_inside_gzip_is_to_be_unpacked_first(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    assert "unpacked first: gunzip a.parquet.gz" in message_of(list, Documents([tmp_path / "a.parquet.gz"]))


@pytest.mark.parametrize("line, said", [
    (b'{"text": 5, "body": "y"}', "has a number in its field 'text', not text. Its fields are 'text', 'body'. "),
    (b'{"text": true}', "has a truth value"),
    (b'{"text": ["a"]}', "has a list"),
    (b'["a", "b"]', "is no JSON object but a list. Each line should be like"),
    (b'"a"', "is no JSON object but a string"),
    (b'{"text": "unfinished', "is not JSON ("),
    (b"Once upon a time", "is not JSON (Expecting value"),
    (b"[" * 100_000, "is not JSON ("),
    (b'{"text": "caf\xe9"}', "is not UTF-8 text: byte 0xE9 at offset 3. It may be in another encoding"),
    ('{"text": "a"}'.encode("utf-16"), "is not UTF-8 text: byte 0x00 at offset 3. It looks like UTF-16"),
    (b'{"text": "a\\u0000b"}',
     "is not UTF-8 text: byte 0x00 at offset 1. NUL belongs to no text: take it out. Or pass --invalid-bytes"),
    (b'{"text": "\\ud83d"}',
     "is not UTF-8 text: U+D83D at offset 0. Half of a surrogate pair is no character: take it out. Or pass"),
], ids=lambda value: str(value[:30]))
def test_a_line_that_has_no_text_is_named_with_its_number_and_fields(line, said):
    content = b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n'
    message = message_of(read, content, "a.jsonl")
    assert ", line 3," in message and said in message


def test_what_is_no_text_in_a_line_is_replaced_or_kept_when_asked_for():
    line = b'{"text": "a\\u0000\xe9\\ud83d\\ud83d\\ude00"}'
    documents = Documents([InMemory(line, "a.jsonl")], TextParams(invalid_bytes="replace"))
    assert (texts_in(documents), documents.mended) == (["a\ufffd\ufffd\ufffd😀"], {"U+FFFD for what was no text": 3})
    assert read(line, "a.jsonl", "keep") == ["a\0\udce9\ufffd😀"]


def test_a_line_that_is_no_document_is_one_message_of_init(home):
    message = refusal(run_script("init.py", "--home", home({"a.jsonl": json_lines([WORDS], "body")}).folder))
    assert "a.jsonl, line 1, has no field 'text', only 'id', 'body'." in message and message.count("\n") == 1


PACKED = gzip.compress(random.Random(1).randbytes(20_000).hex().encode())


@pytest.mark.parametrize("content", [PACKED[:-9], PACKED[:5000], PACKED[:3],
                                     PACKED[:9000] + b"\0" * 50 + PACKED[9050:], b"plain text", PACKED + b"x"],
                         ids=["checksum missing", "truncated", "nothing but its beginning", "damaged", "not packed",
                              "something behind it"])
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
    for number, column in enumerate([pyarrow.array(texts), pyarrow.array(texts, pyarrow.large_string()),
                                     pyarrow.array(texts).dictionary_encode(),
                                     pyarrow.array([text and text.encode() for text in texts])]):
        file = parquet_file(tmp_path / f"{number}.parquet", column, row_group_size=3, compression="zstd")
        documents = Documents([file])
        assert texts_in(documents) == expected, column.type
        assert documents.bytes_read == documents.file_bytes
    monkeypatch.setattr(parquet, "BLOCK_BYTES", 10)
    assert texts_in(documents) == expected


def test_a_missing_column_and_one_of_numbers_are_named_with_the_columns_there_are(tmp_path):
    file = parquet_file(tmp_path / "a.parquet", ["one"], "body")
    assert message_of(list, Documents([file])) == (
        f"{file} has no column 'text', only 'id', 'body'. Say which one has the text: --field NAME.")
    assert f"{file} has int64 in its column 'id', not text. Its columns are 'id', 'body'." in message_of(
        list, Documents([file], TextParams(field="id")))


def zeros_inside(content):
    half = len(content) // 2
    return content[:4] + bytes(half) + content[4 + half:]


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-30],
                                    lambda content: b"just text, nothing else", zeros_inside],
                         ids=["empty", "truncated", "text", "zeros inside"])
def test_a_damaged_parquet_file_is_one_message_with_its_name(tmp_path, damage):
    file = parquet_file(tmp_path / "a.parquet", [str(number) for number in range(5000)])
    file.write_bytes(damage(file.read_bytes()))
    assert message_of(list, Documents([file])).startswith(f"{file} is damaged, or no Parquet file (")


def test_bytes_of_a_row_that_are_not_utf_8_are_named_with_the_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    file = parquet_file(tmp_path / "a.parquet", pyarrow.array([b"good", None, b"caf\xe9"]))
    assert f"{file}, row 3, is not UTF-8 text: byte 0xE9 at offset 3." in message_of(list, Documents([file]))
    assert texts_in(Documents([file], TextParams(invalid_bytes="keep"))) == ["good", "caf\udce9"]
    assert texts_in(Documents([file], TextParams(invalid_bytes="replace"))) == ["good", "caf\ufffd"]


def test_without_pyarrow_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    file = parquet_file(tmp_path / "a.parquet", ["one"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert message_of(list, Documents([file])) == (
        f"To read {file} takes pyarrow, which is not installed: python -m pip install pyarrow")


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
