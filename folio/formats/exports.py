"""Which models each export format can represent.

A model goes into a format exactly, or it is refused in a sentence that names the parameter and the formats that have a
place for it. The equations of other programs are named as llama.cpp and transformers name them: qwen3, llama, gpt2.
"""

from dataclasses import dataclass

from folio.base.errors import FolioError

# The values of ModelParams with which our equations are theirs. Sizes, norm_eps, rope_base and tied_head are free.
_ROTARY = {"norm": ("rms",), "positions": ("rotary",), "mlp": ("swiglu",), "biases": ("none",)}
ARCHITECTURES = {
    "qwen3": _ROTARY | {"query_key_norm": (True,)},
    "llama": _ROTARY | {"query_key_norm": (False,)},
    # Where a matrix or norm of ours has no bias, theirs is zero.
    "gpt2": {"norm": ("layer",), "positions": ("learned",), "mlp": ("gelu", "relu"), "query_key_norm": (False,),
             "biases": ("none", "lecture", "gpt2")},
}
MOST_ON_A_PAGE = 30_000_000         # parameters: 80 MB in float16, which a browser reads in a second or two


@dataclass(frozen=True)
class Format:
    """What an export format can represent."""
    meaning: str                                    # for --help
    architectures: tuple = ()                       # names in ARCHITECTURES; (): it has our own equations
    mlps: tuple = ()                                # that it has among those of its architectures; (): all
    needs_merges: bool = False                      # whether its tokenizer must have some
    needs_end: bool = False                         # ... and a token that ends a text
    most_parameters: int | None = None


FORMATS = {
    "huggingface": Format("a folder for transformers", ("qwen3", "llama", "gpt2")),
    # Without merges llama.cpp reads no vocabulary, and without an end token it takes token 11 for it, a letter.
    "gguf": Format("one file for llama.cpp, LM Studio and others", ("qwen3", "llama", "gpt2"), ("swiglu", "gelu"),
                   needs_merges=True, needs_end=True),
    "ollama": Format("a folder with a GGUF file and its Modelfile", ("qwen3", "llama", "gpt2"), ("swiglu", "gelu"),
                     needs_merges=True, needs_end=True),
    "page": Format("one HTML file that writes in any browser, offline", most_parameters=MOST_ON_A_PAGE),
}


def architecture(model, format):
    """Return the name in ARCHITECTURES under which a format represents a TrainedModel; None where it has our own.

    Raises FolioError, with the formats that can, where it cannot represent the model exactly.
    """
    found, problem = _represented(model, FORMATS[format])
    if problem is None:
        return found
    able = [name for name, other in FORMATS.items() if _represented(model, other)[1] is None]
    advice = f"These can hold it: {', '.join(able)}." if able else "No other format can hold it either."
    raise FolioError(f"The format {format} has no place for {problem}. {advice}")


def _represented(model, format):
    """Return the architecture, or None, and what of a model has no place in a Format, or None."""
    from folio.networks.build import count_parameters  # imports torch, for which --help need not wait
    count = count_parameters(model.net)
    if format.most_parameters is not None and count > format.most_parameters:
        return None, f"{count:,} parameters: it takes up to {format.most_parameters:,}"
    if not format.architectures:
        return None, None
    if model.params.is_recurrent:
        return None, f"family={model.params.family}"
    if model.tokenizer.kind != "bpe":
        return None, f"tokenizer={model.tokenizer.kind}: its tokens are of byte pairs (tokenizer=bpe)"
    if format.needs_merges and not model.tokenizer.merges:
        return None, f"vocab_size={model.tokenizer.vocab_size}: its tokens come from merges, and here are none"
    if format.needs_end and model.tokenizer.end_of_text is None:
        return None, "a tokenizer in which no special token ends a text, such as <|endoftext|>"
    problems = {name: _difference(model.params, name, format) for name in format.architectures}
    found = next((name for name, problem in problems.items() if problem is None), None)
    nearest = "gpt2" if model.params.norm == "layer" else "qwen3"       # its first difference is the one to name
    return found, None if found else problems[nearest]


def _difference(params, name, format):
    """Return what of ModelParams an architecture has no place for, or None."""
    wanted = ARCHITECTURES[name]
    for field, values in wanted.items():
        values = [value for value in values if field != "mlp" or not format.mlps or value in format.mlps]
        if getattr(params, field) not in values:
            return (f"{field}={getattr(params, field)} beside {_neighbor(params, field)}: "
                    f"there it has {field}={' or '.join(map(str, values))}")
    if name != "gpt2":
        return None
    if params.biases == "lecture" and not params.tied_head:
        return "biases=lecture beside tied_head=False, where the head adds one: there it has biases=gpt2 or none"
    if params.num_kv_heads != params.num_heads:
        return (f"num_kv_heads={params.num_kv_heads} beside norm=layer: there it has as many as "
                f"num_heads={params.num_heads}")
    if params.head_len * params.num_heads != params.emb_len:
        return (f"head_len={params.head_len} beside norm=layer: there it has emb_len / num_heads, "
                f"{params.emb_len / params.num_heads:g}")
    return None


def _neighbor(params, field):
    """Return the parameter that decides which values of a field an architecture has."""
    return f"norm={params.norm}" if field != "norm" else f"positions={params.positions}"
