"""A trained model in the hand: load it, complete a prompt, stream its words, measure a text.

    from folio import load
    model = load("Saved_Weights/weights-pretrained.pth")
    print(model.complete("MERRAN:\\n", tokens=100, temperature=0.8))
"""

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import tokenizer as tokenizers
from folio import checkpoint, hardware
from folio.beam import beam_search
from folio.bits_per_byte import evaluate, predictions, window_len, windows_at_once
from folio.decoder import Decoder, Generation, Stream, single_tokens
from folio.errors import FolioError
from folio.stopping import UpTo
from Model_Params import GenerationParams


def load(path: str | Path, device: str = "cpu") -> "LanguageModel":
    """The LanguageModel in a weights file. Raises FileNotFoundError or FolioError, in one sentence, where there is none to trust."""
    device = hardware.settle_device(device)
    contents = checkpoint.load(path)
    net = checkpoint.network(contents, path).to(device).eval().requires_grad_(False)
    try:
        size = tokenizers.size_of(contents["tokenizer"])        # before one is made that could be any size
        if size != net.params.vocab_size:
            raise FolioError(f"its tokenizer has {size} tokens, its model {net.params.vocab_size}")
        tokenizer = tokenizers.from_dict(contents["tokenizer"])
        if not tokenizer.decode_bytes(contents["opening"]):
            raise FolioError("it does not say how a text begins")
        return LanguageModel(contents["name"], net, tokenizer, list(contents["opening"]), int(contents["step"]),
                             None if contents["val_bpb"] is None else float(contents["val_bpb"]), contents.get("learned_from"))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise FolioError(f"{path} holds no model that this Folio can use: {error}.") from None


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

    def stream(self, prompt: str = "", stream: int = 0, **settings) -> Iterator[str]:
        """Iterate over the text that goes on after `prompt`, a few characters at a time, as it is generated.

        settings: the fields of GenerationParams; `stop` may be one text or several. `stream` tells apart several answers of one seed; with
        `beams` it is the place among the best ones, from 0 on, below `beams`. Raises FolioError where a setting is out of bounds, or where the prompt has
        characters that a character tokenizer does not know.
        """
        return (text for _, text in self.stream_each([{"prompt": prompt, "stream": stream}], **settings))

    def complete(self, prompt: str = "", stream: int = 0, **settings) -> str:
        """The text that goes on after `prompt`; see `stream`."""
        return "".join(self.stream(prompt, stream, **settings))

    def stream_each(self, prompts: Iterable[str | dict], **settings) -> Iterator[tuple[int, str]]:
        """Go on with several prompts at once: iterate over (place of the prompt, some text), as the texts are generated.

        A prompt is a text, or a dictionary with a `prompt` and settings of its own; its `stream` is its place, where it does not say another one.
        Each text is the one that `stream` gives for it alone, but for rounding; without a seed, all have the same new one. What the network remembers of
        each is in memory at once. Raises FolioError like `stream`.
        """
        new_seed = random.SystemRandom().getrandbits(32)
        answers = [self._answer(place, new_seed, settings | ({"prompt": each} if isinstance(each, str) else each)) for place, each in enumerate(prompts)]
        return self._texts(answers)

    def complete_each(self, prompts: Iterable[str | dict], **settings) -> list[str]:
        """The texts that go on after several prompts, generated at once; see `stream_each`.

        model.complete_each(["MERRAN:\\n"] * 3, tokens=50) -> three different answers
        model.complete_each([{"prompt": "MERRAN:\\n", "stop": "\\n\\n"}, {"prompt": "The sea", "temperature": 0}]) -> two
        """
        prompts = list(prompts)
        texts = [[] for _ in prompts]
        for place, text in self.stream_each(prompts, **settings):
            texts[place].append(text)
        return ["".join(parts) for parts in texts]

    def _answer(self, place, new_seed, settings):
        prompt, number = settings.pop("prompt", ""), settings.pop("stream", place)
        stop = settings.get("stop") or ()
        params = GenerationParams(**settings | {"stop": (stop,) if isinstance(stop, str) else tuple(stop)})
        problems = list(params.problems())
        if number < 0:
            problems.append(f"stream={number} is below 0, the first of the answers of a seed.")
        if not problems and params.beams is not None and number >= params.beams:
            problems = [f"beams={params.beams} find no more than {params.beams} answers, and this would be number {number + 1}: give more beams."]
        if problems:
            raise FolioError("\n".join(problems))
        single_tokens(self.net, params.precision)           # may refuse it, here and not when a prompt is shown already
        ids, first, known_bytes = self.tokenizer.encode(prompt) or self.opening, None, 0
        if prompt and params.tokens:
            ids, first, known_bytes = self._healed(ids)
        params = replace(params, tokens=params.tokens + (first is not None), seed=new_seed if params.seed is None else params.seed).resolved()
        return _Answer(Stream(ids, params, number, self.tokenizer.end_of_text, first), known_bytes)

    def _healed(self, ids):
        """A prompt less its last token where that may be the beginning of other tokens, as ":" of ":\\n", which the text would have had instead.

        The next token has to begin with the same bytes; so whatever the text was going to be, it is found again. Where no token is left, what stands
        before a text does. -> ids, the tokens that may come first, the bytes of them that are in the prompt
        """
        known, special = self.tokenizer.token_bytes[ids[-1]], self.tokenizer.special_ids.values()
        first = [token for token, content in enumerate(self.tokenizer.token_bytes) if content.startswith(known) and token not in special]
        return (ids[:-1] or self.opening, np.array(first), len(known)) if len(first) > 1 else (ids, None, 0)

    def _texts(self, answers):
        """Yield (which, text) of some _Answers."""
        sampled = [(which, answer) for which, answer in enumerate(answers) if answer.stream.settings.beams is None]
        texts = {which: _Text(self.tokenizer, answer) for which, answer in enumerate(answers)}
        generation = Generation(self.net, [answer.stream for _, answer in sampled])
        while generation.running:
            for number, token in generation.step():
                which = sampled[number][0]
                if text := texts[which].add(token):
                    yield which, text
                if texts[which].ended:
                    generation.stop(number)
        searched = {}           # several answers may be the best, the second best... of one search
        for which, answer in enumerate(answers):
            if answer.stream.settings.beams is not None:
                stream = answer.stream
                key = tuple(stream.prompt), None if stream.first is None else tuple(stream.first.tolist()), stream.settings
                if key not in searched:
                    searched[key] = beam_search(self.net, stream, self._stops(answer))
                for token in searched[key][min(stream.number, len(searched[key]) - 1)].tokens:
                    if text := texts[which].add(token):
                        yield which, text
        for which, text in texts.items():
            if rest := text.end():
                yield which, rest

    def _stops(self, answer):
        """Whether some tokens end in one of an answer's stop texts."""
        stops = [stop.encode("utf-8") for stop in answer.stream.settings.stop]
        most = 1 + max(map(len, stops), default=0)          # tokens, each of a byte or more, that can have anything to do with it

        def ends(tokens):
            content = self.tokenizer.decode_bytes(tokens[-most:])[answer.known_bytes if len(tokens) <= most else 0:]
            return any(stop in content for stop in stops)
        return ends

    def bits_per_byte(self, text: str) -> float:
        """How well the model predicts a text, in bits per byte. Raises FolioError for a text without a byte."""
        if not text:
            raise FolioError("An empty text has no bits per byte.")
        return evaluate(self.net, self._opened(text), len(text.encode("utf-8")), **self._measuring()).bits_per_byte

    def surprise(self, text: str) -> list[tuple[str, float]]:
        """Where a text surprises the model: [(piece, bits)], in the order of the text, of which the pieces make up all.

        A piece is the text of a token; where a character is spread over several tokens, that of them together. Each is predicted from
        at least half a context, where so much stands before it. Raises FolioError where a character tokenizer does not know a character.
        """
        ids, decoder, found, bits = self._opened(text), tokenizers.StreamingDecoder(self.tokenizer), [], 0.0
        costs = predictions(self.net, ids, stride=max(1, window_len(self.net) // 2), **self._measuring()) if text else ()
        for token, nats in zip(ids[1:], (nats for some, _ in costs for nats in some.tolist())):
            bits += nats / math.log(2)
            if piece := decoder.add(token):
                found.append((piece, bits))
                bits = 0.0
        return found

    @torch.inference_mode()
    def next_token_probabilities(self, text: str = "") -> list[tuple[str, float]]:
        """What the model expects after a text: [(piece, probability)] of all its tokens, the likeliest first.

        A list and no dictionary, for two tokens may read the same: half a character is U+FFFD. Raises FolioError like `stream`.
        """
        logits = Decoder(self.net, [self.tokenizer.encode(text) or self.opening]).logits[0]
        likely, tokens = torch.as_tensor(logits).double().softmax(-1).sort(descending=True, stable=True)
        return [(self.tokenizer.decode([token]), probability) for token, probability in zip(tokens.tolist(), likely.tolist())]

    def _opened(self, text):
        return self.opening[-1:] + self.tokenizer.encode(text)

    def _measuring(self):
        return {"block_size": window_len(self.net), "batch_size": windows_at_once(self.net), "device": next(self.net.parameters()).device}


@dataclass(frozen=True)
class _Answer:
    """A stream of tokens, and how many bytes of what it says are the end of the prompt."""
    stream: Stream
    known_bytes: int


class _Text:
    """The text of an answer's tokens: whole characters, up to where it is to stop."""

    def __init__(self, tokenizer, answer):
        self._characters = tokenizers.StreamingDecoder(tokenizer, answer.known_bytes)
        self._text = UpTo(answer.stream.settings.stop)

    @property
    def ended(self):
        return self._text.ended

    def add(self, token):
        """The text that has become certain with this token; often a word, sometimes nothing yet."""
        return self._text.add(self._characters.add(token))

    def end(self):
        """What is left when no token follows; half a character, of which the rest did not come, is nothing."""
        return self._text.end()


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
