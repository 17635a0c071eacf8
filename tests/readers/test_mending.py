"""folio/readers/mending.py: line ends, byte order marks and invalid bytes, wherever a block ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import InMemory, refusal
from folio.base.errors import FolioError
from folio.data import sources
from folio.readers import source
from Model_Params import TextParams
from small_texts import WORDS, run_init


def read(*contents, invalid_bytes="refuse", block_bytes=None):
    """Return the documents with a bar after each, and what was mended, of files with these contents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", block_bytes or source.BLOCK_BYTES)
        documents = sources.Documents(map(InMemory, contents), TextParams(invalid_bytes=invalid_bytes))
        return "".join(chunk + "|" * ends_document for chunk, ends_document in documents), dict(documents.mended)


@settings(max_examples=500)
@given(st.booleans(), st.text(st.sampled_from("\r\n\r\n \ufeffaé中😀")), st.integers(1, 9))
def test_the_size_of_the_blocks_does_not_change_the_text(marked, text, block_bytes):
    content = (b"\xef\xbb\xbf" if marked else b"") + text.encode("utf-8")
    lines = content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    text_of_it = "\n".join(line.lstrip("\ufeff") for line in lines)
    expected = text_of_it + "|" * bool(text_of_it)          # an empty document counts as none
    counts = {"byte order mark": sum(len(line) - len(line.lstrip("\ufeff")) for line in lines),
              "CRLF": text.count("\r\n"), "CR": text.replace("\r\n", "").count("\r")}
    mended = {what: count for what, count in counts.items() if count}
    assert read(content, block_bytes=block_bytes) == read(content) == (expected, mended)


def test_crlf_and_cr_become_lf_also_where_a_block_ends_between_the_two():
    assert read(b"ab\r\ncd\r\r\n\r", block_bytes=3) == ("ab\ncd\n\n\n|", {"CRLF": 2, "CR": 2})


def test_a_byte_order_mark_is_dropped_at_the_start_of_every_file_and_line_and_nowhere_else():
    marked = "\ufeffa\ufeffb".encode()                      # files that were joined have it at the start of a line
    text, mended = read(marked, marked + b"\r\n" + marked)
    assert text == "a\ufeffb|a\ufeffb\na\ufeffb|" and mended == {"byte order mark": 3, "CRLF": 1}


def test_documents_may_be_read_again_and_count_only_what_the_last_pass_mended():
    documents = sources.Documents([InMemory("\ufeff1\r\n".encode()), InMemory(b"two")])
    assert list(documents) == list(documents) == [("1\n", True), ("two", True)]
    assert documents.mended == {"byte order mark": 1, "CRLF": 1}


@pytest.mark.parametrize("block_bytes", [3, 4, 5, 7, 1 << 20])
@pytest.mark.parametrize("content, value, offset", [
    (b"\xff", 0xFF, 0), (b"good text \xe9t\xe9", 0xE9, 10), ("中文字".encode() + b"\x80", 0x80, 9),
    (b"12345\xe4\xb8", 0xE4, 5), (b"12345\xf0\x9f\x98", 0xF0, 5), (b"123456789\xc3", 0xC3, 9),
    (b"abc\xed\xa0\x80", 0xED, 3), (b"\xef\xbb\xbfabc\xff", 0xFF, 6),
    (b"0123456789\0", 0, 10),
], ids=["first byte", "Latin-1", "continuation byte", "two bytes of three", "three bytes of four", "one byte of two",
        "surrogate", "after byte order mark", "NUL"])
def test_a_byte_that_is_not_utf_8_is_named_with_its_offset_in_the_file(tmp_path, monkeypatch, content, value, offset,
                                                                       block_bytes):
    monkeypatch.setattr(source, "BLOCK_BYTES", block_bytes)
    (tmp_path / "good.txt").write_bytes(b"all is well")
    (tmp_path / "wrong.txt").write_bytes(content)
    with pytest.raises(FolioError) as caught:
        list(sources.Documents([tmp_path / "good.txt", tmp_path / "wrong.txt"]))
    place = f"byte 0x{value:02X} at offset {offset}. "
    assert str(caught.value).startswith(f"{tmp_path / 'wrong.txt'} is not UTF-8 text: {place}")
    assert "--invalid-bytes keep" in str(caught.value) and type(caught.value) is FolioError


def test_a_wrong_byte_far_into_a_file_is_found(home):
    before = "é line\n".encode() * (source.BLOCK_BYTES // 4)
    message = refusal(run_init(home({"a.txt": WORDS, "b.txt": before + b"\xe9" + before})))
    assert f"b.txt is not UTF-8 text: byte 0xE9 at offset {len(before)}." in message


@pytest.mark.parametrize("block_bytes", [3, 4, 1 << 20])
def test_invalid_bytes_are_replaced_when_asked_for(block_bytes):
    text, mended = read(b"a\xe9b\0\xe4\xb8", invalid_bytes="replace", block_bytes=block_bytes)
    assert text == "a\ufffdb\ufffd\ufffd|" and mended == {"U+FFFD for what was no text": 3}


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=6) | st.sampled_from([b" ", b"\xe4", b"\xb8", b"\xad", b"\xf0\x9f", b"\0",
                                                         "中".encode()])).map(b"".join),
       st.integers(3, 9))
def test_invalid_bytes_are_kept_when_asked_for(content, block_bytes):
    content = b"a" + content            # with no mark of another kind of file
    text, _ = read(content, invalid_bytes="keep", block_bytes=block_bytes)
    expected = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert text.removesuffix("|").encode("utf-8", errors="surrogateescape") == expected
