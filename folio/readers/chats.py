"""Chats that messengers export: WhatsApp as text; Telegram, Facebook, Instagram and Discord as JSON.

A message becomes "Name: text". A silence of hours ends a document: what belongs together stays in one.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice

from folio.base.errors import FolioError
from folio.readers.charsets import decoded
from folio.readers.mending import Mending
from folio.readers.source import Source, lines_of
from Model_Params import TextParams

SILENCE = 6 * 3600              # seconds: longer than a meal or a film, shorter than a night
_HEAD = 1 << 14                 # characters that show what a file is
_MOST_AT_ONCE = 1 << 20         # characters of one message in text that are held; a longer one comes as several
_LONGEST = 1 << 24              # characters of one message in JSON; a messenger allows a few thousand

# [31.12.24, 23:59:58] Ada: Happy new year     12/31/24, 11:59 PM - Ada: Happy new year
_WHATSAPP = re.compile(r"[\u200e\u200f\ufeff]*\[?(\d{1,4})[./-](\d{1,2})[./-](\d{1,4})\.?,\s(\d{1,2})[:.](\d\d)"
                       r"(?:[:.](\d\d))?(?:\s?([AaPp])\.?\s?[Mm]\.?)?(?:\]\s|\s-\s)(.*)")
_SENDER = re.compile(r"[\u200e\u200f~\s]*([^:]{1,80}):\s(.*)")
# What stands for an attachment: <Media omitted>, and all that the messenger itself writes into a message.
_PLACEHOLDER = re.compile(r"\u200e|<[^<>]*>$")
_JSON_SIGNS = ('"sender_name"', '"from_id"', '"date_unixtime"', '"authorId"', '"guild"')

Message = tuple[str, float, str]            # name, seconds since any moment, text; an empty text is left out


def reader_of(source: Source) -> Callable | None:
    """Return the `read` for a chat, by what a file begins with, or None if that is no chat. source: unread"""
    if source.suffix not in (".txt", ".json", ""):
        return None
    blocks = source.blocks()
    head = next(blocks, b"")[:_HEAD].decode("utf-8", errors="replace")
    blocks.close()
    if head.lstrip("\ufeff\r\n\t ").startswith("{"):
        is_chat = '"messages"' in head and any(sign in head for sign in _JSON_SIGNS)
        return read_json if is_chat else None
    found = [match for line in islice(lines_of([head]), 20) if (match := _WHATSAPP.match(line))]
    return read_whatsapp if len(found) > 1 and any(_SENDER.match(match[8]) for match in found) else None


def read_whatsapp(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where) of a chat that WhatsApp exported as text."""
    lines = lines_of(decoded(source, reading, mending.found))
    head = list(islice(lines, 2000))
    messages = _whatsapp_messages(chain(head, lines), _date_order(head))
    return _documents(messages, "a WhatsApp chat", source, mending)


def read_json(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, ends_document, where) of a chat that Telegram, Facebook, Instagram or Discord exported as JSON.

    Raises FolioError where it is damaged.
    """
    records = _records(source, decoded(source, reading, mending.found))
    first = next(records, None)
    if first is None:
        return iter([("", True, source)])
    records = chain([first], records)
    if "sender_name" in first:          # at most 10,000 messages a file, the newest first
        messages = reversed([_facebook_message(record) for record in records])
        return _documents(messages, "a chat from Facebook or Instagram", source, mending)
    if "author" in first:
        return _documents(map(_discord_message, records), "a Discord chat", source, mending)
    return _documents(map(_telegram_message, records), "a Telegram chat", source, mending)


def _documents(messages: Iterable[Message], name: str, source: Source, mending: Mending):
    """Yield (text, ends_document, where) for messages in the order of their time. name: what the file is"""
    last, count, left_out = None, 0, 0
    for sender, seconds, text in messages:
        if not text.strip():
            left_out += 1
            continue
        if last is not None and seconds - last > SILENCE:
            yield "", True, source
        yield f"{sender}: {text}\n", False, source
        last, count = seconds, count + 1
    mending.found[f"Read as {name}: {{count|message|messages}}; a silence of {SILENCE // 3600} hours ends a document."
                  ] += count
    if left_out:
        mending.found["{count|attachment or notice|attachments and notices} of messengers left out."] += left_out
    yield "", True, source


# --- WhatsApp ---

def _whatsapp_messages(lines, order):
    """Yield the Messages; a line without a date continues the one before. order: as _date_order returns it"""
    sender, seconds, parts, size = "", 0.0, [], 0
    for line in lines:
        match = _WHATSAPP.match(line)
        if match is None:
            parts.append(line)
            size += len(line)
            if size > _MOST_AT_ONCE:
                yield sender, seconds, "\n".join(parts)
                parts, size = [], 0
            continue
        if seconds:
            yield sender, seconds, "\n".join(parts)
        seconds = _seconds(match, order) or seconds or 1.0
        sent = _SENDER.match(match[8])
        sender, text = sent.groups() if sent else ("", "")          # without a name it is a notice
        parts, size = [] if _PLACEHOLDER.match(text) else [text], 0
    if seconds:
        yield sender, seconds, "\n".join(parts)


def _date_order(lines):
    """Return where day, month and year stand in the dates of these lines: the order in which they exist and ascend.

    >>> _date_order(["1/30/24, 9:00 AM - A: x", "2/1/24, 9:00 AM - A: y"])
    (1, 0, 2)
    """
    found = [match for line in lines if (match := _WHATSAPP.match(line))]
    orders = ((0, 1, 2), (1, 0, 2), (2, 1, 0))
    return min(orders, key=lambda order: _faults([_seconds(match, order) for match in found]))


def _faults(times):
    known = [time for time in times if time is not None]
    return len(times) - len(known) + sum(after < before for before, after in zip(known, known[1:], strict=False))


def _seconds(match, order):
    """Return the time of a message in seconds, or None if there is no such date."""
    day, month, year = (int(match[1 + place]) for place in order)
    hour = int(match[4])
    if match[7]:
        hour = hour % 12 + (12 if match[7] in "pP" else 0)
    try:
        time = datetime(year + (2000 if year < 100 else 0), month, day, hour, int(match[5]), int(match[6] or 0),
                        tzinfo=UTC)
    except ValueError:
        return None
    return time.timestamp()


# --- JSON ---

def _records(source, texts):
    """Yield the objects in every list named "messages", a part of the file at a time."""
    decoder, start = json.JSONDecoder(strict=False), re.compile(r'"messages"\s*:\s*\[')
    held, place, inside = "", 0, False
    for text in texts:
        held, place = held[place:] + text, 0
        while True:
            if not inside:
                if not (opening := start.search(held, place)):
                    place = max(place, len(held) - 100)         # the name of the list may be cut here
                    break
                inside, place = True, opening.end()
            place = re.compile(r"[\s,]*").match(held, place).end()
            if held[place:place + 1] == "]":
                inside = False
                continue
            try:
                record, place = decoder.raw_decode(held, place)
            except (ValueError, RecursionError):
                if len(held) - place > _LONGEST:
                    raise FolioError(f"{source} is damaged, or no export of a messenger.") from None
                break
            if isinstance(record, dict):
                yield record
    if inside:
        raise FolioError(f"{source} ends inside its messages: it is damaged. Export the chat anew.")


def _text(value):
    return value if isinstance(value, str) else ""


def _facebook_message(record):
    time = record.get("timestamp_ms")
    is_time = isinstance(time, (int, float)) and abs(time) < 1e15
    return (_mended(_text(record.get("sender_name"))), time / 1000 if is_time else 0.0,
            _mended(_text(record.get("content"))))


def _mended(text):
    """Undo what these exports do to all text: UTF-8 that is written as if each byte were a character.
    >>> _mended("caf\\u00c3\\u00a9"), _mended("café")
    ('café', 'café')
    """
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _discord_message(record):
    author = record.get("author") if isinstance(record.get("author"), dict) else {}
    return (_text(author.get("nickname")) or _text(author.get("name")), _iso_seconds(record.get("timestamp")),
            _text(record.get("content")))


def _telegram_message(record):
    """Its text is a string, or a list of strings and of objects with a text: links, bold words."""
    text = record.get("text") if record.get("type") == "message" else ""
    parts = text if isinstance(text, list) else [text]
    seconds = _text(record.get("date_unixtime"))
    return (_text(record.get("from")) or "Unknown",
            float(seconds) if seconds.isdecimal() else _iso_seconds(record.get("date")),
            "".join(_text(part.get("text")) if isinstance(part, dict) else _text(part) for part in parts))


def _iso_seconds(value):
    try:
        time = datetime.fromisoformat(_text(value).replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
