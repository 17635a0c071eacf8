"""What a person gives a model to continue or to answer: a text or a conversation, mended as training texts are."""

from pathlib import Path

from folio.base.errors import FolioError
from folio.chat.messages import Message
from folio.readers.charsets import decoded
from folio.readers.dialogues import NoConversation, messages_of
from folio.readers.kinds import recognized, records_in
from folio.readers.mending import Mending, remarks
from folio.readers.source import Source
from Model_Params import TextParams


def mended(text: str, where: object) -> tuple[str, list[str]]:
    """Return a text mended, and a sentence for each thing that was; where: its name in messages.

    Raises FolioError for what is no text.
    """
    mending = Mending(remedy="")
    [(text, _)] = mending([(text, True, where)])
    return text, list(remarks(mending.found))


def text_from(source: Source, encoding: str | None = None, where: str | None = None) -> tuple[str, list[str]]:
    """Return a file's text, mended, less its last newline, and remarks. Raises FolioError for what is no text.

    encoding: as in TextParams; where: its name in messages, if it is no file
    """
    if where is None and not (kind := recognized(source)).is_text:
        raise FolioError(f"{source} is {kind.name}, and a text is to be opened here.")
    text = "".join(decoded(source, TextParams(encoding=encoding, invalid_bytes="keep")))
    text, found = mended(text, where or source)
    return text.removesuffix("\n"), found


def conversation_from(path: Path, encoding: str | None = None) -> tuple[list[Message], list[str]]:
    """Return the first conversation of a file of any container and format, and remarks.

    Raises FolioError for a file without a conversation.
    """
    mending = Mending(remedy="")
    records = records_in(Source(path), TextParams(encoding=encoding), mending)
    found = next(records, None)
    if found is None:
        raise FolioError(f"There is no conversation in {path}.")
    record, where = found
    try:
        messages, _ = messages_of(record)
    except NoConversation as refusal:
        raise FolioError(f"{str(where).removesuffix(',')} {refusal}") from None
    messages = [Message(message.role, mending.one(message.content, where)) for message in messages]
    count = 1 + sum(1 for _ in records)
    others = [f"The file has {count:,} conversations; this is the first."] if count > 1 else []
    return messages, [*remarks(mending.found), *others]
