"""folio/readers/messages.py, chats.py and subtitles.py: what people wrote and said, and nothing that programs added."""

import json
import mailbox
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import InMemory
from folio.base.errors import FolioError
from folio.data.sources import Documents
from folio.readers import chats, kinds, messages, source
from folio.readers.mending import remarks
from small_texts import run_init, texts_in


def read(content, name, block_bytes=None):
    """Return the texts of a file, and the remarks about it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK_BYTES", block_bytes or source.BLOCK_BYTES)
        documents = Documents([InMemory(content if isinstance(content, bytes) else content.encode(), name)])
        return texts_in(documents), list(remarks(documents.mended))


# --- Mail ---

def message(subject, text, sender="Ada Lovelace <ada@example.org>", charset="utf-8", html=None, attachment=None):
    made = EmailMessage()
    made["From"], made["Subject"], made["Date"] = sender, subject, "Mon, 01 Jan 2024 12:00:00 +0000"
    made.set_content(text, charset=charset) if text is not None else made.set_content(html, subtype="html")
    if html and text is not None:
        made.add_alternative(html, subtype="html")
    if attachment:
        made.add_attachment(attachment, maintype="image", subtype="png", filename="a.png")
    return made


def mailbox_of(tmp_path, *messages):
    """The bytes of a mailbox as the standard library writes it."""
    path = tmp_path / "a.mbox"
    box = mailbox.mbox(path)
    for each in messages:
        box.add(each)
    box.close()
    return path.read_bytes()


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 19])
def test_each_message_of_a_mailbox_is_a_document(tmp_path, block_bytes):
    content = mailbox_of(
        tmp_path, message("Größe", "Schöne Grüße.\nFrom here on\n", charset="iso-8859-1"),
        message("Picture", "Look.\n", attachment=b"\x89PNG" * 100),
        message("Both", "In plain text.\n", html="<p>In <b>HTML</b></p>"),
        message("Only", None, html="<style>p {}</style><p>One &amp; two</p><p>three</p>"))
    texts, said = read(content, "a.mbox", block_bytes)
    assert texts == ["From: Ada Lovelace\nSubject: Größe\n\nSchöne Grüße.\nFrom here on\n",
                     "From: Ada Lovelace\nSubject: Picture\n\nLook.\n",
                     "From: Ada Lovelace\nSubject: Both\n\nIn plain text.\n",
                     "From: Ada Lovelace\nSubject: Only\n\nOne & two\n\nthree\n"]
    assert said == ["1 attachment of mail left out.", "Read as a mailbox: 4 messages, each a document."]


def test_quoted_messages_and_signatures_are_left_out():
    text = "No.\n\nOn Mon, 1 Jan 2024, Bob wrote:\n> Is it so?\n> Or not?\n\nI mean it.\n-- \nAda\nCountess\n"
    texts, said = read(message("Re: so?", text).as_bytes(), "a.eml")
    assert texts == ["From: Ada Lovelace\nSubject: Re: so?\n\nNo.\n\nI mean it.\n"]
    assert "2 quoted lines of mail left out." in said


@pytest.mark.parametrize("body, text", [
    (b"Content-Type: text/plain; charset=no-such\n\n\x93caf\xe9\x94\n", "“café”"), (b"\ncaf\xe9\n", "café"),
    (b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n!!!\n", None),
    (b"Content-Type: multipart/mixed; boundary=x\n\nno part\n", None), (b"", None)])
def test_damaged_mail_gives_what_it_has(body, text):
    texts, _ = read(b"From: a@b.org\nSubject: =?utf-8?q?=C3=A9?=\n" + body, "a.eml")
    assert texts == ([f"From: a@b.org\nSubject: é\n\n{text}\n"] if text else [])


@pytest.mark.parametrize("head", [
    b"From: " + b"(" * 5_000, b"Content-Type: text/plain; charset=\"\0\"",
    b"".join(b"Content-Type: multipart/mixed; boundary=z%d\n\n--z%d\n" % (n, n) for n in range(1_500))],
    ids=["nested comments", "encoding with NUL", "nested parts"])
def test_mail_that_the_standard_library_cannot_parse_does_not_stop_its_mailbox(head):
    good = b"From a@b Mon Jan  1 12:00:00 2024\nSubject: x\n\nI come.\n\n"
    texts, said = read(b"From a@b Mon Jan  1 12:00:00 2024\n" + head + b"\n\nHello\n\n" + good, "a.mbox")
    assert texts[-1] == "Subject: x\n\nI come.\n"
    assert "Read as a mailbox: 2 messages, each a document." in said


def test_mail_that_is_cut_is_counted(monkeypatch):
    monkeypatch.setattr(messages, "_MOST", 1_000)
    texts, said = read(b"Subject: x\n\n" + b"Word. " * 1_000, "a.eml")
    assert len(texts[0]) < 1_100 and any(line.startswith("1 message of mail larger than 0 MB") for line in said)


def test_a_line_that_begins_with_from_in_a_paragraph_begins_no_message():
    texts, _ = read(b"From a@b Mon Jan  1 12:00:00 2024\nSubject: x\n\nI come\nFrom there.\n", "a.mbox")
    assert texts == ["Subject: x\n\nI come\nFrom there.\n"]


def test_what_is_no_mailbox_is_refused():
    with pytest.raises(FolioError, match="a.mbox is no mailbox: it does not begin with a line such as"):
        read("Once upon a time\n", "a.mbox")


# --- Chats ---

MESSAGES = [("Ada", 0, "Good morning"), ("Bob", 1, "Hi: all well?\nI hope so"), ("Ada", 300, "Yes 😀"),
            ("Bob", 1440, "Next day"), ("Ada", 1441, "Indeed")]                 # name, minutes, text
CHAT = ["Ada: Good morning\nBob: Hi: all well?\nI hope so\nAda: Yes 😀\n", "Bob: Next day\nAda: Indeed\n"]
START = datetime(2024, 1, 30, 9, 5, tzinfo=UTC)
FORMS = {"Android": "%d.%m.%y, %H:%M - ", "iPhone": "[%d/%m/%Y, %H:%M:%S] ", "American": "%m/%d/%y, %I:%M\u202f%p - ",
         "Swedish": "%Y-%m-%d, %H:%M - ", "iPhone, American": "\u200e[%m/%d/%y, %I:%M:%S\u202f%p] "}


def whatsapp(form):
    """MESSAGES as WhatsApp writes them, with a notice and an attachment."""
    stamps = [(START + timedelta(minutes=minutes)).strftime(form) for _, minutes, _ in MESSAGES]
    lines = [f"{stamp}{name}: {text}" for stamp, (name, _, text) in zip(stamps, MESSAGES, strict=True)]
    lines.insert(0, stamps[0] + "Messages and calls are end-to-end encrypted.")
    lines.insert(3, stamps[1] + "Ada: <Media omitted>")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("block_bytes", [1 << 10, 1 << 19])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_chat_from_whatsapp_becomes_names_and_texts_cut_at_silences(form, line_end, block_bytes):
    texts, said = read(whatsapp(FORMS[form]).replace("\n", line_end), "_chat.txt", block_bytes)
    assert texts == CHAT
    assert said == ["Read as a WhatsApp chat: 5 messages; a silence of 6 hours ends a document.",
                    "2 attachments and notices of messengers left out."]


def telegram():
    def stamp(minutes):
        time = START + timedelta(minutes=minutes)
        return {"date": time.strftime("%Y-%m-%dT%H:%M:%S"), "date_unixtime": str(int(time.timestamp()))}
    records = [{"id": 1, "type": "service", "action": "create", "text": "", **stamp(0)}]
    records += [{"id": 2, "type": "message", "from": name, "from_id": "user1", **stamp(minutes),
                 "text": [text[:3], {"type": "bold", "text": text[3:]}]} for name, minutes, text in MESSAGES]
    return json.dumps({"name": "A \"messages\": [", "type": "personal_chat", "id": 1, "messages": records}, indent=1)


def facebook():
    def escaped(text):
        return text.encode().decode("latin-1")
    return json.dumps({"participants": [{"name": "Ada"}], "messages": [
        {"sender_name": escaped(name), "timestamp_ms": int((START.timestamp() + 60 * minutes) * 1000),
         "content": escaped(text)} for name, minutes, text in reversed(MESSAGES)] + [
        {"sender_name": "Ada", "timestamp_ms": int(START.timestamp() * 1000), "photos": []}]})


def discord():
    return json.dumps({"guild": {"name": "x"}, "messages": [
        {"timestamp": (START + timedelta(minutes=minutes)).isoformat(), "content": text,
         "author": {"name": name.lower(), "nickname": name}} for name, minutes, text in MESSAGES]})


@pytest.mark.parametrize("block_bytes", [1 << 10, 1 << 19])
@pytest.mark.parametrize("made, name", [(telegram, "Telegram"), (facebook, "chat from Facebook"), (discord, "Discord")])
def test_a_chat_in_json_becomes_the_same(made, name, block_bytes):
    texts, said = read(made(), "result.json", block_bytes)
    assert texts == CHAT and name in said[0] and "5 messages" in said[0]


def test_a_chat_that_ends_in_the_middle_is_refused():
    with pytest.raises(FolioError, match="result.json ends inside its messages"):
        read(telegram()[:-40], "result.json")


@pytest.mark.parametrize("text", [
    "2024-01-30 09:05:00,123 - ERROR: no such file\n2024-01-30 09:05:01,124 - INFO: done\n",
    "[2024-01-30 09:05:00] ERROR: no such file\n[2024-01-30 09:05:00] done: 1\n",
    "30.1.24, 9:05 - Ada: a diary\nOnce\n",
    '{"messages": []}', "", "Once upon a time: the end\n"])
def test_what_only_looks_like_a_chat_is_plain_text(text):
    assert kinds.kind_of(source.Source(InMemory(text.encode(), "a.txt"))) is kinds.PLAIN_TEXT


def test_a_chat_of_many_days_streams_and_no_silence_is_lost():
    lines = "".join(f"{1 + day % 28:02}.{1 + day // 28:02}.24, 12:{minute:02} - Ada: {day} {minute}\n"
                    for day in range(300) for minute in range(9))
    texts, _ = read(lines, "chat.txt", 1 << 10)
    assert texts == ["".join(f"Ada: {day} {minute}\n" for minute in range(9)) for day in range(300)]
    assert chats.SILENCE < 24 * 3600


# --- Subtitles ---

SRT = """\ufeff1
00:00:01,000 --> 00:00:02,500
<i>Not now,</i>
she said.

2
00:00:03,000 --> 00:00:04,000
{\\an8}- Is it 1984?
- No &amp; yes.

3
00:00:05,000 --> 00:00:06,000
2001
"""
VTT = """WEBVTT - a title

NOTE nobody
says this

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Ada><c.yellow>Not</c> <00:01.500>now,
she said.

00:03.000 --> 00:04.000
- Is it 1984?
- No &amp; yes.

00:05.000 --> 00:06.000
- No &amp; yes.
2001
"""


@pytest.mark.parametrize("name, content", [("a.srt", SRT), ("a.srt", SRT.replace("\n", "\r\n")), ("a.vtt", VTT)])
@pytest.mark.parametrize("block_bytes", [1, 1 << 19])
def test_subtitles_are_what_is_said(name, content, block_bytes):
    texts, said = read(content, name, block_bytes)
    assert texts == ["Not now, she said.\n- Is it 1984?\n- No & yes.\n2001\n"]
    assert "3 subtitles read without their numbers, times and tags." in said


def test_a_number_of_a_subtitle_without_an_empty_line_before_it_is_none_of_its_words():
    times = "00:00:01,000 --> 00:00:02,000\n"
    assert read(f"1\n{times}One\n2\n{times}Two\n\n3\n{times}3\n", "a.srt")[0] == ["One\nTwo\n3\n"]


@settings(max_examples=100)
@given(st.lists(st.lists(st.text("abc é?!", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=3),
                min_size=1, max_size=5))
def test_no_word_of_subtitles_is_lost(cues):
    content = "".join(f"{number}\n00:00:0{number},000 --> 00:00:0{number},900\n" + "\n".join(cue) + "\n\n"
                      for number, cue in enumerate(cues))
    texts, _ = read(content, "a.srt")
    assert "".join(texts).split() == " ".join(line for cue in cues for line in cue).split()


# --- All of them, through the command ---

def test_a_folder_of_messages_is_read_by_init(home, tmp_path):
    mail = mailbox_of(tmp_path, *(message(f"Number {n}", f"This is letter number {n}, and no other.\n")
                                  for n in range(40)))
    done = run_init(home({"a.mbox": mail, "_chat.txt": whatsapp(FORMS["iPhone"]), "film.srt": SRT,
                          "result.json": telegram()}), "--vocab-size", 300)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "45 documents" in said and "Read as a mailbox: 40 messages, each a document." in said


def test_a_file_without_subtitles_is_refused_and_an_empty_one_is_empty():
    with pytest.raises(FolioError, match="a.srt has no subtitles, each below a line such as"):
        read("Once upon a time\n", "a.srt")
    assert read("", "a.srt")[0] == []


def test_a_long_message_of_whatsapp_is_read_in_parts(monkeypatch):
    monkeypatch.setattr(chats, "_MOST_AT_ONCE", 1_000)
    texts, _ = read("31.12.24, 23:58 - Ada: Hi\n31.12.24, 23:59 - Bob: Hi\n" + "A line of words\n" * 1_000, "a.txt")
    assert texts[0].count("A line of words\n") == 1_000 and 10 < texts[0].count("Bob: ") < 30


def test_what_follows_a_time_without_end_is_read_in_parts():
    start = "1\n00:00:01,000 --> 00:00:02,500\n"
    texts, said = read(start + "A line of words\n" * 1_000, "a.srt")
    assert texts[0].count("A line of words") == 1_000 and "10 subtitles read without" in said[0]
    texts, said = read(start + ("words " * 5_000 + "\n") * 3, "a.srt")
    assert texts[0].count("words") == 15_000 and "3 subtitles read without" in said[0]


def test_lines_without_end_take_no_memory(monkeypatch):
    monkeypatch.setattr(source, "LONGEST_LINE", 10)
    assert max(map(len, source.lines_of(["abcd"] * 1_000))) <= 14


def test_a_message_of_facebook_may_have_any_time():
    message = {"sender_name": "Ada", "content": "Hi", "timestamp_ms": 10 ** 400}
    assert read(json.dumps({"messages": [message, message]}), "a.json")[0] == ["Ada: Hi\nAda: Hi\n"]
