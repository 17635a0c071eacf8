"""The page: model, tokenizer and program in one HTML file, which any browser opens without a server or a network.

    <head>      a policy that lets no request leave the page, the style
    <body>      folio/web/page.html
                <script type="text/plain" id="folio-model">      the model: base64 of gzip, below
                <script type="text/plain" id="folio-worker">     the program of the worker, which computes
                <script>                                         the program of the page, which people see

The model, unpacked: four bytes that say how long the header is (an unsigned integer, the lowest byte first), the
header in JSON, and the tensors one behind the other, without gaps, up to the end. The header has

    about       what people want to know: name, parameters, bits_per_byte, steps, context, family, vocab_size, weights
    params      ModelParams, resolved
    tokenizer   Tokenizer.to_dict(), and under `expression` the split pattern's regular expression (null: none)
    opening     ids before a text that begins from nothing
    chat        ChatTemplate.to_dict(), only of a model that was taught to chat
    settings    the fields of GenerationParams that the page has: {name, help, type (int, float, str or texts), default,
                low, high, above, choices}; default is what the page takes, as GenerationParams.resolved() has it
    tensors     [[name in the network's state_dict, type, shape]]; a tied head is left out

and the types are

    float16     all low bytes of the tensor, then all high bytes, in row-major order: bytes that are alike lie together,
                which packs them a tenth smaller
    float32     in the same way in four parts, the lowest bytes first
    int8        integers from -127 to 127, then a scale for each row as float32: value = integer * scale

Vectors, such as the weights of norms, are float32 in every type: they are few. The packing has a checksum of all bytes
(CRC-32, RFC 1952), which the page's reader, folio/web/model_file.js, checks.
"""

import base64
import html
import io
import json
import math
from dataclasses import asdict, fields
from gzip import GzipFile
from pathlib import Path

import numpy as np

from folio.base.errors import FolioError
from folio.base.fields import takes_several, value_type
from folio.base.files import refuse_foreign, replacing
from folio.formats import exports
from folio.networks.build import count_parameters
from Model_Params import GenerationParams
from tokenizer import SPLIT_PATTERNS

TYPES = ("f16", "f32", "int8")          # of the weights; the first is the default
WEB = Path(__file__).resolve().parent.parent / "web"
# Each file uses what those before it define.
WORKER_SCRIPTS = ("kernel.js", "network.js", "transformer.js", "lstm.js", "model_file.js", "tokenizer.js",
                  "messages.js", "chat_template.js", "random.js", "sampling.js", "healing.js",
                  "generation.js", "worker.js")
PAGE_SCRIPTS = ("engine.js", "story.js", "story_file.js", "settings.js", "sheet.js", "surprise.js", "colors.js",
                "answers.js", "alternatives.js", "keeping.js", "writing.js", "panels.js", "messages.js",
                "conversation.js", "transcript.js", "chat.js", "page.js")
PAGE_STYLES = ("page.css", "chat.css")
LEFT_OUT = ("beams", "length_penalty", "weight_precision")      # of GenerationParams
LARGEST_FLOAT16 = 65504.0
MARK = '<meta name="generator" content="Folio, a page with a model">'       # says that a file is one of ours
# Nothing may be loaded, sent or embedded. The worker comes from a blob, the page's only address.
POLICY = ("default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob:; "
          "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'")
START = """
const engine = createWorkerEngine(document.getElementById("folio-worker").textContent,
  document.getElementById("folio-model").textContent);
startPage(engine);
"""


def write(model, path, type=None):
    """Write a TrainedModel as a page. An earlier page at `path` is replaced; nothing else is.

    type: one of TYPES (default: the first). Raises FolioError where a page cannot represent the model, FileExistsError
    where `path` is another file.
    """
    exports.architecture(model, "page")
    refuse_foreign(path, "a page of Folio", lambda head: MARK.encode("utf-8") in head)
    content = assembled(model.name, packed(model, type))
    with replacing(path) as file:
        file.write(content.encode("utf-8"))


# --- The file ---

def assembled(name, model):
    """Return the page: a text of HTML. name: of the model; model: as `packed` returns it"""
    worker, scripts = ("\n".join(map(_read, names)) for names in (WORKER_SCRIPTS, PAGE_SCRIPTS))
    style = _element("style", "".join(map(_read, PAGE_STYLES)))
    parts = {
        "title": html.escape(name),
        "style": f'{MARK}\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n{style}',
        "model": f'{_element("script", model, "folio-model")}\n{_element("script", worker, "folio-worker")}',
        "scripts": _element("script", scripts + START),
    }
    page = _read("page.html")
    for part, content in parts.items():
        before, place, after = page.partition(f"<!-- {part} -->")
        assert place, f"page.html has no place for the {part}"
        page = before + content + after
    return page


def _read(name):
    return (WEB / name).read_text(encoding="utf-8")


def _element(name, content, id=None):
    """Return an HTML element of text that is not HTML. id: of a script that the browser is not to run"""
    for end in ("<!--", f"</{name}"):
        assert end not in content.lower(), f"{end} in the content would end the element {name}"
    attributes = "" if id is None else f' type="text/plain" id="{id}"'
    return f"<{name}{attributes}>\n{content}</{name}>"


# --- The model ---

def packed(model, type=None):
    """Return a TrainedModel as a text of base64, always the same for the same model.

    Raises FolioError for an unknown type, and for weights that are not finite numbers.
    """
    type = type or TYPES[0]
    if type not in TYPES:
        raise FolioError(f"type={type} is not one of {', '.join(TYPES)}.")
    tensors, contents = [], []
    for name, tensor in model.net.state_dict().items():
        if name == "head.weight" and model.params.tied_head:
            continue
        values = tensor.numpy()
        if not np.isfinite(values).all():
            raise FolioError(f"{name} has weights that are not finite numbers: the model is unusable. "
                             "Train it again with a lower learning rate.")
        encoding, content = _encoded(values, type)
        tensors.append([name, encoding, list(values.shape)])
        contents.append(content)
    header = json.dumps(_described(model, type) | {"tensors": tensors}, allow_nan=False).encode("utf-8")
    file = io.BytesIO()
    with GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as gzip:       # of 1970: the same bytes every time
        for content in (len(header).to_bytes(4, "little"), header, *contents):
            gzip.write(content)
    return base64.b64encode(file.getbuffer()).decode("ascii")


def _described(model, type):
    """Return the header without its tensors."""
    tokenizer = model.tokenizer
    bits = model.val_bpb if model.val_bpb is not None and math.isfinite(model.val_bpb) else None
    about = {"name": model.name, "parameters": count_parameters(model.net), "bits_per_byte": bits,
             "steps": int(model.contents["step"]), "context": model.net.context, "family": model.params.family,
             "vocab_size": tokenizer.vocab_size, "weights": type}
    return {"about": about, "params": asdict(model.params), "opening": model.opening, "settings": settings(),
            **({} if model.chat is None else {"chat": model.chat.to_dict()}),
            "tokenizer": tokenizer.to_dict() | {"expression": SPLIT_PATTERNS.get(tokenizer.pattern)}}


def settings():
    """Return the fields of GenerationParams that the page has, as plain values."""
    usual = GenerationParams().resolved()
    return [{"name": field.name, "help": field.metadata["help"],
             "type": "texts" if takes_several(field) else value_type(field).__name__,
             "default": getattr(usual, field.name),
             **{limit: field.metadata[limit] for limit in ("low", "high", "above", "choices")}}
            for field in fields(GenerationParams) if field.name not in LEFT_OUT]


def _encoded(values, type):
    """values: an array of float32 -> the name of its type in the file, its bytes"""
    if type == "int8" and values.ndim == 2:
        scales = np.abs(values).max(axis=1) / np.float32(127)                   # (rows,)
        integers = np.rint(values / np.where(scales, scales, 1)[:, None]).astype(np.int8)
        return "int8", integers.tobytes() + _planes(scales, "<f4")
    # A larger number would be infinite; no network that was trained well has one.
    if type == "f16" and values.ndim == 2 and np.abs(values).max(initial=0) <= LARGEST_FLOAT16:
        return "float16", _planes(values, "<f2")
    return "float32", _planes(values, "<f4")


def _planes(values, dtype):
    """Return the bytes of numbers: all first bytes, then all second ones, and so on."""
    return values.astype(dtype).reshape(-1, 1).view(np.uint8).T.tobytes()
