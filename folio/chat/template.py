r"""What a model reads of a conversation: ChatML (OpenAI, 2023), as token ids and as templates for other programs.

    <|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>\n

The two special tokens come from here alone: contents are encoded as ordinary text, so that no user can end a message or
begin one by spelling them. Contents lose the white space at both ends; nothing then merges with the line break before
them, and the ids made here, message by message, are those of the whole text.

The `chat` entry of a weights file is {"template": "chatml", "start": "<|im_start|>", "end": "<|im_end|>"}.
"""

from collections.abc import Sequence
from typing import Any

from folio.base.errors import FolioError
from folio.chat.messages import ASSISTANT, Message, system_count, without_oldest_turn
from tokenizer import Tokenizer

START, END = "<|im_start|>", "<|im_end|>"
# The same as a Jinja template, for transformers and llama.cpp.
JINJA = ("{% for message in messages %}{{ '" + START + "' + message['role'] + '\\n' + message['content'] | trim + '"
         + END + "' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '" + START + "assistant\\n' }}{% endif %}")


class ChatTemplate:
    """A tokenizer's way to write conversations as ids."""

    def __init__(self, tokenizer: Tokenizer, start: str = START, end: str = END):
        """start, end: the special tokens around a message. Raises FolioError where the tokenizer lacks one."""
        if missing := [name for name in (start, end) if name not in tokenizer.special_ids]:
            raise FolioError(f"The tokenizer has no special token {' and no '.join(missing)}.")
        self.tokenizer, self.start, self.end = tokenizer, start, end
        self.start_id, self.end_id = tokenizer.special_ids[start], tokenizer.special_ids[end]
        # Of an answer; the beginning of a message and the end of a text are no part of one either.
        self.ends = tuple(dict.fromkeys((self.end_id, self.start_id, *ends_of_text(tokenizer))))

    @classmethod
    def from_dict(cls, values: dict[str, Any], tokenizer: Tokenizer) -> "ChatTemplate":
        """Return the template that the `chat` entry of a weights file names. Raises FolioError where there is none."""
        try:
            if values["template"] != "chatml":
                raise FolioError(f"its chat template is {values['template']!r}, which this Folio does not know")
            return cls(tokenizer, values["start"], values["end"])
        except (KeyError, TypeError) as error:
            raise FolioError(f"its chat entry describes no template ({type(error).__name__} at {error})") from None

    def to_dict(self) -> dict[str, str]:
        """Return the `chat` entry of a weights file."""
        return {"template": "chatml", "start": self.start, "end": self.end}

    def encode(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Return the ids of a conversation, and of each id whether it is the assistant's to say: content and end token.

        Raises FolioError like the tokenizer.
        """
        ids, learned = [], []
        for message in messages:
            head, content, tail = self.parts(message)
            ids += [*head, *content, *tail]
            is_said = message.role == ASSISTANT
            learned += [False] * len(head) + [is_said] * (len(content) + 1) + [False] * (len(tail) - 1)
        return ids, learned

    def parts(self, message: Message) -> tuple[list[int], list[int], list[int]]:
        """Return the ids of a message in three parts: header, content, and the end token with the line break after it.

        Raises FolioError like the tokenizer.
        """
        content = self.tokenizer.encode(message.content.strip())
        return self._head(message.role), content, [self.end_id, *self.tokenizer.encode("\n")]

    def prompt(self, messages: Sequence[Message], continues: bool = False) -> list[int]:
        """Return the ids after which the assistant's answer follows.

        continues: the last message is the answer, as far as it has come
        """
        if not continues:
            return self.encode(messages)[0] + self._head(ASSISTANT)
        *before, last = messages
        return self.encode(before)[0] + self._head(last.role) + self.tokenizer.encode(last.content.lstrip())

    def fitted(self, messages: Sequence[Message], context: int | None, tokens: int,
               continues: bool = False) -> tuple[list[Message], int]:
        """Return the newest turns of a conversation that fit into a context beside an answer, and how many do not.

        System messages stay. The last turn stays too, whatever its length.
        context: in tokens, None: without end; tokens: most of the answer, for which up to half of the context is kept
        """
        kept, left_out = list(messages), 0
        if context is None:
            return kept, left_out
        beyond = len(self.prompt(kept, continues)) - max(context - tokens, context - context // 2)
        while beyond > 0 and (fewer := without_oldest_turn(kept)):
            oldest = kept[system_count(kept):][:len(kept) - len(fewer)]
            beyond -= len(self.encode(oldest)[0])
            kept, left_out = fewer, left_out + 1
        return kept, left_out

    def _head(self, role):
        return [self.start_id, *self.tokenizer.encode(f"{role}\n")]


def ends_of_text(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids of which each ends a text: one, or none."""
    return () if tokenizer.end_of_text is None else (tokenizer.end_of_text,)


def named_by(jinja: Any, tokenizer: Tokenizer) -> ChatTemplate | None:
    """Return the ChatTemplate that another program's Jinja template stands for; None where it is no ChatML.

    What such a template adds by itself, as a system message where there is none, is left out.
    """
    if not (isinstance(jinja, str) and START in jinja and END in jinja):
        return None
    return ChatTemplate(tokenizer) if {START, END} <= tokenizer.special_ids.keys() else None


def taught(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the special tokens of conversations, after all others, where it lacks them."""
    missing = [name for name in (START, END) if name not in tokenizer.special_ids]
    return tokenizer.with_special_tokens(missing) if missing else tokenizer
