"""One answer of the engine: how its next token is chosen and adjusted, and the events that tell of it."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from folio.generation.healing import continuations
from folio.generation.sampling import log_softmax, penalized, pick, probabilities
from folio.generation.stop_strings import StopFilter

_Characters = codecs.getincrementaldecoder("utf-8")


class TokenEvent(NamedTuple):
    """One token of an answer, or of the prompt that it repeats.

    Where the end of a prompt was taken back (Healing), the tokens that cover it and cross its end are one TokenEvent:
    the id of the last, and the bytes that they add to the prompt. A token that ends an answer adds no bytes.
    """
    id: int
    bytes: bytes
    logprob: float | None           # nats, the model's own; None: not asked for, or the first of all tokens
    top: tuple                      # ((id, logprob), ...), the likeliest first
    text_offset: int                # characters of the text before it, with a repeated prompt
    voice: int | None = None        # number of the model of a mixture that shaped it most


class Event(NamedTuple):
    """What has come of one answer since its last Event."""
    index: int                      # number of the prompt * count + number of the answer
    text: str                       # whole characters; what may begin a stop string is held back
    tokens: tuple                   # TokenEvents
    finish: str | None = None       # in the last Event: "stop", "length", "cancelled" or "failed"
    error: str | None = None        # one sentence, where it failed


@dataclass(frozen=True)
class Adjustments:
    """Changes to the logits and the end of an answer, beyond GenerationParams. Penalties count the answer alone."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)      # added to the logits of these ids
    presence_penalty: float = 0.0           # subtracted from the logit of each token that came
    frequency_penalty: float = 0.0          # subtracted once per occurrence
    min_tokens: int = 0                     # no end and no stop id before so many tokens
    ignore_end: bool = False                # none of the ends that its Sequence has ever comes
    stop_ids: tuple[int, ...] = ()          # further ids that end the answer

    @property
    def change_logits(self) -> bool:
        """Whether any logit of any step may differ."""
        return bool(self.logit_bias or self.presence_penalty or self.frequency_penalty or self.min_tokens
                    or self.ignore_end)


class Answer:
    """An answer that is written: a Sequence, its random numbers, and its text so far."""

    def __init__(self, index, sequence, tokenizer, logprobs=None, adjustments=Adjustments()):
        """sequence: a Sequence; logprobs: how many of the likeliest tokens each TokenEvent has, or None"""
        self.index, self.sequence = index, sequence
        self.logprobs, self.adjustments = logprobs, adjustments
        self.settings = replace(sequence.settings, sampling_seed=None, tokens=0, stop=())   # what a token is chosen by
        self.random = np.random.default_rng((sequence.settings.sampling_seed, sequence.number))
        self.pending = []                   # ids that the network reads next
        self.finish = None
        self.error = None
        self.count = self.counted = 0       # tokens so far; of these, how many the engine has counted
        self._said = {}                     # id -> how often it came, for the penalties
        self._bytes_of = tokenizer.token_bytes
        self._left_out = b"" if sequence.healing is None else sequence.healing.taken
        self._characters = _Characters(errors="replace")
        self._filter = StopFilter(sequence.settings.stop)
        self._offset = 0
        self._texts, self._tokens = [], []  # since the last Event

    def repeat(self, ids, text=None, scores=None):
        """Begin with the prompt: its ids, its text (None: that of the ids), and what `scored` returns of it."""
        # The first bytes of the answer may complete a character of ids.
        characters, pieces = self._characters if text is None else _Characters(errors="replace"), []
        for place, token in enumerate(ids):
            logprob, top = scores[place] if scores else (None, ())
            content = self._bytes_of[token]
            self._tokens.append(TokenEvent(token, content, logprob, top, self._offset))
            pieces.append(characters.decode(content))
            self._offset += len(pieces[-1])
        self._texts.append("".join(pieces) if text is None else text)

    def adjust(self, logits):
        """Change the logits, (V or more,), of the next token in place, as the Adjustments say."""
        wanted = self.adjustments
        for token, bias in wanted.logit_bias.items():
            logits[token] += bias
        if (wanted.presence_penalty or wanted.frequency_penalty) and self._said:
            counts = np.array(list(self._said.values()))
            logits[list(self._said)] -= wanted.presence_penalty + wanted.frequency_penalty * counts
        if wanted.ignore_end:
            logits[list(self.sequence.ends)] = -np.inf
        if self.count < wanted.min_tokens:
            logits[[*self.sequence.ends, *wanted.stop_ids]] = -np.inf

    def take(self, ids, logprob=None, top=(), voice=None):
        """Continue with these ids: one token, or those of a healed prompt's continuation, which count as one."""
        last, self.pending = ids[-1], ids
        self.count += 1
        if last in self.sequence.ends or last in self.adjustments.stop_ids:
            self._tokens.append(TokenEvent(last, b"", logprob, top, self._offset, voice))
            return self._end("stop")
        content = self._bytes_of[last]
        if len(ids) > 1 or self._left_out:
            content = b"".join(map(self._bytes_of.__getitem__, ids))[len(self._left_out):]
            self._left_out = b""
        self._tokens.append(TokenEvent(last, content, logprob, top, self._offset, voice))
        self._said[last] = self._said.get(last, 0) + 1
        piece = self._characters.decode(content)
        self._offset += len(piece)
        self._texts.append(self._filter.add(piece) if self._filter.stops else piece)
        if self._filter.ended:
            self._end("stop")
        elif self.count >= self.sequence.settings.tokens:
            self._end("length")

    def _end(self, finish, error=None):
        self.finish, self.error = finish, error
        self._texts.append(self._filter.end())

    def stop(self, finish, error=None):
        """End it from outside, as when it is cancelled, or has failed with a sentence; nothing where it has ended."""
        if self.finish is None:
            self._end(finish, error)

    def event(self):
        """Return the Event of what has come since the last one."""
        event = Event(self.index, "".join(self._texts), tuple(self._tokens), self.finish, self.error)
        self._texts, self._tokens = [], []
        return event


def choose(answers, logits, tokens, voice_of):
    """Choose the next token of each answer, and let the answer take it.

    logits: (answers, vocabulary), in NumPy; tokens: the list of ids that each has read
    voice_of: a function of an answer's place and its token -> the TokenEvent's voice
    """
    groups = {}
    for place, answer in enumerate(answers):
        groups.setdefault(answer.settings, []).append(place)
    chosen = np.empty(len(answers), np.int64)
    for settings, places in groups.items():
        own = logits if len(groups) == 1 else logits[places]
        if any(answers[place].adjustments.change_logits for place in places):
            own = np.array(own)
            for row, place in zip(own, places):
                answers[place].adjust(row)
        said = [tokens[place][answers[place].sequence.unsaid:] for place in places] if _penalizes(settings) else places
        chances = np.array([answers[place].random.random() for place in places])
        chosen[places] = _pick(penalized(own, said, settings), settings, chances)
    asking = [place for place, answer in enumerate(answers) if answer.logprobs is not None]
    likely = dict(zip(asking, log_softmax(logits[asking]))) if asking else {}
    for place, (answer, token) in enumerate(zip(answers, chosen.tolist())):
        answer.take([token], *likeliest(likely.get(place), token, answer.logprobs), voice_of(place, token))


def choose_healed(answers, decoder):
    """Choose what comes first after a prompt whose end was taken back, of which all these are answers.

    decoder: a Decoder that has read the rest of it, as its only sequence
    """
    first, healing = answers[0], answers[0].sequence.healing
    found = continuations(decoder, 0, healing)
    shaped = found
    if _penalizes(first.settings):
        shaped = continuations(decoder, 0, healing, first.settings, first.sequence.unsaid)
    vocab_size = len(found.logits) - len(healing.others)
    for answer in answers:
        logits = np.array(shaped.logits)
        answer.adjust(logits)
        number = int(_pick(logits[None], answer.settings, np.array([answer.random.random()]))[0])
        logprob, top = None, ()
        if answer.logprobs is not None:         # others' bytes are no token's: they have no id to name them by
            _, top = likeliest(found.logits[:vocab_size], 0, answer.logprobs)
            logprob = found.logits.item(number)
        ids = shaped.tokens(number)
        answer.take(ids, logprob, top, decoder.voice(0, ids))


def likeliest(likely, token, count):
    """Return a token's log-probability and the `count` likeliest ((id, logprob), ...); None and () without `likely`.

    likely: (vocabulary,), nats; of equal ones the first ids come first
    """
    if likely is None:
        return None, ()
    top = np.argpartition(-likely, min(count, len(likely) - 1))[:count]
    top = sorted(zip(top.tolist(), likely[top].tolist()), key=lambda pair: (-pair[1], pair[0]))
    return likely.item(token), tuple(top)


def _penalizes(settings):
    return settings.repetition_penalty != 1 or settings.frequency_penalty or settings.no_repeat_ngram


def _pick(logits, settings, chances):
    likely, ids = probabilities(logits, settings.temperature, settings.top_k, settings.top_p, settings.min_p)
    return pick(likely, ids, chances)
