"""Preferences: of two answers to one prompt the better one, from files to token sequences.

A record has one of these forms; a text and a list of messages ({"role", "content"}) may stand for each other:

    {"prompt", "chosen", "rejected"}        the prompt is a text, or a conversation as a list of messages
    {"messages", "chosen", "rejected"}      the same, of a conversation
    {"chosen", "rejected"}                  two conversations that differ in their last message

A model that was taught to chat reads a prompt that is a text as the user's message. Its answers end with the end token,
which is learned too. A model that was not continues texts. Prompt and answer are then encoded as one text, as they are
in the texts that it has learned from, and the tokens that reach beyond the end of the prompt are the answer's. Encoded
apart, "the " and "sea" would be tokens that no text has, where " sea" is one.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from folio.base.errors import FolioError
from folio.base.files import fingerprint
from folio.base.spelling import counted
from folio.chat.messages import ASSISTANT, ROLES, USER, Message, without_oldest_turn
from folio.chat.template import ChatTemplate
from folio.data.batches import IGNORED, Batch, permuted
from Model_Params import TextParams
from tokenizer import Tokenizer

Prompt = str | tuple[Message, ...]
# Pairs below which a run warns. From the shipped model's own samples, with 100 pairs its rate of endings in "!" went
# from 0.2 to 0.6, with 300 to over 0.9 (docs/preferences.md).
FEW = 300


@dataclass(frozen=True)
class Preference:
    """A prompt, the answer that was preferred, and one that was not."""
    prompt: Prompt
    chosen: str
    rejected: str
    where: str = field(default="", compare=False)       # file and line, for messages


@dataclass(frozen=True)
class Preferences:
    """All pairs of some files."""
    train: list[Preference]
    val: list[Preference]
    fingerprint: str            # of both


def read_preferences(paths: Sequence[Path], reading: TextParams, say: Callable[[str], None]) -> Preferences:
    """Return the pairs in some files. Raises FolioError, naming file and line, for the first that is none.

    What is held out depends on the prompt alone, so that all pairs of a prompt are on one side, and stay there when
    more are added. Where all prompts are equal, it depends on the chosen answer too.
    reading: val_fraction says how many are held out; say: is told what was found
    """
    pairs = [preference_of(record, where) for path in paths for record, where in _records(path)]
    keys = [_text_of(pair.prompt) for pair in pairs]
    if len(set(keys)) == 1:
        keys = [key + "\n" + pair.chosen for key, pair in zip(keys, pairs)]
    if len(set(keys)) < 2:
        names = ", ".join(map(str, paths))
        found = "one choice" if pairs else "no pair"
        raise FolioError(f"{names} has {found}, and two are needed at least: one to learn from, and one to hold out.")
    places = {key: int.from_bytes(blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()) / 2**64
              for key in keys}
    # At least one on each side.
    lowest, *_, highest = sorted(places.values())
    limit = min(max(reading.val_fraction, np.nextafter(lowest, 1)), highest)
    sides = {is_val: [pair for pair, key in zip(pairs, keys) if (places[key] < limit) == is_val]
             for is_val in (False, True)}
    found = Preferences(sides[False], sides[True], fingerprint([[key, pair.chosen, pair.rejected]
                                                                for key, pair in zip(keys, pairs)]))
    say(f"{counted(len(found.train), 'pair')} of a preferred and another answer to learn from, "
        f"{len(found.val):,} held out.")
    if len(found.train) < FEW:
        say(f"That is few: expect a clear change from about {FEW} pairs on.")
    return found


# --- Records ---

def preference_of(record: Any, where: str) -> Preference:
    """Return the Preference in a record. where: of the record, for the message of the FolioError where there is none"""
    if not isinstance(record, dict):
        raise FolioError(f"{where} is no object with prompt, chosen and rejected.")
    missing = [name for name in ("chosen", "rejected") if record.get(name) is None]
    if missing:
        raise FolioError(f"{where} has no {' and no '.join(missing)}: a preference is a prompt, the chosen answer and a "
                         "rejected one.")
    prompt = record.get("prompt", record.get("messages"))
    chosen, rejected = (_value(record[name], name, where) for name in ("chosen", "rejected"))
    if prompt is not None:
        prompt = _value(prompt, "prompt", where)
    elif isinstance(chosen, tuple):
        prompt = chosen[:-1]
    else:
        raise FolioError(f"{where} has no prompt and no messages, to which the answers belong.")
    if not isinstance(prompt, str) and (not prompt or prompt[-1].role == ASSISTANT):
        raise FolioError(f"{where} has a conversation that does not end with a message to be answered.")
    chosen, rejected = (_answer(value, prompt, name, where)
                        for value, name in ((chosen, "chosen"), (rejected, "rejected")))
    if chosen.strip() == rejected.strip():
        raise FolioError(f"{where} has the same text as chosen and as rejected: nothing can be learned from that. "
                         "Remove it.")
    return Preference(prompt, chosen, rejected, where)


def _value(value, name, where):
    """Return a text, or a list of messages as a tuple of Message."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        messages = [(part.get("role"), part.get("content")) for part in value if isinstance(part, dict)]
        if len(messages) == len(value) and all(role in ROLES and isinstance(text, str) for role, text in messages):
            return tuple(Message(role, text) for role, text in messages)
    raise FolioError(f"{where} has a {name} that is neither a text nor a list of messages (role: {', '.join(ROLES)}; "
                     "content: a text).")


def _answer(value, prompt, name, where):
    """Return the text of an answer. value: the text, its message, or the conversation that it ends"""
    if not isinstance(value, str):
        before = (Message(USER, prompt),) if isinstance(prompt, str) else prompt
        messages = value[len(before):] if value[:len(before)] == before else value
        if len(messages) != 1 or messages[0].role != ASSISTANT:
            raise FolioError(f"{where} has a {name} that is not one message of the assistant after the prompt.")
        value = messages[0].content
    if not value.strip():
        raise FolioError(f"{where} has an empty {name} answer. Remove the line, or mend it.")
    return value


def _text_of(prompt):
    """Return a text that is the same for equal prompts."""
    if isinstance(prompt, str):
        return prompt
    return json.dumps([[message.role, message.content.strip()] for message in prompt])


def _records(path) -> Iterator[tuple[Any, str]]:
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line), f"{path}, line {number},"
                except ValueError as error:
                    raise FolioError(f"{path}, line {number}, is not JSON ({error}).") from None


# --- Tokens ---

@dataclass(frozen=True)
class Answered:
    """A prompt with an answer, as tokens."""
    ids: np.ndarray         # (time,) int64
    learned: np.ndarray     # (time,) bool: whether a token is the answer's; never the first


class Encoder:
    """Turns a Preference into the token sequences of its two answers."""

    def __init__(self, tokenizer: Tokenizer, chat: ChatTemplate | None, opening: list[int], block_size: int):
        """chat: of a model that was taught to chat; opening: tokens before a text that begins from nothing."""
        self.tokenizer, self.chat, self.opening, self.block_size = tokenizer, chat, opening, block_size
        self._sizes = np.array([len(token) for token in tokenizer.token_bytes])

    def pairs(self, preferences: Sequence[Preference]) -> tuple[list[tuple[Answered, Answered]], int]:
        """Return (chosen, rejected) of each preference that fits into the context, and how many do not.

        A prompt loses its beginning to fit, a conversation its oldest turns; an answer loses nothing.
        Raises FolioError where a preference is a conversation and the model continues texts.
        """
        found = [pair for preference in preferences if (pair := self.pair(preference))]
        return found, len(preferences) - len(found)

    def pair(self, preference: Preference) -> tuple[Answered, Answered] | None:
        """Return (chosen, rejected), or None where the answers do not fit into the context."""
        if self.chat is not None:
            return self._answers(preference)
        if not isinstance(preference.prompt, str):
            raise FolioError(f"{preference.where} is a conversation, and the model continues texts: it was not taught "
                             "to chat. Teach it first (train.py --chat), or give prompts that are texts.")
        pair = [self._continued(preference.prompt, answer) for answer in (preference.chosen, preference.rejected)]
        excess = max(0, max(len(ids) for ids, _ in pair) - self.block_size - 1)
        if any(learned[:excess + 1].any() for _, learned in pair):
            return None
        return tuple(Answered(ids[excess:], learned[excess:]) for ids, learned in pair)

    def _continued(self, prompt, answer):
        """Return the tokens of a text, and which of them reach beyond the end of its prompt."""
        ids = np.array(self.tokenizer.encode(prompt + answer))
        learned = np.cumsum(self._sizes[ids]) > len(prompt.encode("utf-8", errors="surrogateescape"))
        if learned[0]:
            ids = np.concatenate([self.opening, ids])
            learned = np.concatenate([np.zeros(len(self.opening), bool), learned])
        return ids, learned

    def _answers(self, preference):
        prompt = preference.prompt
        messages = [Message(USER, prompt)] if isinstance(prompt, str) else list(prompt)
        answers = [[*self.tokenizer.encode(answer.strip()), self.chat.end_id]
                   for answer in (preference.chosen, preference.rejected)]
        room = self.block_size + 1 - max(map(len, answers))
        while len(ids := self.chat.prompt(messages)) > room:
            if (messages := without_oldest_turn(messages)) is None:
                return None
        return tuple(Answered(np.array(ids + answer), np.arange(len(ids) + len(answer)) >= len(ids))
                     for answer in answers)


def batch_of(pairs: Sequence[tuple[Answered, Answered]]) -> Batch:
    """Return the Batch of some pairs: two rows for each, the chosen one first. Only answers are targets.

    Rows are as long as the longest one. What follows a shorter one has no effect on it.
    """
    rows = [answered for pair in pairs for answered in pair]
    length = max(len(row.ids) for row in rows) - 1
    inputs = np.zeros((len(rows), length), np.int64)                            # (2 B, T)
    targets = np.full((len(rows), length), IGNORED, np.int64)
    for number, row in enumerate(rows):
        inputs[number, :len(row.ids) - 1] = row.ids[:-1]
        targets[number, :len(row.ids) - 1] = np.where(row.learned, row.ids, IGNORED)[1:]
    return Batch(inputs, targets)


def pairs_of_step(total: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Return which of `total` pairs a step learns from: all of them once an epoch, in an order of its own.

    -> (batch_size,) int64; the end of one epoch and the start of the next may be in one step.
    >>> sorted([*pairs_of_step(4, 0, 2, seed=1), *pairs_of_step(4, 1, 2, seed=1)])
    [0, 1, 2, 3]
    """
    epochs, indices = np.divmod(step * batch_size + np.arange(batch_size), total)
    return np.concatenate([permuted(indices[epochs == epoch], total, (seed, epoch))
                           for epoch in range(epochs[0], epochs[-1] + 1)])
