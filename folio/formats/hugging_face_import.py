"""Read the model in a folder of Hugging Face: GPT-2, Qwen3 (dense), and Llama and those with its equations, as SmolLM2.

    config.json             sizes and equations; a field that asks for something else than Folio computes is refused
    model.safetensors, or model.safetensors.index.json and the files that it names
                            the weights, by the names of folio.formats.hugging_face.NAMES; each is read once, straight
                            into the order of Folio's ids, and stays in its type (bfloat16, float16, float32, float64)
    pytorch_model.bin, or pytorch_model.bin.index.json and its files
                            the same as torch.save writes them: read by folio.formats.torch_file, which runs no code
    tokenizer.json, or vocab.json and merges.txt; tokenizer_config.json, generation_config.json
                            the tokenizer, and the tokens that begin and end a text

What else the folder's files hold goes into `origin` (folio.formats.hugging_face), so that an export gives them back.
"""

import json
import math
import re
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.files import ordinary, read_up_to
from folio.chat.template import ends_of_text, named_by
from folio.formats import hugging_face, torch_file, trained_model
from folio.formats.hugging_face_config import Problem, architecture_of, notes_on, params_of, shown
from folio.formats.safetensors_file import SafetensorsFile
from folio.formats.tokenizers import read_for_model

MOST_BYTES = 1 << 26            # of a file beside the weights: Llama 3's tokenizer.json has 17 MB
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Tensors that files have and networks do not need: GPT-2's causal masks, the wavelengths of rotary positions.
_UNUSED = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias|(model\.)?(layers\.\d+\.self_attn\.)?"
                     r"rotary_emb\.inv_freq")


def read(folder, name):
    """Read a folder's model. -> (contents of a weights file, named `name`; sentences on what was left out)

    Raises OSError where a file cannot be read, FolioError where the folder holds no model that Folio computes exactly.
    """
    folder = Path(folder)
    try:
        return _read(folder, name)
    except Problem as problem:
        raise FolioError(f"{folder} cannot be imported: {problem}.") from None


def _read(folder, name):
    if not folder.is_dir():
        raise Problem("it is no folder; a model of Hugging Face is a folder with a config.json and weights")
    files = {path: _content(folder / path) for path in hugging_face.FILES if (folder / path).exists()}
    if "config.json" not in files:
        raise Problem("it has no config.json, which says what the network looks like")
    settings = {path: _json(path, files.get(path, b"{}"))
                for path in ("config.json", "tokenizer_config.json", "generation_config.json")}
    config = settings["config.json"]
    architecture = architecture_of(config)
    params = params_of(config, architecture)
    notes = list(notes_on(config, architecture))
    with ExitStack() as stack:
        source = _opened(folder, stack)
        parts = hugging_face.named_parts(architecture, params)
        unused = _check_tensors(source.outlines, parts)         # before the tokenizer, which may take seconds
        tokens = read_for_model(folder)
        order = _Order(tokens, params.vocab_size)
        notes += [*tokens.notes, *order.notes()]
        weights, cut = _weights(source, parts, unused, order)
        kept, numbers = _distinct_tensors(source, unused)
        if params.tied_head:
            weights["head.weight"] = weights["embedding.weight"]
        origin = None
        if source.headers:
            origin = {"format": "huggingface", "architecture": architecture,
                      "files": {path: _as_tensor(content) for path, content in files.items()},
                      "headers": {path: _as_tensor(header) for path, header in source.headers.items()},
                      "rows": order.rows, "cut": cut, "unused": numbers, "unused_tensors": kept}
        else:
            notes.append("Its weights are in PyTorch's format: an export writes them as safetensors, in Folio's order.")
    opening = _opening(tokens, settings)
    chat = _chat(tokens.tokenizer, files, settings)
    notes += _end_note(tokens, settings, chat)
    return trained_model.imported(name, params, weights, tokens.tokenizer, opening, origin, chat), notes


# --- Weights ---

class _Safetensors:
    """The tensors of one or more safetensors files."""

    def __init__(self, folder, names, stack):
        """stack: an ExitStack, which closes the files"""
        files = {name: stack.enter_context(SafetensorsFile(folder / name)) for name in names}
        self.headers = {name: file.header for name, file in files.items()}
        self.files, self.outlines = {}, {}
        for file in files.values():
            for tensor, outline in file.outlines.items():
                if tensor in self.files:
                    raise Problem(f"it has the tensor {shown(tensor)} in two files")
                self.files[tensor], self.outlines[tensor] = file, outline

    def tensor(self, name, places=None, rows=None):
        """Read a tensor, as SafetensorsFile.tensor does."""
        return self.files[name].tensor(name, places, rows)


class _Torch:
    """The tensors of one or more files that torch.save wrote."""

    headers = None

    def __init__(self, folder, names, stack):
        self._tensors = {}
        for name in names:
            with open(folder / name, "rb", opener=ordinary) as file:
                try:
                    tensors = torch_file.TorchFile(file).contents()
                except FolioError as error:
                    raise Problem(f"its {name} is not valid: {error}; nothing in it was executed. transformers can "
                                   "write it anew as safetensors") from None
            if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
                raise Problem(f"its {name} is not a dictionary of tensors")
            if again := self._tensors.keys() & tensors.keys():
                raise Problem(f"it has the tensor {shown(min(again))} in two files")
            self._tensors |= tensors
        self.outlines = dict(self._tensors)             # a tensor knows its dtype and shape as an Outline does

    def tensor(self, name, places=None, rows=None):
        """Return a tensor; it is not kept here."""
        tensor = self._tensors.pop(name)
        self.outlines[name] = None
        if places is None:
            return tensor
        result = torch.zeros(rows, *tensor.shape[1:], dtype=tensor.dtype)
        result[places] = tensor
        return result


_SOURCES = {"model.safetensors": _Safetensors, "pytorch_model.bin": _Torch}


def _opened(folder, stack):
    """Return the _Safetensors or _Torch of a folder."""
    for single, source in _SOURCES.items():
        index = f"{single}.index.json"
        if (folder / single).exists():
            return source(folder, [single], stack)
        if (folder / index).exists():
            places = _json(index, _content(folder / index)).get("weight_map")
            pattern = hugging_face.WEIGHTS if source is _Safetensors else r"[\w-][\w.-]*\.bin"
            if not isinstance(places, dict) or not places or not all(
                    isinstance(name, str) and re.fullmatch(pattern, name) for name in places.values()):
                raise Problem(f"its {index} has no weight_map from tensors to files beside it")
            names = sorted(set(places.values()))
            if missing := [name for name in names if not (folder / name).exists()]:
                raise Problem(f"it has no {missing[0]}, which its {index} names")
            opened = source(folder, names, stack)
            if wrong := opened.outlines.keys() ^ places.keys():
                where = "names" if min(wrong) in places else "does not name"
                raise Problem(f"its {index} {where} the tensor {shown(min(wrong))}, and its files differ")
            return opened
    raise Problem(f"it has no weights: neither {' nor '.join(_SOURCES)} nor the index of several")


def _check_tensors(outlines, parts):
    """Return the names of tensors that the network does not need. Raises Problem for a missing or a wrong one.

    parts: {name: Counterpart}, by every name that a tensor may have
    """
    unused, seen = [], {}
    for name, outline in outlines.items():
        part = parts.get(name)
        if part is None:
            if not _UNUSED.fullmatch(name):
                raise Problem(f"it has the tensor {shown(name)}, which its architecture has no place for")
            unused.append(name)
            continue
        shape = tuple(outline.shape)
        if shape != part.shape:
            raise Problem(f"its tensor {name} has shape {shape}, where its config.json says {part.shape}")
        if outline.dtype not in FLOATS:
            raise Problem(f"its tensor {name} has numbers of type {outline.dtype}; Folio imports "
                           f"{', '.join(str(dtype).removeprefix('torch.') for dtype in FLOATS)}")
        key = name if name == "lm_head.weight" else part.name          # a tied head may stand beside the embedding
        if key in seen:
            raise Problem(f"it has the tensor {name} twice, the other time as {seen[key]}")
        seen[key] = name
    if missing := [part.name for part in parts.values() if part.name not in seen]:
        raise Problem(f"it lacks the tensor {missing[0]}")
    return unused


class _Order:
    """Where the rows of an embedding go: Folio's ids first, then the rows of no token, which are cut off."""

    def __init__(self, tokens, count):
        """tokens: ModelTokenizer; count: rows of the original's embedding"""
        ids = np.asarray(tokens.original_ids, np.int64)
        self.size = tokens.tokenizer.vocab_size
        known = ids >= 0
        if len(ids) != self.size or len(np.unique(ids[known])) != known.sum():
            raise Problem("its tokenizer gives two tokens one id")
        if known.any() and ids.max() >= count:
            raise Problem(f"its tokenizer has the id {ids.max():,}, and its config.json says vocab_size={count:,}")
        is_cut = np.ones(count, bool)
        is_cut[ids[known]] = False
        places = np.empty(count, np.int64)
        places[ids[known]] = np.flatnonzero(known)
        places[is_cut] = self.size + np.arange(is_cut.sum())
        self.rows, self.places = torch.from_numpy(ids), torch.from_numpy(places)
        self.total = self.size + int(is_cut.sum())
        self.absent = int((~known).sum())

    def notes(self):
        """Yield sentences on what has no counterpart."""
        if count := self.total - self.size:
            yield f"{count:,} rows of its embedding belong to no token and are left out."
        if self.absent:
            yield f"{self.absent:,} of the 256 bytes have no token in it; their embeddings are zero."


def _weights(source, parts, unused, order):
    """Read all weights. -> {name: tensor} of ours; {name of theirs: rows that are cut off}"""
    weights, cut, tied = {}, {}, None
    for name in tqdm(list(source.outlines), desc="Reading", unit=" tensors", leave=False, disable=None, delay=1):
        if name in unused:
            continue
        part = parts[name]
        if not part.has_rows_of_tokens:
            weights |= part.split(source.outlines[name].dtype, lambda: _finite(name, source.tensor(name)))
            continue
        if name == "lm_head.weight" and part.ours == ("embedding.weight",):
            tied = part
            continue
        rows = source.tensor(name, order.places, order.total)
        weights[part.ours[0]], cut[name] = _finite(name, rows[:order.size]), rows[order.size:]
    if tied is not None:
        rows = source.tensor("lm_head.weight", order.places, order.total)
        name = next(iter(cut))
        if not (torch.equal(rows[:order.size], weights["embedding.weight"])
                and torch.equal(rows[order.size:], cut[name])):
            raise Problem("its config.json has tie_word_embeddings=True, and lm_head.weight differs from the embedding")
        cut["lm_head.weight"] = cut[name]
    return weights, cut


def _finite(name, tensor):
    """Return a tensor. Raises Problem where one of its numbers is not finite."""
    for some in tensor.split(max(1, (1 << 20) // max(1, math.prod(tensor.shape[1:])))):
        if not some.isfinite().all():
            raise Problem(f"its tensor {name} has numbers that are not finite")
    return tensor


def _distinct_tensors(source, names):
    """Read tensors. -> a list of them without those that are equal to another; {name: its number there}"""
    kept, numbers, known = [], {}, {}
    for name in names:
        tensor = source.tensor(name).contiguous()
        content = sha256(tensor.view(-1).view(torch.uint8).numpy().data).digest()
        key = tensor.dtype, tuple(tensor.shape), content
        if key not in known:
            known[key] = len(kept)
            kept.append(tensor)
        numbers[name] = known[key]
    return kept, numbers


# --- How a text begins and ends ---

def _opening(tokens, settings):
    """Return the ids after which a text begins from nothing.

    That is the token that the folder names for it, else the one that ends a text, else the end of a line.
    """
    tokenizer, named = tokens.tokenizer, settings["tokenizer_config.json"].get("bos_token")
    name = named.get("content") if isinstance(named, dict) else named
    if isinstance(name, str) and name in tokenizer.special_ids:
        return [tokenizer.special_ids[name]]
    named = settings["config.json"].get("bos_token_id")
    found = np.flatnonzero(np.asarray(tokens.original_ids) == named) if type(named) is int and named >= 0 else []
    if len(found):
        return [int(found[0])]
    return tokenizer.encode("\n") if tokenizer.end_of_text is None else [tokenizer.end_of_text]


def _chat(tokenizer, files, settings):
    """Return the ChatTemplate of a model that was taught to chat in ChatML; else None."""
    template = settings["tokenizer_config.json"].get("chat_template")
    if "chat_template.jinja" in files:
        template = files["chat_template.jinja"].decode("utf-8", errors="replace")
    return named_by(template, tokenizer)


def _end_note(tokens, settings, chat):
    """Yield a sentence where the folder names other tokens that end a text than Folio ends it at."""
    ends = settings["generation_config.json"].get("eos_token_id", settings["config.json"].get("eos_token_id"))
    ends = ends if isinstance(ends, list) else [ends]
    ours = ends_of_text(tokens.tokenizer) if chat is None else chat.ends
    own = [int(tokens.original_ids[end]) for end in ours]
    if others := [end for end in ends if type(end) is int and end not in own]:
        known = {int(theirs): token for token, theirs in enumerate(tokens.original_ids)}
        names = [tokens.tokenizer.names()[known[end]] for end in others if end in known]
        end = f"at {', '.join(tokens.tokenizer.names()[end] for end in ours)} only" if ours else "at no token"
        if names:
            yield f"It also ends a text at {', '.join(map(shown, names))}; Folio ends one {end}."


# --- Files ---

def _content(path):
    """Return the bytes of a file beside the weights."""
    if (content := read_up_to(path, MOST_BYTES)) is None:
        raise Problem(f"its {path.name} has more than {MOST_BYTES:,} bytes")
    return content


def _json(name, content):
    """Return the JSON object in a file."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise Problem(f"its {name} is not JSON") from None
    if not isinstance(values, dict):
        raise Problem(f"its {name} is no JSON object")
    return values


def _as_tensor(content):
    """content: bytes -> (bytes,) uint8 tensor"""
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
