"""Every hyperparameter, once: its name, meaning, bounds and default. Nothing here imports torch.

TextParams, ModelParams and TrainingParams together are Params: all that a run is made of, and what a preset names.
GenerationParams say how a trained network continues a text. Every field is a flag of the scripts: `num_layers` is
`--num-layers`. A value of None is derived: `resolved()` fills in what other parameters decide, folio/training/settle.py
what the text and the machine decide.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from folio.base.defaults import for_length
from folio.base.encodings import encoding_problem
from folio.base.fields import field_problems, option

# --- Text ---

@dataclass(frozen=True)
class TextParams:
    """How text becomes tokens."""
    tokenizer: str = option("bpe", "bpe (byte pairs, learned from the text) or char (one token per character)",
                            choices=("bpe", "char"))
    vocab_size: int | None = option(None, "tokens in the bpe tokenizer's vocabulary, bytes and special tokens included "
                                    "(default: by the size of the text)", high=1 << 17)
    pattern: str = option("qwen2", "the split pattern: how bpe splits text into pre-tokens before it merges",
                          choices=("qwen2", "gpt2", "llama3", "smollm"))
    val_fraction: float = option(0.1, "fraction of the text held out for validation (never more than 1 MB)",
                                 above=0, high=0.5)
    hold_out: str = option("documents", "what is held out: documents (whole ones, chosen by what is in them, and the "
                           "end of each long one) or end (of the text)", choices=("documents", "end"))
    field: str = option("text", "the field of records (.jsonl, .json, .csv, .parquet...) that holds the text")
    template: str | None = option(None, 'the text of a record, with names of its fields, as in "{tag}: {duty} kW" '
                                  "(default: its text field; of a table all columns)")
    encoding: str | None = option(None, "encoding of plain text and tables, such as windows-1252 (default: UTF-8, or "
                                  "what a byte order mark says)")
    invalid_bytes: str = option("refuse", "what to do with bytes that are not UTF-8, and with NUL",
                                choices=("refuse", "keep", "replace"))

    def problems(self) -> Iterator[str]:
        """Yield a sentence for everything that is wrong."""
        yield from field_problems(self)
        if self.tokenizer == "bpe" and isinstance(self.vocab_size, int) and self.vocab_size < 257:
            yield f"vocab_size={self.vocab_size} is below the smallest possible, 257: 256 bytes and <|endoftext|>."
        if self.tokenizer == "char" and self.vocab_size is not None:
            yield ("vocab_size is for the bpe tokenizer; with tokenizer=char the text's own characters are the "
                   "vocabulary.")
        if self.tokenizer == "char" and self.invalid_bytes == "keep":
            yield "tokenizer=char needs characters: take invalid_bytes=replace, or tokenizer=bpe."
        if isinstance(self.encoding, str) and (problem := encoding_problem(self.encoding)):
            yield problem


OLDER_TEXT = {"hold_out": "end"}     # fields of TextParams in files that are older than these fields
READING = ("field", "template", "encoding", "invalid_bytes")       # fields of TextParams that say how files are read


# --- Model ---
# The choices of a block's parts. Model.py has the same names in tables that build them.
NORMS = {"rms": 1e-6, "layer": 1e-5}        # -> norm_eps: Qwen3's; GPT-2's
MLPS = {                                    # -> hidden_len for an emb_len
    # SwiGLU has three matrices where the others have two: 8/3 keeps the parameters the same (Shazeer, 2020).
    "swiglu": lambda emb_len: -(-8 * emb_len // 96) * 32,
    "relu": lambda emb_len: 4 * emb_len,
    "relu2": lambda emb_len: 4 * emb_len,
    "gelu": lambda emb_len: 4 * emb_len,
}
POSITIONS = ("rotary", "learned", "none")
ROPE_BASE = 10_000.0                        # Su et al., 2021
# A family is only a name for these values; each can still be set by itself.
FAMILIES = {
    "folio": {"norm": "rms", "positions": "rotary", "mlp": "swiglu", "query_key_norm": True, "biases": "none",
              "tied_head": False},
    "classic": {"norm": "layer", "positions": "learned", "mlp": "relu", "query_key_norm": False, "biases": "lecture",
                "tied_head": False},
    "lstm": {"norm": None, "positions": None, "mlp": None, "query_key_norm": None, "biases": None, "tied_head": False},
}
RECURRENT = ("lstm",)       # families that carry a state of fixed size from token to token: their context has no end
# Parts of a transformer's blocks: None, and refused if given, where the family is recurrent.
IN_BLOCKS = ("num_heads", "num_kv_heads", "head_len", "attention_dropout", "norm", "norm_eps", "positions", "rope_base",
             "mlp", "query_key_norm", "biases")


@dataclass(frozen=True)
class ModelParams:
    """What the network looks like."""
    vocab_size: int | None = option(None, "tokens in the model's vocabulary: the tokenizer's vocab_size",
                                    low=1, high=1 << 24)
    block_size: int = option(256, "context length in tokens; of a recurrent model, length of training sequences",
                             low=2, high=65536)
    emb_len: int | None = option(None, "width of the model: length of a token's embedding "
                                 "(default: by the size of the text and the time)", low=1, high=65536)
    num_layers: int | None = option(None, "number of blocks, one after the other (default: by emb_len; lstm: 2)",
                                    low=1, high=1000)
    num_heads: int | None = option(None, "attention heads per block "
                                   "(default: by emb_len, each 32 wide, from a width of 128 on 64)", low=1, high=65536)
    num_kv_heads: int | None = option(None, "heads for keys and values, shared by groups of query heads "
                                      "(default: num_heads)", low=1, high=1 << 24)
    head_len: int | None = option(None, "width of one head (default: emb_len / num_heads)", low=1, high=1 << 24)
    hidden_len: int | None = option(None, "width inside the MLP (default: 4 x emb_len; with swiglu 8/3 x, in multiples "
                                    "of 32), or of an LSTM's state (default: 2 x emb_len)", low=1, high=1 << 24)
    dropout: float = option(0.0, "dropout on each branch's output, or on an LSTM layer's input", low=0, high=0.9)
    attention_dropout: float | None = option(None, "dropout on attention weights (default: none; classic: as dropout)",
                                             low=0, high=0.9)
    family: str = option("folio", "names all of the following at once: folio is Qwen3's architecture, classic is "
                         "GPT-2's; lstm has none of them but tied_head", choices=tuple(FAMILIES))
    norm: str | None = option(None, "normalization before each branch (default: the family's)", choices=tuple(NORMS))
    norm_eps: float | None = option(None, "small number that keeps norms from dividing by zero "
                                    "(default: 1e-6 with rms, 1e-5 with layer)", low=1e-12, high=1)
    positions: str | None = option(None, "how the model knows a token's position (default: the family's)",
                                   choices=POSITIONS)
    rope_base: float | None = option(None, "with rotary positions: base of their wavelengths; long contexts use larger "
                                     "ones (default: 10000)", low=1, high=1e12)
    mlp: str | None = option(None, "the block's second branch (default: the family's)", choices=tuple(MLPS))
    query_key_norm: bool | None = option(None, "normalize queries and keys (default: the family's)")
    biases: str | None = option(None, "which matrices add a bias: none; lecture: all but query, key and value; gpt2: "
                                "all but the head (default: the family's)", choices=("none", "lecture", "gpt2"))
    tied_head: bool | None = option(None, "use the embedding as output matrix too (default: the family's)")

    @property
    def is_recurrent(self) -> bool:
        """Whether the network carries a state from token to token, so that its context has no end."""
        return self.family in RECURRENT

    def sized(self, emb_len: int = 128) -> "ModelParams":
        """Return the same with each of emb_len, num_layers and num_heads that is None derived from about this width.
        >>> [(sized.emb_len, sized.num_layers, sized.num_heads) for sized in map(ModelParams().sized, (64, 128, 256))]
        [(64, 3, 2), (128, 4, 2), (256, 6, 4)]
        """
        if self.is_recurrent:           # two layers, as most have had it since Graves (2013)
            return replace(self, emb_len=self.emb_len or emb_len, num_layers=self.num_layers or 2)
        unit, shared = self._channel_unit, self.num_kv_heads or 1
        split = unit * (self.num_heads or shared)
        emb_len = self.emb_len or split * max(1, round(emb_len / split))
        # Depth grows more slowly than width, as in GPT-2, whose 12 layers have a width of 768.
        num_layers = self.num_layers or max(1, round(4 * (emb_len / 128) ** 0.6))
        most = emb_len // (self.head_len or (32 if emb_len < 128 else 64))
        fitting = (heads for heads in range(shared, most + 1, shared) if self.head_len or emb_len % (unit * heads) == 0)
        num_heads = self.num_heads or max(fitting, default=shared)
        return replace(self, emb_len=emb_len, num_layers=num_layers, num_heads=num_heads)

    def resolved(self) -> "ModelParams":
        """Return the same with every None filled in, except vocab_size: that is the tokenizer's.

        Sizes that are not given are those for half a megabyte of text and three minutes; folio/training/sizes.py
        derives them from a text and a time.
        """
        self = self.sized()
        if self.is_recurrent:
            return replace(self, hidden_len=self.hidden_len or 2 * self.emb_len, tied_head=bool(self.tied_head))
        parts = {name: value if getattr(self, name) is None else getattr(self, name)
                 for name, value in FAMILIES[self.family].items()}
        derived = parts | {
            "num_kv_heads": self.num_heads,
            # On the plays the folio family does better without (1.683 against 1.691 nats per byte), and a third faster
            # on a CPU.
            "attention_dropout": self.dropout if self.family == "classic" else 0.0,
            "head_len": self.emb_len // self.num_heads,
            "hidden_len": MLPS[parts["mlp"]](self.emb_len),
            "norm_eps": NORMS[parts["norm"]],
            "rope_base": ROPE_BASE if parts["positions"] == "rotary" else None,
        }
        return replace(self, **{name: value for name, value in derived.items() if getattr(self, name) is None})

    def problems(self) -> Iterator[str]:
        """Yield a sentence for everything that is wrong."""
        wrong = list(field_problems(self))
        yield from wrong
        if wrong:
            return      # the checks below compute with the values checked above
        if self.is_recurrent:
            for name in IN_BLOCKS:
                if getattr(self, name) is not None:
                    yield (f"{name}={getattr(self, name)} is for transformers, and the family {self.family} has no "
                           "such part: leave it out.")
            return
        whole, unit = self.resolved(), self._channel_unit
        if self.head_len is None and whole.emb_len % (unit * whole.num_heads):
            nearest = unit * whole.num_heads * max(1, round(whole.emb_len / (unit * whole.num_heads)))
            yield (f"emb_len={whole.emb_len} does not split into num_heads={whole.num_heads} heads of the same"
                   f"{' even' if unit == 2 else ''} width; try emb_len={nearest}.")
        elif whole.head_len % unit:
            yield (f"head_len={self.head_len} is not even, and rotary positions turn pairs of channels; "
                   f"try head_len={self.head_len + 1}.")
        if whole.num_heads % whole.num_kv_heads:
            yield (f"num_heads={whole.num_heads} cannot share num_kv_heads={self.num_kv_heads} evenly; "
                   f"take a divisor of {whole.num_heads}.")
        if self.rope_base is not None and whole.positions != "rotary":
            yield (f"rope_base={self.rope_base} is for positions=rotary, not for positions={whole.positions}: "
                   "leave it out.")

    @property
    def _channel_unit(self) -> int:
        """Channels that stay together in a head: rotary positions turn pairs."""
        return 2 if (self.positions or FAMILIES[self.family]["positions"]) == "rotary" else 1


# --- Training ---
# The largest values: beyond the end of any run, and small enough to compute with in 64-bit integers and float32.
MOST_STEPS, MOST_MINUTES, MOST_TOKENS = 10**12, 1e7, 10**9
LENGTHS = ("steps", "minutes", "epochs")        # a run has exactly one of them
USUAL_STEPS = 1000                              # of a run whose length is neither given nor estimated


@dataclass(frozen=True)
class TrainingParams:
    """How the network is trained."""
    steps: int | None = option(None, "train this many steps (instead of minutes); with --resume in all",
                               low=1, high=MOST_STEPS, may_change=True)
    minutes: float | None = option(3.0, "train for about this long, everything included (instead of steps); with "
                                   "--resume in all", above=0, high=MOST_MINUTES, may_change=True)
    epochs: float | None = option(None, "train for this many passes over the text, or, with batches=shuffled, over all "
                                  "places where a sequence can begin (instead of steps)",
                                  above=0, high=1e6, may_change=True)
    batches: str = option("random", "where sequences begin: random (anywhere), shuffled (at every place once an "
                          "epoch), consecutive (where the last ones ended, with their state: for recurrent families)",
                          choices=("random", "shuffled", "consecutive"))
    batch_size: int = option(8, "sequences of block_size tokens per step", low=1, high=1 << 40)
    micro_batch_size: int | None = option(None, "sequences per forward/backward pass; smaller takes less memory "
                                          "(default: batch_size, halved when memory runs out)",
                                          low=1, high=1 << 40, may_change=True)
    optimizer: str = option("muon", "muon (for the matrices; adamw for the rest), adamw, sgd or rmsprop (for all)",
                            choices=("muon", "adamw", "sgd", "rmsprop"))
    learning_rate: float | None = option(None, "peak learning rate (default: the fewer steps, the higher)",
                                         above=0, high=1000)
    embedding_rate: float | None = option(None, "learning rate of the embedding, as a multiple of learning_rate "
                                          "(default: 5 with muon, else 1)", above=0, high=1000)
    weight_decay: float = option(1.0, "weight decay of the matrices", low=0, high=10_000)
    bpe_dropout: float | None = option(None, "fraction of merges left out, drawn anew for each batch, so that words "
                                       "come in other tokens; falls with the learning rate (default: the more often "
                                       "the text will be read, the more)", low=0, high=1)
    beta1: float = option(0.9, "adamw, sgd: decay rate of the gradient's running mean", low=0, high=0.9999)
    beta2: float = option(0.95, "adamw, rmsprop: decay rate of the squared gradient's running mean",
                          low=0, high=0.999999)
    momentum_warmup: int | None = option(None, "muon: steps over which its momentum rises from 0.85 to 0.95 "
                                         "(default: 300)", low=0, high=MOST_STEPS)
    warmup_steps: int | None = option(None, "steps over which the learning rate rises "
                                      "(default: by the number of steps)", low=0, high=MOST_STEPS)
    length_warmup: int | None = option(None, "with batches=random: first steps, with sequences a quarter as long and "
                                       "four times as many; at most up to the decay (default: by the number of steps)",
                                       low=0, high=MOST_STEPS)
    schedule: str = option("trapezoid", "learning rate after the warm-up: trapezoid (constant, then decays), cosine, "
                           "linear, constant", choices=("trapezoid", "cosine", "linear", "constant"))
    decay_fraction: float | None = option(None, "trapezoid: last fraction of the run, over which the learning rate "
                                          "falls to zero (default: 0.4, from 200 steps on 0.7)", low=0, high=0.9)
    gradient_clip: float = option(1.0, "maximum gradient norm; larger gradients are scaled down to it (0: no limit)",
                                  low=0, high=1e9)
    eval_interval: int | None = option(None, "steps between validations (default: so that they take a small part of "
                                       "the time)", low=1, high=MOST_STEPS)
    patience: int | None = option(None, "stop after this many validations in a row without improvement "
                                  "(default: never)", low=1, high=MOST_STEPS, may_change=True)
    sample_tokens: int = option(60, "tokens of sample text at each validation",
                                low=0, high=MOST_TOKENS, may_change=True)
    closing_tokens: int = option(0, "tokens that the best weights generate when the run is done",
                                 low=0, high=MOST_TOKENS, may_change=True)
    tensorboard: bool = option(False, "also write the log as events for TensorBoard, in Saved_Weights/tensorboard",
                               may_change=True)
    track: str | None = option(None, "also forward the log, samples included, to wandb, trackio or mlflow",
                               choices=("wandb", "trackio", "mlflow"), may_change=True)
    seed: int = option(1, "the run's random choices; the same seed gives the same run", low=0, high=2**63 - 1)
    device: str = option("auto", "where to compute: auto, cpu, cuda, mps")
    precision: str = option("auto", "number format of matrix products: auto, fp32, bf16, fp16",
                            choices=("auto", "fp32", "bf16", "fp16"))
    threads: int | None = option(None, "processor threads (default: up to one per core, measured)", low=1, high=1024)
    compile: bool | None = option(None, "compile the step with torch.compile; needs a C++ compiler "
                                  "(default: where it pays)")

    def resolved(self, steps: int | None = None) -> "TrainingParams":
        """Return the same with every None that other parameters decide filled in.

        steps: about how many the run will make, where `steps` does not say it (default: USUAL_STEPS).
        """
        steps = self.steps or steps or USUAL_STEPS
        muon, random = self.optimizer == "muon", self.batches == "random"
        # bpe_dropout: folio/training/settle.py knows a better one, by how often the text will be read.
        # shorter_first: a compiled step is made for sequences of one length.
        usual = {"micro_batch_size": self.batch_size, "bpe_dropout": 0.0 if self.batches == "consecutive" else 0.1,
                 "embedding_rate": 5.0 if muon else 1.0, "momentum_warmup": 300 if muon else 0,
                 **for_length(steps, shorter_first=random and not self.compile)}
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})

    def problems(self) -> Iterator[str]:
        """Yield a sentence for everything that is wrong."""
        wrong = list(field_problems(self))
        yield from wrong
        if sum(getattr(self, name) is not None for name in LENGTHS) != 1:
            yield "A run has either steps or minutes or epochs: give one of them."
        if self.schedule in ("cosine", "linear") and self.minutes is not None:
            yield f"schedule={self.schedule} has to know where it ends: give steps or epochs instead of minutes."
        if self.batches == "consecutive" and self.bpe_dropout:
            yield ("batches=consecutive continues exactly where a sequence ended, and bpe_dropout moves that place: "
                   "take bpe_dropout=0.")
        if self.batches != "random" and self.length_warmup:
            yield (f"batches={self.batches} has sequences of one length, and length_warmup begins with shorter ones: "
                   "take length_warmup=0.")
        if not wrong and self.batch_size % self.resolved().micro_batch_size:
            yield (f"batch_size={self.batch_size} does not split into micro_batch_size={self.micro_batch_size}; take a "
                   "divisor.")


@dataclass(frozen=True)
class TuningParams:
    """What trained weights are taught beside a text, and which of them change."""
    learns: str = option("text", "what from: text, chat (conversations) or preferences",
                         choices=("text", "chat", "preferences"))
    mix: float = option(0.0, "chat: share of the sequences that are plain text, against forgetting", low=0, high=0.9)
    packing: bool | None = option(None, "chat: several conversations in a sequence, each of which sees only itself "
                                  "(default: where the family can)")
    lora_rank: int | None = option(None, "train low-rank adapters of this rank instead of the weights (LoRA); for "
                                   "models of 100 million parameters and more (default: train the weights)",
                                   low=1, high=1024)
    lora_alpha: float | None = option(None, "adapters are scaled by this over their rank (default: 2 x lora_rank)",
                                      above=0, high=1e6)
    preference_beta: float = option(0.1, "preferences: how much the model may move away from the one it was (DPO's "
                                    "beta); smaller: more", above=0, high=100)

    def problems(self) -> Iterator[str]:
        """Yield a sentence for everything that is wrong."""
        yield from field_problems(self)
        if self.learns != "chat" and (self.mix or self.packing is not None):
            yield "mix and packing are for conversations: give --chat too, or leave them out."
        if self.lora_alpha is not None and self.lora_rank is None:
            yield f"lora_alpha={self.lora_alpha} is for adapters: give lora_rank too, or leave it out."


# --- Generation ---
@dataclass(frozen=True)
class GenerationParams:
    """How a trained network continues a text."""
    tokens: int = option(300, "maximum length of the answer in tokens", low=0, high=2**63 - 1)
    temperature: float | None = option(None, "below 1 safer, above 1 wilder; 0 always takes the likeliest token "
                                       "(default: 0.8)", low=0, high=1e6)
    top_k: int | None = option(None, "sample among this many likeliest tokens (default: all)", low=1, high=1 << 24)
    top_p: float | None = option(None, "sample among the fewest tokens that together have this probability "
                                 "(default: all)", above=0, high=1)
    min_p: float | None = option(None, "sample among tokens at least this fraction as likely as the likeliest "
                                 "(default: all)", low=0, high=1)
    # low: what is divided by far less may be beyond float32
    repetition_penalty: float = option(1.0, "make tokens that came before less likely: positive logits are divided by "
                                       "this, negative ones multiplied; 1: no penalty", low=0.01, high=100)
    frequency_penalty: float = option(0.0, "make tokens less likely the more often they came: subtracted from the "
                                      "logit once per occurrence; 0: no penalty", low=0, high=100)
    penalty_window: int = option(64, "last tokens, the prompt's included, that the two penalties count",
                                 low=1, high=MOST_TOKENS)       # 64 is llama.cpp's
    no_repeat_ngram: int | None = option(None, "let no sequence of this many tokens come twice (default: all may)",
                                         low=1, high=MOST_TOKENS)
    beams: int | None = option(None, "beam search for the likeliest text, without sampling, with this many candidates "
                               "(default: sampling)", low=1, high=4096)
    length_penalty: float | None = option(None, "with beams: 0 favors short texts, more favors longer ones "
                                          "(default: 0.6)", low=0, high=10)
    weight_precision: str = option("float32", "what the weights are rounded to: float32, or int8, a quarter of the "
                                   "bytes and a little less exact", choices=("float32", "int8"))
    stop: tuple[str, ...] = option((), r"stop string: end before this text; can be given several times; \n is a new "
                                       r"line, \t a tab, \\ a backslash")
    sampling_seed: int | None = option(None, "makes an answer repeatable (default: a new one each time)",
                                       low=0, high=2**63 - 1)

    def resolved(self) -> "GenerationParams":
        """Return the same with every None filled in that has a default value; the caller draws a seed."""
        # A length penalty of 0.6 to 0.7 did best in Wu et al., 2016.
        return replace(self, temperature=0.8 if self.temperature is None else self.temperature,
                       length_penalty=0.6 if self.length_penalty is None else self.length_penalty)

    def problems(self) -> Iterator[str]:
        """Yield a sentence for everything that is wrong."""
        wrong = list(field_problems(self))
        yield from wrong
        if wrong:
            return
        if "" in self.stop:
            yield "A stop string is empty, and every text begins with that: leave it out, or say where to stop."
        if any("\ud800" <= character <= "\udfff" for text in self.stop for character in text):
            yield "A stop string has half a surrogate pair, or a byte that is not UTF-8: give whole characters."
        sampling = [name for name in ("temperature", "top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.beams is not None and sampling:
            yield f"beams={self.beams} does not sample, and {' and '.join(sampling)} shape sampling: give one of them."
        if self.beams is None and self.length_penalty is not None:
            yield f"length_penalty={self.length_penalty} is for beam search: give beams too, or leave it out."


# Short spellings of GenerationParams' fields, where no field of TrainingParams can be meant: as flags of run.py, as
# commands in its conversation, as keywords of LanguageModel. In a file of settings they are TrainingParams' fields.
SHORT_NAMES = {"precision": "weight_precision", "seed": "sampling_seed"}


# --- A run, and the presets ---
@dataclass(frozen=True)
class Params:
    """All that a run is made of; what the presets are."""
    text: TextParams = TextParams()
    model: ModelParams = ModelParams()
    training: TrainingParams = TrainingParams()
    tuning: TuningParams = TuningParams()

    def problems(self) -> Iterator[str]:
        """Yield a sentence for everything that is wrong."""
        for part in fields(self):
            yield from getattr(self, part.name).problems()
        if self.training.batches == "consecutive" and not self.model.is_recurrent:
            yield (f"batches=consecutive carries a network's state from sequence to sequence, and the family "
                   f"{self.model.family} has none: take batches=random or batches=shuffled, or family=lstm.")
        if self.training.compile and self.model.is_recurrent:
            yield f"compile=True is of no use to the family {self.model.family}: leave it out."

    def values(self) -> dict[str, Any]:
        """Return {field: value} of all parts. Two have a vocab_size: the model's comes first, then the text's."""
        values = asdict(self.text) | asdict(self.model) | asdict(self.training) | asdict(self.tuning)
        return values | {"vocab_size": self.model.vocab_size or self.text.vocab_size}


# Training as a plain program does it: AdamW with torch's defaults, a constant learning rate, the text as it is.
_PLAIN = TrainingParams(minutes=None, optimizer="adamw", weight_decay=0.01, beta2=0.999, bpe_dropout=0.0,
                        warmup_steps=0, length_warmup=0, decay_fraction=0.0, gradient_clip=0.0)

PRESETS = {
    # About a million parameters for about a megabyte of text, in about three minutes on two cores. Learning rate, decay
    # and dropouts were chosen on the end of the plays' and tiny shakespeare's training parts (benchmarks/LOG.md).
    "default": Params(),
    # The character model that lectures and repositories train on tiny shakespeare: 10,788,929 parameters with its 65
    # characters.
    "shakespeare-10m": Params(
        TextParams(tokenizer="char"),
        ModelParams(family="classic", block_size=256, emb_len=384, num_layers=6, num_heads=6, dropout=0.2),
        replace(_PLAIN, steps=5000, batch_size=64, learning_rate=3e-4)),
    # A first character model: 209,729 parameters with 65 characters. Batch and learning rate are those that lectures
    # give a model of this size; no dropout, since in 5,000 steps it reads tiny shakespeare but two and a half times.
    "personal": Params(
        TextParams(tokenizer="char"),
        ModelParams(family="classic", block_size=32, emb_len=64, num_layers=4, num_heads=4),
        replace(_PLAIN, steps=5000, batch_size=16, learning_rate=1e-3, closing_tokens=500)),
    # A GPT of 4,143,680 parameters on byte pairs: 1,024, as init.py learns from half a megabyte. 1,500 steps read the
    # plays 17 times, tiny shakespeare half as often. Dropout is GPT-2's.
    "llm-example": Params(
        TextParams(tokenizer="bpe", vocab_size=1024),
        ModelParams(family="classic", mlp="gelu", block_size=256, emb_len=224, num_layers=6, num_heads=4, dropout=0.1),
        TrainingParams(steps=1500, minutes=None)),
    # Wide, with few heads, a fifth of the text held out. It reads tiny shakespeare 14 times. Dropout is the lectures'.
    "micropgpt": Params(
        TextParams(tokenizer="char", val_fraction=0.2),
        ModelParams(family="classic", block_size=128, emb_len=384, num_layers=4, num_heads=4, dropout=0.2),
        replace(_PLAIN, steps=3000, batch_size=32, learning_rate=3e-4)),
    # The character LSTM of LLM-V0, which names these sizes, the learning rate and Adam, and no more. Its batches hold
    # every sequence of 64 characters once an epoch, shuffled, and each begins with an empty state.
    "llm-v0": Params(
        TextParams(tokenizer="char"),
        ModelParams(family="lstm", block_size=64, emb_len=64, hidden_len=128, num_layers=1),
        replace(_PLAIN, epochs=10, batches="shuffled", batch_size=32, learning_rate=1e-3, weight_decay=0.0)),
}


if __name__ == "__main__":
    from folio.base.startup import list_commands
    list_commands("python Model_Params.py")
