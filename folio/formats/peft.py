"""Adapters as folders of PEFT, Hugging Face's library for them: written for a base in Hugging Face's format, and read.

    adapter_config.json         rank, alpha, which modules have an adapter, which rows of the embedding are trained
    adapter_model.safetensors   {base_model.model.MODULE.lora_A.weight: (rank, in), ....lora_B.weight: (out, rank),
                                base_model.model.MODULE.token_adapter.trainable_tokens_delta: (rows, C)}
    added_tokens.json           {name: row}: the trained rows that the base's tokenizer does not have
    chat_template.jinja         of a model that was taught to chat
    README.md                   how to load it

A matrix of theirs that has the rows of several of ours, as GPT-2's c_attn, has one adapter for all: ours side by side,
with the sum of their ranks. Theirs, read, is given to each of ours.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from folio.base.errors import FolioError
from folio.base.files import read_up_to, refuse_foreign_folder, replacing_folder
from folio.chat.template import END, JINJA, START, ChatTemplate
from folio.formats import adapters, checkpoint, exports, safetensors_file, trained_model
from folio.formats.hugging_face import Counterpart, counterparts, json_bytes
from folio.formats.hugging_face_config import shown
from folio.formats.trained_model import TrainedModel

CONFIG, WEIGHTS, ADDED, TEMPLATE = ("adapter_config.json", "adapter_model.safetensors", "added_tokens.json",
                                    "chat_template.jinja")
FILES = (CONFIG, WEIGHTS, ADDED, TEMPLATE, "README.md")
MOST_BYTES = 1 << 24            # of a file beside the weights
_PREFIX = "base_model.model."
_ROWS = ".token_adapter.trainable_tokens_delta"
# How PEFT names an embedding or head that it keeps whole, as it does where it was resized; the last one wins.
_WHOLE = (".original_module.weight", ".weight", ".token_adapter.base_layer.weight", ".modules_to_save.weight")
_OF_TOKENS = {"embed_tokens", "wte", "lm_head"}         # modules with a row for each token
# Fields of adapter_config.json that are read here, and those that change nothing of what a trained adapter computes.
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "trainable_token_indices",
         "init_lora_weights", "bias"}
_HARMLESS = {"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "task_type",
             "peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
             "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying"}
# Ways to draw the first weights that leave the base as it is; others subtract from it what they begin with.
_STARTS = (True, False, "gaussian", "orthogonal", "eva")


# --- Out ---

def write(model: TrainedModel, folder: str | Path) -> None:
    """Write a TrainedModel that is an adapter. An earlier export is replaced; other folders with files are refused.

    Raises FolioError where the model is no adapter, or its base not of an architecture that PEFT can load.
    """
    folder, adapter = Path(folder), model.contents.get("adapter")
    if adapter is None:
        raise FolioError(f"{model.name} is a whole model, and peft is the format of adapters (train.py --lora-rank). "
                         "Export it as huggingface instead.")
    architecture = exports.architecture(model, "huggingface")
    refuse_foreign_folder(folder, "an exported adapter", "|".join(map(re.escape, FILES)))
    base = checkpoint.load(model.path.parent / f"weights-{adapter['base']['name']}.pth")
    ids = _theirs(base.get("origin"), model.params.vocab_size - len(adapter["special_tokens"]))
    tensors, ranks = _tensors(adapter, counterparts(architecture, model.params))
    added = {name: ids(model.tokenizer.special_ids[name]) for name in adapter["special_tokens"]}
    files = {CONFIG: json_bytes(_config(model, architecture, tensors, ranks, ids)),
             "README.md": _readme(model, added).encode("utf-8")}
    if added:
        files[ADDED] = json_bytes(added)
    if model.chat is not None:
        files[TEMPLATE] = JINJA.encode("utf-8")
    header = safetensors_file.header_of({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()},
                                        {"format": "pt"})
    with replacing_folder(folder) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        safetensors_file.write(temporary / WEIGHTS, header, tensors.__getitem__)


def _theirs(origin, base_size):
    """Return a function from our ids to rows of the base's embedding where transformers loads the base.

    origin: of the base's weights file, which exports its original; base_size: its vocab_size. Tokens after the base's
    have the rows after its tokenizer's last, as transformers numbers tokens that are added.
    """
    if not (isinstance(origin, dict) and origin.get("format") == "huggingface"):
        return lambda token: token
    rows = origin["rows"].tolist()
    return lambda token: rows[token] if token < base_size else max(rows) + 1 + token - base_size


def _tensors(adapter, parts):
    """Return {name: tensor} as PEFT has them, and {module of theirs: rank} where it is not the adapter's.

    parts: {name of theirs: Counterpart}
    """
    weights, tensors, ranks = adapter["weights"], {}, {}
    for part in parts.values():
        modules = [name.removesuffix(".weight") for name in part.ours]
        theirs = part.name.removesuffix(".weight")
        found = [(weights[f"{module}.a"], weights[f"{module}.b"]) for module in modules if f"{module}.a" in weights]
        if found:
            if len(found) < len(modules):
                raise FolioError(f"{theirs} has the rows of {', '.join(modules)}, of which only some have an adapter.")
            a, b = _side_by_side(*zip(*found))
            tensors |= {f"{_PREFIX}{theirs}.lora_A.weight": a, f"{_PREFIX}{theirs}.lora_B.weight": b}
            if len(a) != adapter["rank"]:
                ranks[theirs] = len(a)
        elif len(modules) == 1 and f"{modules[0]}.rows" in weights:
            tensors[f"{_PREFIX}{theirs}{_ROWS}"] = weights[f"{modules[0]}.rows"]
    return tensors, ranks


def _side_by_side(matrices_a, matrices_b):
    """Return A (ranks, in) and B (outs, ranks) of several adapters that read the same; A once where all are alike."""
    if all(torch.equal(matrices_a[0], a) for a in matrices_a[1:]):
        return matrices_a[0], torch.cat(matrices_b)
    return torch.cat(matrices_a), torch.block_diag(*matrices_b)


def _config(model, architecture, tensors, ranks, ids):
    """Return the fields of adapter_config.json."""
    adapter = model.contents["adapter"]
    modules = {name.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for name in tensors if ".lora_A" in name}
    lasts = {module.rpartition(".")[2] for module in modules}
    all_parts = {name.removesuffix(".weight") for name, part in counterparts(architecture, model.params).items()
                 if len(part.shape) == 2 and part.ours[0].startswith("blocks.")}
    are_whole = modules == {module for module in all_parts if module.rpartition(".")[2] in lasts}
    rows = [ids(token) for token in adapter["rows"]]
    trained = {name.removeprefix(_PREFIX).removesuffix(_ROWS).rpartition(".")[2]: rows
               for name in tensors if name.endswith(_ROWS)}
    # One entry for every module of a name, such as c_attn: their ranks are the same but in an adapter of another
    # program, which may have any.
    return {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": adapter["base"]["name"],
            "r": adapter["rank"], "lora_alpha": _plain(adapter["alpha"]), "lora_dropout": 0.0, "bias": "none",
            "target_modules": sorted(lasts if are_whole else modules), "fan_in_fan_out": architecture == "gpt2",
            "rank_pattern": ranks,
            "alpha_pattern": {module: _plain(adapter["alpha"] * rank / adapter["rank"])
                              for module, rank in ranks.items()},
            "trainable_token_indices": trained or None, "modules_to_save": None, "use_rslora": False, "use_dora": False,
            "init_lora_weights": True, "inference_mode": True}


def _plain(number):
    """Return a whole number as int, as PEFT's own files have it."""
    return int(number) if float(number).is_integer() else number


def _readme(model, added):
    """Return the text of README.md."""
    base = model.contents["adapter"]["base"]
    add = [f"tokenizer.add_tokens({list(added)!r}, special_tokens=True)",
           "if len(tokenizer) > base.get_input_embeddings().num_embeddings:",
           "    base.resize_token_embeddings(len(tokenizer))"] if added else []
    return "\n".join([
        "---", "library_name: peft", "---", "", f"# {model.name}", "",
        f"An adapter (LoRA) on the model {base['name']}, of fingerprint {base['fingerprint']}, made with Folio.",
        "BASE is the folder of that model, as Folio exports it to Hugging Face:", "", "```python",
        "from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'tokenizer, base = AutoTokenizer.from_pretrained("BASE"), AutoModelForCausalLM.from_pretrained("BASE")',
        *add, 'model = PeftModel.from_pretrained(base, "THIS FOLDER")', "```", ""])


# --- In ---

def read(folder: str | Path, name: str, base_path: str | Path) -> dict[str, Any]:
    """Return the contents of a weights file, named `name`, with a folder's adapter.

    base_path: weights file of its base, which is to lie beside that file. Raises OSError where a file cannot be read,
    FolioError where the folder holds no adapter on that base which Folio computes exactly.
    """
    folder, base = Path(folder), trained_model.load(base_path)
    try:
        return _read(folder, name, base)
    except (_Problem, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, (_Problem, FolioError)) else f"{type(error).__name__} at {error}"
        raise FolioError(f"{folder} cannot be imported as an adapter on {Path(base_path).name}: "
                         f"{str(reason).rstrip('.')}.") from None


class _Problem(Exception):
    """A phrase that follows "cannot be imported as ...: "."""


def _read(folder, name, base):
    config = _json(folder, CONFIG)
    _check_config(config)
    origin = base.contents.get("origin")
    if isinstance(origin, dict) and origin.get("format") == "huggingface":
        architecture, rows = origin["architecture"], origin["rows"].tolist()
    else:
        architecture, rows = exports.architecture(base, "huggingface"), list(range(base.params.vocab_size))
    parts = {part.name.removesuffix(".weight"): part for part in counterparts(architecture, base.params).values()}
    found, changes = _sorted_out(folder, parts, base.params.tied_head)
    indices = _indices(config, changes)
    matrices = {part.ours[0]: _Rows(module, changes.get(module, {}), indices.get(module, []), rows,
                                    base.net.state_dict()[part.ours[0]])
                for module, part in parts.items() if part.has_rows_of_tokens}
    wanted = sorted(set().union(*(matrix.changed for matrix in matrices.values())))
    added = _added_tokens(folder, wanted, rows, matrices.values(), base.tokenizer)
    own_ids = {row: token for token, row in enumerate([*rows, *added.values()])}
    wanted = [row for row in wanted if row in own_ids]
    ids = [own_ids[row] for row in wanted]
    scales = {module: _scale(config, module, len(a)) for module, (a, _) in found.items()}
    shared = scales[next(iter(scales))] if len(set(scales.values())) == 1 else 1.0
    weights = {}
    for module, (a, b) in found.items():
        own = b if scales[module] == shared else b.float() * (scales[module] / shared)
        weights |= _ours(parts[module], a, own)
    if wanted:
        weights |= {name.replace(".weight", ".rows"): matrix.of(wanted) for name, matrix in matrices.items()}
    tokenizer = base.tokenizer.with_special_tokens(added) if added else base.tokenizer
    named = {"name": base.path.stem.removeprefix("weights-"),
             "fingerprint": adapters.fingerprint(base.net.state_dict(), base.contents.get("adapter"))}
    adapter = {"rank": config["r"], "alpha": float(shared * config["r"]), "rows": ids, "special_tokens": list(added),
               "base": named, "weights": weights}
    contents = trained_model.imported(name, base.params, {}, tokenizer, base.opening)
    adapters.check(adapter, replace(base.params, vocab_size=tokenizer.vocab_size), base.params.vocab_size)
    del contents["weights"], contents["tokenizer"]
    return contents | {"adapter": adapter, "started_from": named, "chat": _chat(folder, base, tokenizer)}


def _check_config(config):
    """Raise _Problem for the first field that asks for what Folio does not compute."""
    if config.get("peft_type") != "LORA":
        raise _Problem(f"its {CONFIG} has peft_type={shown(config.get('peft_type'))}; Folio reads LORA")
    for name, value in config.items():
        is_default = value in (None, False, "none") or value in ({}, [])
        is_matrix = name == "modules_to_save" and isinstance(value, list) and set(value) <= _OF_TOKENS
        if name not in _READ | _HARMLESS and not is_default and not is_matrix or name == "bias" and value != "none":
            raise _Problem(f"its {CONFIG} has {name}={shown(value)}, which Folio does not compute")
    if config.get("init_lora_weights", True) not in _STARTS:
        raise _Problem(f"its {CONFIG} has init_lora_weights={shown(config['init_lora_weights'])}, which changes the "
                       "base; PEFT can convert it (path_initial_model_for_weight_conversion)")
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict) or not all(re.fullmatch(r"[\w.]+", key) and _is_number(value)
                                                     for key, value in patterns.items()):
            raise _Problem(f"its {CONFIG} has {name}={shown(patterns)}, which is not names of modules and numbers")
    if not _is_number(config.get("r")) or not _is_number(config.get("lora_alpha")):
        raise _Problem(f"its {CONFIG} has r={shown(config.get('r'))} and lora_alpha={shown(config.get('lora_alpha'))}")


def _is_number(value):
    return type(value) in (int, float) and 0 < value < 1e9


def _scale(config, module, rank):
    """Return what PEFT multiplies the B A of a module by."""
    said, alpha = (next((value for key, value in (config.get(pattern) or {}).items()
                         if module == key or module.endswith(f".{key}")), config[default])
                   for pattern, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")))
    if said != rank:
        raise _Problem(f"its {CONFIG} says rank {said} of {module}, which has {rank}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _sorted_out(folder, parts, is_tied):
    """Read the tensors. -> {module of theirs: (A, B)}, {module of theirs: {ending of a name: rows of tokens}}

    parts: {module of theirs: Counterpart}; is_tied: whether a head is the embedding, and passed over
    """
    if not (folder / WEIGHTS).exists():
        raise _Problem(f"it has no {WEIGHTS}")
    halves, changes = {}, {}
    endings = "|".join(map(re.escape, (_ROWS, *_WHOLE)))
    with safetensors_file.SafetensorsFile(folder / WEIGHTS) as file:
        for name in file.outlines:
            match = re.fullmatch(rf"{re.escape(_PREFIX)}(.+?)(\.lora_[AB]\.weight|{endings})", name)
            module, ending = match.groups() if match else ("", "")
            if is_tied and module == "lm_head" and "lora" not in ending:
                continue
            part = parts.get(module)
            if part is None or part.has_rows_of_tokens == ("lora" in ending) \
                    or not part.has_rows_of_tokens and not part.ours[0].startswith("blocks."):
                raise _Problem(f"it has the tensor {shown(name)}, for which Folio has no place")
            tensor = file.tensor(name)
            if not tensor.is_floating_point() or tensor.ndim != 2 or not tensor.isfinite().all():
                raise _Problem(f"its tensor {name} is no matrix of finite numbers")
            (changes if part.has_rows_of_tokens else halves).setdefault(module, {})[ending] = tensor
    found = {}
    for module, ends in halves.items():
        shape = parts[module].shape[::-1] if parts[module].is_transposed else parts[module].shape
        a, b = (ends.get(f".lora_{half}.weight") for half in "AB")
        if a is None or b is None or (b.shape[0], a.shape[1]) != shape or a.shape[0] != b.shape[1] or not len(a):
            raise _Problem(f"its lora_A and lora_B of {module} do not make a matrix of shape {shape}")
        found[module] = a, b
    return found, changes


class _Rows:
    """The rows of an embedding or head that an adapter has, beside those of its base."""

    def __init__(self, module, tensors, indices, rows, base):
        """tensors: {ending of a name: tensor}; indices: of the rows in _ROWS; rows: of our ids, theirs; base: ours"""
        self.module, self.base = module, base
        self.own = {row: token for token, row in enumerate(rows) if row >= 0}
        self.found, self.changed = {}, set(indices)
        for ending in _WHOLE:
            if ending in tensors:
                self.found = dict(enumerate(tensors[ending]))
        for row, tensor in self.found.items():
            if row not in self.own or not torch.equal(tensor.float(), base[self.own[row]]):
                self.changed.add(row)
        self.found |= dict(zip(indices, tensors.get(_ROWS, ())))
        if any(tensor.shape != base.shape[1:] for tensor in self.found.values()):
            raise _Problem(f"its rows of {module} are not of the width {base.shape[1]}")
        self.is_whole = len(self.found) > len(indices)

    def of(self, rows):
        """Return these rows, by their numbers there: (rows, C)."""
        if lost := [row for row in rows if row not in self.found and row not in self.own]:
            raise _Problem(f"it has a new row {lost[0]}, and none for {self.module}")
        return torch.stack([self.found[row].float() if row in self.found else self.base[self.own[row]]
                            for row in rows])


def _ours(part: Counterpart, a, b):
    """Return {name: tensor} of our modules: A (ranks, in) and the rows of B (outs, ranks) that are each one's.

    Of an adapter for several, those ranks that are nothing to one of them are left out there.
    """
    found = {}
    for name, rows in zip(part.ours, b.chunk(len(part.ours))):
        module, used = name.removesuffix(".weight"), rows.any(0)
        is_whole = len(part.ours) == 1 or not used.any()
        found |= {f"{module}.a": a.clone() if is_whole else a[used],
                  f"{module}.b": rows.clone() if is_whole else rows[:, used]}
    return found


def _indices(config, changes):
    """Return {module of theirs: numbers of the rows in its _ROWS}. changes: {module: {ending: tensor}}"""
    given, found = config.get("trainable_token_indices") or {}, {}
    for module in [module for module, tensors in changes.items() if _ROWS in tensors]:
        indices, count = given.get(module.rpartition(".")[2]) if isinstance(given, dict) else given, \
            len(changes[module][_ROWS])
        if not isinstance(indices, list) or any(type(index) is not int or index < 0 for index in indices) \
                or len(set(indices)) != count or len(indices) != count:
            raise _Problem(f"its {CONFIG} has trainable_token_indices={shown(given)}, and {count} rows of {module} are "
                           "there")
        found[module] = indices
    if given and not found:
        raise _Problem(f"its {CONFIG} has trainable_token_indices={shown(given)}, and its {WEIGHTS} has no such rows")
    return found


def _added_tokens(folder, wanted, rows, matrices, tokenizer) -> dict[str, int]:
    """Return {name: row} of rows that are no tokens of the base, by the names that the folder has for them.

    Rows without a name are passed over where they belong to a whole matrix: some are there to round its size.
    """
    wanted, names = [row for row in wanted if row not in set(rows)], {}
    if wanted and (folder / "tokenizer.json").exists():
        entries = _json(folder, "tokenizer.json").get("added_tokens")
        names = {entry.get("id"): entry.get("content") for entry in entries or [] if isinstance(entry, dict)}
    if wanted and (folder / ADDED).exists():
        names |= {row: name for name, row in _json(folder, ADDED).items() if isinstance(row, int)}
    named = [row for row in wanted if isinstance(names.get(row), str) and names[row] not in tokenizer.special_ids]
    for row in sorted(set(wanted) - set(named)):
        if not any(matrix.is_whole for matrix in matrices):
            raise _Problem(f"it trains row {row} of the embedding, and neither its base nor its own {ADDED} or "
                           "tokenizer.json has a token of that number")
    return {names[row]: row for row in named}


def _chat(folder, base, tokenizer):
    """Return the `chat` entry: of the folder's template if it is the one that Folio writes, else of the base."""
    path = folder / TEMPLATE
    if {START, END} <= tokenizer.special_ids.keys() and path.exists() \
            and read_up_to(path, MOST_BYTES) == JINJA.encode("utf-8"):
        return ChatTemplate(tokenizer).to_dict()
    return base.chat and base.chat.to_dict()


def _json(folder, name):
    """Return the JSON object in a file."""
    content = read_up_to(folder / name, MOST_BYTES)
    try:
        values = json.loads(content or b"")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise _Problem(f"its {name} is no JSON object of less than {MOST_BYTES:,} bytes")
    return values
