"""Defaults that follow from the length of a run, and from what trained weights are taught."""

from typing import Any

# Where training starts from trained weights. From the shipped weights on 20 kB of tiny shakespeare, 40 steps of 16
# sequences (20 passes), best nats per byte: 1.954 at 0.0003, 1.879 at 0.001, 1.900 at 0.002, 1.903 at 0.004; from
# random weights 2.299. 0.0015 is between the two best, with 8 sequences per step. A network that knows long sequences
# need not begin with shorter ones.
FINE_TUNING = {"learning_rate": 0.0015, "length_warmup": 0}
# The same where they learn from conversations, whose ids are what a chat will have: without BPE-dropout. From the
# shipped weights on 300 dialogues, best nats per byte of the answers held out, and how many of 100 sampled answers end:
# 5 epochs at 0.0005: 0.924, 41; 3 at 0.001: 0.928, 84; 5 at 0.001: 0.901, 100. At 0.003 the best is 0.999, after two.
CHAT_TUNING = {"learning_rate": 0.001, "length_warmup": 0, "bpe_dropout": 0.0, "compile": False, "epochs": 5.0,
               "minutes": None, "patience": 6}
TUNING = {"text": FINE_TUNING, "chat": CHAT_TUNING}         # by TuningParams.learns


def for_length(steps: int, shorter_first: bool = True) -> dict[str, Any]:
    """Return {field of TrainingParams: value} for a run of this many steps.

    Found on four texts, from 40 to 1,500 steps (benchmarks/LOG.md).
    shorter_first: whether the run may begin with shorter sequences (sequence length warm-up: Li et al., 2022), from
    which an untrained network learns more per token.
    >>> for_length(100)
    {'learning_rate': 0.01, 'warmup_steps': 5, 'length_warmup': 50, 'decay_fraction': 0.4}
    """
    learning_rate = min(0.015, max(0.002, 0.1 / steps ** 0.5))
    return {"learning_rate": float(f"{learning_rate:.2g}"), "warmup_steps": min(20, max(3, steps // 20)),
            "length_warmup": min(250, steps // 2) if shorter_first else 0,
            "decay_fraction": 0.4 if steps < 200 else 0.7}
