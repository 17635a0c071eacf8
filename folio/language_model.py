"""A trained model in the hand: load it, complete a prompt, stream its words, measure a text.

    from folio import load
    model = load("Saved_Weights/weights-pretrained.pth")
    print(model.complete("MERRAN:\\n", tokens=100, temperature=0.8))
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch

import tokenizer as tokenizers
from folio import checkpoint, hardware
from folio.bits_per_byte import evaluate, window_len
from folio.decoder import generate
from Model_Params import GenerationParams


def load(path, device="cpu"):
    """The LanguageModel in a weights file. Raises FileNotFoundError or ValueError, in one sentence, where there is none to trust."""
    device = hardware.settle_device(device)
    contents = checkpoint.load(path)
    net = checkpoint.network(contents, path).to(device).eval()
    try:
        tokenizer = tokenizers.from_dict(contents["tokenizer"])
        if tokenizer.vocab_size != net.params.vocab_size:
            raise ValueError(f"its tokenizer has {tokenizer.vocab_size} tokens, its model {net.params.vocab_size}")
        if not tokenizer.decode_bytes(contents["opening"]):
            raise ValueError("it does not say how a text begins")
        return LanguageModel(contents["name"], net, tokenizer, list(contents["opening"]), int(contents["step"]),
                             None if contents["val_bpb"] is None else float(contents["val_bpb"]), contents.get("learned_from"))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} holds no model that this Folio can use: {error}.") from None


@dataclass(frozen=True)
class LanguageModel:
    """A network and the tokenizer it was trained with."""
    name: str
    net: torch.nn.Module
    tokenizer: tokenizers.Tokenizer
    opening: list               # ids that stand before a text that begins from nothing
    step: int
    val_bpb: float | None       # bits per byte of its validation text, if it was measured
    learned_from: dict | None = None    # Corpus.training_part of the text it was trained on, where the file says it

    def stream(self, prompt="", stream=0, **settings):
        """Iterate over the text that goes on after `prompt`, a few characters at a time, as it is generated.

        settings: the fields of GenerationParams. `stream` tells apart several answers of one seed. Raises ValueError where a
        setting is out of bounds, or where the prompt has characters that a character tokenizer does not know.
        """
        params = GenerationParams(**settings)
        if problems := list(params.problems()):
            raise ValueError("\n".join(problems))
        seed = random.SystemRandom().getrandbits(32) if params.seed is None else params.seed
        ids = self.tokenizer.encode(prompt) or self.opening
        return self._texts(generate(self.net, ids, tokens=params.tokens, temperature=params.temperature, top_k=params.top_k, top_p=params.top_p,
                                    seed=seed, stream=stream, stop=self.tokenizer.end_of_text))

    def _texts(self, tokens):
        decoder = tokenizers.StreamingDecoder(self.tokenizer)
        for token in tokens:
            if text := decoder.add(token):
                yield text
        if text := decoder.end():
            yield text

    def complete(self, prompt="", stream=0, **settings):
        """The text that goes on after `prompt`; see `stream`."""
        return "".join(self.stream(prompt, stream, **settings))

    def bits_per_byte(self, text):
        """How well the model predicts a text, in bits per byte. Raises ValueError for a text without a byte."""
        if not text:
            raise ValueError("An empty text has no bits per byte.")
        return evaluate(self.net, self.opening[-1:] + self.tokenizer.encode(text), len(text.encode("utf-8")), block_size=window_len(self.net),
                        batch_size=8, device=next(self.net.parameters()).device).bits_per_byte


def newest_weights(home):
    """The weights file written last. Raises FileNotFoundError where there is none."""
    if found := home.newest("weights-*.pth"):
        return found[0]
    raise FileNotFoundError(f"There are no weights in {home.saved_weights}. Train first: python train.py")


def find_weights(home, wanted):
    """The path of a weights file named by its path, its file name or its run's name. Raises FileNotFoundError, listing what there is."""
    for path in (Path(wanted), home.saved_weights / wanted, home.weights(wanted)):
        if path.is_file():
            return path
    there = ", ".join(path.name for path in home.newest("weights-*.pth")) or "nothing"
    raise FileNotFoundError(f"There are no weights named {wanted}; {home.saved_weights} has {there}.")
