"""Files to conversations: what of them can be learned, what is left out and why, and which are held out.

A conversation that can be learned begins with at most one system message; then the roles take turns, and an answer
comes last. What is not so is mended where its meaning is plain, and left out otherwise; both are counted and said.
"""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from folio.base.errors import FolioError
from folio.base.home import Home
from folio.base.spelling import counted
from folio.base.visible import on_one_line
from folio.chat import plain_text
from folio.chat.messages import ASSISTANT, SYSTEM, USER, Message
from folio.chat.template import END, START
from folio.data.corpus import documents_of, ordinary_bytes, read_corpus
from folio.data.facts import Facts
from folio.data.hold_out import VAL_BYTES_LIMIT, Group, choose
from folio.data.likeness import folded
from folio.data.paths import find_files
from folio.kernels.splitting import to_bytes
from folio.readers.dialogues import FACTS, NoConversation
from folio.readers.kinds import records_in
from folio.readers.mending import Mending, remarks
from folio.readers.source import Source
from Model_Params import TextParams
from tokenizer import END_OF_TEXT

# What is mended or left out: (one, several), as they follow a number.
JOINED = ("message of the role that spoke before, joined to it by a blank line",
          "messages of the role that spoke before, joined to it by a blank line")
EMPTY_ANSWER = ("empty answer, left out with its question", "empty answers, left out with their questions")
UNANSWERED = ("question at the end without an answer, left out", "questions at the end without an answer, left out")
MIDDLE = ("conversation with a system message in the middle, left out",
          "conversations with a system message in the middle, left out")
LACKING = ("record without a value that the template names, left out",
           "records without a value that the template names, left out")
NO_ANSWER = ("conversation without an answer, left out", "conversations without an answer, left out")
SPELLED = ("message that spells a special token, which is ordinary text there",
           "messages that spell a special token, which is ordinary text there")
ADVICE = "Name files, folders or globs of conversations."
FEWEST_HELD_OUT = 10            # conversations: below that the loss of one decides about the mean
_WHITE_SPACE = b" \t\n\r\v\f"
_SHOWN = 60                     # characters of a message that a refusal shows


@dataclass(frozen=True)
class Conversations:
    """Conversations to learn from and, held out, to measure on; each in an order that depends on contents alone."""
    train: list[list[Message]]
    val: list[list[Message]]
    fingerprint: str                # of both; independent of the names and the order of files and conversations


@dataclass(frozen=True)
class Found:
    """A conversation as it can be learned, and where it stands: "dialogues.jsonl, line 3"."""
    messages: list[Message]
    where: str
    format: str                     # one of dialogues.FORMATS
    record: Any                     # as the file has it


def read_conversations(paths: Iterable[Path | str], reading: TextParams = TextParams(),
                       say: Callable[[str], None] = print, held_out: Iterable[Path | str] = (),
                       held_out_text: str = "") -> Conversations:
    """Read conversations from files, folders and globs, and hold some out: those with the same question together.

    reading: of which template, invalid_bytes, encoding and val_fraction count. say: is told about every file
    held_out: paths like `paths` of what is held out; then nothing else is.
    held_out_text: of a text with these conversations, in turns, the part that is held out; then those in it are.
    Raises FileNotFoundError or FolioError where a path is missing, a file has nothing to learn from, or all files have
    fewer than two conversations.
    """
    held_out = list(held_out)
    val_files = find_files(held_out, reading=reading, advice=ADVICE) if held_out else []
    named = {path.resolve() for path in val_files}
    files = [path for path in find_files(list(paths), reading=reading, advice=ADVICE) if path.resolve() not in named]
    found = [each.messages for path in files for each in conversations_in(path, reading, say)]
    for_validation = [each.messages for path in val_files for each in conversations_in(path, reading, say)]
    train, val = _in_order(found), _in_order(for_validation)
    if not held_out:
        train, val = _as_in_text(train, held_out_text, say) or _split(train, reading.val_fraction, say)
    if not train:
        raise FolioError("All conversations are held out, and none is left to learn from.")
    common = len(set(map(question_key, train)).intersection(map(question_key, val)))
    if common and (held_out or held_out_text):
        say(f"{counted(common, 'question')} of the held-out conversations can also be learned: answers to them say "
            "nothing about new questions.")
    if len(val) < FEWEST_HELD_OUT:
        say(f"Only {counted(len(val), 'conversation')} of {len(train) + len(val):,} "
            f"{'is' if len(val) == 1 else 'are'} held out: the loss on so few says little.")
    digests = [[_digest(messages) for messages in part] for part in (train, val)]
    return Conversations(train, val, sha256(json.dumps(digests).encode()).hexdigest()[:16])


def project_conversations(home: Home, say: Callable[[str], None] = print) -> Conversations:
    """Read the conversations among the files that init.py prepared for a home, or in Train_Data where it has not.

    Of these the same are held out as of the home's text: a model that was trained on it has learned the others.
    Raises FolioError where none of them is one of conversations, and as `read_conversations` does.
    """
    documents, reading = documents_of(home)
    val = set(documents.held_out)
    files = [path for path in documents.files if has_conversations(path, reading)]
    if not set(files).difference(val):
        others = " and others" if len(documents.files) > 1 else ""
        raise FolioError(f"There are no conversations in the project's text, {documents.files[0]}{others}: name a file "
                         "of them after --chat.")
    return read_conversations([path for path in files if path not in val], reading, say,
                              [path for path in files if path in val], _held_out_text(home))


def named_conversations(home: Home, paths: Iterable[Path | str], reading: TextParams = TextParams(),
                        say: Callable[[str], None] = print) -> Conversations:
    """Read conversations as `read_conversations` does; of files of the home's text hold out what is held out of it."""
    paths = list(paths)
    try:
        documents, _ = documents_of(home)
    except (FolioError, OSError):           # it has no text
        return read_conversations(paths, reading, say)
    of_text = {path.resolve() for path in documents.files}
    are_of_text = all(path.resolve() in of_text for path in find_files(paths, reading=reading))
    return read_conversations(paths, reading, say, held_out_text=_held_out_text(home) if are_of_text else "")


def has_conversations(path: Path, reading: TextParams = TextParams()) -> bool:
    """Whether the first record of a file is a conversation."""
    try:
        record, _ = next(records_in(Source(path), reading, Mending(reading.invalid_bytes)))
        Facts(reading.template).messages_of(record)
    except (FolioError, StopIteration):
        return False
    return True


def conversations_in(path: Path, reading: TextParams = TextParams(), say: Callable[[str], None] = print
                     ) -> list[Found]:
    """Return the conversations of a file that can be learned, and say how many of which format, and what is left out.

    Raises FolioError where a record is none, or no conversation has an answer.
    """
    mending, formats, report, first, kept = Mending(reading.invalid_bytes), Counter(), _Report(), None, []
    for each in _read(path, reading, mending):
        formats[each.format] += 1
        first = first or each
        if each.format == FACTS and not each.messages:
            report.add(LACKING, each.where)
            continue
        learned = tidied(each.messages, lambda reason, where=each.where: report.add(reason, where))
        if learned is not None:
            kept.append(replace(each, messages=learned))
    if first is None:
        raise FolioError(f"There is nothing in {path}: no conversation, nothing to learn.")
    if not kept:
        raise FolioError(f"{path} has nothing to learn from: none of its {counted(formats.total(), 'conversation')} "
                         f"has an answer. The first, {first.where}, has {_described(first.messages)}.")
    say(f"{on_one_line(path.name)}: {counted(formats.total(), 'conversation')}: "
        + ", ".join(f"{name} {count:,}" for name, count in formats.most_common()))
    for sentence in [*report.sentences(), *remarks(mending.found)]:
        say(f"  {sentence}")
    return kept


def tidied(messages: Sequence[Message], tell: Callable[[tuple[str, str]], None] = lambda reason: None
           ) -> list[Message] | None:
    """Return a conversation as it can be learned; None where nothing of it can. tell: is called with each reason

    >>> tidied([Message("user", "One?"), Message("user", "Two?"), Message("assistant", "2"), Message("user", "Three?")])
    [Message(role='user', content='One?\\n\\nTwo?'), Message(role='assistant', content='2')]
    """
    joined = []
    for message in messages:
        message = Message(message.role, message.content.strip())
        if any(token in message.content for token in (START, END, END_OF_TEXT)):
            tell(SPELLED)
        if joined and joined[-1].role == message.role:
            tell(JOINED)
            contents = filter(None, [joined.pop().content, message.content])
            message = Message(message.role, "\n\n".join(contents))
        joined.append(message)
    if joined and joined[0] == Message(SYSTEM, ""):
        del joined[0]
    if any(message.role == SYSTEM for message in joined[1:]):
        tell(MIDDLE)
        return None
    kept = []
    for message in joined:
        if message != Message(ASSISTANT, ""):
            kept.append(message)
            continue
        tell(EMPTY_ANSWER)
        if kept and kept[-1].role == USER:
            kept.pop()
    if all(message.role != ASSISTANT for message in kept):
        if all(message.role != ASSISTANT for message in joined):
            tell(NO_ANSWER)
        return None
    if kept[-1].role == USER:
        tell(UNANSWERED)
        kept.pop()
    return kept


def question_key(messages: Sequence[Message]) -> bytes:
    """Return a hash of what the user says before the first answer to it, without case and white space.

    Where the user says nothing it is that of all messages.
    """
    asked = [message.content for message in messages if message.role == USER][:1]
    texts = asked if asked and asked[0].strip() else [message.content for message in messages]
    return blake2b(folded("\n".join(texts)).translate(None, _WHITE_SPACE), digest_size=8).digest()


def _read(path, reading, mending) -> Iterator[Found]:
    """Yield what each record of a file is, before it is tidied. FolioError names the place."""
    facts = Facts(reading.template)
    for record, where in records_in(Source(path), reading, mending):
        place = str(where).removesuffix(",")
        try:
            messages, name = facts.messages_of(record)
        except NoConversation as refusal:
            raise FolioError(f"{place} {refusal}") from None
        messages = [Message(message.role, mending.one(message.content, where)) for message in messages]
        yield Found(messages, place, name, record)


class _Report:
    """Counts reasons, with the place of the first of each."""

    def __init__(self):
        self._counts, self._firsts = Counter(), {}

    def add(self, reason, where):
        self._counts[reason] += 1
        self._firsts.setdefault(reason, where)

    def sentences(self):
        for reason, count in self._counts.items():
            yield f"{counted(count, *reason)} (the first: {self._firsts[reason]})."


def _described(messages):
    """Return what a conversation without an answer has, in a phrase."""
    shown = [f"{message.role}: {on_one_line(message.content[:_SHOWN]) or '(nothing)'}" for message in messages[:3]]
    return " | ".join(shown) or "no messages"


def _digest(messages):
    return sha256(json.dumps([[message.role, message.content] for message in messages]).encode()).hexdigest()


def _in_order(conversations):
    return sorted(conversations, key=_digest)


def _held_out_text(home):
    """Return the part of a home's text that is held out; "" where the home has no tokens of a text."""
    try:
        tokenizer, text = read_corpus(home, say=lambda sentence: None)
    except (FolioError, OSError):
        return ""
    return ordinary_bytes(tokenizer, text.val[1:]).decode("utf-8", errors="replace")


def _as_in_text(conversations, held_out_text, say):
    """Return (those to learn from, those held out) by what is held out of a text; None where that is none or all."""
    if not held_out_text:
        return None
    lines, sides = set(held_out_text.split("\n")), ([], [])
    for messages in conversations:
        turns = plain_text.written(messages).rstrip("\n")
        # The first line rules out most of them at once.
        sides[turns.partition("\n")[0] in lines and turns in held_out_text].append(messages)
    if all(sides):
        return sides
    say("What is held out of the project's text has none of these conversations or all, so others are held out: a "
        "model that was trained on that text may know them.")
    return None


def _split(conversations, val_fraction, say):
    """Return (those to learn from, those held out), at least one each. conversations: in their order"""
    if len(conversations) < 2:
        has_turns = any(sum(message.role == ASSISTANT for message in messages) > 1 for messages in conversations)
        several = f" In plain text a line of {END_OF_TEXT} separates two." if has_turns else ""
        raise FolioError("There is only one conversation, and one has to be held out to measure on: at least two are "
                         f"needed, and a few hundred teach something.{several}")
    keys = list(map(question_key, conversations))
    if len(set(keys)) == 1:
        say("All conversations have the same question, so it is among those to learn from and those held out.")
        keys = list(range(len(conversations)))
    groups = {}
    for number, key in sorted(enumerate(keys), key=lambda entry: (entry[1], entry[0])):
        groups.setdefault(key, []).append(number)
    sizes = [sum(len(to_bytes(message.content)) for message in messages) for messages in conversations]
    candidates = [Group(sum(sizes[number] for number in numbers), array("Q", numbers), "")
                  for numbers in groups.values()]
    target = min(val_fraction * sum(sizes), VAL_BYTES_LIMIT)
    chosen = choose(candidates, target, min(2 * target, sum(sizes) / 2)) or candidates[:1]
    held_out = {number for group in chosen for number in group.numbers}
    return ([messages for number, messages in enumerate(conversations) if number not in held_out],
            [messages for number, messages in enumerate(conversations) if number in held_out])
