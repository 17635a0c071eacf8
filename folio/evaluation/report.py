"""All figures on a model in one record of plain values."""

import math
from dataclasses import dataclass

import numpy as np

from folio.evaluation.baselines import Baselines
from folio.evaluation.bits_per_byte import Score
from folio.evaluation.copying import Copying
from folio.evaluation.passages import hardest_passages
from folio.evaluation.plain_words import in_plain_words

LARGEST_EXPONENT = 700          # math.exp of more than 709 overflows


@dataclass(frozen=True)
class Report:
    """The figures on a model; `python -m folio.evaluate --json` prints these fields."""
    weights: str
    parameters: int
    step: int
    text: str
    bytes: int
    tokens: int
    stride: int                     # tokens from the start of one window to the next
    bits_per_byte: float
    nats_per_byte: float
    nats_per_token: float
    perplexity_per_byte: float
    perplexity_per_token: float
    accuracy: float                 # share of tokens that were the most likely ones
    baselines: Baselines | None     # what simple models and compressors reach on the same text
    quality: str | None             # in plain words, from the nats per byte and the baselines
    hardest: list                   # of Passage
    copying: Copying | None
    notes: list


def make_report(name, model, text, costs, *, parameters, stride, baselines, copying, notes):
    """Compute the figures from the TokenCosts of a Text. -> Report

    name: of the weights; parameters: number of trainable parameters; stride: in tokens; baselines, copying: may be None
    """
    score = Score(costs.nats.sum(dtype=np.float64).item(), len(costs.nats), text.bytes)
    nats_per_token = score.nats / score.tokens
    return Report(
        weights=name, parameters=parameters, step=model.step, text=text.name, bytes=text.bytes, tokens=score.tokens,
        stride=stride, bits_per_byte=score.bits_per_byte, nats_per_byte=score.nats_per_byte,
        nats_per_token=nats_per_token, perplexity_per_byte=_perplexity(score.nats_per_byte),
        perplexity_per_token=_perplexity(nats_per_token), accuracy=costs.correct.mean().item(),
        baselines=baselines, quality=baselines and in_plain_words(score.nats_per_byte, baselines),
        hardest=hardest_passages(costs, model.tokenizer), copying=copying, notes=notes)


def _perplexity(nats):
    return math.exp(min(nats, LARGEST_EXPONENT))
