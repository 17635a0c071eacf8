"""folio/readers/kinds.py: a file is named for what is in it, whatever its name says."""

import gzip
import io
import struct
import tarfile
import zipfile

import pytest

from conftest import InMemory, refusal
from folio.base.errors import FolioError
from folio.data.sources import Documents
from folio.readers.kinds import KINDS, PLAIN_TEXT, kind_of, recognized
from folio.readers.source import Source
from Model_Params import TextParams
from small_texts import WORDS, everything_below, message_of, run_init, texts_in


def zipped(**members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return packed.getvalue()


def tarred():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        member = tarfile.TarInfo("a.txt")
        member.size = 4
        file.addfile(member, io.BytesIO(b"text"))
    return packed.getvalue()


def ole(stream):
    """An OLE file whose directory, in the second sector after the header, names this stream."""
    header = bytearray(512)
    header[:8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    struct.pack_into("<H", header, 30, 9)               # sectors of 512 bytes
    struct.pack_into("<I", header, 48, 1)               # the directory's sector
    names = "Root Entry".ljust(64, "\0") + stream.ljust(64, "\0")
    return bytes(header) + bytes(512) + names.encode("utf-16-le")


OPEN_DOCUMENT = "application/vnd.oasis.opendocument."
WRONG = {
    "a PNG picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a JPEG picture": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "a GIF picture": b"GIF89a\1\0\1\0\0",
    "a WebP picture": b"RIFF\x1a\0\0\0WEBPVP8L",
    "a BMP picture": b"BM\x1a\0\0\0\0\0",
    "an MP3 recording": b"ID3\4\0\0\0\0",
    "a WAV recording": b"RIFF\x1a\0\0\0WAVEfmt \0",
    "an MP4 video or recording": b"\0\0\0\x20ftypisom\0",
    "a Matroska or WebM video": b"\x1a\x45\xdf\xa3\1\0",
    "a zip archive": zipped(**{"a.txt": "text", "b.zip": zipped(c="d")}),
    "a tar archive": tarred(),
    "a file packed with gzip": gzip.compress(b"text"),
    "a file packed with xz": b"\xfd7zXZ\0\0\4",
    "a 7-Zip archive": b"7z\xbc\xaf\x27\x1c\0\4",
    "a RAR archive": b"Rar!\x1a\x07\1\0",
    "a SQLite database": b"SQLite format 3\0\x10\0",
    "a program (ELF)": b"\x7fELF\2\1\1\0",
    "a Windows program": b"MZ\x90\0\3\0\0\0",
    "a PowerPoint presentation": zipped(ppt__presentation="x"),
    "an OpenDocument presentation": zipped(mimetype=OPEN_DOCUMENT + "presentation"),
    "an Office document with a password": ole("EncryptedPackage"),
    "a Word document of the old kind (.doc)": ole("WordDocument"),
    "a PowerPoint presentation of the old kind (.ppt)": ole("PowerPoint Document"),
    "a Kindle book (.mobi)": b"Title".ljust(60, b"\0") + b"BOOKMOBI\0",
}


@pytest.mark.parametrize("suffix", [".txt", ".docx", ".jsonl", ""])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_text_is_named_for_what_it_is(name, suffix):
    file = InMemory(WRONG[name], f"novel{suffix}")
    with pytest.raises(FolioError) as caught:
        kind_of(Source(file))
    message = str(caught.value)
    assert f" is {name}: " in message and "--invalid-bytes" not in message and "\n" not in message
    assert message.endswith(".") and ". " not in message.replace(" (.", "")


def test_to_keep_invalid_bytes_does_not_make_a_picture_a_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(WRONG["a PNG picture"])
    for invalid_bytes in ("keep", "replace"):
        assert "is a PNG picture" in message_of(list, Documents([tmp_path / "a.txt"],
                                                                TextParams(invalid_bytes=invalid_bytes)))


@pytest.mark.parametrize("text", ["BM and MZ", "MZ", "ID3 tags", "PK", "GIF89a is a format", "%PD", "OTTO", 
                                  "RIFF....WAVE", "Rar!", "", "BZh", "\r\r\n", "x\r\r\n", "x" * 257 + "ustar"])
def test_a_text_may_begin_as_other_files_do(text):
    for content in (text.encode(), text.encode("latin-1")):
        assert kind_of(Source(InMemory(content, "a.txt"))) is PLAIN_TEXT


@pytest.mark.parametrize("name, content, kind", [
    ("a.txt", zipped(**{"[Content_Types].xml": "x", "word__document.xml": "x"}), "a Word document"),
    ("a.pdf", zipped(word__document="x"), "a Word document"),
    ("a", zipped(mimetype=OPEN_DOCUMENT + "text"), "an OpenDocument text"),
    ("a.zip", zipped(mimetype="application/epub+zip"), "an EPUB book"),
    ("a.doc", b"{\\rtf1 text}", "an RTF document"), ("a.txt", b"%PDF-1.7\n", "a PDF"),
    ("a.html", b"<p>", "a web page"), ("A.HTM", b"", "a web page"), ("a.md", b"# One", "plain text"),
    ("a.jsonl.gz", gzip.compress(b"{}"), "a file of JSON lines"),
    ("a.docx.gz", gzip.compress(zipped(word__document="x")), "a Word document")])
def test_what_is_in_a_file_counts_more_than_its_suffix(name, content, kind):
    assert recognized(Source(InMemory(content, name))).name == kind


@pytest.mark.parametrize("name, content, said", [
    ("a.docx", b"just text", "a.docx is not a Word document, though its suffix says so"),
    ("a.pdf", b"just text", "a.pdf is not a PDF, though its suffix says so"),
    ("a.rtf", b"just text", "a.rtf is not an RTF document, though its suffix says so"),
    ("a.epub", b"", "a.epub is empty, and no EPUB book."), ("a.docx", b"", "a.docx is empty, and no Word document."),
    ("a.docx", zipped(word__document="x")[:40], "a.docx is damaged: it begins as a Word document"),
    ("a.odt", zipped(word__document="x")[:40], "a.odt is damaged: it begins as an OpenDocument text"),
    ("a.json", b'[{"text": "one"}, ', "a.json is not JSON (Expecting value at its end)"),
    ("a.json", b'[{"text": "one"}, {"text": "tw', "a.json is not JSON (Unterminated string at '\"tw')"),
    ("a.pdf", zipped(word__document="x")[:40], "a.pdf is a zip archive: unpack it"),
    ("a\nb.docx", b"just text", "a⏎b.docx is not a Word document, though its suffix says so"),
    ("a.docx", zipped(other="x"), "a.docx is a zip archive: unpack it"),
    ("a.tar.gz", gzip.compress(tarred()), "a.tar.gz is a tar archive: unpack it"),
    ("a.txt.gz", gzip.compress(gzip.compress(b"x")), "a.txt.gz is a file packed with gzip: unpack it"),
    ("a.txt.gz", b"no gzip", "a.txt.gz is damaged, or no gzip file")])
def test_a_file_that_is_not_what_its_suffix_promises_is_one_sentence(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in message_of(list, Documents([tmp_path / name]))


def test_marks_cut_anywhere_do_not_break_the_recognition():
    for content in WRONG.values():
        for end in range(0, min(len(content), 1200), 7):
            assert recognized(Source(InMemory(content[:end] + b"\xf7\0\x11", "a.txt"))) in KINDS


def test_every_kind_that_is_refused_says_what_to_do_and_no_two_kinds_share_a_suffix():
    suffixes = [suffix for kind in KINDS for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(kind.read and not kind.advice or kind.advice and kind.marks for kind in KINDS)


def test_a_text_is_read_from_its_start_after_a_look_at_it(tmp_path):
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    read = Documents([tmp_path / "a.txt"])
    assert texts_in(read) == ["one"] and read.bytes_read == 3


@pytest.mark.parametrize("name", ["a PNG picture", "a zip archive", "an Office document with a password"])
def test_the_wrong_file_for_init_is_one_sentence_and_nothing_is_written(home, tmp_path, name):
    project = home({"a.txt": WORDS})
    before = everything_below(project.folder)
    (tmp_path / "novel.txt").write_bytes(WRONG[name])
    message = refusal(run_init(project, tmp_path / "novel.txt"))
    assert f"novel.txt is {name}: " in message and message.count("\n") == 1
    assert everything_below(project.folder) == before
