"""folio/readers/charsets.py and mojibake.py: bytes in any encoding become the same text, or a guess is offered."""

import codecs
import gzip
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, InMemory, refusal
from folio.base import commands
from folio.base.encodings import encoding_problem
from folio.base.errors import FolioError
from folio.data import sources
from folio.data.sources import Documents
from folio.readers import charsets, mending, source
from Model_Params import TextParams
from small_texts import WORDS, everything_below, run_init, texts_in

ENGLISH = "He looked up. “Don’t,” she said, and left the café — for good this time, as it seemed.\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n"
POLISH = "Litwo! Ojczyzno moja! ty jesteś jak zdrowie: Ile cię trzeba cenić, ten tylko się dowie, Kto cię stracił.\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
CHINESE = "学而时习之,不亦说乎?有朋自远方来,不亦乐乎?人不知而不愠,不亦君子乎?\n"
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.\n"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n"
CORPUS = {"windows-1252": ENGLISH, "windows-1251": RUSSIAN, "koi8-r": RUSSIAN, "windows-1250": POLISH,
          "cp932": JAPANESE, "euc-jp": JAPANESE, "gb18030": CHINESE, "windows-1253": GREEK, "cp949": KOREAN,
          "utf-16-le": ENGLISH, "utf-16-be": RUSSIAN + ENGLISH * 9, "iso2022-jp": JAPANESE}
MARKS = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE,
         "utf-32-be": codecs.BOM_UTF32_BE}


def texts(content, block_bytes=None, name="text.txt", **reading):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", block_bytes or source.BLOCK_BYTES)
        return texts_in(Documents([InMemory(content, name)], TextParams(**reading)))


def message_of(content, **reading):
    with pytest.raises(FolioError) as caught:
        texts(content, **reading)
    return str(caught.value)


# --- What is known ---

@settings(max_examples=200)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.sampled_from(sorted(MARKS)),
       st.integers(1, 9), st.sampled_from([4, 1 << 16]))
def test_a_marked_text_reads_as_it_does_in_utf_8_whatever_the_size_of_the_blocks(text, encoding, block_bytes, sample):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charsets, "_SAMPLE_BYTES", sample)
        marked = MARKS[encoding] + text.encode(encoding)
        assert texts(marked, block_bytes) == texts(text.encode())


@settings(max_examples=200)
@given(st.text(st.sampled_from("aé “”—Ж中\n")),
       st.sampled_from(["gb18030", "utf-16-le", "utf-7", "utf_8_sig", "utf-8"]), st.integers(1, 9))
def test_a_named_encoding_reads_what_was_written_in_it(text, encoding, block_bytes):
    assert texts(text.encode(encoding), block_bytes, encoding=encoding) == texts(text.encode())


@pytest.mark.parametrize("encoding", CORPUS)
def test_every_encoding_is_read_where_it_is_named_and_said(encoding):
    documents = Documents([InMemory((CORPUS[encoding] * 20).encode(encoding))], TextParams(encoding=encoding))
    assert texts_in(documents) == [CORPUS[encoding] * 20]
    assert f"Read as {encoding}: 1 file." in list(mending.remarks(documents.mended))


def test_a_file_in_utf_8_stays_that_beside_one_in_the_named_encoding():
    files = [InMemory(POLISH.encode()), InMemory(POLISH.encode("iso-8859-2")), InMemory(b"plain")]
    assert texts_in(Documents(files, TextParams(encoding="iso-8859-2"))) == [POLISH, POLISH, "plain"]


def test_what_a_named_encoding_cannot_read_is_refused_with_its_place_or_replaced():
    content = "“a”".encode("cp1252") + b"\x81b"
    for block_bytes in (1, 2, 1 << 19):
        with pytest.raises(FolioError, match="is not cp1252 throughout: byte 0x81 at offset 3 .*-bytes replace"):
            texts(content, block_bytes, encoding="cp1252")
        assert texts(content, block_bytes, encoding="cp1252", invalid_bytes="replace") == ["“a”\ufffdb"]
    with pytest.raises(FolioError, match="is not utf-16 throughout: byte 0x62 at offset 4 "):
        texts("a".encode("utf-16") + b"b", 1)
    assert texts("a".encode("utf-16") + b"b", 1, invalid_bytes="replace") == ["a\ufffd"]


@pytest.mark.parametrize("name, said", [
    ("windows-1253x", "is not known; did you mean windows-1253?"), ("hex", "is no encoding of text"),
    ("rot13", "is no encoding of text"), ("unicode_escape", "is no encoding of text"), ("", "is not known"),
    ("a\0b", "is not known"), ("é", "is not known"), ("undefined", "is no encoding of text")])
def test_what_is_no_encoding_is_named(name, said):
    assert [said in problem for problem in TextParams(encoding=name).problems()] == [True]


def test_every_text_codec_of_python_is_an_encoding():
    for name in {*CORPUS, *MARKS, "latin-1", "cp437", "Windows 1252", "UTF8", "big5hkscs", "tis-620", "mac-cyrillic"}:
        assert encoding_problem(name) is None


# --- What is guessed ---

@pytest.mark.parametrize("encoding", CORPUS)
def test_another_encoding_is_guessed_and_shown(encoding):
    message = message_of((CORPUS[encoding] * 20).encode(encoding))
    assert f"is not UTF-8. It reads well as {encoding}: \"" in message and "--invalid-bytes" not in message
    assert message.count("\n") == 0
    shown = re.search('"…?(.+?)…?"\\.', message)[1]
    assert shown in CORPUS[encoding] and len(shown) > 20


@pytest.mark.parametrize("quote", ["’", "“", "—", "…", "é", "ñ"])
def test_one_kind_of_character_is_enough_for_a_guess_of_windows_1252(quote):
    text = "She did" + quote + "t say, of course, that it was hers.\n"
    assert charsets.guess(text.encode("cp1252")) == charsets.guess((text * 50).encode("cp1252")) == "windows-1252"


def test_few_bad_bytes_in_utf_8_are_damage_and_in_ascii_may_be_either():
    damage = message_of((RUSSIAN * 9).encode() + b"\xff" + RUSSIAN.encode())
    assert "byte 0xFF at offset" in damage and "this is damage" in damage and "--invalid-bytes keep" in damage
    assert "--encoding" not in damage
    either = message_of(WORDS.encode() + b"caf\xe9\n")
    assert f"byte 0xE9 at offset {len(WORDS) + 3}. It reads well as windows-1252: \"café\"." in either
    assert "--encoding windows-1252" in either and "--invalid-bytes keep" in either


def test_the_place_of_a_bad_byte_counts_also_what_a_block_before_left_over(monkeypatch):
    monkeypatch.setattr(charsets, "_SAMPLE_BYTES", 4)
    with pytest.raises(FolioError, match="byte 0xC3 at offset 3. "):
        texts(b"aaa\xc3(", 4)
    with pytest.raises(FolioError, match="is not cp932 throughout: byte 0x81 at offset 3 "):
        texts(b"aaa\x81\x20", 4, encoding="cp932")


def test_an_encoding_that_begins_late_in_a_file_is_found():
    content = WORDS.encode() * (2 * source.BLOCK_BYTES // len(WORDS)) + (RUSSIAN * 50).encode("cp1251")
    assert 'is not UTF-8. It reads well as windows-1251: "Все счастливые' in message_of(content)


def test_what_is_no_text_is_offered_no_encoding():
    for content in (b"a\0b", b"\1\2\0\xff\xfe\0" * 20, bytes(range(256)) * 20):
        assert "--encoding" not in message_of(content) and "looks like a binary file" in message_of(content)


def test_without_charset_normalizer_the_flag_is_named_all_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    monkeypatch.setattr(charsets, "find_spec", lambda name: None)
    message = message_of((ENGLISH * 9).encode("cp1252"))
    assert "python init.py text.txt --encoding windows-1252" in message and "pip install charset-normalizer" in message


def test_the_command_that_is_offered_is_the_users_own_and_works(home, tmp_path):
    project, novel = home({}), tmp_path / "my novel's end.txt"
    novel.write_bytes((ENGLISH * 200).encode("cp1252"))
    before = everything_below(tmp_path)
    message = refusal(run_init(project, novel, "--vocab-size", 300))
    assert everything_below(tmp_path) == before
    offered = message.partition("If that is right: ")[2].strip()
    assert offered == shlex.join(["python", "init.py", "--home", str(project.folder), str(novel), "--vocab-size", "300",
                                  "--encoding", "windows-1252"])
    done = subprocess.run([sys.executable, *shlex.split(offered)[1:]], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "Read as windows-1252: 1 file." in done.stdout + done.stderr
    assert f"{len((ENGLISH * 200).encode()):,} bytes" in done.stdout


def test_a_flag_is_added_before_what_is_no_flag():
    commands.remember_line("python init.py", ["--vocab-size", "300", "--", "-x.txt"])
    assert commands.repeated("--encoding", "koi8-r") == ("python init.py --vocab-size 300 --encoding koi8-r -- -x.txt")


# --- The same in every kind of file ---

def test_marks_and_line_ends_of_windows_are_mended_in_json_lines_and_in_every_part_of_a_gzip_file():
    lines = b'{"text": "\\ufeffone\\r\\ntwo"}\n'
    assert texts(lines, name="a.jsonl") == ["one\ntwo"]
    parts = b"".join(gzip.compress("\ufeffone\r\n".encode()) for _ in range(2))
    assert texts(parts, name="a.txt.gz") == ["one\none\n"]


# --- Mojibake ---

@pytest.mark.skipif(find_spec("ftfy") is None, reason="needs ftfy")
def test_mojibake_is_said_with_an_example_and_read_as_it_stands():
    wrong = "schÃ¶n, mÃ¼de, grÃ¼n, “quoted”\n"
    documents = Documents([InMemory((wrong * 20).encode()), InMemory((wrong * 10).encode())])
    for _ in range(2):                                  # each pass counts anew
        assert texts_in(documents) == [wrong * 20, wrong * 10]
        [remark] = mending.remarks(documents.mended)
        assert remark.startswith("'Ã¼' stands 60 times where 'ü' is meant: 90 places in the part that was looked at ")


@pytest.mark.skipif(find_spec("ftfy") is None, reason="needs ftfy")
@pytest.mark.parametrize("text, encoding", [
    *((f"{word} Die Größe der Übung überrascht die schöne Müllerin.\n", encoding)
      for word in ("So:", "“So”:") for encoding in ("latin-1", "mac-roman")),
    ("Die Größe der Übung überrascht.\n", "windows-1252"), (RUSSIAN, "windows-1251"),
    ("не было у него воли\n", "windows-1252"), ("C’était l’été — déjà\n", "windows-1252")])
def test_mojibake_is_found_whatever_the_wrong_encoding_was(text, encoding):
    wrong = text.encode().decode(encoding) * 9
    documents = Documents([InMemory(wrong.encode())])
    assert texts_in(documents) == [wrong]
    assert any("is meant" in remark for remark in mending.remarks(documents.mended))


@pytest.mark.parametrize("text", [
    "« À la CAFÉ », dit-il… — Ça va, « Noël » ?", "SÃO PAULO, 25 °C – “ÂNGULO”", "Το “Ά”", RUSSIAN, POLISH, JAPANESE,
    "ÉCLAIR»  Ô» Û°", "“Don’t”"])
def test_right_text_is_not_called_mojibake(text):
    documents = Documents([InMemory((text + "\n").encode() * 50)])
    list(documents)
    assert not list(mending.remarks(documents.mended))


def test_the_time_for_mojibake_is_bounded(monkeypatch):
    looked_at = []
    monkeypatch.setattr("ftfy.fix_encoding", lambda line: looked_at.append(len(line)) or line)
    list(sources.Documents([InMemory("schÃ¶n grÃ¼n und mÃ¼de, nicht wahr?\n".encode() * 40_000)]))
    assert 1 << 15 < sum(looked_at) < 1 << 17
