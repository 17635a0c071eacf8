"""Mail: .mbox, in which each message becomes a document, and .eml. Sender, subject and what is written; nothing else.

Attachments, quoted messages and signatures are left out: a quotation is in the corpus already, as its own message, and
would be on both sides of a hold-out.
"""

import re
from collections.abc import Iterable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parseaddr

from folio.base.errors import FolioError
from folio.readers.mending import Mending
from folio.readers.source import Source
from folio.readers.web_pages import text_of
from Model_Params import TextParams

_MOST = 1 << 24             # bytes of a message that are looked at: what is written comes before large attachments


def read(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, where) for each message of a mailbox. Raises FolioError where it is none."""
    number = 0
    for number, content in enumerate(_messages(source.blocks(), source), 1):
        yield _text_of(content, mending), True, f"{source}, message {number},"
    mending.found["Read as a mailbox: {count|message|messages}, each a document."] += number


def read_one(source: Source, reading: TextParams, mending: Mending) -> Iterator[tuple[str, bool, object]]:
    """Yield (text, True, where) of a file that is one message."""
    content = bytearray()
    for block in source.blocks():
        content += block[:_MOST - len(content)]
    yield _text_of(bytes(content), mending), True, source


def _messages(blocks: Iterable[bytes], source: Source) -> Iterator[bytes]:
    """Yield each message. It begins with a line that begins with "From ", first or after an empty line (RFC 4155)."""
    content, is_after_empty, has_begun = bytearray(), True, False
    for line in _lines(blocks):
        if is_after_empty and line.startswith(b"From "):
            if has_begun:
                yield bytes(content)
            content, has_begun = bytearray(), True
        elif has_begun:
            if len(content) < _MOST:
                # A line of the text that begins with "From " has been given a ">".
                content += re.sub(rb"^>(>*From )", rb"\1", line)
        elif line.strip():
            raise FolioError(f"{source} is no mailbox: it does not begin with a line such as \"From ada@example.org "
                             "Mon Jan  1 12:00:00 2024\". One message by itself is read as .eml.")
        is_after_empty = not line.strip(b"\r\n")
    if has_begun:
        yield bytes(content)


def _lines(blocks):
    held = b""
    for block in blocks:
        *lines, held = (held + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
        if len(held) > _MOST:           # no mail has such a line
            yield held
            held = b""
    if held:
        yield held


def _text_of(content, mending):
    """Return a message as text: sender, subject, an empty line, and what is written; "" where it is damaged."""
    try:
        return _written(content, mending)
    except (FolioError, MemoryError):
        raise
    except Exception:           # of the standard library's parser: RecursionError, IndexError, KeyError and others
        mending.found["{count|message|messages} of mail too damaged to be read, left out."] += 1
        return ""


def _written(content, mending):
    if len(content) >= _MOST:
        mending.found[f"{{count|message|messages}} of mail larger than {_MOST >> 20} MB, of which only the beginning "
                      "is read."] += 1
    message = message_from_bytes(content, policy=policy.default)
    body = message.get_body(preferencelist=("plain", "html"))
    text = "" if body is None else _content_of(body)
    if body is not None and body.get_content_type() == "text/html":
        text = text_of(text)
    attachments = sum(part.get_content_disposition() == "attachment" or bool(part.get_filename())
                      for part in message.walk() if not part.is_multipart())
    if attachments:
        mending.found["{count|attachment|attachments} of mail left out."] += attachments
    name, address = parseaddr(_header(message, "From"))
    head = "".join(f"{label}: {value}\n" for label, value in (("From", name or address),
                                                              ("Subject", _header(message, "Subject"))) if value)
    written = _without_quotations(text, mending)
    return f"{head}\n{written}\n" if written else ""


def _header(message: EmailMessage, name):
    try:
        value = str(message[name] or "")
    except (ValueError, IndexError, AttributeError, TypeError, RecursionError):         # as there, for odd ones
        return ""
    return " ".join(value.encode("utf-8", errors="replace").decode("utf-8").split())


def _content_of(part):
    """Return the text of a part, in whatever encoding it says; Windows-1252 if it says none, or a wrong one."""
    content = part.get_payload(decode=True) or b""
    for encoding in (part.get_content_charset() or "utf-8", "utf-8", "windows-1252"):
        try:
            return content.decode(encoding)
        except (ValueError, LookupError):       # also of a name with NUL
            continue
    return content.decode("latin-1")


def _without_quotations(text, mending):
    """Return what a message has itself: no lines that quote another, no line that says who wrote them, no signature."""
    kept, quoted = [], 0
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if line == "-- ":
            break
        if not line.startswith(">"):
            kept.append(line.rstrip())
            continue
        quoted += 1
        while kept and not kept[-1]:
            kept.pop()
        if kept and re.search(r"(?:@|\d{4}|>).*:$|\w:$", kept[-1]) and len(kept[-1]) < 200:
            kept.pop()                      # On Monday, Ada wrote:
    if quoted:
        mending.found["{count|quoted line|quoted lines} of mail left out."] += quoted
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
