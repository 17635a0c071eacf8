"""Write a model as a folder of Hugging Face, as `transformers` reads it.

    config.json             architecture, its sizes, and the tokens that begin and end a text; folio_version marks the
                            folders that Folio may replace
    model.safetensors       the weights in float32 (folio.formats.safetensors_file), by the names of NAMES
    tokenizer.json, tokenizer_config.json       as folio.formats.tokenizers writes them: the same ids
    generation_config.json  how `generate` continues a text if it is not told otherwise
    README.md               the model card (folio.formats.model_card)

A model that was imported from such a folder (folio.formats.hugging_face_import) and not trained since gives back the
original, byte for byte. Its weights file says how, in `origin`:

    format          "huggingface"
    architecture    key of NAMES
    files           {name: bytes as a uint8 tensor}: of FILES, those that the folder had
    headers         {name: bytes as a uint8 tensor}: of each safetensors file, as safetensors_file.write takes it
    rows            int64 tensor: of each of Folio's ids, the row in the original's embedding; -1: it had none
    cut             {name: tensor}: the other rows of the original's embedding and head, in their order
    unused          {name: number in unused_tensors}: what the original had and its network does not need, as GPT-2's
                    masks; unused_tensors: [tensor], each once

Names in `cut`, `unused` and `headers` are those in the original files.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

import folio
from folio.base.errors import FolioError, is_out_of_memory
from folio.base.files import HEAD_BYTES, refuse_foreign_folder, replacing_folder
from folio.formats import exports, model_card, safetensors_file
from folio.formats.tokenizers import tokenizer_config, tokenizer_json
from Model_Params import GenerationParams

# Files of a folder beside its weights that an import keeps and an export of the original gives back.
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
         "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "model.safetensors.index.json",
         "README.md", "LICENSE")
WEIGHTS = r"model(-\d{5}-of-\d{5})?\.safetensors"       # names of files with weights
_OWN_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md",
              "model.safetensors")
MARK = "folio_version"      # field of config.json

_ROTARY = {
    "embedding": "model.embed_tokens",
    "blocks.{}.attention_norm": "model.layers.{}.input_layernorm",
    "blocks.{}.attention.query": "model.layers.{}.self_attn.q_proj",
    "blocks.{}.attention.key": "model.layers.{}.self_attn.k_proj",
    "blocks.{}.attention.value": "model.layers.{}.self_attn.v_proj",
    "blocks.{}.attention.output": "model.layers.{}.self_attn.o_proj",
    "blocks.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "blocks.{}.mlp.gate": "model.layers.{}.mlp.gate_proj",
    "blocks.{}.mlp.up": "model.layers.{}.mlp.up_proj",
    "blocks.{}.mlp.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}
# By architecture: our modules and theirs; {} is the number of a block. The rows of several of ours make one of theirs.
NAMES = {
    "llama": _ROTARY,
    "qwen3": _ROTARY | {
        "blocks.{}.attention.query_norm": "model.layers.{}.self_attn.q_norm",
        "blocks.{}.attention.key_norm": "model.layers.{}.self_attn.k_norm",
    },
    "gpt2": {
        "embedding": "transformer.wte",
        "positions.table": "transformer.wpe",
        "blocks.{}.attention_norm": "transformer.h.{}.ln_1",
        "blocks.{0}.attention.query blocks.{0}.attention.key blocks.{0}.attention.value":
            "transformer.h.{}.attn.c_attn",
        "blocks.{}.attention.output": "transformer.h.{}.attn.c_proj",
        "blocks.{}.mlp_norm": "transformer.h.{}.ln_2",
        "blocks.{}.mlp.up": "transformer.h.{}.mlp.c_fc",
        "blocks.{}.mlp.down": "transformer.h.{}.mlp.c_proj",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
}
PREFIXES = {"llama": "model.", "qwen3": "model.", "gpt2": "transformer."}       # absent from a network without its head
_TRANSPOSED = re.compile(r"\.c_(attn|proj|fc)\.weight")         # GPT-2's Conv1D: (in, out)
_WITHOUT_BIAS = ("wte", "wpe", "lm_head")                       # of GPT-2


@dataclass(frozen=True)
class Counterpart:
    """A tensor of theirs, and those of ours whose rows make it."""
    name: str
    ours: tuple[str, ...]
    shape: tuple[int, ...]          # of theirs
    is_transposed: bool

    @property
    def has_rows_of_tokens(self):
        """Whether it has a row for each token."""
        return self.ours in (("embedding.weight",), ("head.weight",))

    def theirs(self, weights):
        """Return the tensor as they have it, from {name: tensor} of ours; a bias that we lack is zero."""
        rows = self.shape[-1 if self.is_transposed else 0] // len(self.ours)
        parts = [weights[name] if name in weights else torch.zeros(rows) for name in self.ours]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined.T if self.is_transposed else joined

    def split(self, dtype, read):
        """Return {name: tensor} of ours. read: () -> the tensor as they have it, in this dtype

        Ours are made before it is read, so that the memory which it leaves is in one piece.
        """
        if len(self.ours) == 1 and not self.is_transposed:
            return {self.ours[0]: read()}
        rows, *columns = self.shape[::-1] if self.is_transposed else self.shape
        found = {name: torch.empty(rows // len(self.ours), *columns, dtype=dtype) for name in self.ours}
        tensor = read()
        for own, part in zip(found.values(), (tensor.T if self.is_transposed else tensor).chunk(len(self.ours))):
            own.copy_(part)
        return found


def counterparts(architecture, params):
    """Return {name of theirs: Counterpart} of all tensors of a network. params: ModelParams, resolved"""
    sizes, found = _sizes(params), {}
    for ours, theirs in NAMES[architecture].items():
        if ours == "head" and params.tied_head:
            continue
        *shared, last = ours.split()        # the sizes of a block's parts are the same in all blocks
        rows, *columns = sizes[last.removeprefix("blocks.{}.").removeprefix("blocks.{0}.")]
        has_bias = architecture == "gpt2" and not theirs.endswith(_WITHOUT_BIAS)
        for number in range(params.num_layers) if "{}" in theirs else [0]:
            modules = ours.format(number).split()
            for kind in ["weight", "bias"] if has_bias else ["weight"]:
                name = f"{theirs.format(number)}.{kind}"
                shape = (rows * len(modules), *(columns if kind == "weight" else []))
                is_transposed = bool(_TRANSPOSED.search(name))
                found[name] = Counterpart(name, tuple(f"{module}.{kind}" for module in modules),
                                          shape[::-1] if is_transposed else shape, is_transposed)
    return found


def _sizes(params):
    """Return {our module, without its block's number: shape of its weight}."""
    width, queries, keys = params.emb_len, params.num_heads * params.head_len, params.num_kv_heads * params.head_len
    return {"embedding": (params.vocab_size, width), "positions.table": (params.block_size, width),
            "attention_norm": (width,), "attention.query": (queries, width), "attention.key": (keys, width),
            "attention.value": (keys, width), "attention.output": (width, queries),
            "attention.query_norm": (params.head_len,), "attention.key_norm": (params.head_len,),
            "mlp_norm": (width,), "mlp.gate": (params.hidden_len, width), "mlp.up": (params.hidden_len, width),
            "mlp.down": (width, params.hidden_len), "norm": (width,), "head": (params.vocab_size, width)}


# --- Export ---

def write(model, folder):
    """Write a TrainedModel. An earlier export is replaced; any other folder with files in it is refused.

    Raises FolioError where the format cannot represent the model, FileExistsError where something else is there.
    """
    folder, origin = Path(folder), model.contents.get("origin")
    if isinstance(origin, dict) and origin.get("format") == "huggingface":
        _refuse_filled(folder)
        with replacing_folder(folder) as temporary:
            _write_original(model, origin, temporary)
        return
    architecture = exports.architecture(model, "huggingface")
    refuse_foreign_folder(folder, "an exported Hugging Face folder", "|".join(map(re.escape, _OWN_FILES)))
    _refuse_unmarked(folder)
    files = {"config.json": json_bytes(config(model, architecture)),
             "generation_config.json": json_bytes(_generation_config(model)),
             "tokenizer.json": tokenizer_json(model.tokenizer),
             "tokenizer_config.json": json_bytes(tokenizer_config(model.tokenizer, model.params.block_size,
                                                                  model.chat)),
             "README.md": model_card.text(model, "huggingface").encode("utf-8")}
    weights, parts = model.net.state_dict(), counterparts(architecture, model.params)
    header = safetensors_file.header_of({name: (torch.float32, part.shape) for name, part in parts.items()},
                                        {"format": "pt"})
    with replacing_folder(folder) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        safetensors_file.write(temporary / "model.safetensors", header, lambda name: parts[name].theirs(weights))


def _refuse_unmarked(folder):
    """Raise FileExistsError where a folder has files, and its config.json is not one of ours."""
    path = folder / "config.json"
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    if f'"{MARK}"'.encode() not in head:
        raise FileExistsError(f"{folder} is a Hugging Face folder that Folio has not written; it was left as it is. "
                              "Name another folder, or move that one away.")


def _refuse_filled(folder):
    """Raise FileExistsError where a folder has files: an original has no mark, so that another one may be lost."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists, and the model's original files are to be written there; it was left "
                              "as it is. Name a new folder.")


def json_bytes(values):
    """Return a file of settings as its bytes."""
    return (json.dumps(values, ensure_ascii=False, indent=2) + "\n").encode("utf-8")


def config(model, architecture):
    """Return the fields of config.json.

    rope_theta and dtype stand there twice: before version 5 transformers, and still other programs, read the spellings
    that follow them.
    """
    params, end, pad = model.params, next(iter(model.ends), None), model.tokenizer.end_of_text
    shared = {"vocab_size": params.vocab_size, "tie_word_embeddings": params.tied_head, "use_cache": True,
              "initializer_range": 0.02, "bos_token_id": _beginning(model), "eos_token_id": end, "pad_token_id": pad,
              "dtype": "float32", "torch_dtype": "float32", MARK: folio.__version__}
    if architecture == "gpt2":
        return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": params.block_size,
                "n_ctx": params.block_size, "n_embd": params.emb_len, "n_layer": params.num_layers,
                "n_head": params.num_heads, "n_inner": params.hidden_len,
                "activation_function": {"gelu": "gelu_new", "relu": "relu"}[params.mlp],
                "layer_norm_epsilon": params.norm_eps, "resid_pdrop": params.dropout, "embd_pdrop": 0.0,
                "attn_pdrop": params.attention_dropout, "scale_attn_weights": True, **shared}
    name, own = {"qwen3": ("Qwen3ForCausalLM", {"use_sliding_window": False, "sliding_window": None,
                                                "max_window_layers": params.num_layers}),
                 "llama": ("LlamaForCausalLM", {"mlp_bias": False})}[architecture]
    return {"architectures": [name], "model_type": architecture, "max_position_embeddings": params.block_size,
            "hidden_size": params.emb_len, "intermediate_size": params.hidden_len,
            "num_hidden_layers": params.num_layers, "num_attention_heads": params.num_heads,
            "num_key_value_heads": params.num_kv_heads, "head_dim": params.head_len, "hidden_act": "silu",
            "rms_norm_eps": params.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": params.rope_base}, "rope_theta": params.rope_base,
            "attention_bias": False, "attention_dropout": params.attention_dropout, **own, **shared}


def _generation_config(model):
    """Return the fields of generation_config.json. Half the context is left to prompts: GPT-2 fails beyond its end."""
    ends, pad = model.ends, model.tokenizer.end_of_text
    end = [*ends] if len(ends) > 1 else next(iter(ends), None)
    return {"bos_token_id": _beginning(model), "eos_token_id": end, "pad_token_id": pad, "do_sample": True,
            "temperature": GenerationParams().resolved().temperature, "max_new_tokens": model.params.block_size // 2}


def _beginning(model):
    """Return the token after which `generate` begins a text from nothing, where one is enough."""
    return model.opening[0] if len(model.opening) == 1 else None


# --- The original of an imported model ---

def _write_original(model, origin, folder):
    """Write the files that a model was imported from. Raises FolioError where its origin does not have them all."""
    try:
        for name, content in origin["files"].items():
            if name not in FILES:
                raise FolioError(f"it names the file {name!r}")
            (folder / name).write_bytes(content.numpy())
        tensor_of = _Original(model, origin).tensor
        for name, header in origin["headers"].items():
            if not re.fullmatch(WEIGHTS, name):
                raise FolioError(f"it names the file {name!r}")
            safetensors_file.write(folder / name, header.numpy().tobytes(), tensor_of)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise FolioError(f"{model.path} cannot give back the files it was imported from: {error!r}.") from None


class _Original:
    """The tensors of the files that a model was imported from."""

    def __init__(self, model, origin):
        """origin: as the weights file of the TrainedModel has it"""
        self._weights, self._origin = model.contents["weights"], origin
        self._parts = named_parts(origin["architecture"], model.params)
        ids = origin["rows"]
        self._known = ids >= 0
        self._rows = ids[self._known]

    def tensor(self, name):
        """Return a tensor by its name in the files."""
        if name in self._origin["unused"]:
            return self._origin["unused_tensors"][self._origin["unused"][name]]
        part = self._parts[name]
        tensor = part.theirs(self._weights)
        return self._in_their_order(tensor, self._origin["cut"][name]) if part.has_rows_of_tokens else tensor

    def _in_their_order(self, tensor, cut):
        """tensor: (V, C), in the order of Folio's ids; cut: the rows that Folio lacks -> the rows in their order"""
        count = len(self._rows) + len(cut)
        is_cut = torch.ones(count, dtype=torch.bool)
        is_cut[self._rows] = False
        result = torch.empty(count, *tensor.shape[1:], dtype=tensor.dtype)
        result[self._rows] = tensor[self._known]
        result[is_cut] = cut
        return result


def named_parts(architecture, params):
    """Return {name: Counterpart} by every name that files give a tensor: with and without the prefix of a network with
    its head; a head that is tied may stand there a second time.
    """
    parts = counterparts(architecture, params)
    if params.tied_head:
        parts["lm_head.weight"] = next(part for part in parts.values() if part.ours == ("embedding.weight",))
    return parts | {name.removeprefix(PREFIXES[architecture]): part for name, part in parts.items()}
