"""The model card: the README.md of an exported folder, as Hugging Face shows it.

It is Markdown in UTF-8 after a block of YAML between two lines of three hyphens. The fields of that block:

    library_name    the program that runs the model
    pipeline_tag    what it does: text-generation
    model_name      name of the run
    tags            ["folio"], of a model that was taught to chat "conversational" too
    license, language       left out: Folio does not know them, and the card says how to add them

Then the card says in words and figures what the model is. It has no word of the training text: only its size and its
fingerprint.
"""

import math

from folio.base.spelling import counted
from folio.base.visible import on_one_line
from folio.formats.exports import architecture
from folio.formats.find_weights import is_imported
from folio.networks.build import count_parameters

# By format: the library that runs the model, and the program in Python that does it.
_PROGRAMS = {"huggingface": ("transformers", """\
from transformers import pipeline
write = pipeline("text-generation", {folder})
print(write({opening}, max_new_tokens=100)[0]["generated_text"])""")}
# The same of a model that was taught to chat.
_CHAT_PROGRAMS = {"huggingface": """\
from transformers import pipeline
answer = pipeline("text-generation", {folder})
messages = [{{"role": "user", "content": "How are you?"}}]
print(answer(messages, max_new_tokens=100)[0]["generated_text"][-1]["content"])"""}

_CHAT_NOTE = "The model was taught to answer: its chat template (ChatML) is in `tokenizer_config.json`."

_CARD = """\
---
library_name: {library}
pipeline_tag: text-generation
model_name: {quoted_name}
tags:
- folio{tags}
---

# {title}

{origin}{warning}

| | |
| --- | --- |
{figures}

## How to run it

```python
{program}
```

{opening_note}

{window_note}

## License

None is stated. If the model is yours to share, add a line such as `license: mit` to the block
between the hyphens at the top of this file, and one such as `language: en`.
"""


def text(model, format):
    """Return the model card of a TrainedModel, for a folder in this export format.

    Raises FolioError where the format cannot represent the model.
    """
    equations = architecture(model, format)
    opening = quoted(model.tokenizer.decode(model.opening))
    return _CARD.format(
        tags="\n- conversational" if model.chat else "",
        library=_PROGRAMS[format][0], quoted_name=quoted(str(model.name)), title=_plain(str(model.name)),
        origin=_origin(model), warning=_warning(model),
        figures="\n".join(f"| {name} | {value} |" for name, value in _figures(model, equations)),
        program=program(model, format, "path/to/this/folder"),
        opening_note=_CHAT_NOTE if model.chat else
                     f"A text that begins from nothing begins with {_code(opening)} (as a string of Python): the "
                     "model expects that before its first word. In front of a prompt of your own it is not needed.",
        window_note=_window_note(model))


def program(model, format, folder):
    """Return the lines of Python that run a model exported to this folder, from the beginning of a text or chat."""
    opening = model.tokenizer.decode(model.opening)
    lines = _CHAT_PROGRAMS[format] if model.chat else _PROGRAMS[format][1]
    return lines.format(folder=quoted(folder), opening=quoted(opening))


def quoted(value):
    r"""Return a text in double quotes, in ASCII, as YAML and Python both read it.
    >>> print(quoted('a "b" \\ \n \xe9'))
    "a \"b\" \\ \n \xe9"
    """
    return '"' + "".join(_escaped(c) for c in value) + '"'


def _escaped(c):
    if c in '"\\':
        return "\\" + c
    if c == "\n":
        return "\\n"
    if " " <= c <= "~":
        return c
    number = ord(c)
    # YAML has no pairs of surrogates, as JSON does, but Python's own escapes.
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _plain(name):
    """Return a name on one line of Markdown, in which no character means anything."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+-.!|~&$:@" else c for c in on_one_line(name))


def _code(text):
    """Return text in ASCII as code in Markdown, whatever backticks it has."""
    runs = [0, *(len(run) for run in "".join(c if c == "`" else " " for c in text).split())]
    fence = "`" * (max(runs) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _origin(model):
    """Return the sentence on where a model comes from."""
    contents, start = model.contents, model.contents.get("started_from")
    what = f"This is a language model of {counted(count_parameters(model.net), 'parameter')}."
    if is_imported(contents):
        return f"{what} It was imported into Folio, which has not trained it."
    size = _number(_part(contents.get("learned_from"), "train_bytes"))
    learned = "a text" if size is None else f"a text of {counted(int(size), 'byte')}"
    if not isinstance(start, dict):
        return f"{what} It was trained from scratch with Folio, on {learned}."
    return f"{what} It was fine-tuned with Folio from the model {_plain(str(start.get('name')))}, on {learned}."


def _warning(model):
    if is_imported(model.contents):
        return ""
    return " Its vocabulary has frequent words of that text, and the model may repeat passages of it."


def _figures(model, equations):
    """Yield (name, value) of each row of figures. equations: as `architecture` returns them"""
    contents, params = model.contents, model.params
    yield "parameters", f"{count_parameters(model.net):,}"
    yield "architecture", equations or params.family
    split = f", split pattern {model.tokenizer.pattern}" if model.tokenizer.kind == "bpe" else ""
    yield "vocabulary", f"{counted(model.tokenizer.vocab_size, 'token')} ({model.tokenizer.kind}{split})"
    if model.net.context is not None:
        yield "context", counted(model.net.context, "token")
    if not is_imported(contents):
        yield "training", counted(int(contents["step"]), "step") + _time(_number(contents.get("seconds")))
    if (bits := _number(model.val_bpb)) is not None:
        yield "held-out text", f"{bits:.3f} bits per byte, {bits * math.log(2):.3f} nats per byte"
    if fingerprint := _part(contents.get("learned_from"), "text_fingerprint"):
        yield "fingerprint of the text", _code(quoted(str(fingerprint))[1:-1])
    if start := _part(contents.get("started_from"), "fingerprint"):
        yield "fingerprint of the weights it was fine-tuned from", _code(quoted(str(start))[1:-1])


def _time(seconds):
    if not seconds:
        return ""
    return f" in {seconds / 60:,.1f} minutes" if seconds >= 120 else f" in {seconds:.0f} seconds"


def _window_note(model):
    if model.net.context is None:
        return "The model's context has no end."
    return (f"The model sees {counted(model.net.context, 'token')} at most. Folio moves this window along as a text "
            "grows; other programs stop there, or write worse from there on: keep a prompt and its continuation "
            "within it.")


def _part(value, key):
    """Return a dictionary's value for a key; None where there is no dictionary, as in older weights files."""
    return value.get(key) if isinstance(value, dict) else None


def _number(value):
    """Return a number, or None for what is none, as an older or a foreign weights file may have it."""
    return value if isinstance(value, (int, float)) and abs(value) < 1e18 else None
