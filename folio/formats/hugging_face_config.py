"""What the config.json of a Hugging Face folder says about a network, as ModelParams.

Every field that changes the equations is computed as it says, or refused with its name; transformers' defaults stand
for those that are left out. Fields that nothing here knows are named in a note.
"""

import re
from dataclasses import dataclass, field

from Model_Params import ModelParams

MOST_POSITIONS = 65536          # block_size of ModelParams; rotary positions have no weights, so that fewer will do


@dataclass(frozen=True)
class _Architecture:
    """What config.json says of an architecture. An `allowed` value means what Folio computes, and None the default."""
    classes: tuple[str, ...]                    # of transformers
    sizes: dict[str, str]                       # field of ModelParams -> theirs
    values: dict                                # of ModelParams that are the same in all models
    defaults: dict                              # of theirs that config.json may leave out
    allowed: dict[str, tuple] = field(default_factory=dict)


_ANYWHERE = {"quantization_config": (), "auto_map": (), "add_cross_attention": (False,), "is_encoder_decoder": (False,)}
_ROTARY_SIZES = {"vocab_size": "vocab_size", "block_size": "max_position_embeddings", "emb_len": "hidden_size",
                 "hidden_len": "intermediate_size", "num_layers": "num_hidden_layers",
                 "num_heads": "num_attention_heads", "num_kv_heads": "num_key_value_heads", "head_len": "head_dim",
                 "norm_eps": "rms_norm_eps"}
_ROTARY_ALLOWED = _ANYWHERE | {
    "hidden_act": ("silu", "swish"), "attention_bias": (False,), "mlp_bias": (False,), "qkv_bias": (False,),
    "partial_rotary_factor": (1,), "rope_interleaved": (False,), "num_experts": (0,), "num_local_experts": (0,),
    "use_sliding_window": (False,)}
ARCHITECTURES = {
    "qwen3": _Architecture(
        ("Qwen3ForCausalLM", "Qwen3Model"), _ROTARY_SIZES, {"family": "folio"},
        {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
         "tie_word_embeddings": False}, _ROTARY_ALLOWED),
    "llama": _Architecture(
        ("LlamaForCausalLM", "LlamaModel"), _ROTARY_SIZES, {"family": "folio", "query_key_norm": False},
        {"num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
         "tie_word_embeddings": False}, _ROTARY_ALLOWED | {"sliding_window": ()}),
    "gpt2": _Architecture(
        ("GPT2LMHeadModel", "GPT2Model"),
        {"vocab_size": "vocab_size", "block_size": "n_positions", "emb_len": "n_embd", "hidden_len": "n_inner",
         "num_layers": "n_layer", "num_heads": "n_head", "norm_eps": "layer_norm_epsilon"},
        {"family": "classic", "biases": "gpt2"},
        {"n_positions": 1024, "n_inner": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        _ANYWHERE | {"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)}),
}
_ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu": "relu", "relu2": "relu2"}
# Fields of config.json that change nothing of what a trained model computes.
_HARMLESS = re.compile(
    r"architectures|model_type|(torch_)?dtype|.*_version|_name_or_path|use_cache|initializer_range|.*_token_id"
    r"|.*(dropout|pdrop)|summary_.*|task_specific_params|n_ctx|max_window_layers|sliding_window|layer_types"
    r"|pretraining_tp|is_llama_config|is_decoder|transformers\.js_config|reorder_and_upcast_attn|gradient_checkpointing"
    r"|id2label|label2id|output_.*|return_dict|rope_.*|activation_function|problem_type|use_return_dict|tie_.*"
    r"|pruned_heads|finetuning_task|chunk_size_feed_forward|cross_attention_hidden_size")


class Problem(Exception):
    """Why a folder cannot be imported: a phrase that follows "cannot be imported: "."""


def architecture_of(config):
    """Return the key of ARCHITECTURES. Raises Problem for one that Folio does not know."""
    named = config.get("architectures") or []
    kind = config.get("model_type")
    for name, known in ARCHITECTURES.items():
        is_named = isinstance(named, list) and len(named) == 1 and named[0] in known.classes
        if is_named and kind in (None, name) or not named and kind == name:
            return name
    found = ", ".join(map(shown, named)) if isinstance(named, list) and named else f"model_type={shown(kind)}"
    if isinstance(named, list) and named and any(named[0] in known.classes for known in ARCHITECTURES.values()):
        found += f" beside model_type={shown(kind)}"
    able = " and ".join(known.classes[0] for known in ARCHITECTURES.values())
    raise Problem(f"its config.json says {found}; Folio imports {able}")


def params_of(config, architecture):
    """Return the ModelParams that config.json says, resolved. Raises Problem for what Folio does not compute."""
    known = ARCHITECTURES[architecture]
    for name, allowed in known.allowed.items():
        if config.get(name) is not None and config[name] not in allowed:
            raise _not_computed(name, config[name])
    layers = config.get("layer_types")
    if layers is not None and (not isinstance(layers, list) or any(kind != "full_attention" for kind in layers)):
        raise _not_computed("layer_types", layers)
    values = {ours: _number(config, theirs, known.defaults, float if ours == "norm_eps" else int)
              for ours, theirs in known.sizes.items()}
    tied = config.get("tie_word_embeddings", known.defaults["tie_word_embeddings"])
    if not isinstance(tied, bool):
        raise Problem(f"its config.json has tie_word_embeddings={shown(tied)}, which is neither true nor false")
    values |= known.values | {"tied_head": tied, "attention_dropout": 0.0}
    if architecture == "gpt2":
        activation = config.get("activation_function", "gelu_new")
        if not isinstance(activation, str) or activation not in _ACTIVATIONS:
            raise _not_computed("activation_function", activation)
        values["mlp"] = _ACTIVATIONS[activation]
    else:
        values["rope_base"] = _rope_base(config)
        values["block_size"] = min(values["block_size"], MOST_POSITIONS)
    params = ModelParams(**values)
    for problem in params.problems():
        raise Problem(f"its config.json asks for what Folio does not build: {problem.rstrip('.')}")
    return params.resolved()


def _number(config, name, defaults, kind):
    """Return a positive number of config.json; None where that is its default."""
    value = config.get(name)
    if value is None:
        if name not in defaults:
            raise Problem(f"its config.json has no {name}")
        return defaults[name]
    allowed = (int,) if kind is int else (int, float)
    if type(value) not in allowed or not 0 < value < 1 << 40:       # not NaN either
        sort = "whole number" if kind is int else "number"
        raise Problem(f"its config.json has {name}={shown(value)}, which should be a positive {sort}")
    return kind(value)


def _rope_base(config):
    """Return the base of rotary positions, which transformers 5 spells otherwise than its versions before."""
    bases = [] if config.get("rope_theta") is None else [_number(config, "rope_theta", {}, float)]
    for name in ("rope_parameters", "rope_scaling"):
        values = config.get(name)
        if values is None:
            continue
        if not isinstance(values, dict):
            raise _not_computed(name, values)
        is_plain = values.keys() <= {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        kind = values.get("rope_type", values.get("type", "default" if is_plain else None))
        if kind != "default" or values.get("partial_rotary_factor", 1) != 1:
            raise _not_computed(name, values)
        if "rope_theta" in values:
            bases.append(_number(values, "rope_theta", {}, float))
    if len(set(bases)) > 1:
        raise Problem(f"its config.json has two values of rope_theta, {bases[0]:g} and {bases[1]:g}")
    return bases[0] if bases else None


def notes_on(config, architecture):
    """Yield sentences on what of config.json is left out."""
    known = ARCHITECTURES[architecture]
    context = config.get(known.sizes["block_size"])
    if architecture != "gpt2" and context is not None and context > MOST_POSITIONS:
        yield f"Its context of {context:,} tokens is cut to {MOST_POSITIONS:,}."
    unknown = [name for name in config if name not in known.allowed and name not in known.sizes.values()
               and not _HARMLESS.fullmatch(name)]
    if unknown:
        yield f"Its config.json has fields that Folio does not know: {', '.join(map(shown, unknown[:8]))}."


def _not_computed(name, value):
    return Problem(f"its config.json has {name}={shown(value)}, which Folio does not compute")


def shown(value):
    """Return a value as a message shows it."""
    shown = value if isinstance(value, str) and value.isprintable() else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
