"""What a figure means in plain words: a scale of seven phrases, by the text's own yardsticks.

A number of nats per byte says little by itself: 1.4 is good for plays and bad for a server's log. So the figure is
compared with what counting characters reaches on the same text (folio.evaluation.baselines): above its order-2 model a
network has hardly a word; the further it is below the best of the orders 2 to 5, the longer the stretches that hold
together. The bounds were read off samples at known figures (docs/evaluation.md has them).

Where a text is so regular that it costs less than REGULAR, the words say only that: the network knows its form.
"""

import math

from folio.evaluation.baselines import ORDERS, Baselines, order_name

REGULAR = 0.35                      # nats per byte, half a bit: a log or a table, of which most bytes are certain
# Share of the best order's figure -> what a network above it writes, as a rule.
SCALE = ((1.0, "many words, most of them misspelt"),
         (0.93, "spells common words; others are made up"),
         (0.86, "spells most words; sentences not yet"),
         (0.77, "spells nearly all words; phrases hold, sentences seldom"),
         (0.62, "mostly whole sentences; what they say seldom fits together"))
WORST = "letters in likely places; hardly a word yet"
BEST = "fluent sentences that often fit together"
FORM = "knows the form of this regular text; whether its numbers and answers are right, this does not say"


def in_plain_words(nats_per_byte: float, baselines: Baselines) -> str:
    """Return what a network of this figure writes, as a rule."""
    if nats_per_byte > nats_of(baselines, ORDERS[0]):
        return WORST
    if nats_per_byte < REGULAR:
        return FORM
    best = nats_of(baselines, best_order(baselines))
    return next((words for share, words in SCALE if nats_per_byte > share * best), BEST)


def best_order(baselines: Baselines) -> int:
    """Return the order whose model predicts the text best."""
    return min(ORDERS, key=lambda order: nats_of(baselines, order))


def nats_of(baselines: Baselines, order: int) -> float:
    """Return the nats per byte of the model of an order."""
    return baselines.bits_of(order_name(order)) * math.log(2)


def sentence(nats_per_byte: float, baselines: Baselines) -> str:
    """Return the plain words and what they rest on, in one sentence without a full stop."""
    order = best_order(baselines)
    return (f"{in_plain_words(nats_per_byte, baselines)} ({nats_per_byte:.3f} nats per byte; "
            f"counting {order} characters back reaches {nats_of(baselines, order):.3f})")
