"""The messages of a request, and what a model reads of them.

A model that was taught to chat reads its chat template, as ids (folio.chat.template); turns that do not fit are
left out from the front. A base model has never seen the roles of a conversation, so its text has none: it is the
contents of the messages, each begun on a line of its own. The answer begins on a new line.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from folio.chat import messages as chat
from folio.generation.language_model import LanguageModel
from folio.server.shapes import Items, Record, Scalar, invalid, shaped, shown, unsupported, whole_text

ROLES = ("system", "developer", "user", "assistant")
CHATML, TEXT = "chatml", "text"
MOST_MESSAGES = 10_000
MOST_PARTS = 1000


class Content:
    """A text, or a list of parts of the type text."""

    def read(self, value: Any, param: str) -> str:
        """Return the text. Raises ApiError."""
        if not isinstance(value, list):
            return whole_text(value, param)
        texts = []
        for place, part in enumerate(value[:MOST_PARTS + 1]):
            kind = part.get("type") if isinstance(part, dict) else part
            if kind != "text":
                raise invalid(f"{param}.[{place}].type", f"{param}.[{place}] should have the type text, and it has "
                              f"{shown(kind)}; this model reads nothing else.")
            texts.append(whole_text(part.get("text"), f"{param}.[{place}].text"))
        if len(texts) > MOST_PARTS:
            raise invalid(param, f"{param} has more than {MOST_PARTS} parts.")
        return "".join(texts)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        part = {"type": "object", "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
                "required": ["type", "text"]}
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": part, "maxItems": MOST_PARTS}]}


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of a conversation."""
    role: str = shaped(MISSING, "who wrote it (developer: as system); a base model does not see that",
                       Scalar(str, choices=ROLES))
    content: str | None = shaped(None, "its text; null only for the assistant", Content())
    tool_calls: list | None = unsupported("tools", [])
    function_call: dict | None = unsupported("tools")


MESSAGES = Items(Record(Message), MOST_MESSAGES, 1)


def check_contents(messages: Sequence[Message]) -> None:
    """Raise ApiError where a message other than the assistant's has no content."""
    for place, message in enumerate(messages):
        if message.content is None and message.role != "assistant":
            param = f"messages.[{place}].content"
            raise invalid(param, f"{param} is missing; only the assistant's may be null.")


def said(messages: Sequence[Message]) -> list[chat.Message]:
    """Return the messages of a request as those of a conversation: the developer's are the system's."""
    return [chat.Message(chat.SYSTEM if message.role == "developer" else message.role, message.content or "")
            for message in messages]


def text_of(messages: Sequence[Message], goes_on: bool, begins_line: bool = True) -> str:
    r"""Return the text that a base model continues for a conversation.

    goes_on: continue the last message; begins_line: else begin the answer on a new line

    >>> text_of((Message(role="user", content="One?"), Message(role="assistant", content="Yes, o")), goes_on=True)
    'One?\nYes, o'
    """
    text = ""
    for message in messages:
        text += _line_break_after(text) + (message.content or "")
    return text if goes_on or not begins_line else text + _line_break_after(text)


def _line_break_after(text):
    return "\n" if text and not text.endswith("\n") else ""


@dataclass(frozen=True)
class Reading:
    """What a model reads of a conversation, and at which ids its answer ends."""
    prompt: str | list[int]     # of the engine's Request: a text, whose end may be healed, or ids
    ids: Sequence[int] = ()
    ends: tuple[int, ...] | None = None         # of the engine's Request
    turns_left_out: int = 0     # from the front, because they do not fit


def reads_template(model: LanguageModel, template: str | None) -> bool:
    """Return whether a model reads a conversation by its chat template.

    template: CHATML, TEXT, or None or "" for what the model was taught. Raises FolioError where it cannot.
    """
    if template == CHATML and model.chat is None:
        model.template()        # says how to teach it
    return template != TEXT and model.chat is not None


def reading_of(model: LanguageModel, messages: Sequence[Message], goes_on: bool = False, begins: bool = True,
               tokens: int | None = None, template: str | None = None) -> Reading:
    """Return the Reading of a conversation.

    goes_on: continue the last message; begins: else begin the assistant's; tokens: most of the answer, for which up to
    half of the context is kept (None: no turn is left out); template: see reads_template

    Raises FolioError like the tokenizer and reads_template.
    """
    if not reads_template(model, template):
        text = text_of(messages, goes_on, begins)
        return Reading(text, model.tokenizer.encode(text))
    known, kept, left_out = model.chat, said(messages), 0
    if tokens is not None:
        kept, left_out = known.fitted(kept, model.net.context, tokens, goes_on)
    ids = known.prompt(kept, goes_on) if goes_on or begins else known.encode(kept)[0]
    return Reading(ids, ids, known.ends, left_out)
