"""A trained model in the hand: load it, complete a prompt, stream its words, measure a text.

    from folio import load
    model = load("Saved_Weights/weights-pretrained.pth")
    print(model.complete("MERRAN:\\n", tokens=100, temperature=0.8))
"""

import math
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import tokenizer as tokenizers
from folio.formats import checkpoint
from folio.base import hardware
from folio.generation.beam import beam_search
from folio.evaluation.bits_per_byte import evaluate, predictions, window_len, windows_at_once
from folio.generation.decoder import Decoder, Generation, Sequence, single_tokens
from folio.base.commands import command
from folio.base.errors import FolioError
from folio.generation.healing import Healer, continuations
from folio.generation.sampling import as_array, log_softmax
from folio.base.spelling import by_full_name, hint
from folio.generation.stop_strings import StopFilter
from Model_Params import SHORT_NAMES, GenerationParams

SETTINGS = [each.name for each in fields(GenerationParams)]


def load(path: str | Path, device: str = "cpu") -> "LanguageModel":
    """The LanguageModel in a weights file. Raises OSError where it cannot be read, FolioError where there is none to trust."""
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

        settings: the fields of GenerationParams, two of them by a short name too: `seed` is sampling_seed, `precision` is
        weight_precision. `stop` may be one text or several. `stream` tells apart several answers of one seed; with `beams` it is the place among the best ones, from 0 on, below `beams`. Raises FolioError where a setting is out of bounds, or where the prompt has
        characters that a character tokenizer does not know.
        """
        return (text for _, text in self.stream_each([{"prompt": prompt, "stream": stream}], **settings))

    def complete(self, prompt: str = "", stream: int = 0, **settings) -> str:
        """The text that goes on after `prompt`; see `stream`."""
        return "".join(self.stream(prompt, stream, **settings))

    def stream_each(self, prompts: Iterable[str | dict], **settings) -> Iterator[tuple[int, str]]:
        """Go on with several prompts at once: iterate over (place of the prompt, some text), as the texts are generated.

        A prompt is a text, or a dictionary with a `prompt` and settings of its own, except `weight_precision`,
        one for all prompts; its `stream` is its place, where it does not say another one.
        Each text is the one that `stream` gives for it alone, but for rounding; without a seed, all have the same new one. What the network remembers of
        each is in memory at once. Raises FolioError like `stream`.
        """
        new_seed = random.SystemRandom().getrandbits(32)
        prompts = [{"prompt": each} if isinstance(each, str) else each for each in prompts]
        settings = by_full_name(settings, SHORT_NAMES)
        streams = [self._stream(place, new_seed, settings | by_full_name(each, SHORT_NAMES)) for place, each in enumerate(prompts)]
        if len(found := {stream.settings.weight_precision for stream in streams}) > 1:
            raise FolioError("Prompts that are answered at once share one precision, and these have "
                             f"{' and '.join(sorted(found))}: give it once, for all.")
        return self._texts(streams)

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

    def _stream(self, place, new_seed, settings):
        prompt, number = settings.pop("prompt", ""), settings.pop("stream", place)
        if unknown := [name for name in settings if name not in SETTINGS]:
            raise FolioError("\n".join(f"There is no setting {name}{hint(name, [*SETTINGS, *SHORT_NAMES])}" for name in unknown))
        stop = settings.get("stop")
        stops = tuple(stop) if isinstance(stop, (list, tuple, set)) else () if stop is None else (stop,)
        params = GenerationParams(**settings | {"stop": stops})
        problems = list(params.problems())
        if not isinstance(prompt, str):
            problems.append(f"prompt={prompt!r} should be of type str.")
        if not isinstance(number, int):
            problems.append(f"stream={number!r} should be of type int.")
        elif number < 0:
            problems.append(f"stream={number} is below 0, the first of the answers of a seed.")
        if not problems and params.beams is not None and number >= params.beams:
            problems = [f"beams={params.beams} find no more than {params.beams} answers, and this would be number {number + 1}: give more beams."]
        if problems:
            raise FolioError("\n".join(problems))
        single_tokens(self.net, params.weight_precision)           # may refuse it, here and not when a prompt is shown already
        params = replace(params, sampling_seed=new_seed if params.sampling_seed is None else params.sampling_seed).resolved()
        return self._after(prompt, params, number)

    def _after(self, prompt, params, number=0):
        """Return the Sequence that continues a prompt; where none of its tokens stays, after the opening."""
        ids, healing = self._healer.take_back(prompt, self.tokenizer.encode(prompt))
        unsaid = 0 if ids else len(self.opening)
        return Sequence(ids or self.opening, params, number, self.tokenizer.end_of_text, healing, unsaid)

    @cached_property
    def _healer(self):
        return Healer(self.tokenizer)

    def _texts(self, streams):
        """Yield (which, text) of some Streams."""
        sampled = [which for which, stream in enumerate(streams) if stream.settings.beams is None]
        texts = {which: _Text(self.tokenizer, stream) for which, stream in enumerate(streams)}
        generation = Generation(self.net, [streams[which] for which in sampled])
        while generation.running:
            for number, token in generation.step():
                which = sampled[number]
                if text := texts[which].add(token):
                    yield which, text
                if texts[which].ended:
                    generation.remove(number)
        searched = {}           # several answers may be the best, the second best... of one search
        for which, stream in enumerate(streams):
            if stream.settings.beams is not None:
                key = tuple(stream.prompt), _taken(stream), stream.settings
                if key not in searched:
                    searched[key] = beam_search(self.net, stream, self._stops(stream))
                for token in searched[key][min(stream.number, len(searched[key]) - 1)].tokens:
                    if text := texts[which].add(token):
                        yield which, text
        for which, text in texts.items():
            if rest := text.end():
                yield which, rest

    def _stops(self, stream):
        """Whether some tokens end in one of a stream's stop texts."""
        stops, known = [stop.encode("utf-8") for stop in stream.settings.stop], len(_taken(stream))
        most = 1 + max(map(len, stops), default=0)          # tokens, each of a byte or more, that can have anything to do with it

        def ends(tokens):
            if len(tokens) <= most + known:                 # else none of the last ones has a byte of the prompt
                content = self.tokenizer.decode_bytes(tokens)[known:]
            else:
                content = self.tokenizer.decode_bytes(tokens[-most:])
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

    def next_token_probabilities(self, text: str = "") -> list[tuple[str, float]]:
        """Return what may follow a text: [(piece, probability)], the likeliest first.

        A piece is what the next token adds to the text, which may end inside a token. `stream` draws its first piece
        from the same distribution, shaped by its settings. It is a list and no dictionary, for two pieces may read the
        same: half a character is U+FFFD. Raises FolioError like `stream`.
        """
        stream = self._after(text, GenerationParams())
        decoder, others = Decoder(self.net, [stream.prompt]), ()
        logits = as_array(decoder.logits[0])
        if stream.healing is not None:
            logits, others = continuations(decoder, 0, stream.healing).logits, stream.healing.others
        likely = np.exp(log_softmax(logits))
        pieces = [*self.tokenizer.token_bytes, *others]
        return [(pieces[number].decode("utf-8", errors="replace"), likely.item(number))
                for number in np.argsort(-likely, kind="stable").tolist()]

    def _opened(self, text):
        return self.opening[-1:] + self.tokenizer.encode(text)

    def _measuring(self):
        return {"block_size": window_len(self.net), "batch_size": windows_at_once(self.net), "device": next(self.net.parameters()).device}


def _taken(stream):
    """Return the bytes at the end of a prompt that the first tokens of its stream repeat."""
    return b"" if stream.healing is None else stream.healing.taken


class _Text:
    """The text of a stream's tokens: whole characters, up to where it is to stop."""

    def __init__(self, tokenizer, stream):
        self._characters = tokenizers.StreamingDecoder(tokenizer, len(_taken(stream)))
        self._text = StopFilter(stream.settings.stop)

    @property
    def ended(self):
        return self._text.ended

    def add(self, token):
        """The text that has become certain with this token; often a word, sometimes nothing yet."""
        return self._text.add(self._characters.add(token))

    def end(self):
        """What is left when no token follows; half a character, of which the rest did not come, is nothing."""
        return self._text.end()


def newest_weights(home, say=lambda text: print(text, file=sys.stderr)):
    """The weights file written last, of those that were measured if there are any. Raises FileNotFoundError where there is none.

    A run that was stopped before its first validation has weights of unknown quality; it is said when such a one is newer.
    """
    found = home.newest("weights-*.pth")
    if not found:
        raise FileNotFoundError(f"There are no weights in {home.saved_weights}. Train first: {command('train.py')}")
    newest, *older = found
    if older and _is_measured(newest) is False and (measured := next(filter(_is_measured, older), None)):
        say(f"{newest.name} is newer than {measured.name}, but its run was stopped before it was measured. "
            f"--weights {newest.name} takes it all the same.")
        return measured
    return newest


def _is_measured(path):
    """Whether a weights file says how good it is; None where it cannot be read."""
    with suppress(FolioError, OSError):
        return checkpoint.load_metadata(path).get("val_bpb") is not None


def find_weights(home, wanted):
    """The path of a weights file named by its path, its file name or its run's name. Raises FileNotFoundError, listing what there is."""
    paths = (Path(wanted), home.saved_weights / wanted, home.weights(wanted))
    for path in [*filter(Path.is_file, paths), *filter(Path.exists, paths)]:        # what is no file is for `load` to name
        return path
    there = ", ".join(path.name for path in home.newest("weights-*.pth")) or "nothing"
    raise FileNotFoundError(f"There are no weights named {wanted}; {home.saved_weights} has {there}.")
