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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from folio.base.errors import FolioError
from folio.base.files import fingerprint
from folio.base.home import Home
from folio.base.spelling import counted
from folio.chat.messages import ASSISTANT, USER, Message, without_oldest_turn
from folio.chat.template import ChatTemplate
from folio.data.batches import IGNORED, Batch, permuted
from folio.data.corpus import ordinary_bytes, read_corpus
from folio.data.paths import find_files
from folio.readers.dialogues import NoConversation, messages_of
from folio.readers.kinds import records_in
from folio.readers.mending import Mending
from folio.readers.source import Source
from Model_Params import TextParams
from tokenizer import Tokenizer

Prompt = str | tuple[Message, ...]
FEW = 300                       # pairs to learn from: below that a run warns

MEASURED_BYTES = 1 << 16        # of held-out text: before and after a run differ by more than their error
LEARNED_BYTES = 1 << 20         # of training text: more than a run over a few hundred pairs reads


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


def read_preferences(paths: Sequence[Path | str], reading: TextParams = TextParams(),
                     say: Callable[[str], None] = print) -> Preferences:
    """Return the pairs in some files. Raises FolioError, naming file and line, for the first record that is none.

    reading: of which invalid_bytes, encoding and val_fraction count; say: is told what was found
    """
    files = find_files(list(paths), advice="Name files, folders or globs of preferences.")
    pairs = [pair for path in files for pair in _pairs_in(path, reading)]
    train, val = _split(pairs, reading.val_fraction)
    if not val:
        found = "one choice" if pairs else "no pair"
        raise FolioError(f"{', '.join(map(str, paths))} has {found}, and two are needed at least: one to learn from, "
                         f"one to hold out. About {FEW} teach something.")
    say(f"{counted(len(train), 'pair')} of a preferred and another answer to learn from, {len(val):,} held out.")
    if len(train) < FEW:
        say(f"That is few: expect a clear change from about {FEW} pairs on.")
    contents = [[_text_of(pair.prompt), pair.chosen, pair.rejected] for pair in [*train, *val]]
    return Preferences(train, val, fingerprint([len(train), contents]))


def _split(pairs, val_fraction):
    """Return (those to learn from, those held out), at least one each; none held out where that cannot be.

    The side depends on the prompt alone: all pairs of a prompt are on one side, and stay there when pairs are added.
    Where all prompts are equal, it depends on the chosen answer too.
    """
    keys = [_text_of(pair.prompt) for pair in pairs]
    if len(set(keys)) == 1:
        keys = [f"{key}\n{pair.chosen}" for key, pair in zip(keys, pairs)]
    digests = [blake2b(key.encode("utf-8", errors="replace"), digest_size=8).digest() for key in keys]
    different = sorted(set(digests))
    if len(different) < 2:
        return pairs, []
    limit = min(max(int(val_fraction * 2**64).to_bytes(8, "big"), different[1]), different[-1])
    return ([pair for pair, digest in zip(pairs, digests) if digest >= limit],
            [pair for pair, digest in zip(pairs, digests) if digest < limit])


# --- Records ---

def preference_of(record: Any, where: str) -> Preference:
    """Return the Preference in a record. where: of the record, for the message of the FolioError where there is none"""
    if not isinstance(record, Mapping):
        raise FolioError(f"{where} is no object with prompt, chosen and rejected.")
    missing = [name for name in ("chosen", "rejected") if record.get(name) is None]
    if missing:
        raise FolioError(f"{where} has no {' and no '.join(missing)}: a preference is a prompt, the chosen answer and "
                         "a rejected one.")
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
    if not isinstance(value, list) or not value:
        raise FolioError(f"{where} has a {name} that is neither a text nor a list of messages.")
    try:
        messages, _ = messages_of({"messages": value})
    except NoConversation as refusal:
        raise FolioError(f"{where} has a {name} that {refusal}") from None
    return tuple(messages)


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


def _pairs_in(path, reading):
    """Yield the Preference of each record of a file."""
    mending = Mending(reading.invalid_bytes)
    for record, where in records_in(Source(path), reading, mending):
        where = str(where)
        found = preference_of(record, where)
        prompt = found.prompt
        if isinstance(prompt, str):
            prompt = mending.one(prompt, where)
        else:
            prompt = tuple(Message(message.role, mending.one(message.content, where)) for message in prompt)
        yield Preference(prompt, mending.one(found.chosen, where), mending.one(found.rejected, where), where)


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
        if self.chat is None and not isinstance(preference.prompt, str):
            raise FolioError(f"{preference.where} is a conversation, and the model continues texts: it was not taught "
                             "to chat. Teach it first (train.py --chat), or give prompts that are texts.")
        try:
            return self._continuations(preference) if self.chat is None else self._answers(preference)
        except FolioError as error:         # a character tokenizer lacks what is in it
            raise FolioError(f"{preference.where.removesuffix(',')} cannot be learned. {error} Replace them there, or "
                             "start from weights with byte pairs.") from None

    def _continuations(self, preference):
        """Do the same for a model that continues texts."""
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
        """Do the same for a model that was taught to chat."""
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
    """Return the Batch of some pairs, the chosen answer first: (pairs, 2, time) each. Only answers are targets.

    Rows are as long as the longest one. What follows a shorter one has no effect on it.
    """
    length = max(len(answered.ids) for pair in pairs for answered in pair) - 1
    inputs = np.zeros((len(pairs), 2, length), np.int64)
    targets = np.full((len(pairs), 2, length), IGNORED, np.int64)
    for number, pair in enumerate(pairs):
        for side, answered in enumerate(pair):
            inputs[number, side, :len(answered.ids) - 1] = answered.ids[:-1]
            targets[number, side, :len(answered.ids) - 1] = np.where(answered.learned, answered.ids, IGNORED)[1:]
    return Batch(inputs, targets)


def pairs_of_step(total: int, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Return which of `total` pairs a step learns from: all of them once an epoch, in an order of its own.

    -> (batch_size,) int64; the end of one epoch and the start of the next may be in one step.
    >>> sorted(np.concatenate([pairs_of_step(4, step, 2, seed=1) for step in (0, 1)]).tolist())
    [0, 1, 2, 3]
    """
    epochs, indices = np.divmod(step * batch_size + np.arange(batch_size), total)
    return np.concatenate([permuted(indices[epochs == epoch], total, (seed, epoch))
                           for epoch in range(epochs[0], epochs[-1] + 1)])


# --- What a run is made of ---

@dataclass(frozen=True)
class PairCorpus:
    """Pairs as tokens, and what a run has to know of them."""
    sides: dict[str, list[tuple[Answered, Answered]]]       # "train" and "val"
    block_size: int
    left_out: int                       # pairs that do not fit into the context
    fingerprint: str
    sources: tuple[str, ...]            # paths of the files
    text: TextParams
    opening: list[int]
    chat: ChatTemplate | None
    ordinary_text: np.ndarray | None    # (tokens,) int64: text to learn beside the pairs, against forgetting
    held_out_text: tuple[np.ndarray, int] | None        # tokens, after one for context, and the bytes in them

    training_part = None                # it is no text

    @property
    def train(self) -> list[tuple[Answered, Answered]]:
        """The pairs to learn from."""
        return self.sides["train"]

    @property
    def val(self) -> list[tuple[Answered, Answered]]:
        """The pairs held out."""
        return self.sides["val"]

    # In predictions a pair takes as long as a sequence of the whole context: it is two, mostly shorter ones.
    @property
    def train_tokens(self) -> int:
        """The tokens that an epoch counts."""
        return len(self.train) * self.block_size

    @property
    def val_tokens(self) -> int:
        """The tokens that a validation counts."""
        return len(self.val) * self.block_size

    @property
    def train_bytes(self) -> int:
        """As many bytes: predictions know no better."""
        return self.train_tokens

    @property
    def val_bytes(self) -> int:
        """As many bytes."""
        return self.val_tokens


def pair_corpus(home: Home, paths: Sequence[Path | str], tokenizer: Tokenizer, chat: ChatTemplate | None,
                opening: list[int], block_size: int, reading: TextParams = TextParams(),
                say: Callable[[str], None] = print) -> PairCorpus:
    """Return the pairs in some files as tokens for a model, with the held-out text of the home to measure it on.

    chat, opening, block_size: the model's. Raises FolioError like read_preferences and Encoder, and where no pair fits
    into the context.
    """
    found = read_preferences(paths, reading, say)
    encoder = Encoder(tokenizer, chat, opening, block_size)
    (train, without), (val, without_val) = encoder.pairs(found.train), encoder.pairs(found.val)
    if left_out := without + without_val:
        say(f"{counted(left_out, 'pair')} left out, as an answer does not fit into the context of {block_size} tokens.")
    if not (train and val):
        raise FolioError(f"No pair {'to learn from' if val else 'held out'} fits into the context of {block_size} "
                         "tokens. Give shorter answers, or a model with a longer context.")
    text = replace(reading, tokenizer=tokenizer.kind, vocab_size=tokenizer.vocab_size if tokenizer.kind == "bpe"
                   else None, pattern=getattr(tokenizer, "pattern", reading.pattern))
    ordinary, held_out = _texts_of(home, tokenizer, opening)
    say("Beside the pairs it learns from the project's text, against forgetting." if ordinary is not None else
        "The project has no text to learn beside the pairs, so look at what else changes: a lower --learning-rate "
        "changes less.")
    fingerprints = [found.fingerprint, ordinary is not None and fingerprint(ordinary.tobytes())]
    return PairCorpus({"train": train, "val": val}, block_size, left_out, fingerprint(fingerprints),
                      tuple(str(Path(path).resolve()) for path in paths), text, opening, chat, ordinary, held_out)


def _texts_of(home, tokenizer, opening):
    """Return (tokens of a home's training text, (tokens of its held-out text, bytes in them)), the beginning of each.

    (None, None) where it has no text, or one that this tokenizer cannot encode.
    """
    try:
        own, text = read_corpus(home, say=lambda sentence: None)
        training = _beginning(text.training_text(), LEARNED_BYTES)
        held_out = _beginning([ordinary_bytes(own, text.val[1:1 + MEASURED_BYTES])], MEASURED_BYTES)
        ids = [np.array(opening[-1:] + tokenizer.encode(part), np.int64) for part in (training, held_out)]
    except (FolioError, OSError):
        return None, None
    return (ids[0], (ids[1], len(held_out.encode("utf-8")))) if training and held_out else (None, None)


def _beginning(chunks, length):
    """Return the beginning of a text in chunks of bytes, at most about `length` bytes of it."""
    content = b""
    for chunk in chunks:
        content += chunk
        if len(content) >= length:
            break
    return content[:length].decode("utf-8", errors="ignore")
