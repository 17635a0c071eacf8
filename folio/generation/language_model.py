"""A trained model in Python: load it, complete a prompt, stream its text, measure a text.

    from folio import load
    model = load("Saved_Weights/weights-pretrained.pth")
    print(model.complete("MERRAN:\\n", tokens=100, temperature=0.8))
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tokenizer as tokenizers
from folio.base import hardware
from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.spelling import by_full_name, hint
from folio.chat.messages import ASSISTANT, Message
from folio.chat.template import ChatTemplate, ends_of_text
from folio.evaluation.bits_per_byte import evaluate, predictions, window_len, windows_at_once
from folio.formats import trained_model
from folio.formats.find_weights import is_imported
from folio.generation.beam import beam_search
from folio.generation.decoder import Generation, Sequence, decoder_of
from folio.generation.healing import Healer, continuations
from folio.generation.sampling import as_array, log_softmax
from folio.generation.streamed_text import StreamedText, taken, without_names
from folio.generation.voices import BLENDS, Mix, Voices
from Model_Params import SHORT_NAMES, GenerationParams

SETTINGS = tuple(field.name for field in fields(GenerationParams))


def load(path: str | Path, device: str = "cpu") -> "LanguageModel":
    """Return the LanguageModel in a weights file.

    Raises OSError where the file cannot be read, FolioError where it holds no valid model.
    """
    device = hardware.settle_device(device)
    model = trained_model.load(path)
    return LanguageModel(model.name, model.net.to(device), model.tokenizer, model.opening, int(model.contents["step"]),
                         model.val_bpb, model.contents.get("learned_from"), is_imported(model.contents), model.chat,
                         model.path, model.contents.get("adapter"))


@dataclass(frozen=True)
class LanguageModel:
    """A network and the tokenizer it was trained with."""
    name: str
    net: torch.nn.Module
    tokenizer: tokenizers.Tokenizer
    opening: list[int]                          # ids before a text that begins from nothing
    step: int
    val_bpb: float | None                       # bits per byte of its validation text, if measured
    learned_from: dict[str, Any] | None = None  # Corpus.training_part of its training text, if the file has it
    is_imported: bool = False                   # whether another program has trained it
    chat: ChatTemplate | None = None            # of a model that was taught to chat
    path: Path | None = None                    # of its weights file
    adapter: dict[str, Any] | None = None       # of its file, where that is an adapter (folio.formats.adapters)

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the models of a mixture, the first of which has what the others leave; of a single model none."""
        return self.net.names if isinstance(self.net, Voices) else ()

    @property
    def shares(self) -> dict[str, float]:
        """The share of each model of a mixture, {name: share}, the first one's too; of a single model none."""
        return dict(zip(self.voices, self.net.mix.shares)) if self.voices else {}

    def mixed_with(self, others: "Mapping[str, LanguageModel]", shares: Mapping[str, float] | None = None,
                   blend: str = BLENDS[0]) -> "LanguageModel":
        """Return the mixture of this model with others, {name: model}, in which this one has what their shares leave.

        night.mixed_with({"letters": letters}, {"letters": 0.3}).complete("The sea")
        shares: {name: share}, see `with_shares`; blend: "probabilities" or "logits" (folio.generation.voices)
        The mixture has every method of a model. Raises FolioError where they do not fit together, or a share is wrong.
        """
        names = (self.name, *others)
        for name, other in others.items():
            if problem := self._mixing_problem(name, other):
                raise FolioError(problem)
        nets = [self.net, *(other.net for other in others.values())]
        net = Voices(nets, names, Mix.of(names, shares or {}, blend))
        return replace(self, name=" + ".join(names), net=net, val_bpb=None, learned_from=None)

    def with_shares(self, shares: Mapping[str, float], blend: str | None = None) -> "LanguageModel":
        """Return the same mixture with other shares: {name: share from 0 to 1}; the first model has the rest.

        blend: as in `mixed_with` (default: as it is). Raises FolioError for a wrong share, and where nothing is mixed.
        """
        if not self.voices:
            raise FolioError(f"{self.name} is a single model: mix it with another one first.")
        return replace(self, net=self.net.with_mix(Mix.of(self.voices, shares, blend or self.net.mix.blend)))

    def _mixing_problem(self, name, other):
        """Return a sentence that says why another model cannot be mixed with this one, or None."""
        if self.voices or other.voices:
            return "A mixture cannot be mixed again: mix all its models at once."
        if other.net is self.net or name == self.name:
            return f"{name} would be mixed with itself: name another model."
        if other.tokenizer.fingerprint != self.tokenizer.fingerprint:
            return (f"{self.name} and {name} have different tokenizers, and a mixture needs one: train both from the "
                    f"same init.py, or one from the other ({command('train.py', '--start-from', self.name)}).")
        if (other.chat and other.chat.to_dict()) != (self.chat and self.chat.to_dict()):
            return (f"Of {self.name} and {name}, one was taught to chat and the other not, or in another form: a "
                    "mixture needs two of a kind.")
        return None

    def reply(self, messages: Iterable[Message], stream: int = 0, continues: bool = False,
              **settings: Any) -> Iterator[str]:
        """Yield the assistant's answer to a conversation, a few characters at a time, as it is generated.

        continues: the last message is the answer, as far as it has come. Turns that do not fit into the context are
        left out from the front (ChatTemplate.fitted). Raises FolioError like `stream`, and where the model was not
        taught to chat.
        """
        conversation = {"messages": list(messages), "continues": continues, "stream": stream}
        return (text for _, text in self.stream_each([conversation], **settings))

    def stream(self, prompt: str = "", stream: int = 0, **settings: Any) -> Iterator[str]:
        """Yield the text that follows `prompt`, a few characters at a time, as it is generated.

        settings: the fields of GenerationParams; `seed` is short for sampling_seed, `precision` for weight_precision;
            `stop` may be one text or several
        stream: tells apart several answers with one seed; with `beams` the rank among the best, from 0 to beams - 1

        Raises FolioError where a setting is out of bounds, or where a character tokenizer does not know a character of
        the prompt.
        """
        return (text for _, text in self.stream_each([{"prompt": prompt, "stream": stream}], **settings))

    def complete(self, prompt: str = "", stream: int = 0, **settings: Any) -> str:
        """Return the text that follows `prompt`; see `stream`."""
        return "".join(self.stream(prompt, stream, **settings))

    def stream_each(self, prompts: Iterable[str | dict[str, Any]], **settings: Any) -> Iterator[tuple[int, str]]:
        """Continue several prompts in one batch: yield (index of the prompt, text) as the texts are generated.

        A prompt is a text, or a dictionary with a `prompt` and settings of its own, except `weight_precision`,
        one for all prompts; in place of the `prompt` it may have `messages` and `continues`, as in `reply`. Its
        `stream` is its index unless it has another one. Each text is the one that `stream`
        yields for its prompt alone, but for rounding. Without a seed all prompts share a new one. The keys and values
        of all prompts are in memory at once. The generator returns how each text ended: "length" where it has as many
        tokens as it may, else "stop". Raises FolioError like `stream`.
        """
        return without_names(self._texts(self._sequences(prompts, settings)))

    def voiced_each(self, prompts: Iterable[str | dict[str, Any]],
                    **settings: Any) -> Iterator[tuple[int, str, str | None]]:
        """Yield what `stream_each` does, and of each text the name of the model that shaped it most: None of one model.

        That is the one with the largest share * probability of the token. A text has the pieces of one model.
        """
        return self._texts(self._sequences(prompts, settings), bool(self.voices))

    def _sequences(self, prompts, settings):
        """Return the Sequences of prompts, which `stream_each` describes."""
        new_seed = random.SystemRandom().getrandbits(32)
        prompts = [{"prompt": prompt} if isinstance(prompt, str) else prompt for prompt in prompts]
        settings = by_full_name(settings, SHORT_NAMES)
        sequences = [self._sequence(index, new_seed, settings | by_full_name(prompt, SHORT_NAMES))
                     for index, prompt in enumerate(prompts)]
        if len(found := {sequence.settings.weight_precision for sequence in sequences}) > 1:
            raise FolioError("Prompts that are answered at once share one precision, and these have "
                             f"{' and '.join(sorted(found))}: give it once, for all.")
        return sequences

    def complete_each(self, prompts: Iterable[str | dict[str, Any]], **settings: Any) -> list[str]:
        """Return the texts that follow several prompts, generated in one batch; see `stream_each`.

        model.complete_each(["MERRAN:\\n"] * 3, tokens=50) -> three different answers
        model.complete_each([{"prompt": "MERRAN:\\n", "stop": "\\n\\n"}, {"prompt": "The sea", "tokens": 5}]) -> two
        """
        prompts = list(prompts)
        texts = [[] for _ in prompts]
        for index, text in self.stream_each(prompts, **settings):
            texts[index].append(text)
        return ["".join(parts) for parts in texts]

    def _sequence(self, index, new_seed, settings):
        prompt, number = settings.pop("prompt", ""), settings.pop("stream", index)
        messages, continues = settings.pop("messages", None), settings.pop("continues", False)
        if unknown := [name for name in settings if name not in SETTINGS]:
            raise FolioError("\n".join(f"There is no setting {name}{hint(name, [*SETTINGS, *SHORT_NAMES])}"
                                       for name in unknown))
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
            problems = [f"beams={params.beams} find no more than {params.beams} answers, and this would be "
                        f"number {number + 1}: give more beams."]
        if problems:
            raise FolioError("\n".join(problems))
        decoder_of(self.net, (), params.weight_precision)   # may refuse the precision: before a prompt is shown
        seed = new_seed if params.sampling_seed is None else params.sampling_seed
        params = replace(params, sampling_seed=seed).resolved()
        return self.after(prompt, params, number) if messages is None else self.answering(messages, params, number,
                                                                                         continues)

    def answering(self, messages: list[Message], params: GenerationParams, number: int = 0,
                  continues: bool = False) -> Sequence:
        """Return the Sequence that answers a conversation. Raises FolioError where the model was not taught to chat."""
        fitted, _ = self.template().fitted(messages, self.net.context, params.tokens, continues)
        return Sequence(self.chat.prompt(fitted, continues), params, number, self.chat.ends)

    def template(self) -> ChatTemplate:
        """Return the chat template. Raises FolioError where the model was not taught to chat."""
        if self.chat is None:
            teach = command("train.py", "--start-from", self.name, "--chat", "FILE")
            raise FolioError(f"The model {self.name} continues texts and was not taught to chat. To teach it: {teach}")
        return self.chat

    def after(self, prompt: str, params: GenerationParams, number: int = 0) -> Sequence:
        """Return the Sequence that continues a prompt; where none of its tokens stays, after the opening."""
        ids, healing = self._healer.take_back(prompt, self.tokenizer.encode(prompt))
        unsaid = 0 if ids else len(self.opening)
        return Sequence(ids or self.opening, params, number, ends_of_text(self.tokenizer), healing, unsaid)

    @cached_property
    def _healer(self):
        return Healer(self.tokenizer)

    def _texts(self, sequences, is_voiced=False):
        """Yield (index, text, name of the model that shaped it most if that is wanted) of these Sequences.

        -> "stop" or "length" for each, by what ended it
        """
        finishes = ["length"] * len(sequences)
        sampled = [index for index, sequence in enumerate(sequences) if sequence.settings.beams is None]
        texts = [StreamedText(self.tokenizer, sequence, self.voices) for sequence in sequences]
        generation = Generation(self.net, [sequences[index] for index in sampled])
        while generation.running:
            for key, token in generation.step():
                index = sampled[key]
                voice = generation.voice(key) if is_voiced else None
                for text, name in texts[index].add(token, voice):
                    yield index, text, name
                if texts[index].ended:
                    generation.remove(key)
        for key, index in enumerate(sampled):
            finishes[index] = generation.finishes.get(key, "length")
        searched = {}           # several answers may be the best, the second best... of one search
        for index, sequence in enumerate(sequences):
            if sequence.settings.beams is not None:
                key = tuple(sequence.prompt), taken(sequence), sequence.unsaid, sequence.settings
                if key not in searched:
                    searched[key] = beam_search(self.net, sequence, self._ends(sequence))
                tokens = searched[key][min(sequence.number, len(searched[key]) - 1)].tokens
                finishes[index] = "length" if len(tokens) >= sequence.settings.tokens else "stop"
                for token, voice in zip(tokens, self._voices_of(sequence, tokens, is_voiced)):
                    for text, name in texts[index].add(token, voice):
                        yield index, text, name
        for index, text in enumerate(texts):
            for rest, name in text.end():
                yield index, rest, name
        return ["stop" if text.ended else finish for text, finish in zip(texts, finishes)]

    def _voices_of(self, sequence, tokens, is_voiced):
        """Return which model shaped each token after a prompt most, where it is known only afterwards."""
        if not is_voiced:
            return [None] * len(tokens)
        decoder, found = decoder_of(self.net, [sequence.prompt], sequence.settings.weight_precision), []
        for token in tokens:
            found.append(decoder.voice(0, [token]))
            decoder.read([[token]])
        return found

    def _ends(self, sequence):
        """Return a function that says whether tokens end in one of a sequence's stop strings."""
        stops, known = [stop.encode("utf-8") for stop in sequence.settings.stop], len(taken(sequence))
        most = 1 + max(map(len, stops), default=0)      # tokens, of a byte or more each, that a stop string can touch

        def ends(tokens):
            if len(tokens) <= most + known:             # else none of the last ones has a byte of the prompt
                content = self.tokenizer.decode_bytes(tokens)[known:]
            else:
                content = self.tokenizer.decode_bytes(tokens[-most:])
            return any(stop in content for stop in stops)
        return ends

    def bits_per_byte(self, text: str) -> float:
        """Return how well the model predicts a text, in bits per byte. Raises FolioError for an empty text."""
        if not text:
            raise FolioError("An empty text has no bits per byte.")
        return evaluate(self.net, self._opened(text), len(text.encode("utf-8")), **self._measuring()).bits_per_byte

    def surprise(self, text: str) -> list[tuple[str, float]]:
        """Return what each piece of a text costs the model: [(piece, bits)], in order; the pieces add up to the text.

        A piece is the text of a token, or of several tokens that share a character. Each token is predicted from at
        least half a context, as far as the text has it. Raises FolioError where a character tokenizer does not know a
        character.
        """
        return [piece for part in self.surprise_parts(text, windows_at_once(self.net)) for piece in part]

    def surprise_parts(self, text: str, windows: int = 1) -> Iterator[list[tuple[str, float]]]:
        """Yield what `surprise` returns in parts: what this many windows of a context each say, computed at once."""
        ids, pieces = self._opened(text), _Pieces(self.tokenizer)
        tokens = iter(ids[1:])
        for nats in self._costs(ids, windows) if text else ():
            yield pieces.add(tokens, nats)

    def surprise_each(self, messages: Iterable[Message]) -> list[list[tuple[str, float]]]:
        """Return what the contents of a conversation's messages cost the model: a list for each, as of `surprise`.

        An assistant's message ends with the end token. Raises FolioError where the model was not taught to chat.
        """
        messages = list(messages)
        ids, _ = self.template().encode(messages)
        costs, start, found = [0.0], 0, []
        for more in self._costs(ids, windows_at_once(self.net)) if messages else ():
            costs += more
        for message in messages:
            head, content, tail = self.chat.parts(message)
            start += len(head)
            end = start + len(content) + (message.role == ASSISTANT)
            found.append(_Pieces(self.tokenizer).add(ids[start:end], costs[start:end]))
            start += len(content) + len(tail)
        return found

    def _costs(self, ids, windows):
        """Yield what each id but the first costs, in nats: a list for each batch of windows."""
        measuring = self._measuring() | {"batch_size": windows, "stride": max(1, window_len(self.net) // 2)}
        return (costs.tolist() for costs, _ in predictions(self.net, ids, **measuring))

    def next_token_probabilities(self, text: str | list[Message] = "") -> list[tuple[str, float]]:
        """Return what may follow a text: [(piece, probability)], in falling order.

        text: or the messages of a conversation; the assistant's answer follows them, or goes on if it is the last.

        A piece is what the next token adds to the text, which may end inside a token. `stream` draws its first piece
        from the same distribution, shaped by its settings. This is a list, not a dictionary, because two pieces may
        read the same: half a character is U+FFFD. Raises FolioError like `stream`.
        """
        if isinstance(text, str):
            sequence = self.after(text, GenerationParams())
        else:
            continues = bool(text) and text[-1].role == ASSISTANT
            sequence = self.answering(text, GenerationParams(tokens=1), continues=continues)
        decoder, others = decoder_of(self.net, [sequence.prompt]), ()
        logits = as_array(decoder.logits[0])
        if sequence.healing is not None:
            logits, others = continuations(decoder, 0, sequence.healing).logits, sequence.healing.others
        likely = np.exp(log_softmax(logits))
        pieces = [*self.tokenizer.token_bytes, *others]
        return [(pieces[number].decode("utf-8", errors="replace"), likely.item(number))
                for number in np.argsort(-likely, kind="stable").tolist()]

    def _opened(self, text):
        return self.opening[-1:] + self.tokenizer.encode(text)

    def _measuring(self):
        return {"block_size": window_len(self.net), "batch_size": windows_at_once(self.net),
                "device": next(self.net.parameters()).device}


class _Pieces:
    """The texts of tokens as they become whole characters, each with what its tokens cost."""

    def __init__(self, tokenizer):
        self._decoder, self._bits = tokenizers.StreamingDecoder(tokenizer), 0.0

    def add(self, tokens, costs):
        """Return [(piece, bits)] of more tokens: ids, as many as there are costs, in nats."""
        found = []
        for nats, token in zip(costs, tokens):          # in this order, so that an iterator of tokens loses none
            self._bits += nats / math.log(2)
            if piece := self._decoder.add(token):
                found.append((piece, self._bits))
                self._bits = 0.0
        return found
