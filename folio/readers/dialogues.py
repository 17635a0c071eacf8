"""Records to conversations: OpenAI messages, ShareGPT, Alpaca, prompt and completion, question and answer, plain text.

The format of each record is told by its keys alone, in upper or lower case, so that one file may have several.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from folio.base.errors import FolioError
from folio.base.visible import on_one_line
from folio.chat import plain_text
from folio.chat.messages import ASSISTANT, SYSTEM, USER, Message
from folio.readers.values import json_type, written

MESSAGES, SHAREGPT, ALPACA = "OpenAI messages", "ShareGPT", "Alpaca"
PROMPTS, QUESTIONS, PLAIN_TEXT = "prompt and completion", "question and answer", "plain text in turns"
FACTS = "facts in a template"       # made into conversations by folio.data.facts
FORMATS = (MESSAGES, SHAREGPT, ALPACA, PROMPTS, QUESTIONS, PLAIN_TEXT, FACTS)

_LISTS = ("messages", "conversations", "conversation")
# The names that OpenAI ("developer" is the newer "system"), ShareGPT and its descendants give the roles.
_ROLES = {"system": SYSTEM, "developer": SYSTEM, "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT,
          "chatgpt": ASSISTANT, "bing": ASSISTANT}
_TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "tool_call", "tool_response")
_TOOL_FIELDS = ("tool_calls", "function_call")
# Beside instruction and output also Dolly's names for them. The first that a record has counts.
_ALPACA_INPUTS, _ALPACA_OUTPUTS = ("input", "context"), ("output", "response")
# In English as data sets have them, and in German.
_PAIRS = (("question", "answer"), ("q", "a"), ("input", "output"), ("query", "response"), ("prompt", "response"),
          ("frage", "antwort"))
_BESIDE = {"system", "id"}      # columns that a table of questions and answers may have beside them
_SHOWN = 60                     # characters of a text that a sentence shows


class NoConversation(FolioError):
    """Says what a record is instead of a conversation, in words that follow its place: "has a tool message: ..."."""


def messages_of(record: Any) -> tuple[list[Message], str]:
    """Return the messages of a record as they stand there, and the name of its format, one of FORMATS.

    record: a JSON value, a row as a dictionary, or a text in turns. Empty contents stay. Raises NoConversation.

    >>> messages_of({"Frage": "Wie viele?", "Antwort": 3})
    ([Message(role='user', content='Wie viele?'), Message(role='assistant', content='3')], 'question and answer')
    """
    if isinstance(record, str):
        return _in_turns(record), PLAIN_TEXT
    if isinstance(record, list):
        return _messages(record)
    if not isinstance(record, Mapping):
        raise NoConversation(f"is no conversation but {json_type(record)}.")
    fields = {str(name).strip().casefold(): value for name, value in record.items()}
    for name in _LISTS:
        if isinstance(fields.get(name), list):
            return _messages(fields[name])
    if format_of(fields) == ALPACA:
        return _alpaca(fields), ALPACA
    if format_of(fields) == PROMPTS:
        return _system(fields) + _said(fields, "prompt", USER) + _said(fields, "completion", ASSISTANT), PROMPTS
    if pair := _pair(fields):
        return _system(fields) + [Message(role, _text(fields, name)) for role, name in zip((USER, ASSISTANT), pair)
                                  ], QUESTIONS
    raise NoConversation(_no_format(fields, record))


def format_of(fields: Iterable[str]) -> str | None:
    """Return the format that records with these fields or columns have; None where it is none.

    fields: names, or a record, whose `messages` then have to be a list

    >>> format_of(["ID", "Question", "Answer"]), format_of(["tag", "duty"])
    ('question and answer', None)
    """
    is_record = isinstance(fields, Mapping)
    names = {name.strip().casefold(): fields[name] if is_record else None for name in fields}
    if any(name in names and (not is_record or isinstance(names[name], list)) for name in _LISTS):
        return MESSAGES
    if "instruction" in names and not names.keys().isdisjoint(_ALPACA_OUTPUTS):
        return ALPACA
    if {"prompt", "completion"} <= names.keys():
        return PROMPTS
    return QUESTIONS if _pair(names) else None


def has_nothing_else(names: Iterable[str]) -> bool:
    """Whether a table of these columns has conversations and no other facts. A cell holds no list of messages."""
    names = {name.strip().casefold() for name in names} - _BESIDE
    found = format_of(names)
    if found == ALPACA:
        return names <= {"instruction", "category", *_ALPACA_INPUTS, *_ALPACA_OUTPUTS}
    return found == PROMPTS and len(names) == 2 or found == QUESTIONS and names == set(_pair(names))


# --- One function for each format ---

def _messages(entries):
    """Return the messages of a list of objects, and the format that their keys are of."""
    messages, is_sharegpt = [], False
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            raise NoConversation(f"has {json_type(entry)} as message {number}, where there should be an object with a "
                                 "role and a content.")
        is_sharegpt |= "from" in entry
        role = entry.get("from") if "from" in entry else entry.get("role")
        if role in _TOOL_ROLES or any(entry.get(name) for name in _TOOL_FIELDS):
            raise NoConversation(f"has a call of a tool, or what one returned, as message {number}: conversations with "
                                 "tools cannot be learned. Leave this one out, or write what was found into the "
                                 "answer.")
        if not isinstance(role, str) or role.casefold() not in _ROLES:
            raise NoConversation(f"has {_shown(role)} as the role of message {number}; known are {', '.join(_ROLES)}.")
        content = entry.get("value") if "value" in entry else entry.get("content")
        messages.append(Message(_ROLES[role.casefold()], _content(content, number)))
    return messages, SHAREGPT if is_sharegpt else MESSAGES


def _content(content, number):
    """Return a message's content as text. It may be a list of parts of type text."""
    if isinstance(content, list):
        parts = []
        for part in content:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                parts.append(part["text"])
            elif isinstance(part, str):
                parts.append(part)
            else:
                kind = part.get("type") if isinstance(part, Mapping) else None
                raise NoConversation(f"has a part of type {_shown(kind)} in message {number}: only text can be "
                                     "learned. Leave it out.")
        return "\n".join(parts)
    try:
        return written(content) or ""
    except TypeError:
        raise NoConversation(f"has {json_type(content)} as the content of message {number}, not text.") from None


def _alpaca(fields):
    messages = _system(fields)
    history = fields.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise NoConversation("has a 'history' that is no list of pairs [instruction, output].")
    for question, answer in history:
        messages += [Message(USER, _content(question, "in 'history'")), Message(ASSISTANT,
                                                                               _content(answer, "in 'history'"))]
    more = next((text for name in _ALPACA_INPUTS if (text := _text(fields, name))), "")
    question = "\n\n".join(filter(None, [_text(fields, "instruction"), more]))
    output = next(name for name in _ALPACA_OUTPUTS if name in fields)
    return [*messages, Message(USER, question), Message(ASSISTANT, _text(fields, output))]


def _said(fields, name, role):
    """Return the messages of a field: a list of them, or one text that this role says."""
    if isinstance(fields[name], list):
        return _messages(fields[name])[0]
    return [Message(role, _text(fields, name))]


def _system(fields):
    return [Message(SYSTEM, text)] if (text := _text(fields, "system")) else []


def _pair(names):
    return next((pair for pair in _PAIRS if pair[0] in names and pair[1] in names), None)


def _text(fields, name):
    try:
        return written(fields.get(name)) or ""
    except TypeError:
        raise NoConversation(f"has {json_type(fields[name])} in its field {name!r}, not text.") from None


def _in_turns(text):
    messages = plain_text.read(text)
    if all(message.role == ASSISTANT for message in messages):
        start = on_one_line(text.strip()[:_SHOWN]) or "nothing"
        raise NoConversation(f"is plain text without turns: no line in it begins with \"> \". Begin the lines of "
                             f"questions so, and put a blank line after each question. It begins: {start}")
    return messages


def _no_format(fields, record):
    names = ", ".join(map(repr, list(record)[:10])) or "none"
    if "chosen" in fields and "rejected" in fields:
        return ("has a chosen and a rejected answer: it is a preference, to be learned with --preferences after the "
                "conversations.")
    if "content" in fields or "value" in fields:
        return ("is a single message, and should be a conversation: a list of messages in a field 'messages', all of "
                "a conversation in one record.")
    known = (f"is no conversation: its fields are {names}. Known are messages (OpenAI), conversations (ShareGPT), "
             "instruction and output (Alpaca), prompt and completion, question and answer: rename them (of a table in "
             "its first line).")
    if len(record) < 2:
        return known
    asked, told, *_ = record
    return (f"{known} Other facts take a template in turns, a question and its answer: "
            f'--template "> What is the {told} of {{{asked}}}?\\n\\n{{{told}}}"')


def _shown(value):
    return "nothing" if value is None else repr(value)[:_SHOWN]
