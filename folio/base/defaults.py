"""Values beside the fields of Model_Params.py: limits, and defaults that follow from other parameters."""

from typing import Any

# The largest values: beyond the end of any run, and small enough to compute with in 64-bit integers and float32.
MOST_STEPS, MOST_MINUTES, MOST_TOKENS = 10**12, 1e7, 10**9
USUAL_STEPS = 1000              # of a run whose length is neither given nor estimated
# Training as a plain program does it: AdamW with torch's defaults, a constant learning rate, the text as it is.
PLAIN_TRAINING = {"minutes": None, "optimizer": "adamw", "weight_decay": 0.01, "beta2": 0.999, "bpe_dropout": 0.0,
                  "warmup_steps": 0, "length_warmup": 0, "decay_fraction": 0.0, "gradient_clip": 0.0}
# Where training starts from trained weights. From the shipped weights on 20 kB of tiny shakespeare, 40 steps of 16
# sequences (20 passes), best nats per byte: 1.954 at 0.0003, 1.879 at 0.001, 1.900 at 0.002, 1.903 at 0.004; from
# random weights 2.299. 0.0015 is between the two best, with 8 sequences per step. A network that knows long sequences
# need not begin with shorter ones.
FINE_TUNING = {"learning_rate": 0.0015, "length_warmup": 0}
# The same where they learn from conversations, whose ids are what a chat will have: without BPE-dropout. From the
# shipped weights on 300 dialogues, best nats per byte of the answers held out, and how many of 100 sampled answers end:
# with 8 rows in a step 5 epochs at 0.0005: 0.924, 41; 3 at 0.001: 0.928, 84; 5 at 0.001: 0.901, 100; 3 at 0.002: 0.934,
# 100; at 0.003 the best is 0.999, after two. With 4 rows 3 epochs at 0.001: 0.885, 100; 4: 0.883, 100.
CHAT_TUNING = {"learning_rate": 0.001, "length_warmup": 0, "bpe_dropout": 0.0, "compile": False, "batch_size": 4,
               "epochs": 3.0, "minutes": None, "patience": 6}
# The least steps of such a run whose length is not given. 300 questions with answers of one short sentence are 9 steps
# an epoch. How many of 100 sampled answers end, by steps: 27: 49; 60: 100; 100: 100 (stopped early). With 100 of them
# 60: 100. With 300 dialogues about the plays three epochs are 60 steps.
CHAT_STEPS_AT_LEAST = 80
# The same where they learn from preferences. Questions preferred among the shipped model's sentences, 600 pairs,
# without text beside them: 2 epochs at 0.00005 raised their share from 0.11 to 0.42 and the bits per byte of the plays
# by 1.2 %, 4 epochs to 0.84 and by 6.2 %, 2 epochs at 0.00015 to 0.96 and by 11.7 %. With text of a weight of 0.2
# beside them (preference_text), 3 epochs at 0.0003: 0.74 and 2.3 %.
PREFERENCE_TUNING = {"learning_rate": 0.0003, "length_warmup": 0, "bpe_dropout": 0.0, "compile": False, "epochs": 3.0,
                     "minutes": None}
# Where adapters are trained (lora_rank) in place of the weights, in addition to these: the learning rate as a
# multiple of that for all weights. From the shipped weights on 40 kB of docstrings, 100 steps of 8 sequences at rank 8,
# nats per byte: 1.753 at 0.003, 1.721 at 0.005, 1.717 at 0.008, and 2.60 at 0.015, ten times the rate for all weights.
LORA_RATE = 3.0
LORA_TUNING = {"optimizer": "adamw", "weight_decay": 0.0}
# What of ModelParams changes with it. Preferences compare the network with what it was: dropout would make it another.
TUNED_MODEL = {"preferences": {"dropout": 0.0}}
TUNING = {"text": FINE_TUNING, "chat": CHAT_TUNING, "preferences": PREFERENCE_TUNING}     # by TuningParams.learns


def tuning_defaults(learns: str, with_adapters: bool) -> dict[str, Any]:
    """Return {field of TrainingParams: value} where trained weights are taught. learns: TuningParams.learns"""
    usual = TUNING.get(learns, FINE_TUNING)
    if not with_adapters:
        return usual
    return usual | LORA_TUNING | {"learning_rate": LORA_RATE * usual["learning_rate"]}


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
