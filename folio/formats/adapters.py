"""Adapters as weights files: what a base model lacks to be another one, a few megabytes instead of all its weights.

Such a file has `adapter` in place of `weights` and `tokenizer` (folio.formats.checkpoint). Its base lies in the same
folder: a model, or an adapter on one. `complete` merges the two, so that whatever reads weights files reads adapters.
"""

import math
import re
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

import tokenizer as tokenizers
from folio.base.errors import FolioError, is_out_of_memory
from folio.formats import checkpoint
from folio.networks import build as networks
from folio.networks import lora
from Model_Params import ModelParams

# Fields of ModelParams in which a model may differ from its adapter's base.
FREE = ("vocab_size", "block_size", "dropout", "attention_dropout")
LARGEST_HALF = 60_000.0         # float16 ends at 65,504
_NAME = r"\w[\w.-]*"            # of a run
MOST_BASES = 8                  # adapters on adapters: each is one more file to read


def entry(net: torch.nn.Module, special_tokens: list[str], base: dict[str, str]) -> dict[str, Any]:
    """Return the `adapter` of a weights file.

    net: adapted (folio.networks.lora); special_tokens: that the tokenizer has beside the base's; base: its name and
    fingerprint. The trained weights round to float16, half the size: of 124 million parameters, rank 8 takes 2.7 MB.
    """
    adapters = net.adapters
    return {"rank": adapters.rank, "alpha": float(adapters.alpha), "rows": list(adapters.rows),
            "special_tokens": list(special_tokens), "base": dict(base),
            "weights": {name: _half(tensor.cpu()) for name, tensor in lora.trained_weights(net).items()}}


def _half(tensor):
    return tensor.half() if tensor.abs().max() < LARGEST_HALF else tensor


def fingerprint(weights: dict[str, torch.Tensor], adapter: dict[str, Any] | None = None) -> str:
    """Return what tells a base from others: of its weights, or of its adapter where it is one on another base.

    The last digits of merged weights may differ from machine to machine; those of an adapter do not.
    weights: state_dict of its network, in float32; adapter: of its own file
    """
    return checkpoint.checksum(weights if adapter is None else adapter)[:16]


def name_of_base(path: str | Path, folder: Path) -> str:
    """Return the name by which adapters in `folder` know the weights file `path`.

    Raises FolioError where it lies elsewhere, or its name has other characters than those of runs.
    """
    path = Path(path)
    match = re.fullmatch(rf"weights-({_NAME})\.pth", path.name)
    if match and path.parent.resolve() == folder.resolve():
        return match[1]
    raise FolioError(f"An adapter lies beside its base: copy {path} to {folder / 'weights-NAME.pth'}, with a NAME of "
                     "letters, digits, and . _ -, and give that NAME.")


def complete(contents: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the contents of a weights file with `weights` and `tokenizer`, whether it is an adapter's or not.

    path: of the file; the base lies beside it. Raises OSError where the base cannot be read, and FolioError where there
    is none, or another one, or the adapter does not fit.
    """
    return _complete(contents, Path(path), [])


def _complete(contents, path, outer):
    """outer: names of the bases on which adapters were found on the way, in order"""
    if contents.get("adapter") is None:
        return contents
    with _explained(path):
        name, expected = _base_of(contents["adapter"])
        if name in outer or len(outer) == MOST_BASES:
            raise FolioError(f"adapters are based on each other too often: {', '.join([*outer, name])}")
    base_path = path.parent / f"weights-{name}.pth"
    if not base_path.exists():
        raise FolioError(f"{path} is an adapter, and its base, {base_path.name} (fingerprint {expected}), is not in "
                         f"{base_path.parent}. Put that file beside it.")
    base = checkpoint.load(base_path)
    own_adapter = base.get("adapter")
    base = _complete(base, base_path, [*outer, name])
    with _explained(base_path):
        names = networks.outline(ModelParams(**base["params"])).state_dict()
        found = fingerprint({name: base["weights"][name].float() for name in names}, own_adapter)
    if found != expected:
        raise FolioError(f"{path} is an adapter on the model {name} of fingerprint {expected}, and {base_path} has "
                         f"{found}: it is another model, or was trained since. Put the file back that the adapter was "
                         "trained on.")
    with _explained(path):
        return _merged(contents, base)


@contextmanager
def _explained(path):
    """Raise FolioError with `path` for whatever a file without the right values leads to."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, ArithmeticError) as error:
        if is_out_of_memory(error):
            raise
        reason = error if isinstance(error, FolioError) else f"{type(error).__name__} at {error}"
        raise FolioError(f"{path} holds no adapter or base that this Folio can use: {reason}.") from None


def _base_of(adapter):
    """Return the name and the fingerprint of an adapter's base. Raises FolioError where it names none."""
    name, expected = adapter["base"]["name"], adapter["base"]["fingerprint"]
    if not (isinstance(name, str) and re.fullmatch(_NAME, name)
            and isinstance(expected, str) and re.fullmatch(r"[0-9a-f]{16}", expected)):
        raise FolioError("it does not name its base")
    return name, expected


def _merged(contents, base):
    """Return the contents of an adapter's file, completed by those of its base."""
    adapter, tokenizer = contents["adapter"], base["tokenizer"]
    params, base_params = ModelParams(**contents["params"]), ModelParams(**base["params"])
    tokenizer = tokenizer | {"special_tokens": [*tokenizer["special_tokens"], *adapter["special_tokens"]]}
    resolved, base_resolved = params.resolved(), base_params.resolved()       # older files lack newer fields
    for field in fields(ModelParams):
        own, bases = getattr(resolved, field.name), getattr(base_resolved, field.name)
        if field.name not in FREE and own != bases:
            raise FolioError(f"its {field.name} is {own}, its base's {bases}")
    if params.vocab_size != tokenizers.size_of(tokenizer):
        raise FolioError(f"its model has {params.vocab_size} tokens, its tokenizer {tokenizers.size_of(tokenizer)}")
    check(adapter, params, base_params.vocab_size)
    weights = lora.merged(base["weights"], adapter["weights"], adapter["rows"], adapter["alpha"] / adapter["rank"])
    if params.positions == "learned":
        weights["positions.table.weight"] = weights["positions.table.weight"][:params.block_size]
    return {**contents, "tokenizer": tokenizer, "weights": weights}


def check(adapter: dict[str, Any], params: ModelParams, base_size: int) -> None:
    """Raise FolioError for the first part of an `adapter` that does not fit a model.

    base_size: vocab_size of its base
    """
    rank, alpha, rows = adapter["rank"], adapter["alpha"], adapter["rows"]
    if type(rank) is not int or rank < 1 or type(alpha) is not float or not math.isfinite(alpha):
        raise FolioError(f"it has rank {rank!r} and alpha {alpha!r}")
    if any(type(row) is not int or not 0 <= row < params.vocab_size for row in rows) or len(set(rows)) != len(rows):
        raise FolioError("its rows are no tokens of its model")
    if missing := set(range(base_size, params.vocab_size)) - set(rows):
        raise FolioError(f"it has no row for its token {min(missing)}")
    expected = lora.shapes(networks.outline(params), lora.Adapters(rank, alpha, tuple(rows)))
    weights = adapter["weights"]
    for name, tensor in weights.items():
        shape, wanted = tuple(tensor.shape), expected.get(name)
        if wanted is not None and name.endswith((".a", ".b")) and 0 not in shape:       # of any rank
            half = name.endswith(".b")
            wanted = (wanted[0], shape[-1]) if half else (shape[0], wanted[1])
        if shape != wanted or not tensor.is_floating_point():
            raise FolioError(f"its {name} has shape {shape} where its model has {wanted}")
    # Not every matrix needs an adapter, but both of its halves, and all of the rows.
    needed = {name for name in expected if not name.endswith((".a", ".b"))}
    needed |= {name[:-1] + half for name in weights if name.endswith((".a", ".b")) for half in "ab"}
    if missing := sorted(needed - weights.keys()):
        raise FolioError(f"it has no {missing[0]}")
    for name in weights:
        if name.endswith(".a") and len(weights[name]) != weights[f"{name[:-1]}b"].shape[1]:
            raise FolioError(f"its {name} has rank {len(weights[name])}, its other half another")
