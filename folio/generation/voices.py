"""Several models of one tokenizer write one text: each reads all of it, the next token is drawn from a mixture of them.

    p(token) = sum of share_i * p_i(token)            "probabilities": a linear opinion pool (Stone, 1961)
    p(token) ~ exp(sum of share_i * logit_i(token))   "logits": a logarithmic pool, a product of experts (Hinton, 2002)

With the first any model can bring in a word of its own; with the second all have to agree. A mixture is a network like
another to Generation, the engine, beam search and healing: they ask `decoder_of` for its decoder, in which each model
has a Decoder with a cache and a moving window of its own. A model without a share is not computed, and where one model
has all of it, the logits are that model's own.

Letters: M models, V vocabulary.
"""

import math
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from folio.base.errors import FolioError
from folio.base.spelling import hint
from folio.generation.decoder import Decoder

PROBABILITIES, LOGITS = BLENDS = "probabilities", "logits"
# A sum of probabilities below this is added up from logarithms, because float32 loses digits below 1e-38.
LEAST = 1e-30
# A smaller share is none: no text is long enough to show it.
LEAST_SHARE = 1e-12


class Mix(NamedTuple):
    """How much each model counts, and what is summed."""
    shares: tuple[float, ...]           # of each model, 0 to 1; their sum is 1
    blend: str = PROBABILITIES          # one of BLENDS

    @classmethod
    def of(cls, names: tuple[str, ...], wanted: dict[str, float], blend: str = PROBABILITIES) -> "Mix":
        """Return the Mix in which the first model has what the wanted shares, {name: share}, leave.

        Raises FolioError for a name that is not among the others, a share outside 0 to 1, a sum above 1, and an unknown
        blend.
        """
        if blend not in BLENDS:
            raise FolioError(f"blend={blend} is not one of {', '.join(BLENDS)}.")
        first, *others = names
        for name, share in wanted.items():
            if name == first:
                raise FolioError(f"{name} is the model that the others are mixed into: it has the share that they "
                                 "leave. Give the shares of the others.")
            if name not in others:
                raise FolioError(f"There is no {name} in this mixture{hint(name, others)}")
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise FolioError(f"The share of {name} is {share}, and shares are numbers from 0 to 1.")
        total = math.fsum(wanted.values())
        if total > 1 + 1e-9:            # 0.7 + 0.2 + 0.1 in floating point may pass 1
            raise FolioError(f"The shares sum to {total:g}, above 1, and {first} has what they leave: lower them.")
        shares = [float(wanted.get(name, 0)) for name in others]
        return cls((max(0.0, 1 - math.fsum(shares)), *shares), blend)

    @property
    def active(self) -> list[int]:
        """The numbers of the models that have a share."""
        return [number for number, share in enumerate(self.shares) if share >= LEAST_SHARE]


class Voices(nn.Module):
    """A mixture of networks with one vocabulary, which is a network too."""

    def __init__(self, nets, names, mix):
        """nets: networks on one device; names: of each; mix: the Mix of sequences that have no other"""
        super().__init__()
        self.nets, self.names, self.mix = nn.ModuleList(nets), tuple(names), mix

    @property
    def context(self):
        """The shortest context of the networks, or None where none has an end."""
        return min((net.context for net in self.nets if net.context is not None), default=None)

    @property
    def params(self):
        """The shape of the first network."""
        return self.nets[0].params

    def with_mix(self, mix):
        """Return the same networks with another Mix."""
        return Voices(self.nets, self.names, mix)

    def decoder(self, prompts=(), precision="float32", apart=False):
        """Return a VoicesDecoder; decoder.decoder_of calls it."""
        return VoicesDecoder(self, prompts, precision, apart)

    def forward(self, tokens):
        """tokens: (B, T) integers, T at most the context -> logits: (B, T, V)"""
        return self._blended([self.nets[number](tokens) for number in self.mix.active])

    def empty_state(self, batch_size):
        """Return the state before the first token: those of the networks that have a share."""
        return [self.nets[number].empty_state(batch_size) for number in self.mix.active]

    def continue_from(self, state, tokens):
        """Continue after the tokens that `state` has seen, which is consumed: tokens: (B, T) -> (B, T, V), state"""
        found = [self.nets[number].continue_from(own, tokens) for number, own in zip(self.mix.active, state)]
        return self._blended([logits for logits, _ in found]), [own for _, own in found]

    def advance(self, state, tokens):
        """Do the same without logits: tokens: (B, T) -> None, state"""
        return None, [self.nets[number].advance(own, tokens)[1] for number, own in zip(self.mix.active, state)]

    def _blended(self, logits):
        return Blend([part.float() for part in logits], self.mix).logits


class Blend:
    """What several models predict for rows that have one Mix."""

    def __init__(self, parts, mix):
        """parts: logits of each model that has a share, (..., V) in NumPy or torch"""
        self.active = mix.active
        self._parts, self._shares = parts, [mix.shares[number] for number in self.active]
        self._likely = None             # _Probabilities, once computed
        if len(parts) == 1:
            self.logits = parts[0]
        elif mix.blend == LOGITS:
            self.logits = sum(share * part for share, part in zip(self._shares, parts))
        else:
            self._likely = _Probabilities(parts, self._shares)
            self.logits = self._likely.mixed()

    def scores(self, row, token):
        """Return log(share * probability) of a token for each model that has a share: (M,). Parts are (B, V)."""
        if self._likely is not None:
            return self._likely.scores(row, token)
        return _Probabilities([part[row:row + 1] for part in self._parts], self._shares).scores(0, token)


class _Probabilities:
    """The probabilities of several models, each as factor * exp(shifted), in which no exp overflows."""

    def __init__(self, parts, shares):
        """parts: logits of each model, (..., V) in NumPy or torch; shares: of each"""
        self._library = np if isinstance(parts[0], np.ndarray) else torch
        logits = self._library.stack(parts)                                             # (M, ..., V)
        largest = self._library.amax(logits, -1)[..., None]
        self._shifted = logits - largest
        self._weights = self._library.exp(self._shifted)
        sums = self._weights.sum(-1)[..., None]                                         # (M, ..., 1)
        shares = self._library.asarray(shares, dtype=logits.dtype).reshape(-1, *[1] * (logits.ndim - 1))
        shares = shares if self._library is np else shares.to(logits.device)
        self._factors = shares / sums
        # The mean of the models' normalizers. The mixture gets their level, because the repetition penalty depends on
        # where zero is: so it acts on a mixture as on its models.
        self._level = (shares * (largest + self._library.log(sums))).sum(0)

    def mixed(self):
        """Return the log of the sum of share * probability, at the level of the models' logits: (..., V)"""
        total = (self._factors * self._weights).sum(0)
        if total.min() >= LEAST:
            return self._library.log(total) + self._level
        weighted = self._library.log(self._factors) + self._shifted
        largest = self._library.amax(weighted, 0)
        return self._library.log(self._library.exp(weighted - largest).sum(0)) + (largest + self._level)

    def scores(self, row, token):
        """Return log(share * probability) of a token of a row for each model: (M,). Parts are (B, V)."""
        shifted, factors = self._shifted[:, row, token], self._factors[:, row, 0]
        return np.array([math.log(factor) + value for factor, value in zip(factors.tolist(), shifted.tolist())])


class VoicesDecoder:
    """The decoder of a mixture: what a Decoder is to a network. Each sequence has a Mix of its own.

    The Decoder of a model has those of the sequences, in their order, in whose Mix the model has a share.
    """

    def __init__(self, net, prompts=(), precision="float32", apart=False):
        """net: a Voices; the others are a Decoder's. Raises FolioError like it."""
        self.net = net                                  # its mix is that of sequences which are new to `read`
        self.apart = apart
        self.tokens = []                                # of each sequence
        self.logits = None                              # for the token that comes next
        self._mixes = []                                # of each sequence
        self._decoders = [Decoder(each, (), precision, apart) for each in net.nets]
        self._blends = None                             # [(Blend, its rows)], once computed
        if prompts:
            self.read(prompts)

    def without_sequences(self, row=None):
        """Return a decoder of the same models that has read nothing, for the Mix of a row (default: that of `net`)."""
        other = copy(self)
        if row is not None:
            other.net = self.net.with_mix(self._mixes[row])
        other.tokens, other._mixes, other.logits, other._blends = [], [], None, None
        other._decoders = [decoder.without_sequences() for decoder in self._decoders]
        return other

    def read(self, pieces):
        """Read the next tokens of each sequence, as Decoder.read does. -> the logits of the mixture"""
        for _ in range(len(pieces) - len(self.tokens)):
            self.tokens.append([])
            self._mixes.append(self.net.mix)
        for tokens, piece in zip(self.tokens, pieces):
            tokens += piece
        for decoder, rows in zip(self._decoders, self._rows()):
            if rows:
                decoder.apart = self.apart
                decoder.read([pieces[row] for row in rows])
        return self._predict()

    def read_in_parts(self, piece, part_len):
        """Do what `read` does with one sequence, in a generator, as Decoder.read_in_parts: a part of one model each."""
        mix = self._mixes[0] if self._mixes else self.net.mix
        for number in mix.active:
            yield from self._decoders[number].read_in_parts(piece, part_len)
        self.tokens, self._mixes = [[*self.tokens[0], *piece] if self.tokens else list(piece)], [mix]
        self._predict()

    def will_restart(self, row):
        """Return whether the window of any model restarts with the next token of a sequence."""
        return any(decoder.will_restart(rows.index(row)) for decoder, rows in zip(self._decoders, self._rows())
                   if row in rows)

    def join(self, other):
        """Append copies of another decoder's sequences. There are no logits until the next `read`."""
        for own, joining in zip(self._decoders, other._decoders):
            if joining.tokens:
                own.join(joining)
        self.tokens += [list(tokens) for tokens in other.tokens]
        self._mixes += other._mixes
        self.logits = self._blends = None

    def branch(self, rows):
        """Return a decoder that continues copies of these rows; a row may be named several times. This one stays."""
        return self._with_rows(copy(self), rows, [
            decoder.branch(places) if places else decoder.without_sequences()
            for decoder, places in zip(self._decoders, self._places(rows))])

    def select(self, rows):
        """Keep these rows alone (a list), in this order; a row may be named several times."""
        decoders = list(self._decoders)
        for number, places in enumerate(self._places(rows)):
            if places:
                decoders[number].select(places)
            else:
                decoders[number] = decoders[number].without_sequences()
        self._with_rows(self, rows, decoders)

    def voice(self, row, ids):
        """Return the number of the model that shaped what a row says next most: the largest share * probability.

        ids: the next token; or several, of which the product of the probabilities counts
        """
        mix = self._mixes[row]
        if len(mix.active) == 1:
            return mix.active[0]
        scores = self._scores(row, ids[0])
        if len(ids) > 1:
            branch, shares = self.branch([row]), np.log([mix.shares[number] for number in mix.active])
            for before, token in zip(ids, ids[1:]):
                branch.read([[before]])
                scores += branch._scores(0, token) - shares
        return mix.active[int(scores.argmax())]

    def _scores(self, row, token):
        if self._blends is None:
            self._blends = self._blended()
        return next(blend.scores(rows.index(row), token) for blend, rows in self._blends if row in rows)

    def _with_rows(self, decoder, rows, decoders):
        """Set what belongs to these rows of this decoder in `decoder`, which may be itself. -> it"""
        decoder.tokens, decoder._mixes = [list(self.tokens[row]) for row in rows], [self._mixes[row] for row in rows]
        decoder.logits = None if self.logits is None else self.logits[rows]
        decoder._decoders, decoder._blends = decoders, None
        return decoder

    def _rows(self):
        """Return the rows that each model's Decoder has: a list of lists."""
        return [[row for row, mix in enumerate(self._mixes) if mix.shares[number] >= LEAST_SHARE]
                for number in range(len(self._decoders))]

    def _places(self, rows):
        """Return these rows' places in each model's Decoder, without the rows that it does not have."""
        places = [{row: place for place, row in enumerate(own)} for own in self._rows()]
        return [[place[row] for row in rows if row in place] for place in places]

    def _predict(self):
        """Blend what the models predict. -> the logits, as `read` returns them"""
        self._blends = self._blended()
        (first, rows), *others = self._blends
        self.logits = first.logits
        if others:
            shape = len(self.tokens), first.logits.shape[1]
            self.logits = np.empty(shape, np.float32) if isinstance(first.logits, np.ndarray) else \
                first.logits.new_empty(shape)
            for blend, rows in self._blends:
                self.logits[rows] = blend.logits
        return self.logits

    def _blended(self):
        """Return [(Blend, its rows)] of what the models predict."""
        groups = {}
        for row, mix in enumerate(self._mixes):
            groups.setdefault(mix, []).append(row)
        if len(groups) == 1:
            [(mix, rows)] = groups.items()
            return [(Blend([self._decoders[number].logits for number in mix.active], mix), rows)]
        found = []
        for mix, rows in groups.items():
            places = self._places(rows)
            found.append((Blend([self._decoders[number].logits[places[number]] for number in mix.active], mix), rows))
        return found
