"""Generate tokens: a network, a state that remembers what it has computed, and a window that restarts when it is full.

Several sequences are generated in one batch, each with a prompt, settings, a seed and an end of its own; they may have
different lengths, and join and leave at any step. What a sequence says depends on these four alone, not on its
neighbors: its n-th token is chosen by the n-th random number of its own seed. The one exception is a random number, or
the likeliest of two tokens, that falls within the rounding of the network's output: matrix products of other sizes may
round otherwise. In float32 that is rare. In int8, where numbers are rounded to bfloat16, it is not: one in four of the
shipped model's answers of 60 tokens changed in a batch with seven others of different lengths.
"""

from bisect import bisect_left
from collections import defaultdict
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from folio.base.errors import FolioError
from folio.base.hardware import one_thread
from folio.generation.healing import Healing, continuations
from folio.generation.numpy_decoder import in_numpy
from folio.generation.sampling import penalized, pick, probabilities
from Model_Params import GenerationParams

# Prompt tokens per forward pass of torch: 256 MB for each 1,000 numbers that the network keeps of a token meanwhile.
PROMPT_TOKENS = 1 << 16
# Prompt tokens up to which NumPy reads them: with more, torch's threads make up for its calls. On two threads 255 take
# NumPy 0.95 to 1.16 of torch's time, fewer 0.4 to 0.8, and 500 took it 1.09.
NUMPY_TOKENS = 256
# Kinds of device on which tokens are chosen as well; not MPS, which has no float64.
CHOOSES = ("cuda",)


def window_start(length, block_size):
    """Return where the window begins through which a network sees `length` tokens.

    It begins at the first token until they no longer fit; then the window is the last block_size / 2 tokens and grows
    again. It is a function of the length alone, however many tokens were read at a time.

    block_size: the network's context; None: it has no end, and all tokens fit
    >>> [window_start(length, 256) for length in (256, 257, 385, 386)]
    [0, 129, 129, 258]
    """
    if block_size is None or length <= block_size:
        return 0
    kept = block_size // 2
    restarts = (length - block_size - 1) // (block_size + 1 - kept)
    return (restarts + 1) * (block_size + 1 - kept)


def numpy_transformer(net, precision):
    """Return the NumpyTransformer that computes the tokens, or None where `net` does.

    Raises FolioError for a precision that the network does not have.
    """
    found = in_numpy(net, precision)
    if precision != "float32" and found is None:
        raise FolioError(f"weight_precision={precision} is for transformers in float32 on the CPU, with Model.py as it "
                         "came: leave it out.")
    return found


def decoder_of(net, prompts=(), precision="float32", apart=False):
    """Return the decoder of a network: a Decoder, or what a mixture of networks (voices.Voices) has in its place.

    The parameters are those of Decoder. Raises FolioError like it.
    """
    make = getattr(net, "decoder", None)
    return Decoder(net, prompts, precision, apart) if make is None else make(prompts, precision, apart)


class Decoder:
    """A batch of sequences of tokens, each read once: what the network has computed of earlier tokens is kept."""

    def __init__(self, net, prompts=(), precision="float32", apart=False):
        """prompts: ids, at least one, for each sequence; precision: of single tokens (GenerationParams)

        apart: compute the rows of single tokens apart, where NumPy does it: the logits of each have the same bits in
            any batch

        Raises FolioError like `read`, and for a precision that the network does not have.
        """
        self.net = net
        self.apart = apart
        self.device = next(net.parameters()).device
        self.in_numpy = numpy_transformer(net, precision)
        self.reads_in_numpy = self.in_numpy is not None and precision == "float32"     # else torch reads all prompts
        self.tokens = []                                # of each sequence
        self.starts = []                                # of each sequence's window
        self.state = None                               # of the windows up to the last token
        self.logits = None                              # for the token that comes next
        if prompts:
            self.read(prompts)

    def without_sequences(self, row=None):
        """Return a Decoder of the same network that has read nothing. row: for a VoicesDecoder, whose rows differ"""
        other = copy(self)
        other.tokens, other.starts, other.state, other.logits = [], [], None, None
        return other

    def read(self, pieces):
        """Read the next tokens of each sequence: ids, at least one. Pieces beyond the last sequence are new prompts.

        -> the logits for the tokens that come next: (sequences, vocabulary), float32, on the device where it CHOOSES,
        else in NumPy. Raises FolioError where they are not finite.
        """
        for _ in range(len(pieces) - len(self.tokens)):
            self.tokens.append([])
            self.starts.append(None)
        ahead = defaultdict(dict)       # (is it a new window, number of tokens before the last one) -> {row: these}
        for row, (tokens, piece) in enumerate(zip(self.tokens, pieces)):
            tokens += piece
            start = window_start(len(tokens), self.net.context)
            if start != self.starts[row]:
                self.starts[row] = start
                ahead[True, len(tokens) - 1 - start][row] = tokens[start:-1]
            elif len(piece) > 1:
                ahead[False, len(piece) - 1][row] = piece[:-1]
        if ahead:
            others_wait = self.in_numpy is not None and self.state is not None
            others_wait = others_wait and sum(map(len, ahead.values())) < len(self.tokens)
            # torch's threads would wait actively afterwards, and take the cores from NumPy's next products.
            with one_thread() if others_wait else nullcontext():
                for (is_new, _), unread in ahead.items():
                    self._read_ahead(is_new, unread)
        return self._predict()

    def _predict(self):
        """Read the last token of each sequence. -> the logits, as `read` returns them"""
        self.logits = self._step([tokens[-1] for tokens in self.tokens])
        if not (np.isfinite(self.logits) if isinstance(self.logits, np.ndarray) else self.logits.isfinite()).all():
            raise FolioError("The model's output is not finite: its weights are unusable. "
                             "Train it again with a lower learning rate.")
        return self.logits

    @torch.inference_mode()
    def read_in_parts(self, piece, part_len):
        """Do what `read` does with one sequence, in a generator: it reads `part_len` tokens and yields their number.

        Where the parts begin depends on the sequence alone. When the generator ends, the decoder is as `read` leaves
        it. Raises FolioError like `read`.
        """
        tokens = [*self.tokens[0], *piece] if self.tokens else list(piece)
        start, state, read = window_start(len(tokens), self.net.context), self.state, len(tokens) - len(piece)
        if not self.tokens or self.starts[0] != start:
            state, read = self.net.empty_state(1), start
        for place in range(read, len(tokens) - 1, part_len):
            part = tokens[place:min(place + part_len, len(tokens) - 1)]
            state = self._advance(state, [part])
            yield len(part)
        self.tokens, self.starts, self.state = [tokens], [start], state
        self._predict()

    def will_restart(self, row):
        """Return whether the window of a sequence restarts with its next token."""
        return window_start(len(self.tokens[row]) + 1, self.net.context) != self.starts[row]

    @torch.inference_mode()
    def join(self, other):
        """Append copies of another Decoder's sequences. There are no logits until the next `read`."""
        rows, count = len(self.tokens), len(other.tokens)
        self.state = self.net.empty_state(count) if self.state is None else self.state.resize(rows + count)
        self.state.put(list(range(rows, rows + count)), other.state)
        self.tokens += [list(tokens) for tokens in other.tokens]
        self.starts += other.starts
        self.logits = None

    @torch.inference_mode()
    def _read_ahead(self, is_new, unread):
        """Read equally many tokens of some rows without logits; new windows that are alike are read once.

        unread: {row: ids}
        """
        pieces = list(dict.fromkeys(map(tuple, unread.values()))) if is_new else list(unread.values())
        state = self.net.empty_state(len(pieces)) if is_new else self.state.select(list(unread))
        state = self._advance(state, pieces)
        if len(pieces) < len(unread):
            places = {piece: place for place, piece in enumerate(pieces)}
            state = state.select([places[tuple(piece)] for piece in unread.values()])
        if len(unread) == len(self.tokens):
            self.state = state
        else:
            rows = len(self.tokens)
            self.state = self.net.empty_state(rows) if self.state is None else self.state.resize(rows)
            self.state.put(list(unread), state)

    def _advance(self, state, pieces):
        """Read equally many tokens of each sequence of a state, which is consumed. -> state"""
        if self.reads_in_numpy and len(pieces) * len(pieces[0]) <= NUMPY_TOKENS:
            return self.in_numpy.advance(state, np.array(pieces, np.int64))
        inputs = torch.tensor(pieces, dtype=torch.long, device=self.device)
        for part in inputs.split(max(1, PROMPT_TOKENS // len(pieces)), dim=1):
            if part.shape[1]:
                _, state = self.net.advance(state, part)
        return state

    def _step(self, last):
        """Read one token of each sequence. -> logits: (sequences, vocabulary)"""
        if self.in_numpy is not None:
            logits, self.state = self.in_numpy.continue_from(self.state, last, self.apart)
            return logits
        with torch.inference_mode():
            logits, self.state = self.net.continue_from(self.state, torch.tensor(last, device=self.device)[:, None])
            logits = logits[:, 0].float()
            return logits if self.device.type in CHOOSES else logits.cpu().numpy()

    def branch(self, rows):
        """Return a Decoder that continues copies of these rows; a row may be named several times. This one stays."""
        other = copy(self)
        other.tokens, other.starts = [list(self.tokens[row]) for row in rows], [self.starts[row] for row in rows]
        with torch.inference_mode():
            other.state, other.logits = self.state.select(rows), self.logits[rows]
        return other

    def voice(self, row, ids):
        """Return which of several models shaped the next tokens of a row most: here there is one. -> None"""

    @torch.inference_mode()
    def select(self, rows):
        """Keep these rows alone (a list), in this order; a row may be named several times."""
        if len(rows) > len(self.tokens):
            self.state = self.state.select(rows)
        else:           # in the same memory: copy what has another place now, from where the tokens differ
            moved = [(place, row) for place, row in enumerate(rows) if place != row]
            if moved:
                places, origins = map(list, zip(*moved))
                alike = min(self._alike(place, row) for place, row in moved)
                self.state.move(origins, places, alike)
            if len(rows) < len(self.tokens):
                self.state = self.state.resize(len(rows))
        self.tokens, self.starts = [list(self.tokens[row]) for row in rows], [self.starts[row] for row in rows]
        self.logits = None if self.logits is None else self.logits[rows]

    def _alike(self, one, other):
        """Return with how many equal tokens the windows of two rows begin."""
        if self.starts[one] != self.starts[other]:
            return 0
        first, second = (self.tokens[row][self.starts[row]:] for row in (one, other))
        shorter = range(min(len(first), len(second)))
        return bisect_left(shorter, True, key=lambda length: first[:length + 1] != second[:length + 1])


@dataclass(frozen=True)
class Sequence:
    """What one sequence continues from, its settings, and where it ends."""
    prompt: list                            # ids, at least one
    settings: GenerationParams              # resolved, with a seed
    number: int = 0                         # tells apart several sequences with one seed
    ends: tuple[int, ...] = ()              # the ids before each of which it ends
    healing: Healing | None = None          # the end of the text that was taken out of the prompt, if any was
    unsaid: int = 0                         # leading ids of the prompt that are not the text's: penalties skip them


class _Row:
    """A Sequence that is running: a row of the batch."""

    def __init__(self, key, sequence):
        self.key, self.sequence = key, sequence
        self.left = sequence.settings.tokens
        self.random = np.random.default_rng((sequence.settings.sampling_seed, sequence.number))
        # what one token is chosen by
        self.settings = replace(sequence.settings, sampling_seed=None, tokens=0, stop=())
        self.unread = sequence.prompt       # ids that the decoder reads next
        self.first = None                   # Continuations of a Healing, until one is chosen


class Generation:
    """A batch of Sequences that join and leave at any step.

    `add` returns a sequence's key. `step` returns the next token of each sequence that is `running`. What a sequence
    says does not depend on when it joins. A sequence that has ended or was removed leaves its row at the next step:
    the last rows take such places, and the memory behind the last row is used by the next sequences that join.

    Where the end of a prompt was taken back (Healing), the first step yields its tokens and the one that crosses the
    end; together they count as one.
    """

    def __init__(self, net, sequences=()):
        """Add these sequences, with the keys 0, 1, 2, ..."""
        self.running = set()                # keys
        self.finishes = {}                  # key -> "stop" or "length", of those that ended without `remove`
        self._net = net
        self._decoder = None                # there is one while there are rows
        self._rows = []                     # the decoder's rows, in its order
        self._joining = []                  # rows whose prompts are not read yet
        self._places_of = {}                # settings -> the rows that have them
        self._count = 0                     # sequences that have ever been added
        for sequence in sequences:
            self.add(sequence)

    def add(self, sequence):
        """Let a Sequence join: the next step reads its prompt. -> its key

        Raises FolioError for another precision than that of the running sequences.
        """
        own = sequence.settings
        if own.tokens and any(row.key in self.running and row.settings.weight_precision != own.weight_precision
                              for row in (*self._rows, *self._joining)):
            raise FolioError("Sequences that are computed together have one precision: give all the same.")
        key, self._count = self._count, self._count + 1
        if own.tokens:
            self._joining.append(_Row(key, sequence))
            self.running.add(key)
        return key

    def remove(self, key):
        """End a sequence: it says nothing more, and the next step frees its row. One that has ended stays so."""
        self.running.discard(key)

    def step(self):
        """Return the next token of each running sequence: [(key, token)]. An id before which one ends is left out."""
        joining = self._change_rows()
        if not self._rows:
            return []
        if self._decoder is None:
            self._decoder = decoder_of(self._net, [row.unread for row in self._rows],
                                       self._rows[0].settings.weight_precision)
        else:
            self._decoder.read([row.unread for row in self._rows])
        self._begin_healed(joining)
        said = []
        for row, ids in zip(self._rows, self._choose()):
            row.unread = ids
            row.left -= 1
            is_end = ids[-1] in row.sequence.ends
            said += [(row.key, token) for token in (ids[:-1] if is_end else ids)]
            if is_end or not row.left:
                self.finishes[row.key] = "stop" if is_end else "length"
                self.remove(row.key)
        return said

    def voice(self, key):
        """Return the number of the model that shaped a sequence's last step most, of a mixture's; else None.

        The sequence has said something in the last call of `step`.
        """
        place = next(place for place, row in enumerate(self._rows) if row.key == key)
        return self._decoder.voice(place, self._rows[place].unread)

    def _change_rows(self):
        """Let go of rows that do not run, the last rows take their places; append those that join. -> the latter"""
        count = len(self._rows)
        order = list(range(count))
        for place in reversed(range(count)):
            if self._rows[place].key not in self.running:
                order[place] = order[-1]
                order.pop()
        if len(order) < count:
            self._rows = [self._rows[place] for place in order]
            if order:
                self._decoder.select(order)
            else:
                self._decoder = None
        joining, self._joining = [row for row in self._joining if row.key in self.running], []
        self._rows += joining
        if joining or len(order) < count:
            self._places_of = defaultdict(list)
            for place, row in enumerate(self._rows):
                self._places_of[row.settings].append(place)
        return joining

    def _begin_healed(self, joining):
        """Compute the Continuations of rows whose prompts have just been read; those that are alike share them."""
        found, start = {}, len(self._rows) - len(joining)
        for place, row in enumerate(joining, start):
            sequence = row.sequence
            if sequence.healing is not None:
                key = tuple(sequence.prompt), sequence.healing.taken, sequence.unsaid, row.settings
                if key not in found:
                    found[key] = continuations(self._decoder, place, sequence.healing, row.settings, sequence.unsaid)
                row.first = found[key]

    def _choose(self):
        """Return the ids that each row says next, a list of lists: one token, or those of a continuation."""
        logits, chosen = self._decoder.logits, [None] * len(self._rows)
        chances = np.array([row.random.random() for row in self._rows])
        if not isinstance(logits, np.ndarray):
            chances = torch.from_numpy(chances).to(logits.device)
        for settings, places in self._places_of.items():
            own, chance = (logits, chances) if len(self._places_of) == 1 else (logits[places], chances[places])
            said = [self._decoder.tokens[place][self._rows[place].sequence.unsaid:] for place in places]
            for place, token in zip(places, _pick(penalized(own, said, settings), settings, chance)):
                chosen[place] = [token]
        for place, row in enumerate(self._rows):
            if row.first is not None:
                chance = np.asarray(chances[place:place + 1].tolist())
                chosen[place] = row.first.tokens(_pick(row.first.logits[None], row.settings, chance)[0])
                row.first = None
        return chosen


def _pick(logits, settings, chance):
    likely, ids = probabilities(logits, settings.temperature, settings.top_k, settings.top_p, settings.min_p)
    return pick(likely, ids, chance).tolist()


def generate(net, prompt, *, stream=0, ends=(), **settings):
    """Yield the token ids of one Sequence as they come; settings: the fields of GenerationParams, with a seed."""
    generation = Generation(net, [Sequence(prompt, GenerationParams(**settings).resolved(), stream, tuple(ends))])
    while generation.running:
        yield from (token for _, token in generation.step())
