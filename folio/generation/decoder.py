"""Generation: a network, a state that remembers what it has computed, and a window that restarts when the context is full.

Several streams go on at once, each with a prompt, settings, a seed and an end of its own; however many tokens each has, they are computed together.
What a stream says depends on these four alone, not on its neighbours: its n-th token is chosen by the n-th random number of its own seed. Only where
chance, or the likeliest of two tokens, falls within the rounding of the network's output can company make a difference, because matrix
products of other sizes may round otherwise. In float32 that is rare. In int8, where numbers are rounded to bfloat16, it is not: one in four of the
shipped model's answers of 60 tokens was another one in the company of seven of other lengths.
"""

from bisect import bisect_left
from collections import defaultdict
from copy import copy
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from folio.base.errors import FolioError
from folio.base.hardware import one_thread
from folio.generation.healing import Healing, continuations
from folio.generation.numpy_decoder import in_numpy
from folio.generation.sampling import penalised, pick, probabilities
from Model_Params import GenerationParams

AT_ONCE = 1 << 16           # tokens of prompts that are read at once: 256 MB for each 1,000 numbers that the network keeps of a token meanwhile
CHOOSES = ("cuda",)         # kinds of device on which tokens are chosen as well; not MPS, which has no float64


def window_start(length, block_size):
    """Where the window begins through which a network sees `length` tokens: at the first, until they no longer fit; then the window
    is its last block_size / 2 tokens and grows again. A function of the length alone, however the tokens came in.

    block_size: the network's context; None: it has no end, and all tokens fit.
    >>> [window_start(length, 256) for length in (256, 257, 385, 386)]
    [0, 129, 129, 258]
    """
    if block_size is None or length <= block_size:
        return 0
    kept = block_size // 2
    restarts = (length - block_size - 1) // (block_size + 1 - kept)
    return (restarts + 1) * (block_size + 1 - kept)


def single_tokens(net, precision):
    """What computes single tokens: a NumpyTransformer, or None where `net` does that too. Raises FolioError for a precision that is not for it."""
    found = in_numpy(net, precision)
    if precision != "float32" and found is None:
        raise FolioError(f"weight_precision={precision} is for transformers in float32 on the CPU, with Model.py as it came: "
                         "leave it out.")
    return found


class Decoder:
    """Some streams, read once each: what the network has computed for their earlier tokens is kept."""

    def __init__(self, net, prompts, precision="float32"):
        """prompts: ids, at least one, for each stream; precision: of their single tokens (GenerationParams). Raises FolioError like `read`, and for a
        precision that is not for this network."""
        self.net = net
        self.device = next(net.parameters()).device
        self.in_numpy = single_tokens(net, precision)
        self.tokens = [[] for _ in prompts]             # of each stream
        self.starts = [None] * len(prompts)             # of the window in them
        self.state = None                               # of the windows up to the last token
        self.logits = self.read(prompts)                # for the token that comes next

    def read(self, pieces):
        """Take in some tokens, ids, at least one, of each stream. -> the logits for those that come next: (streams, vocabulary), float32, on the
        device where it CHOOSES, else in NumPy

        Raises FolioError where they are not finite.
        """
        ahead = defaultdict(dict)           # (whether a window begins, how many tokens of it come before the last) -> {stream: these tokens}
        for row, (tokens, piece) in enumerate(zip(self.tokens, pieces)):
            tokens += piece
            start = window_start(len(tokens), self.net.context)
            if start != self.starts[row]:
                self.starts[row] = start
                ahead[True, len(tokens) - 1 - start][row] = tokens[start:-1]
            elif len(piece) > 1:
                ahead[False, len(piece) - 1][row] = piece[:-1]
        if ahead:
            others_wait = self.in_numpy is not None and self.state is not None and sum(map(len, ahead.values())) < len(self.tokens)
            with one_thread() if others_wait else nullcontext():            # for several wait actively afterwards, and take the cores of the next products
                for (begins, _), unread in ahead.items():
                    self._read_ahead(begins, unread)
        self.logits = self._step([tokens[-1] for tokens in self.tokens])
        if not (np.isfinite(self.logits) if isinstance(self.logits, np.ndarray) else self.logits.isfinite()).all():
            raise FolioError("The model's output is not finite: its weights are unusable. Train it again with a lower learning rate.")
        return self.logits

    @torch.inference_mode()
    def _read_ahead(self, begins, unread):
        """Read equally many tokens of some streams, of which nobody asks for logits; a beginning that several have in common is read once."""
        pieces = list(dict.fromkeys(map(tuple, unread.values()))) if begins else list(unread.values())
        state = self.net.empty_state(len(pieces)) if begins else self.state.select(list(unread))
        for part in torch.tensor(pieces, dtype=torch.long, device=self.device).split(max(1, AT_ONCE // len(pieces)), dim=1):
            if part.shape[1]:
                _, state = self.net.advance(state, part)
        if len(pieces) < len(unread):
            places = {piece: place for place, piece in enumerate(pieces)}
            state = state.select([places[tuple(piece)] for piece in unread.values()])
        if len(unread) == len(self.tokens):
            self.state = state
        else:
            self.state = self.state or self.net.empty_state(len(self.tokens))
            self.state.put(list(unread), state)

    def _step(self, last):
        """Read a token of each stream. -> logits: (streams, vocabulary)"""
        if self.in_numpy is not None:
            logits, self.state = self.in_numpy.continue_from(self.state, last)
            return logits
        with torch.inference_mode():
            logits, self.state = self.net.continue_from(self.state, torch.tensor(last, device=self.device)[:, None])
            logits = logits[:, 0].float()
            return logits if self.device.type in CHOOSES else logits.cpu().numpy()

    def branch(self, rows):
        """Return a Decoder that continues copies of these streams; one may come several times. This one stays."""
        other = copy(self)
        other.tokens, other.starts = [list(self.tokens[row]) for row in rows], [self.starts[row] for row in rows]
        with torch.inference_mode():
            other.state, other.logits = self.state.select(rows), self.logits[rows]
        return other

    @torch.inference_mode()
    def select(self, rows):
        """Go on with the streams of these numbers alone, in this order; one may come several times. rows: a list"""
        if len(rows) > len(self.tokens):
            self.state = self.state.select(rows)
        else:           # where they are in memory: those are copied that have another place now, from the token on where another text stands there
            moved = [(place, row) for place, row in enumerate(rows) if place != row]
            if moved:
                places, origins = map(list, zip(*moved))
                alike = min(self._alike(place, row) for place, row in moved)
                self.state.move(origins, places, alike)
            if len(rows) < len(self.tokens):
                self.state = self.state.first(len(rows))
        self.tokens, self.starts = [list(self.tokens[row]) for row in rows], [self.starts[row] for row in rows]
        self.logits = self.logits[rows]

    def _alike(self, one, other):
        """With how many equal tokens the windows of two streams begin."""
        if self.starts[one] != self.starts[other]:
            return 0
        first, second = (self.tokens[row][self.starts[row]:] for row in (one, other))
        return bisect_left(range(min(len(first), len(second))), True, key=lambda length: first[:length + 1] != second[:length + 1])


@dataclass(frozen=True)
class Stream:
    """What one stream goes on from, how, and where it ends."""
    prompt: list                            # ids, at least one
    settings: GenerationParams              # resolved, with a seed
    number: int = 0                         # tells apart several streams of one seed
    end: int | None = None                  # the id before which it ends
    healing: Healing | None = None          # the end of the text that was taken out of the prompt, if any was
    unsaid: int = 0                         # leading ids of the prompt that are not the text's: penalties skip them


class Generation:
    """Some Streams on their way: `step` gives the next token of each until none is `running`.

    Where the end of a prompt was taken back (Healing), the first step yields its tokens and the one that crosses the
    end; together they count as one.
    """

    def __init__(self, net, streams):
        self.running = {which for which, stream in enumerate(streams) if stream.settings.tokens}
        self._left = [stream.settings.tokens for stream in streams]
        self._ends = [stream.end for stream in streams]
        self._rows = sorted(self.running)           # which stream each row of the decoder is
        own = [streams[which] for which in self._rows]
        self._random = [np.random.default_rng((stream.settings.sampling_seed, stream.number)) for stream in own]
        self._settings = [replace(stream.settings, sampling_seed=None, tokens=0, stop=()) for stream in own]          # what one token is chosen by
        self._unsaid = [stream.unsaid for stream in own]
        self._first = [None] * len(own)             # Continuations of rows with a Healing, until one is chosen
        self._picked = None                         # of each row: tokens, one or more
        self._sort_settings()
        if own:
            precision, *others = {stream.settings.weight_precision for stream in own}
            if others:
                raise FolioError("Streams that are computed together have one precision: give all the same.")
            self._decoder = Decoder(net, [stream.prompt for stream in own], precision)
            found = {}                  # several streams may go on from one prompt
            for row, (stream, how) in enumerate(zip(own, self._settings)):
                if stream.healing is not None:
                    key = tuple(stream.prompt), stream.healing.taken, stream.unsaid, how
                    if key not in found:
                        found[key] = continuations(self._decoder, row, stream.healing, how, stream.unsaid)
                    self._first[row] = found[key]

    def step(self):
        """The next token of each stream that is running, [(which, token)]; one that has come to its end is left out, and runs no more."""
        if len(self._rows) > len(self.running):
            self._drop_ended()
        if not self._rows:
            return []
        if self._picked is not None:
            self._decoder.read(self._picked)
        self._picked, said = self._choose(), []
        for which, piece in zip(self._rows, self._picked):
            self._left[which] -= 1
            said += [(which, token) for token in piece if token != self._ends[which]]
            if piece[-1] == self._ends[which] or not self._left[which]:
                self.stop(which)
        return said

    def stop(self, which):
        """Let a stream run no more."""
        self.running.discard(which)

    def _drop_ended(self):
        """Let go of the rows whose streams do not run; the last rows take their places."""
        rows = list(range(len(self._rows)))
        for row in reversed(range(len(self._rows))):
            if self._rows[row] not in self.running:
                rows[row] = rows[-1]
                rows.pop()
        if rows:
            self._decoder.select(rows)
        parts = self._rows, self._random, self._settings, self._unsaid, self._first
        self._rows, self._random, self._settings, self._unsaid, self._first = (
            [part[row] for row in rows] for part in parts)
        self._picked = self._picked and [self._picked[row] for row in rows]
        self._sort_settings()

    def _sort_settings(self):
        self._rows_of = defaultdict(list)           # settings -> the rows that have them
        for row, how in enumerate(self._settings):
            self._rows_of[how].append(row)

    def _choose(self):
        """A token for each row, or those of a continuation: a list of lists of ids"""
        logits, picked = self._decoder.logits, [None] * len(self._rows)
        chances = np.array([random.random() for random in self._random])
        if not isinstance(logits, np.ndarray):
            chances = torch.from_numpy(chances).to(logits.device)
        for how, rows in self._rows_of.items():
            some, chance = (logits, chances) if len(self._rows_of) == 1 else (logits[rows], chances[rows])
            some = penalised(some, [self._decoder.tokens[row][self._unsaid[row]:] for row in rows], how)
            for row, token in zip(rows, _pick(some, how, chance)):
                picked[row] = [token]
        for row, first in enumerate(self._first):
            if first is not None:
                chance = np.asarray(chances[row:row + 1].tolist())
                picked[row] = first.tokens(_pick(first.logits[None], self._settings[row], chance)[0])
        self._first = [None] * len(self._rows)
        return picked


def _pick(logits, how, chance):
    return pick(*probabilities(logits, how.temperature, how.top_k, how.top_p, how.min_p), chance).tolist()


def generate(net, prompt, *, stream=0, end=None, **settings):
    """Yield the token ids of one Stream as they come; settings: the fields of GenerationParams, a seed among them."""
    generation = Generation(net, [Stream(prompt, GenerationParams(**settings).resolved(), stream, end)])
    while generation.running:
        yield from (token for _, token in generation.step())
