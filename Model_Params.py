"""Every hyperparameter, once: what it is called, what it means, its default. No torch in here.

Frozen dataclasses say how the text is cut into tokens (TextParams), what the network looks like (ModelParams), how it is trained
(TrainingParams), and how it goes on with a text (GenerationParams); a preset is one of each of the first three. Every field is a flag of the scripts: `num_layers` is `--num-layers`.
A value of None means "worked out from the others"; `resolved()` fills it in.
"""

import re
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from typing import get_args, get_origin


def option(default, help, *, low=None, above=None, high=None, choices=None, may_change=False):
    """A dataclass field with what flags, checks and help texts need to know about it.

    `low` and `high` are the smallest and largest values allowed, `above` a value that must be exceeded. `may_change` marks what
    a resumed run may set anew, because it changes nothing that has been computed by then.
    """
    return field(default=default, metadata={"help": help, "low": low, "above": above, "high": high, "choices": choices,
                                            "may_change": may_change})


def value_type(each):
    """The type of a dataclass field's values: int for a field declared as `int`, `int | None` or `tuple[int, ...]`."""
    return (get_args(each.type) or (each.type,))[0]


def takes_several(each):
    """Whether a dataclass field is declared as a `tuple[int, ...]`: any number of values, none by default."""
    return get_origin(each.type) is tuple


def field_problems(params):
    """Yield one sentence for every field of a dataclass that is out of its own bounds."""
    for each in fields(params):
        value = getattr(params, each.name)
        if takes_several(each) and not isinstance(value, tuple):
            yield f"{each.name}={value!r} should be a list."
            continue
        for value in value if takes_several(each) else (value,):
            yield from _value_problems(each, value)


def _value_problems(each, value):
    told, kind = each.metadata, value_type(each)
    if value is None and type(None) in get_args(each.type):
        return
    if told["choices"] and value not in told["choices"]:
        yield f"{each.name}={value!r} is not one of {', '.join(told['choices'])}."
    elif not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) and kind is not bool:
        yield f"{each.name}={value!r} should be of type {kind.__name__}."
    elif kind is float and not abs(value) <= sys.float_info.max:          # `not <=` rather than `>`: it refuses NaN too
        yield f"{each.name}={value} is not a finite number."
    elif problem := bounds_problem(value, told["low"], told["above"], told["high"]):
        left_out = re.search(r"\(default: (.*)\)$", told["help"]) if each.default is None else None
        yield f"{each.name}={problem}" + (f" Leave it out for the default: {left_out[1]}." if left_out else "")


def bounds_problem(value, low=None, above=None, high=None):
    """Return what is wrong with a number, its value first, or None where it is within its bounds."""
    shown = str(value) if len(str(value)) <= 30 else f"{str(value)[:20]}..."
    if low is not None and value < low:
        return f"{shown} is below the smallest value possible, {low}."
    if above is not None and value <= above:
        return f"{shown} must be above {above}."
    if high is not None and value > high:
        return f"{shown} is above the largest value possible, {high}."
    return None


@dataclass(frozen=True)
class TextParams:
    """How text becomes tokens."""
    tokenizer: str = option("bpe", "bpe (byte pairs, learned from the text) or char (one token a character)", choices=("bpe", "char"))
    vocab_size: int | None = option(None, "tokens the bpe tokenizer knows, bytes and special tokens included (default: by the size of the text)", high=1 << 17)
    pattern: str = option("qwen2", "how bpe splits text into words before it merges", choices=("qwen2", "gpt2"))
    val_fraction: float = option(0.1, "share of the text, at its end, held out for validation (never more than 1 MB)", above=0, high=0.5)
    field: str = option("text", "where .jsonl and .parquet files have their text")
    invalid_bytes: str = option("refuse", "what to do with bytes that are not UTF-8, and with NUL", choices=("refuse", "keep", "replace"))

    def problems(self):
        """Yield a sentence for everything that is wrong."""
        yield from field_problems(self)
        if self.tokenizer == "bpe" and isinstance(self.vocab_size, int) and self.vocab_size < 257:
            yield f"vocab_size={self.vocab_size} is below the smallest possible, 257: 256 bytes and <|endoftext|>."
        if self.tokenizer == "char" and self.vocab_size is not None:
            yield "vocab_size is for the bpe tokenizer; with tokenizer=char the text's own characters are the vocabulary."
        if self.tokenizer == "char" and self.invalid_bytes == "keep":
            yield "tokenizer=char needs characters: take invalid_bytes=replace, or tokenizer=bpe."


READING = ("field", "invalid_bytes")        # fields of TextParams that say how files are read

# A family is nothing but a name for these values; each can still be set by itself.
FAMILIES = {
    "folio": {"norm": "rms", "positions": "rotary", "mlp": "swiglu", "query_key_norm": True, "biases": "none", "tied_head": False},
    "classic": {"norm": "layer", "positions": "learned", "mlp": "relu", "query_key_norm": False, "biases": "lecture", "tied_head": False},
    "lstm": {"norm": None, "positions": None, "mlp": None, "query_key_norm": None, "biases": None, "tied_head": False},
}
# Families whose networks carry a state of fixed size from token to token instead of looking back: their context has no end.
RECURRENT = ("lstm",)
# What belongs to a transformer's blocks: None, and not to be given, where the family is recurrent.
IN_BLOCKS = ("num_heads", "num_kv_heads", "head_len", "attention_dropout", "norm", "positions", "mlp", "query_key_norm", "biases")


@dataclass(frozen=True)
class ModelParams:
    """What the network looks like."""
    vocab_size: int | None = option(None, "tokens the model knows: the tokenizer's vocab_size", low=1, high=1 << 24)
    block_size: int = option(256, "tokens the model can look back on; a recurrent one learns from so many at once", low=2, high=65536)
    emb_len: int | None = option(None, "width of the model: numbers a token becomes (default: by the size of the text and the time)", low=1, high=65536)
    num_layers: int | None = option(None, "blocks, one after the other (default: by emb_len; lstm: 2)", low=1, high=1000)
    num_heads: int | None = option(None, "attention heads a block (default: by emb_len, each 32 wide, from a width of 128 on 64)", low=1, high=65536)
    num_kv_heads: int | None = option(None, "heads for keys and values, shared by groups of query heads (default: num_heads)", low=1, high=1 << 24)
    head_len: int | None = option(None, "width of one head (default: emb_len / num_heads)", low=1, high=1 << 24)
    hidden_len: int | None = option(None, "width inside the MLP (default: 4 x emb_len; with swiglu 8/3 x, in multiples of 32), or of an LSTM's state "
                                    "(default: 2 x emb_len)", low=1, high=1 << 24)
    dropout: float = option(0.0, "share of what a branch adds, or an LSTM's layer takes in, that is set to zero while training", low=0, high=0.9)
    attention_dropout: float | None = option(None, "the same for attention's weights (default: none; classic: as dropout)", low=0, high=0.9)
    family: str = option("folio", "names all of the following at once: folio is Qwen3's architecture, classic is GPT-2's; lstm has none of them but tied_head",
                         choices=tuple(FAMILIES))
    norm: str | None = option(None, "normalisation before each branch (default: the family's)", choices=("rms", "layer"))
    positions: str | None = option(None, "how the model knows where a token stands (default: the family's)", choices=("rotary", "learned", "none"))
    mlp: str | None = option(None, "the block's second branch (default: the family's)", choices=("swiglu", "relu", "relu2", "gelu"))
    query_key_norm: bool | None = option(None, "normalise queries and keys (default: the family's)")
    biases: str | None = option(None, "which matrices add a bias: none; lecture: all but query, key and value; gpt2: all but the head "
                                "(default: the family's)", choices=("none", "lecture", "gpt2"))
    tied_head: bool | None = option(None, "use the embedding as output matrix too (default: the family's)")
    rope_base: float = option(10_000.0, "base of the rotary positions' wavelengths (Su et al., 2021)", above=0)
    norm_eps: float = option(1e-6, "epsilon of norm=rms (Qwen3's); norm=layer keeps GPT-2's 1e-5", above=0, high=1)

    @property
    def is_recurrent(self):
        """Whether the network carries a state from token to token, so that its context has no end."""
        return self.family in RECURRENT

    def sized(self, emb_len=128):
        """The same with those of emb_len, num_layers and num_heads that are None worked out: about this width, and what goes with it.
        >>> [(each.emb_len, each.num_layers, each.num_heads) for each in map(ModelParams().sized, (64, 128, 256))]
        [(64, 3, 2), (128, 4, 2), (256, 6, 4)]
        """
        if self.is_recurrent:           # two layers, as most have had it since Graves (2013)
            return replace(self, emb_len=self.emb_len or emb_len, num_layers=self.num_layers or 2)
        unit = 2 if (self.positions or FAMILIES[self.family]["positions"]) == "rotary" else 1        # rotary positions turn pairs of channels
        shared = self.num_kv_heads or 1
        split = unit * (self.num_heads or shared)
        emb_len = self.emb_len or split * max(1, round(emb_len / split))
        # Depth grows more slowly than width, as in GPT-2, whose 12 layers have a width of 768.
        num_layers = self.num_layers or max(1, round(4 * (emb_len / 128) ** 0.6))
        most = emb_len // (self.head_len or (32 if emb_len < 128 else 64))
        num_heads = self.num_heads or max((heads for heads in range(shared, most + 1, shared) if self.head_len or emb_len % (unit * heads) == 0),
                                          default=shared)
        return replace(self, emb_len=emb_len, num_layers=num_layers, num_heads=num_heads)

    def resolved(self):
        """The same parameters with every None worked out; vocab_size alone stays as it is, it is the tokenizer's to say.

        Sizes that are not given are those for half a megabyte of text and three minutes: folio/training/plan.py knows others.
        """
        self = self.sized()
        if self.is_recurrent:
            return replace(self, hidden_len=self.hidden_len or 2 * self.emb_len, tied_head=bool(self.tied_head))
        mlp = self.mlp or FAMILIES[self.family]["mlp"]
        derived = FAMILIES[self.family] | {
            "num_kv_heads": self.num_heads,
            # On the plays the folio family does better without (1.683 against 1.691 nats per byte), and a third faster on a CPU.
            "attention_dropout": self.dropout if self.family == "classic" else 0.0,
            "head_len": self.emb_len // self.num_heads,
            # SwiGLU has three matrices where the others have two: 8/3 keeps the parameters the same (Shazeer, 2020).
            "hidden_len": -(-8 * self.emb_len // 96) * 32 if mlp == "swiglu" else 4 * self.emb_len,
        }
        return replace(self, **{name: value for name, value in derived.items() if getattr(self, name) is None})

    def problems(self):
        """Yield a sentence for everything that is wrong."""
        wrong = list(field_problems(self))
        yield from wrong
        if wrong:
            return      # the checks below compute with the values checked above
        if self.is_recurrent:
            for name in IN_BLOCKS:
                if getattr(self, name) is not None:
                    yield f"{name}={getattr(self, name)} is for transformers, and the family {self.family} has no such part: leave it out."
            return
        whole = self.resolved()
        unit = 2 if whole.positions == "rotary" else 1          # rotary positions turn pairs of channels
        if self.head_len is None and whole.emb_len % (unit * whole.num_heads):
            nearest = unit * whole.num_heads * max(1, round(whole.emb_len / (unit * whole.num_heads)))
            yield (f"emb_len={whole.emb_len} does not split into num_heads={whole.num_heads} heads of the same{' even' * (unit == 2)} width; "
                   f"try emb_len={nearest}.")
        elif whole.head_len % unit:
            yield f"head_len={self.head_len} is not even, and rotary positions turn pairs of channels; try head_len={self.head_len + 1}."
        if whole.num_heads % whole.num_kv_heads:
            yield f"num_heads={whole.num_heads} cannot share num_kv_heads={self.num_kv_heads} evenly; take a divisor of {whole.num_heads}."


# The largest values are far beyond what anybody will see the end of, and small enough to compute with: in 64-bit integers, in float32.
MOST_STEPS, MOST_MINUTES, MOST_TOKENS = 10**12, 1e7, 10**9
LENGTHS = ("steps", "minutes", "epochs")         # of a run: it has one of them
USUAL_STEPS = 1000              # of a run whose length nobody has said or estimated


def for_length(steps, shorter_first=True):
    """What suits a run of so many steps: {field of TrainingParams: value}. Found on four texts, from 40 to 1,500 steps (benchmarks/LOG.md).

    shorter_first: whether it may begin with shorter sequences (sequence length warm-up: Li et al., 2022), which teach a beginner more for each token.
    >>> for_length(100)
    {'learning_rate': 0.01, 'warmup_steps': 5, 'length_warmup': 50, 'decay_fraction': 0.4}
    """
    learning_rate = min(0.015, max(0.002, 0.1 / steps ** 0.5))
    return {"learning_rate": float(f"{learning_rate:.2g}"), "warmup_steps": min(20, max(3, steps // 20)),
            "length_warmup": min(250, steps // 2) if shorter_first else 0, "decay_fraction": 0.4 if steps < 200 else 0.7}


@dataclass(frozen=True)
class TrainingParams:
    """How the network is trained."""
    steps: int | None = option(None, "train this many steps (instead of minutes); with --resume in all", low=1, high=MOST_STEPS, may_change=True)
    minutes: float | None = option(3.0, "train for about this long, everything included (instead of steps); with --resume in all", above=0, high=MOST_MINUTES, may_change=True)
    epochs: float | None = option(None, "train for so many passes over the text, or, with batches=shuffled, over all places where a window can begin "
                                  "(instead of steps)", above=0, high=1e6, may_change=True)
    batches: str = option("random", "where windows begin: random (anywhere), shuffled (at every place once an epoch), consecutive (where the last ones "
                          "ended, with the state they left: for recurrent families)", choices=("random", "shuffled", "consecutive"))
    batch_size: int = option(8, "windows of block_size tokens a step learns from", low=1, high=1 << 40)
    micro_batch_size: int | None = option(None, "windows computed at once; smaller takes less memory (default: batch_size, halved where it has to be)",
                                         low=1, high=1 << 40, may_change=True)
    optimizer: str = option("muon", "muon (for the matrices; adamw for the rest), adamw, sgd or rmsprop (for all)",
                            choices=("muon", "adamw", "sgd", "rmsprop"))
    learning_rate: float | None = option(None, "peak learning rate (default: the fewer steps, the higher)", above=0, high=1000)
    embedding_rate: float | None = option(None, "times the learning rate, for the embedding (default: 5 with muon, else 1)", above=0, high=1000)
    weight_decay: float = option(1.0, "pull of the matrices towards zero", low=0, high=10_000)
    bpe_dropout: float | None = option(None, "share of merges left out, anew in each batch, so that words come in other tokens; falls with the "
                                       "learning rate (default: the more often the text will be read, the more)", low=0, high=1)
    beta1: float = option(0.9, "adamw, sgd: memory of the gradient", low=0, high=0.9999)
    beta2: float = option(0.95, "adamw, rmsprop: memory of the squared gradient", low=0, high=0.999999)
    momentum_warmup: int | None = option(None, "muon: steps over which its momentum rises from 0.85 to 0.95 (default: 300)", low=0, high=MOST_STEPS)
    warmup_steps: int | None = option(None, "steps over which the learning rate rises (default: by the number of steps)", low=0, high=MOST_STEPS)
    length_warmup: int | None = option(None, "with batches=random: first steps, with sequences a quarter as long and four "
                                       "times as many; at most up to the decay (default: by the number of steps)",
                                       low=0, high=MOST_STEPS)
    schedule: str = option("trapezoid", "how the learning rate goes on: trapezoid (stays, then falls), cosine, linear, constant",
                           choices=("trapezoid", "cosine", "linear", "constant"))
    decay_fraction: float | None = option(None, "trapezoid: last share of the run, over which the learning rate falls to zero "
                                          "(default: 0.4, from 200 steps on 0.7)", low=0, high=0.9)
    gradient_clip: float = option(1.0, "longest gradient allowed, the rest is scaled down to it (0: no limit)", low=0, high=1e9)
    eval_interval: int | None = option(None, "steps from one validation to the next (default: so that they take a small part of the time)", low=1, high=MOST_STEPS)
    patience: int | None = option(None, "stop when so many validations in a row were no better than the best (default: never)",
                                  low=1, high=MOST_STEPS, may_change=True)
    sample_tokens: int = option(60, "tokens of sample text written at each validation", low=0, high=MOST_TOKENS, may_change=True)
    closing_tokens: int = option(0, "tokens of new text that the best weights write when the run is done", low=0, high=MOST_TOKENS, may_change=True)
    tensorboard: bool = option(False, "write the log also as events for TensorBoard, in Saved_Weights/tensorboard", may_change=True)
    seed: int = option(1, "the run's random choices; the same seed gives the same run", low=0, high=2**63 - 1)
    device: str = option("auto", "where to compute: auto, cpu, cuda, mps")
    precision: str = option("auto", "numbers in matrix products: auto, fp32, bf16, fp16", choices=("auto", "fp32", "bf16", "fp16"))
    threads: int | None = option(None, "processor threads (default: one a core)", low=1, high=1024)
    compile: bool | None = option(None, "let torch.compile make the step faster; needs a C++ compiler (default: where it pays)")

    def resolved(self, steps=None):
        """The same parameters with every None that other parameters decide worked out; folio/training/plan.py knows a better bpe_dropout for some texts.

        steps: about how many the run will make, where `steps` does not say it (default: USUAL_STEPS).
        """
        steps = self.steps or steps or USUAL_STEPS
        muon, random = self.optimizer == "muon", self.batches == "random"
        usual = {"micro_batch_size": self.batch_size, "bpe_dropout": 0.0 if self.batches == "consecutive" else 0.1,
                 "embedding_rate": 5.0 if muon else 1.0, "momentum_warmup": 300 if muon else 0,
                 **for_length(steps, shorter_first=random and not self.compile)}           # a compiled step is made for sequences of one length
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})

    def problems(self):
        """Yield a sentence for everything that is wrong."""
        wrong = list(field_problems(self))
        yield from wrong
        if sum(getattr(self, name) is not None for name in LENGTHS) != 1:
            yield "A run has either steps or minutes or epochs: give one of them."
        if self.schedule in ("cosine", "linear") and self.minutes is not None:
            yield f"schedule={self.schedule} has to know where it ends: give steps or epochs instead of minutes."
        if self.batches == "consecutive" and self.bpe_dropout:
            yield "batches=consecutive goes on just where a window ended, and bpe_dropout moves that place: take bpe_dropout=0."
        if self.batches != "random" and self.length_warmup:
            yield f"batches={self.batches} has windows of one length, and length_warmup begins with shorter ones: take length_warmup=0."
        if not wrong and self.batch_size % self.resolved().micro_batch_size:
            yield f"batch_size={self.batch_size} does not split into micro_batch_size={self.micro_batch_size}; take a divisor."


# What is different by default where training starts from weights instead of from nothing. From the shipped weights on 20 kB of tiny shakespeare,
# 40 steps of 16 windows (20 passes), best nats per byte: 1.954 at 0.0003, 1.879 at 0.001, 1.900 at 0.002, 1.903 at 0.004; from nothing 2.299.
# 0.0015 is between the two best, with 8 windows a step; and a network that knows long sequences need not begin with shorter ones.
FINE_TUNING = {"learning_rate": 0.0015, "length_warmup": 0}


@dataclass(frozen=True)
class GenerationParams:
    """How a trained network goes on with a text."""
    tokens: int = option(300, "length of the answer, unless the text ends before", low=0, high=2**63 - 1)
    temperature: float | None = option(None, "below 1 safer, above 1 wilder; 0 always takes the likeliest token (default: 0.8)", low=0, high=1e6)
    top_k: int | None = option(None, "choose among this many likeliest tokens (default: all)", low=1, high=1 << 24)
    top_p: float | None = option(None, "choose among the fewest tokens that together have this probability (default: all)", above=0, high=1)
    min_p: float | None = option(None, "choose among tokens at least this share as likely as the likeliest (default: all)", low=0, high=1)
    repetition_penalty: float = option(1.0, "make tokens that came before less likely: logits are divided by this, or multiplied below 0; 1: no penalty",
                                       low=0.01, high=100)         # what is divided by far less may be beyond float32
    frequency_penalty: float = option(0.0, "make tokens less likely the more often they came: so much off the logit for each time; 0: no penalty",
                                      low=0, high=100)
    penalty_window: int = option(64, "tokens, the prompt's included, that the two penalties look back on", low=1, high=MOST_TOKENS)       # 64: llama.cpp's
    no_repeat_ngram: int | None = option(None, "let no sequence of this many tokens come twice (default: all may)", low=1, high=MOST_TOKENS)
    beams: int | None = option(None, "leave nothing to chance: look for the likeliest text as a whole, with so many candidates at once "
                                     "(default: chance decides)", low=1, high=4096)
    length_penalty: float | None = option(None, "with beams: 0 favours short texts, more favours longer ones (default: 0.6)", low=0, high=10)
    weight_precision: str = option("float32", "what the weights are rounded to: float32, or int8, a quarter of the bytes and a little less exact",
                                   choices=("float32", "int8"))
    stop: tuple[str, ...] = option((), r"end before this text where it comes; can be given several times; \n is a new line, "
                                       r"\t a tab, \\ a backslash")
    sampling_seed: int | None = option(None, "makes an answer repeatable (default: a new one each time)", low=0, high=2**63 - 1)

    def resolved(self):
        """The same parameters with every None worked out that has a value where it is not given; a seed is for the caller to draw."""
        return replace(self, temperature=0.8 if self.temperature is None else self.temperature,
                       length_penalty=0.6 if self.length_penalty is None else self.length_penalty)        # 0.6 to 0.7 did best in Wu et al., 2016

    def problems(self):
        """Yield a sentence for everything that is wrong."""
        wrong = list(field_problems(self))
        yield from wrong
        if wrong:
            return
        if "" in self.stop:
            yield "A stop text is empty, and every text begins with that: leave it out, or say where to stop."
        if any("\ud800" <= character <= "\udfff" for text in self.stop for character in text):
            yield "A stop text has half a surrogate pair, or a byte that is not UTF-8, which no text has: give whole characters."
        chances = [name for name in ("temperature", "top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.beams is not None and chances:
            yield f"beams={self.beams} leaves nothing to chance, and {' and '.join(chances)} would shape it: give the one or the other."
        if self.beams is None and self.length_penalty is not None:
            yield f"length_penalty={self.length_penalty} compares beams with each other: give beams too, or leave it out."


# Short spellings of GenerationParams' fields, where no field of TrainingParams can be meant: as flags of run.py, as
# commands in its conversation, as keywords of LanguageModel. In a file of settings they are TrainingParams' fields.
SHORT_NAMES = {"precision": "weight_precision", "seed": "sampling_seed"}


def one_length(values):
    """{field: value} in which one of steps, minutes and epochs puts the others aside.
    >>> one_length({"steps": 100})
    {'minutes': None, 'epochs': None, 'steps': 100}
    """
    is_given = any(values.get(name) is not None for name in LENGTHS)
    return ({name: None for name in LENGTHS if name not in values} if is_given else {}) | values


@dataclass(frozen=True)
class Params:
    """Everything a run is made of; what the presets are."""
    text: TextParams = TextParams()
    model: ModelParams = ModelParams()
    training: TrainingParams = TrainingParams()

    def problems(self):
        """Yield a sentence for everything that is wrong; nothing where all is well."""
        for part in fields(self):
            yield from getattr(self, part.name).problems()
        if self.training.batches == "consecutive" and not self.model.is_recurrent:
            yield (f"batches=consecutive hands a network's state on from window to window, and the family {self.model.family} has none beyond its window: "
                   "take batches=random or batches=shuffled, or family=lstm.")
        if self.training.compile and self.model.is_recurrent:
            yield f"compile=True is of no use to the family {self.model.family}, which torch.compile leaves as it is: leave it out."

    def values(self):
        """{field: value} of all three parts side by side; the one name that two of them share has the model's value, or else the text's."""
        values = asdict(self.text) | asdict(self.model) | asdict(self.training)
        return values | {"vocab_size": self.model.vocab_size or self.text.vocab_size}


# As somebody's own program without any tricks trains: AdamW as torch has it, one learning rate from the first step to the last, the text as it is.
_PLAIN = TrainingParams(minutes=None, optimizer="adamw", weight_decay=0.01, beta2=0.999, bpe_dropout=0.0, warmup_steps=0, length_warmup=0,
                        decay_fraction=0.0, gradient_clip=0.0)

PRESETS = {
    # A model of about a million parameters for about a megabyte of text, in about three minutes on two cores. Learning rate,
    # weight decay and dropouts were chosen on the last tenth of the training part of the plays and of tiny shakespeare; what was tried is in benchmarks/LOG.md.
    "default": Params(),
    # The character model that lectures and repositories train on tiny shakespeare: 10,788,929 parameters with its 65 characters.
    "shakespeare-10m": Params(
        TextParams(tokenizer="char"),
        ModelParams(family="classic", block_size=256, emb_len=384, num_layers=6, num_heads=6, dropout=0.2),
        replace(_PLAIN, steps=5000, batch_size=64, learning_rate=3e-4)),
    # A first character model, which shows what it has learned: 209,729 parameters with 65 characters. Batch and learning rate are those that lectures
    # give a model of this size; no dropout, since in 5,000 steps it reads tiny shakespeare no more than two and a half times.
    "personal": Params(
        TextParams(tokenizer="char"),
        ModelParams(family="classic", block_size=32, emb_len=64, num_layers=4, num_heads=4),
        replace(_PLAIN, steps=5000, batch_size=16, learning_rate=1e-3, closing_tokens=500)),
    # A GPT of about four million parameters (4,143,680) on byte pairs. From half a megabyte init.py learns 1,024 by itself, so that the tokenizer
    # that comes along serves. Its training is Folio's own: 1,500 steps read the plays 17 times, tiny shakespeare half as often. Dropout is GPT-2's.
    "llm-example": Params(
        TextParams(tokenizer="bpe", vocab_size=1024),
        ModelParams(family="classic", mlp="gelu", block_size=256, emb_len=224, num_layers=6, num_heads=4, dropout=0.1),
        TrainingParams(steps=1500, minutes=None)),
    # Wide, with few heads, a fifth of the text held out. It reads tiny shakespeare 14 times, and takes as much dropout as the model of the lectures.
    "micropgpt": Params(
        TextParams(tokenizer="char", val_fraction=0.2),
        ModelParams(family="classic", block_size=128, emb_len=384, num_layers=4, num_heads=4, dropout=0.2),
        replace(_PLAIN, steps=3000, batch_size=32, learning_rate=3e-4)),
    # The character LSTM of LLM-V0, which names these sizes, the learning rate and Adam, and no more. Its batches hold every window of 64 characters
    # once an epoch, shuffled, and each window begins with an empty state.
    "llm-v0": Params(
        TextParams(tokenizer="char"),
        ModelParams(family="lstm", block_size=64, emb_len=64, hidden_len=128, num_layers=1),
        replace(_PLAIN, epochs=10, batches="shuffled", batch_size=32, learning_rate=1e-3, weight_decay=0.0)),
}


if __name__ == "__main__":
    from folio.base.startup import list_commands
    list_commands("python Model_Params.py")
