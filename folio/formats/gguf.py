"""GGUF files of models, for llama.cpp and what is built on it (Ollama, LM Studio), out and in.

    write(trained_model.load("Saved_Weights/weights-night.pth"), "night.gguf")
    contents, notes = read("night.gguf", "night")       # contents of a weights file, for checkpoint.save

The container is in folio/formats/gguf_file.py; this is what we put into it. ARCH is an architecture's name in
folio/formats/exports.py: qwen3 (the folio family), llama (the same without query_key_norm) or gpt2 (the classic
family).

    general.architecture        ARCH
    general.type                "model"
    general.name, .description  the run's name; steps and bits per byte
    general.size_label          parameters, as "1.1M"
    general.file_type           ggml's number of the type that most matrices have: 0 f32, 1 f16, 7 q8_0
    general.quantization_version    2
    ARCH.context_length, .embedding_length, .block_count, .feed_forward_length, .vocab_size
                                block_size, emb_len, num_layers, hidden_len, vocab_size
    ARCH.attention.head_count, .head_count_kv, .key_length, .value_length
                                num_heads, num_kv_heads, head_len twice; gpt2 has the first alone
    ARCH.attention.layer_norm_rms_epsilon, for gpt2 .layer_norm_epsilon
                                norm_eps
    ARCH.rope.freq_base, .rope.dimension_count
                                rope_base, head_len; not of gpt2
    tokenizer.ggml.model        "gpt2": byte-level byte pair encoding
    tokenizer.ggml.pre          llama.cpp's name of the split pattern: PATTERNS
    tokenizer.ggml.tokens       the name of each token, by id: Tokenizer.names()
    tokenizer.ggml.token_type   of each token: 1, or 3 for special ones
    tokenizer.ggml.merges       "left right", in names, in the order learned
    tokenizer.ggml.eos_token_id, .bos_token_id, .padding_token_id
                                the special token that ends a text. llama.cpp would take number 11 where they are absent
    tokenizer.ggml.add_bos_token, .add_eos_token    false
    tokenizer.chat_template     of a model that was taught to chat: ChatML (folio.chat.template). Its eos_token_id, and
                                tokenizer.ggml.eot_token_id, is the token that ends an answer; eom_token_id the one
                                that begins a message, at which an answer ends too
    folio.opening               ids before a text that begins from nothing; llama.cpp passes over our own keys
    folio.biases                biases: gpt2 has a bias everywhere, and where our network has none it is zero

The tensors are named token_embd.weight, position_embd.weight, output_norm.weight, output.weight (absent where the head
is tied) and blk.N.PART.weight or .bias, by _MODULES. A matrix has a row for each output, as in torch; attn_qkv is
query, key and value below each other. In llama, each head's rows of query and key are interleaved, since llama.cpp
turns adjacent channels there. Norms, biases and position_embd are always f32; in a q8_0 file, a matrix whose rows do
not divide into blocks of 32 is f16.
"""

import itertools
import re
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.files import refuse_foreign
from folio.chat.template import JINJA, named_by
from folio.formats import exports, gguf_file
from folio.formats.tokenizer_parts import tokenizer_from_names, unmade_tokens
from folio.formats.trained_model import imported
from folio.networks.build import count_parameters
from Model_Params import ROPE_BASE, ModelParams

TYPES = ("f32", "f16", "q8_0")
# Parameters from which f16 is the default. Below, f32 takes no more than 200 MB and is exact.
MANY_PARAMETERS = 50_000_000
# Our split patterns by llama.cpp's names, which are the values of tokenizer.ggml.pre.
PATTERNS = {"qwen2": "qwen2", "gpt-2": "gpt2", "llama-bpe": "llama3", "smollm": "smollm"}
_TAKES_WHOLE = "llama-bpe"                              # a pre-token that is a token, whatever the merges make of it
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}           # ggml's numbers
_NORMAL, _CONTROL = 1, 3                                # types of tokens
_EXACT = ("position_embd.weight",)                      # always f32, as in llama.cpp's own conversions

# A tensor's name without its ending -> the modules of a block whose rows it has below each other.
_IN_ALL = {"attn_norm": ("attention_norm",), "attn_output": ("attention.output",), "ffn_norm": ("mlp_norm",),
           "ffn_up": ("mlp.up",), "ffn_down": ("mlp.down",)}
_LLAMA = _IN_ALL | {"attn_q": ("attention.query",), "attn_k": ("attention.key",), "attn_v": ("attention.value",),
                    "ffn_gate": ("mlp.gate",)}
_MODULES = {
    "llama": _LLAMA,
    "qwen3": _LLAMA | {"attn_q_norm": ("attention.query_norm",), "attn_k_norm": ("attention.key_norm",)},
    "gpt2": _IN_ALL | {"attn_qkv": ("attention.query", "attention.key", "attention.value")},
}
# llama.cpp strips the white space after special tokens of a model with one of these in its name.
_WITH_RULES = re.compile(r"(phi)-?(3)", re.IGNORECASE)
# The tensors that our network lacks, for each value of the parameter biases; in gpt2 it has all.
_ABSENT = {"none": re.compile(r".*\.bias"), "lecture": re.compile(r".*\.(query|key|value)\.bias"),
           "gpt2": re.compile(r"(?!)")}
# Keys of others' files that change nothing at these values.
_NEUTRAL = {"ARCH.rope.scaling.type": ("none",), "ARCH.attention.sliding_window": (0,),
            "ARCH.attention.causal": (True,), "ARCH.expert_count": (0,), "ARCH.expert_used_count": (0,),
            "tokenizer.ggml.add_eos_token": (False,), "tokenizer.ggml.add_space_prefix": (False,)}
# Keys of others' files that are left out, and what is said of it; None: nothing.
_LEFT_OUT = {"tokenizer.chat_template": "its chat template, which is no ChatML: Folio continues its texts",
             "tokenizer.ggml.eot_token_id": None, "tokenizer.ggml.eom_token_id": None,
             "tokenizer.ggml.padding_token_id": None, "tokenizer.ggml.unknown_token_id": None}


# --- Out ---

def write(model, path, type=None):
    """Write a TrainedModel as a GGUF file, whole or not at all. type: of its matrices, in TYPES; None: by its size

    Raises FolioError where GGUF cannot represent the model, FileExistsError where the path is another kind of file.
    """
    architecture = exports.architecture(model, "gguf")
    type = type or default_type(model)
    if type not in TYPES:
        raise FolioError(f"GGUF files are written in {', '.join(TYPES)}, not in {type}.")
    refuse_foreign(path, "a GGUF file", lambda head: head.startswith(gguf_file.MAGIC))
    metadata = _metadata(model, architecture, type)
    gguf_file.write(path, metadata, list(_tensors(model, architecture, type)))


def default_type(model):
    """Return the type in which a TrainedModel is written where none is given."""
    return "f32" if count_parameters(model.net) < MANY_PARAMETERS else "f16"


def size_label(count):
    """Return a number of parameters as GGUF's general.size_label has it.
    >>> [size_label(count) for count in (208_000, 1_067_648, 124_439_808)]
    ['208K', '1.1M', '124M']
    """
    power, unit = next((power, unit) for power, unit in [(12, "T"), (9, "B"), (6, "M"), (3, "K")]
                       if count > 10 ** power or unit == "K")
    scaled = count / 10 ** power
    return f"{scaled:.1f}{unit}" if scaled < 9.5 else f"{scaled:.0f}{unit}"


def _metadata(model, architecture, type):
    """Return {key: value} of a TrainedModel's file."""
    step, bpb = int(model.contents["step"]), model.val_bpb
    quality = f", {bpb:.3f} bits per byte of its validation text" if bpb is not None else ""
    description = f"Trained with Folio: {step:,} steps{quality}." if step else "Converted by Folio."
    return {"general.architecture": architecture, "general.type": "model",
            "general.name": _WITH_RULES.sub(r"\1 \2", model.name),
            "general.description": description, "general.size_label": size_label(count_parameters(model.net)),
            "general.file_type": _FILE_TYPES[type], "general.quantization_version": 2,
            **{f"{architecture}.{key}": value for key, value in _shape_values(model.params, architecture).items()},
            **_tokenizer_values(model.tokenizer), **_chat_values(model.chat),
            "folio.opening": model.opening, "folio.biases": model.params.biases}


def _shape_values(params, architecture):
    values = {"context_length": params.block_size, "embedding_length": params.emb_len,
              "block_count": params.num_layers, "feed_forward_length": params.hidden_len,
              "attention.head_count": params.num_heads, "vocab_size": params.vocab_size}
    if architecture == "gpt2":
        return values | {"attention.layer_norm_epsilon": float(params.norm_eps)}
    return values | {"attention.head_count_kv": params.num_kv_heads, "attention.key_length": params.head_len,
                     "attention.value_length": params.head_len, "rope.dimension_count": params.head_len,
                     "attention.layer_norm_rms_epsilon": float(params.norm_eps),
                     "rope.freq_base": float(params.rope_base)}


def _tokenizer_values(tokenizer):
    """Return the values that describe a BPETokenizer. Raises FolioError for one that llama.cpp would not follow."""
    names, end = tokenizer.names(), tokenizer.end_of_text
    pre = {pattern: pre for pre, pattern in PATTERNS.items()}.get(tokenizer.pattern)
    if pre is None:
        raise FolioError(f"llama.cpp has no name for the split pattern {tokenizer.pattern}; it has those for "
                         f"{', '.join(PATTERNS.values())}. The format huggingface can represent it.")
    if pre == _TAKES_WHOLE and (unmade := unmade_tokens(tokenizer)):
        raise FolioError(f"With the split pattern {tokenizer.pattern}, llama.cpp takes every pre-token that is a token "
                         f"whole, and this tokenizer's merges never make {tokenizer.token_bytes[unmade[0]]!r}. "
                         "The format huggingface can represent it.")
    ordinary = len(names) - len(tokenizer.special_tokens)
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": names,
            "tokenizer.ggml.token_type": [_NORMAL] * ordinary + [_CONTROL] * len(tokenizer.special_tokens),
            "tokenizer.ggml.merges": [f"{names[left]} {names[right]}" for left, right in tokenizer.merges],
            "tokenizer.ggml.eos_token_id": end, "tokenizer.ggml.bos_token_id": end,
            "tokenizer.ggml.padding_token_id": end,
            "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": False}


def _chat_values(chat):
    if chat is None:
        return {}
    # llama.cpp ends an answer at each of the three, and at <|endoftext|> by its name.
    return {"tokenizer.ggml.eos_token_id": chat.end_id, "tokenizer.ggml.eot_token_id": chat.end_id,
            "tokenizer.ggml.eom_token_id": chat.start_id, "tokenizer.chat_template": JINJA}


def _tensors(model, architecture, type):
    """Yield a gguf_file.NewTensor for each tensor of a TrainedModel's file."""
    state = model.net.state_dict()
    for name, part in _parts(model.params, architecture):
        rows, *row = part.shape
        if not row or name in _EXACT:
            kind = "f32"
        elif type == "q8_0" and row[0] % gguf_file.BLOCK:
            kind = "f16"
        else:
            kind = type
        yield gguf_file.NewTensor(name, (rows * len(part.sources), *row), kind, lambda part=part: part.joined(state))


# --- Tensors ---

@dataclass(frozen=True)
class _Part:
    """What one tensor of a file is made of."""
    sources: tuple              # names in our network's state_dict, whose rows it has below each other
    shape: tuple                # of each
    heads: int | None = None    # whose rows are interleaved; None: they are as ours

    def joined(self, state):
        """Return the tensor of a file, float32. state: {our name: tensor}; where a bias is absent it is zero"""
        arrays = [state[source].numpy() if source in state else np.zeros(self.shape, np.float32)
                  for source in self.sources]
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return joined if self.heads is None else self._turned(joined, 2, -1)

    def split(self, array):
        """Return [array of each source] from the tensor of a file."""
        array = array if self.heads is None else self._turned(array, -1, 2)
        return np.split(array, len(self.sources))

    def _turned(self, array, *halves):
        """Return rows in another order. array: (H * D, C), in each head counted as `halves` says: (2, D/2), (D/2, 2)"""
        return array.reshape(self.heads, *halves, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


def _parts(params, architecture):
    """Yield the name and the _Part of each tensor of a file. params: resolved, with a vocab_size"""
    width, query, key = params.emb_len, params.num_heads * params.head_len, params.num_kv_heads * params.head_len
    shapes = {"attention_norm": (width,), "mlp_norm": (width,),
              "attention.query_norm": (params.head_len,), "attention.key_norm": (params.head_len,),
              "attention.query": (query, width), "attention.key": (key, width), "attention.value": (key, width),
              "attention.output": (width, query), "mlp.gate": (params.hidden_len, width),
              "mlp.up": (params.hidden_len, width), "mlp.down": (width, params.hidden_len)}
    turned = {"attn_q": params.num_heads, "attn_k": params.num_kv_heads} if architecture == "llama" else {}
    has_biases = architecture == "gpt2"
    yield "token_embd.weight", _Part(("embedding.weight",), (params.vocab_size, width))
    if architecture == "gpt2":
        yield "position_embd.weight", _Part(("positions.table.weight",), (params.block_size, width))
    for layer, (name, modules) in itertools.product(range(params.num_layers), _MODULES[architecture].items()):
        sources = [f"blocks.{layer}.{module}" for module in modules]
        shape = shapes[modules[0]]
        yield (f"blk.{layer}.{name}.weight",
               _Part(tuple(f"{source}.weight" for source in sources), shape, turned.get(name)))
        if has_biases:
            yield f"blk.{layer}.{name}.bias", _Part(tuple(f"{source}.bias" for source in sources), shape[:1])
    yield "output_norm.weight", _Part(("norm.weight",), (width,))
    if has_biases:
        yield "output_norm.bias", _Part(("norm.bias",), (width,))
    if not params.tied_head:
        yield "output.weight", _Part(("head.weight",), (params.vocab_size, width))


# --- In ---

def read(path, name):
    """Read a GGUF file of an architecture that Folio has. -> contents of a weights file, sentences on what was left out

    name: of the run that it becomes. Tensors keep their type, q8_0 becomes float32. Tokens get Folio's ids: bytes,
    merges, special tokens. Raises OSError where the file cannot be read, FolioError, with what is wrong or what Folio
    cannot do, where it holds no model for Folio.
    """
    with gguf_file.opened(path) as file:
        values = _Values(file.metadata)
        architecture = values.one_of("general.architecture", tuple(_MODULES))
        tokenizer, order = _read_tokenizer(values)
        params = _read_params(values, architecture, tokenizer.vocab_size, "output.weight" not in file.tensors)
        chat = values.chat(tokenizer)
        opening = _read_opening(values, tokenizer, order, chat)
        notes = values.finish(architecture)
        _check_tensors(file.tensors, params, architecture)
        weights = _read_weights(file, params, architecture, order)
        types = sorted({outline.type for outline in file.tensors.values()} - {"f32"})
        if types:
            notes.append(f"Its matrices are in {' and '.join(types)}: they were rounded when it was written.")
        return imported(name, params, weights, tokenizer, opening, chat=chat), notes


class _Values:
    """The values of a file, and which of them were understood."""

    def __init__(self, metadata):
        self._metadata, self._understood, self.notes = metadata, set(), []

    def get(self, key, kind, default=None):
        """Return a value of a type. kind: of a value, or [kind] of the items of a list; default: None, it is needed"""
        self._understood.add(key)
        value = self._metadata.get(key, default)
        if value is None:
            raise FolioError(f"it lacks the key {key}")
        items, kind = (value, kind[0]) if isinstance(kind, list) and isinstance(value, list) else ([value], kind)
        if any(type(item) is not kind for item in items):
            raise FolioError(f"its {key} is {gguf_file.shown(value)}, and Folio expects another type")
        return value

    def decimal(self, key, default=None):
        """Return a float32 as the shortest decimal that it stands for: 1e-06, not 9.999999974752427e-07."""
        return float(str(np.float32(self.get(key, float, default))))

    def one_of(self, key, allowed, default=None):
        """Return a value that is one of those that Folio can represent."""
        value = self.get(key, type(allowed[0]), default)
        if value not in allowed:
            raise FolioError(f"its {key} is {gguf_file.shown(value)}; "
                             f"Folio can represent {', '.join(map(str, allowed))}")
        return value

    def chat(self, tokenizer):
        """Return the ChatTemplate, or None where there is none or it is not ChatML."""
        found = named_by(self._metadata.get("tokenizer.chat_template"), tokenizer)
        self._understood |= {"tokenizer.chat_template"} if found else set()
        return found

    def finish(self, architecture):
        """Return the notes. Raises FolioError for a key that nobody asked for and that may change what it computes."""
        neutral = {key.replace("ARCH", architecture): allowed for key, allowed in _NEUTRAL.items()}
        for key, value in self._metadata.items():
            if key in self._understood or not key.startswith((f"{architecture}.", "tokenizer.")):
                continue
            if key in _LEFT_OUT:
                self.notes += [f"Left out: {_LEFT_OUT[key]}."] if _LEFT_OUT[key] else []
            elif value not in neutral.get(key, ()):
                raise FolioError(f"it has {gguf_file.shown(key)}={gguf_file.shown(value)}, "
                                 "which Folio cannot represent")
        return self.notes


def _read_params(values, architecture, vocab_size, tied_head):
    """Return ModelParams, resolved. Raises FolioError with all their problems."""
    def get(key, kind=int, default=None):
        return values.get(f"{architecture}.{key}", kind, default)
    width, heads = get("embedding_length"), get("attention.head_count")
    head_len = width // heads if heads else 0
    values.one_of(f"{architecture}.vocab_size", (vocab_size,), vocab_size)
    shape = dict(vocab_size=vocab_size, block_size=get("context_length"), emb_len=width, num_heads=heads,
                 num_layers=get("block_count"), hidden_len=get("feed_forward_length"), tied_head=tied_head)
    if architecture == "gpt2":
        own = dict(family="classic", mlp="gelu", norm_eps=values.decimal("gpt2.attention.layer_norm_epsilon"),
                   biases=values.one_of("folio.biases", exports.ARCHITECTURES["gpt2"]["biases"], "gpt2"))
        if own["biases"] == "lecture" and not tied_head:
            raise FolioError("it has folio.biases=lecture beside output.weight, and llama.cpp has no bias there")
        values.one_of("gpt2.attention.head_count_kv", (heads,), heads)
    else:
        head_len = get("attention.key_length", default=head_len)
        values.one_of(f"{architecture}.attention.value_length", (head_len,), head_len)
        values.one_of(f"{architecture}.rope.dimension_count", (head_len,), head_len)
        own = dict(num_kv_heads=get("attention.head_count_kv", default=heads), head_len=head_len,
                   query_key_norm=architecture == "qwen3",
                   norm_eps=values.decimal(f"{architecture}.attention.layer_norm_rms_epsilon"),
                   rope_base=values.decimal(f"{architecture}.rope.freq_base", ROPE_BASE))
    params = ModelParams(**shape, **own)
    if problems := list(params.problems()):
        raise FolioError(" ".join(problems))
    return params.resolved()


def _read_tokenizer(values):
    """Return a BPETokenizer, and for each of its ids the id in the file: (vocabulary,) int64."""
    values.one_of("tokenizer.ggml.model", ("gpt2",))
    pre = values.one_of("tokenizer.ggml.pre", tuple(PATTERNS))
    tokens = values.get("tokenizer.ggml.tokens", [str])
    types = values.get("tokenizer.ggml.token_type", [int], [_NORMAL] * len(tokens))
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) != len(tokens) or len(types) != len(tokens):
        raise FolioError(f"it has {len(tokens):,} tokens, {len(ids):,} of them distinct, and {len(types):,} types of "
                         "tokens")
    if others := set(types) - {_NORMAL, _CONTROL}:
        raise FolioError(f"its tokenizer.ggml.token_type has tokens of the type {min(others)}; "
                         f"Folio has {_NORMAL}, ordinary tokens, and {_CONTROL}, special ones")
    special = [token for token, type in zip(tokens, types) if type == _CONTROL]
    tokenizer = tokenizer_from_names(ids, values.get("tokenizer.ggml.merges", [str]), special, PATTERNS[pre])
    if pre == _TAKES_WHOLE and (unmade := unmade_tokens(tokenizer)):
        raise FolioError(f"its merges never make its token {tokenizer.names()[unmade[0]]!r}, which llama.cpp takes "
                         f"whole with tokenizer.ggml.pre={pre}")
    return tokenizer, np.array([ids[token] for token in tokenizer.names()])


def _read_opening(values, tokenizer, order, chat):
    """Return the ids before a text that begins from nothing: ours, or the file's token for the beginning or the end.

    order: the file's id of each token; chat: a ChatTemplate or None. What Folio does otherwise at the
    beginning and the end of a text is noted.
    """
    own_ids = {int(original): number for number, original in enumerate(order)}
    end = values.get("tokenizer.ggml.eos_token_id", int, -1)
    begin = values.get("tokenizer.ggml.bos_token_id", int, end)
    opening = values.get("folio.opening", [int], [begin])
    if not opening or not set(opening) <= set(own_ids):
        raise FolioError("it does not say how a text begins: neither folio.opening nor tokenizer.ggml.bos_token_id nor "
                         "tokenizer.ggml.eos_token_id is a token")
    # llama.cpp's default
    if values.get("tokenizer.ggml.add_bos_token", bool, tokenizer.pattern == PATTERNS["llama-bpe"]):
        values.notes.append("It asks for the token that begins a text before every prompt; Folio puts it only before "
                            "a text that begins from nothing.")
    if end in own_ids and own_ids[end] not in (tokenizer.end_of_text, chat and chat.end_id):
        ours = "nothing" if tokenizer.end_of_text is None else tokenizer.names()[tokenizer.end_of_text]
        values.notes.append(f"Its texts end with {tokenizer.names()[own_ids[end]]}; in Folio, {ours} ends them.")
    return [own_ids[token] for token in opening]


def _check_tensors(outlines, params, architecture):
    """Raise FolioError for the first tensor that is absent, unknown, or of another shape. outlines: {name: Outline}"""
    expected = {name: (part.shape[0] * len(part.sources), *part.shape[1:])
                for name, part in _parts(params, architecture)}
    if unknown := [name for name in outlines if name not in expected]:
        raise FolioError(f"it has the tensor {gguf_file.shown(unknown[0])}, for which Folio has no place")
    for name, shape in expected.items():
        if name not in outlines:
            raise FolioError(f"it lacks the tensor {name}")
        if outlines[name].shape != shape:
            found, wanted = ("x".join(map(str, each)) for each in (outlines[name].shape, shape))
            raise FolioError(f"its tensor {name} is {found}, where its keys say {wanted}")


def _read_weights(file, params, architecture, order):
    """Return our network's {name: tensor}; a tied head is the embedding itself. order: the file's id of each token"""
    weights = {}
    parts = list(_parts(params, architecture))
    for name, part in tqdm(parts, desc="Reading", unit=" tensors", leave=False, disable=None, delay=1):
        array = file.read(name)
        if name in ("token_embd.weight", "output.weight") and (order != np.arange(len(order))).any():
            array = array[order]
        for source, values in zip(part.sources, part.split(array)):
            if not _ABSENT[params.biases].fullmatch(source):
                weights[source] = torch.from_numpy(np.ascontiguousarray(values))
            elif values.any():
                raise FolioError(f"its tensor {name} is not zero, where folio.biases={params.biases} has no bias")
    if params.tied_head:
        weights["head.weight"] = weights["embedding.weight"]
    return weights
