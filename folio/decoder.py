"""Generation: a network, a state that remembers what it has computed, and a window that restarts when the context is full.

Several streams go on at once, each with a prompt, settings, a seed and an end of its own; those that have equally many tokens are computed together.
What a stream says depends on these four alone, not on its neighbours: its n-th token is chosen by the n-th random number of its own seed. Only where
chance, or the likeliest of two tokens, falls within the rounding of the network's output can company make a difference, because matrix
products of other sizes may round otherwise.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from folio.numpy_decoder import in_numpy
from folio.numpy_sampling import next_token
from folio.sampling import only, penalised, pick, probabilities
from Model_Params import GenerationParams

LOGITS = 1 << 24            # at once: 64 MB, however long a prompt, and however many of them


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


class Decoder:
    """Streams of equally many tokens, read once each: what the network has computed for the earlier ones is kept."""

    def __init__(self, net, streams=1):
        self.net = net
        self.block_size = net.context
        self.device = next(net.parameters()).device
        self.tokens = torch.empty(streams, 0, dtype=torch.long)
        self.start = 0                      # of the window, in self.tokens
        self.state = net.empty_state(streams)

    @cached_property
    def one_row(self):
        """What computes a single token of a single stream."""
        return in_numpy(self.net) or self.net

    @torch.inference_mode()
    def read(self, tokens):
        """Take in some tokens, (streams, time) ids. -> the logits for those that come next: (streams, vocabulary), float32, on the CPU

        Raises ValueError where they are not finite.
        """
        self.tokens = torch.cat((self.tokens, tokens), 1)
        start = window_start(self.tokens.shape[1], self.block_size)
        if start != self.start:
            self.start, self.state = start, self.net.empty_state(len(tokens))
            tokens = self.tokens[:, start:]
        net = self.one_row if tokens.shape == (1, 1) else self.net
        for part in tokens.to(self.device).split(max(1, LOGITS // (len(tokens) * self.net.params.vocab_size)), dim=1):
            logits, self.state = net.continue_from(self.state, part)
        logits = logits[:, -1].float().cpu()
        if not np.isfinite(logits.numpy()).all():             # torch's takes 8 us, NumPy's 1
            raise ValueError("The model's output is not finite: its weights are unusable. Train it again with a lower learning rate.")
        return logits

    @torch.inference_mode()
    def select(self, rows):
        """Go on with the streams of these numbers alone, in this order; one may come several times. rows: a list"""
        if rows != list(range(len(self.tokens))):
            rows = torch.tensor(rows)
            self.tokens, self.state = self.tokens[rows], self.state.select(rows.to(self.device))


@dataclass(frozen=True)
class Stream:
    """What one stream goes on from, how, and where it ends."""
    prompt: list                            # ids, at least one
    settings: GenerationParams              # resolved, with a seed
    number: int = 0                         # tells apart several streams of one seed
    end: int | None = None                  # the id before which it ends
    first: torch.Tensor | None = None       # ids, one of which has to be the first (default: any)


class Generation:
    """Some Streams on their way: `step` gives the next token of each until none is `running`."""

    def __init__(self, net, streams):
        self.running = {which for which, stream in enumerate(streams) if stream.settings.tokens}
        self._left = [stream.settings.tokens for stream in streams]
        self._ends = [stream.end for stream in streams]
        by_length = {}
        for which in sorted(self.running):
            by_length.setdefault(len(streams[which].prompt), {})[which] = streams[which]
        self._groups = [_Group(net, group) for group in by_length.values()]

    def step(self):
        """The next token of each stream that is running, [(which, token)]; one that has come to its end is left out, and runs no more."""
        self._groups = [group for group in self._groups if group.keep(self.running)]
        said = []
        for which, token in [each for group in self._groups for each in group.step()]:
            self._left[which] -= 1
            if token != self._ends[which]:
                said.append((which, token))
            if token == self._ends[which] or not self._left[which]:
                self.stop(which)
        return said

    def stop(self, which):
        """Let a stream run no more."""
        self.running.discard(which)


class _Group:
    """Streams of equally many tokens, and one decoder for them."""

    @torch.inference_mode()
    def __init__(self, net, streams):
        """streams: {which: Stream}"""
        self.rows = list(streams)
        self.random = [np.random.default_rng((stream.settings.seed, stream.number)) for stream in streams.values()]
        self.settings = [replace(stream.settings, seed=None, tokens=0, stop=()) for stream in streams.values()]      # what one token is chosen by
        prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(tuple(stream.prompt) for stream in streams.values()))}
        places = [prompts[tuple(stream.prompt)] for stream in streams.values()]
        self.decoder = Decoder(net, len(prompts))
        logits = self.decoder.read(torch.tensor(list(prompts)))         # a prompt is read once for all its answers
        self.decoder.select(places)
        self.logits = torch.stack([logits[place] if stream.first is None else only(logits[place], stream.first)
                                   for place, stream in zip(places, streams.values())])
        self.picked = None

    def keep(self, running):
        """Drop the streams that are not running. -> whether any is left"""
        places = [place for place, which in enumerate(self.rows) if which in running]
        if places and len(places) < len(self.rows):
            self.decoder.select(places)
            self.rows, self.random, self.settings = ([part[place] for place in places] for part in (self.rows, self.random, self.settings))
            self.logits, self.picked = self.logits[places], None if self.picked is None else self.picked[places]
        return bool(places)

    @torch.inference_mode()
    def step(self):
        """-> [(which, token)]"""
        if self.picked is not None:
            self.logits = self.decoder.read(self.picked[:, None])
        if len(self.rows) == 1:
            token = next_token(self.logits[0].numpy(), self.decoder.tokens[0].numpy(), self.settings[0], self.random[0].random())
            self.picked = torch.tensor([token])
            return [(self.rows[0], token)]
        likely = torch.empty(self.logits.shape, dtype=torch.float64)
        kinds = list(dict.fromkeys(self.settings))
        for how in kinds:
            rows = slice(None) if len(kinds) == 1 else torch.tensor([row for row, other in enumerate(self.settings) if other == how])
            logits = penalised(self.logits[rows], self.decoder.tokens[rows], how)
            likely[rows] = probabilities(logits, how.temperature, how.top_k, how.top_p, how.min_p)
        self.picked = pick(likely, torch.tensor([random.random() for random in self.random], dtype=torch.float64))
        return list(zip(self.rows, self.picked.tolist()))


def generate(net, prompt, *, stream=0, end=None, **settings):
    """Yield the token ids of one Stream as they come; settings: the fields of GenerationParams, a seed among them."""
    generation = Generation(net, [Stream(prompt, GenerationParams(**settings).resolved(), stream, end)])
    while generation.running:
        yield from (token for _, token in generation.step())
