"""Generation: a network, a state that remembers what it has computed, and a window that restarts when the context is full."""

import numpy as np
import torch

from folio.sampling import pick, probabilities


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
    """One stream of tokens, read once each: what the network has computed for the earlier ones is kept."""

    def __init__(self, net):
        self.net = net
        self.block_size = net.context
        self.device = next(net.parameters()).device
        self.tokens = []
        self.start = 0                      # of the window, in self.tokens
        self.state = net.empty_state(1)

    @torch.inference_mode()
    def read(self, tokens):
        """Take in some tokens. -> the logits for the one that comes next: (vocabulary,), float32, on the CPU"""
        self.tokens += tokens
        start = window_start(len(self.tokens), self.block_size)
        if start != self.start:
            self.start, self.state = start, self.net.empty_state(1)
            tokens = self.tokens[start:]
        logits, self.state = self.net.continue_from(self.state, torch.tensor([tokens], device=self.device))
        return logits[0, -1].float().cpu()


def generate(net, prompt, *, tokens, temperature, top_k, top_p, seed, stream=0, stop=None):
    """Yield up to `tokens` token ids that go on after `prompt` (at least one id), ending before the id `stop`.

    The n-th token depends on the prompt, the settings, and the n-th random number of (seed, stream). Raises ValueError where the
    network's logits are not finite.
    """
    decoder = Decoder(net)
    random = np.random.default_rng((seed, stream))
    reading = list(prompt)
    for _ in range(tokens):
        logits = decoder.read(reading)
        if not torch.isfinite(logits).all():
            raise ValueError("The model's output is not finite: its weights are unusable. Train it again with a lower learning rate.")
        token = pick(probabilities(logits, temperature, top_k, top_p), random.random()).item()
        if token == stop:
            return
        yield token
        reading = [token]
