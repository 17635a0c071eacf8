"""Conversations to training batches: what the assistant says is learned, all else is only read.

A batch has rows of block_size tokens. With packing, several conversations share a row, each of which sees only itself
and begins at position 0 (`PackedBatch`). Without, conversations of about the same length share a batch, one in a row,
padded at the end. Either way every conversation comes once an epoch, in an order that differs between epochs, and the
batch of a step is a function of (seed, step).

A share of the rows can be plain text, against forgetting (`PlainText`).
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from folio.base.errors import FolioError
from folio.base.spelling import counted
from folio.chat.messages import Message, without_oldest_turn
from folio.chat.template import ChatTemplate
from folio.data.batches import IGNORED, Batch, permuted
from folio.data.conversations import Conversations
from folio.data.corpus import Corpus
from Model_Params import TextParams


@dataclass(frozen=True)
class PackedBatch(Batch):
    """Rows in which several sequences stand one after the other."""
    segments: Any       # (batch, time) int64: where they differ, another sequence begins


@dataclass(frozen=True)
class Fitted:
    """What became of conversations in a context: of each kind, how many."""
    cut: int = 0                # lost turns at their beginning
    unfinished: int = 0         # of their last answer only the beginning is learned
    left_out: int = 0           # nothing of their last answer fits

    def sentences(self, context: int) -> list[str]:
        """Return what to say of them."""
        said = []
        if self.cut:
            said.append(f"{counted(self.cut, 'conversation')} longer than the context of {context} tokens: only the "
                        "newest turns that fit are learned.")
        if self.unfinished:
            said.append(f"{counted(self.unfinished, 'conversation')} whose last turn is longer than the context: the "
                        "answer's beginning is learned, not its end.")
        if self.left_out:
            said.append(f"{counted(self.left_out, 'conversation')} left out: the last question alone fills the "
                        f"context of {context} tokens.")
        return said


@dataclass(frozen=True)
class Sequences:
    """Conversations as ids, one after the other in one array."""
    ids: np.ndarray             # (total,) int32
    targets: np.ndarray         # (total,) int32: the id that follows, IGNORED where it is not the assistant's
    starts: np.ndarray          # (sequences + 1,) int64: where each begins, and the end of the last

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return the tokens that each takes of a row: (sequences,)."""
        return np.diff(self.starts)

    def __len__(self):
        return len(self.starts) - 1

    def first(self, count: int) -> "Sequences":
        """Return the first so many sequences."""
        starts = self.starts[:count + 1]
        return Sequences(self.ids[:starts[-1]], self.targets[:starts[-1]], starts)


def encode(conversations: Sequence[Sequence[Message]], template: ChatTemplate, context: int
           ) -> tuple[Sequences, Fitted]:
    """Return conversations as Sequences of at most `context` tokens, and what became of those that were longer.

    Of too long a conversation the newest whole turns are kept that fit, with the system message. Of a last turn that is
    too long by itself the beginning of the answer is learned, without an end; where the question fills the context, the
    conversation is left out.
    """
    ids, targets, starts = [], [], [0]
    counts = {"cut": 0, "unfinished": 0, "left_out": 0}
    for messages in conversations:
        sequence, learned, fate = fitted(messages, template, context)
        if fate:
            counts[fate] += 1
        if fate == "left_out":
            continue
        following = np.array(sequence[1:], np.int32)
        ids.append(np.array(sequence[:-1], np.int32))
        targets.append(np.where(learned[1:], following, IGNORED).astype(np.int32))
        starts.append(starts[-1] + len(following))
    joined = [np.concatenate(parts) if parts else np.zeros(0, np.int32) for parts in (ids, targets)]
    return Sequences(*joined, np.array(starts)), Fitted(**counts)


def fitted(messages: Sequence[Message], template: ChatTemplate, context: int) -> tuple[list[int], list[bool], str]:
    """Return the ids of a conversation up to its last answer's end, which are learned, and what was done to fit them.

    There is one id more than `context` at most, since the last one is only predicted. The third is a field of Fitted,
    or "" where the conversation fits.
    """
    fate = ""
    while True:
        ids, learned = template.encode(messages)
        end = len(learned) - learned[::-1].index(True) if True in learned else 0       # nothing after it is predicted
        if 0 < end <= context + 1:
            return ids[:end], learned[:end], fate
        fewer = without_oldest_turn(messages) if end else None
        if fewer is None:
            break
        messages, fate = fewer, "cut"
    if True in learned[:context + 1]:
        return ids[:context + 1], learned[:context + 1], "unfinished"
    return [], [], "left_out"


# --- Which conversations share a row or a batch ---

def packed(lengths: np.ndarray, room: int, random: np.random.Generator) -> list[list[int]]:
    """Return rows of sequences, as numbers of theirs: best-fit decreasing (Johnson, 1974).

    From the longest to the shortest, each goes into the fullest row that has room for it. Sequences of one length come
    in random order. The number of rows is a function of the lengths alone.
    """
    order = random.permutation(len(lengths))
    rows, by_space, spaces = [], {}, []             # spaces: sorted; by_space: {free tokens: numbers of rows}
    for number in order[np.argsort(-lengths[order], kind="stable")].tolist():
        length = int(lengths[number])
        place = bisect_left(spaces, length)
        if place == len(spaces):
            row, space = len(rows), room
            rows.append([])
        else:
            space = spaces[place]
            row = by_space[space].pop()
            if not by_space[space]:
                del by_space[space], spaces[place]
        rows[row].append(number)
        if left := space - length:
            if left not in by_space:
                insort(spaces, left)
            by_space.setdefault(left, []).append(row)
    return rows


def grouped(lengths: np.ndarray, tokens: int, random: np.random.Generator) -> list[list[int]]:
    """Return groups of sequences of about the same length: a group takes at most `tokens` when it is padded.

    Sequences of one length come in random order. The number of groups is a function of the lengths alone.
    """
    order = random.permutation(len(lengths))
    groups = []
    for number in order[np.argsort(-lengths[order], kind="stable")].tolist():
        if not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > tokens:
            groups.append([])
        groups[-1].append(number)
    return groups


# --- The batch of a step ---

@dataclass(frozen=True)
class PlainText:
    """Text among conversations."""
    tokens: np.ndarray          # (total,) of it, more than the context
    share: float                # of the rows that are text

    def rows_before(self, rows: int) -> int:
        """Return how many of the first `rows` rows of a run are text."""
        return int(rows * self.share + 1e-9)

    def windows(self, count: int, length: int, random: np.random.Generator) -> np.ndarray:
        """Return `count` random windows: (count, length + 1)."""
        starts = random.integers(len(self.tokens) - length, size=count)
        return self.tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)


class Batches:
    """The batches of a run: the batch of any step, by its number."""

    def __init__(self, sequences: Sequences, *, batch_size: int, block_size: int, packing: bool, seed: int,
                 text: PlainText | None = None):
        """batch_size: rows of block_size tokens; not packed, rows of as many tokens together"""
        self.sequences, self.text, self.seed = sequences, text, seed
        self.batch_size, self.block_size, self.packing = batch_size, block_size, packing
        self._epoch = None, None                    # the last one asked for, and its units
        self._count = len(self._units_of(0))

    @property
    def steps_per_epoch(self) -> float:
        """Return the steps in which every conversation comes once."""
        if not self.packing:
            return float(self._count)
        return self._count / self.batch_size / (1 - (self.text.share if self.text else 0))

    def at(self, step: int) -> Batch:
        """Return the Batch of a step."""
        random = np.random.default_rng((self.seed, step))
        if not self.packing:
            return self._padded(self._unit(step), random)
        before, after = step * self.batch_size, (step + 1) * self.batch_size
        texts = self.text.rows_before(after) - self.text.rows_before(before) if self.text else 0
        first = before - (self.text.rows_before(before) if self.text else 0)
        return self.packed_batch([self._unit(first + row) for row in range(self.batch_size - texts)], texts, random)

    def all(self) -> list[Batch]:
        """Return Batches of all sequences, once each, without text: what a validation reads."""
        units = self._units_of(0)
        if not self.packing:
            return [self._arranged([[number] for number in unit], int(self.sequences.lengths[unit].max()))
                    for unit in units]
        return [self.packed_batch(units[first:first + self.batch_size])
                for first in range(0, len(units), self.batch_size)]

    def packed_batch(self, rows: list[list[int]], texts: int = 0, random=None) -> PackedBatch:
        """Return the PackedBatch of rows of sequences, and of `texts` rows of text."""
        batch = self._arranged(rows, self.block_size)
        segments = np.zeros_like(batch.inputs)
        for row, numbers in enumerate(rows):
            ends = np.cumsum(self.sequences.lengths[numbers])
            segments[row] = np.searchsorted(ends, np.arange(self.block_size), side="right")
        parts = batch.inputs, batch.targets, segments
        if texts:
            windows = self.text.windows(texts, self.block_size, random)
            more = windows[:, :-1], windows[:, 1:], np.zeros((texts, self.block_size), np.int64)
            parts = [np.concatenate(both) for both in zip(parts, more)]
        return PackedBatch(*parts)

    def _padded(self, numbers, random):
        """Return the Batch of sequences, one in a row, and of a share of text, of the longest one's length."""
        length = int(self.sequences.lengths[numbers].max())
        batch = self._arranged([[number] for number in numbers], length)
        # As many as make their share of all rows, rounded at random.
        texts = int(len(numbers) * self.text.share / (1 - self.text.share) + random.random()) if self.text else 0
        if not texts:
            return batch
        windows = self.text.windows(texts, length, random)
        return Batch(np.concatenate([batch.inputs, windows[:, :-1]]), np.concatenate([batch.targets, windows[:, 1:]]))

    def _arranged(self, rows, length):
        """Return the Batch of rows of sequences, one after the other in each; the rest is ignored."""
        inputs = np.zeros((len(rows), length), np.int64)
        targets = np.full((len(rows), length), IGNORED, np.int64)
        ids, following, starts = self.sequences.ids, self.sequences.targets, self.sequences.starts
        for row, numbers in enumerate(rows):
            place = 0
            for number in numbers:
                start, end = starts[number], starts[number + 1]
                inputs[row, place:place + end - start] = ids[start:end]
                targets[row, place:place + end - start] = following[start:end]
                place += end - start
        return Batch(inputs, targets)

    def _unit(self, number):
        """Return the row, or the group, of this number in a run."""
        epoch, index = divmod(number, self._count)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._units_of(epoch)
        return self._epoch[1][int(permuted(np.array([index]), self._count, (self.seed, epoch))[0])]

    def _units_of(self, epoch):
        """Return the rows of sequences of an epoch, or the groups."""
        random = np.random.default_rng((self.seed, epoch, 1))
        if self.packing:
            return packed(self.sequences.lengths, self.block_size, random)
        return grouped(self.sequences.lengths, self.batch_size * self.block_size, random)


class Dialogues:
    """What a run learns from conversations: theirs as ids, and the plain text among them, if any.

    It answers what a Corpus does of numbers: tokens are those of the conversations, bytes those of the answers.
    """

    def __init__(self, conversations: Conversations, template: ChatTemplate, block_size: int,
                 text: TextParams = TextParams(), sources: Sequence[str] = (), opening: Sequence[int] = (0,),
                 plain: Corpus | None = None, say: Callable[[str], None] = print):
        """text: how files were read; sources: their paths; plain: the text to mix in

        opening: the tokens that the model begins a text after

        Raises FolioError where nothing is left to learn, or to measure on.
        """
        self.conversations, self.template, self.block_size = conversations, template, block_size
        self.text, self.sources, self.opening, self.plain = text, tuple(sources), list(opening), plain
        self.train, of_train = encode(conversations.train, template, block_size)
        self.val, of_val = encode(conversations.val, template, block_size)
        for sentence in of_train.sentences(block_size):
            say(sentence)
        for name, part, fate in (("to learn from", self.train, of_train), ("held out", self.val, of_val)):
            if not len(part):
                raise FolioError(f"None of the {fate.left_out:,} conversations {name} fits into a context of "
                                 f"{block_size} tokens with a part of its answer: take a larger --block-size, or "
                                 "shorter questions.")
        self.train_bytes, self.val_bytes = map(self._answer_bytes, (self.train, self.val))
        if not self.val_bytes:
            raise FolioError("The answers held out have no text, so nothing can be measured: give more conversations.")

    @property
    def train_tokens(self) -> int:
        """Return the tokens of the conversations to learn from."""
        return len(self.train.ids)

    @property
    def val_tokens(self) -> int:
        """Return the tokens of the conversations held out."""
        return len(self.val.ids)

    @property
    def fingerprint(self) -> str:
        """Return what is equal exactly if conversations, their split and the text among them are."""
        return self.conversations.fingerprint + (f"+{self.plain.fingerprint}" if self.plain else "")

    @property
    def training_part(self) -> dict[str, Any]:
        """Return what identifies the conversations."""
        return {"text_fingerprint": self.conversations.fingerprint, "train_bytes": self.train_bytes}

    def _answer_bytes(self, sequences):
        """Return the bytes of text in what is learned."""
        ids = sequences.targets[sequences.targets != IGNORED]
        tokenizer, special = self.template.tokenizer, set(self.template.tokenizer.special_ids.values())
        sizes = np.array([0 if token in special else len(content)
                          for token, content in enumerate(tokenizer.token_bytes)])
        return int(sizes[ids].sum())
