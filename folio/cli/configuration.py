"""Settings files: one JSON object of {field: value}, by the names that the fields and the flags have.

One file serves all three scripts: no name means two things, and each script takes the fields that are its own. All
problems of a file are reported together.
"""

import json
import re
from collections import Counter
from dataclasses import fields
from itertools import islice
from pathlib import Path

from folio.base.errors import FolioError
from folio.base.files import refuse_foreign, replacing
from folio.base.spelling import counted, hint
from Model_Params import SHORT_NAMES, GenerationParams, ModelParams, TextParams, TrainingParams, TuningParams

MOST_PROBLEMS = 10          # of a file that are reported one by one: another program's may have thousands of names
PARTS = TextParams, ModelParams, TrainingParams, TuningParams, GenerationParams
NAMES = {each.name for part in PARTS for each in fields(part)}
GENERATION = {each.name: each for each in fields(GenerationParams)}


def load(path):
    """Read a settings file. -> {field: value}, and a list of sentences about what is wrong with the file

    Whether a value suits its field is not checked: that is what the parameters' own `problems` are for.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")          # editors on Windows write a byte order mark first
    except UnicodeDecodeError as error:
        return {}, [f"{path} is not in UTF-8: its byte {error.start} belongs to no character. "
                    "Save it anew in that encoding."]
    except OSError as error:
        return {}, [f"{path} cannot be read: {error.strerror}. "
                    "It should be a file of settings in JSON, such as --save-config writes."]
    if not text.strip():
        return {}, [f'{path} is empty. It should have settings in JSON, such as {{"num_layers": 4}}.']
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return {}, [f"{path}, line {error.lineno}, column {error.colno}: {_syntax(text, error)}"]
    except (ValueError, RecursionError) as error:
        return {}, [f"{path} cannot be used: {error}."]
    if not isinstance(pairs, _Pairs):
        return {}, [f'{path} should be one object of settings, such as {{"num_layers": 4}}, '
                    f"and begins with {text.strip()[:20]!r}."]
    values = {name: tuple(value) if type(value) is list else value for name, value in pairs if name in NAMES}
    values = _renamed(values)
    problems = _problems(pairs)
    sentences = [f"{path}: {problem}" for problem in islice(problems, MOST_PROBLEMS)]
    if more := sum(1 for _ in problems):
        sentences.append(f"{path}: and so on, {counted(more, 'more mistake')}")
    return values, sentences


def _renamed(values):
    """Return {field: value} with `precision` and `seed` renamed where an older run.py wrote them.

    They were GenerationParams' fields there. Its precision is one that training does not have, and all names beside its
    seed are GenerationParams'.
    >>> _renamed({"tokens": 5, "precision": "int8", "seed": 7})
    {'tokens': 5, 'weight_precision': 'int8', 'sampling_seed': 7}
    >>> _renamed({"tokens": 5, "steps": 100, "seed": 7})
    {'tokens': 5, 'steps': 100, 'seed': 7}
    """
    old = set()
    if values.get("precision") in GENERATION["weight_precision"].metadata["choices"]:
        old.add("precision")
    others = values.keys() - old - {"seed"}
    if old | others and others <= GENERATION.keys():
        old.add("seed")
    return {SHORT_NAMES[name] if name in old and SHORT_NAMES[name] not in values else name: value
            for name, value in values.items()}


def refuse_other(path):
    """Raise FileExistsError if anything but a settings file lies at `path`."""
    refuse_foreign(path, "a file of settings, as --save-config writes", _is_settings)


def _is_settings(content):
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and (not values or not NAMES.isdisjoint(values))


def save(path, values):
    """Write {field: value} to a settings file, whole or not at all.

    None becomes null: what each machine works out for itself. Raises FileExistsError if anything but a settings file
    lies at `path`.
    """
    refuse_other(path)
    with replacing(path) as file:
        file.write((json.dumps(values, ensure_ascii=False, indent=4) + "\n").encode("utf-8"))


class _Pairs(list):
    """A JSON object as it is in the file: [(name, value)] in order, names that come twice included."""


def _problems(pairs):
    """Yield a sentence for every name that comes twice or is none of ours."""
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            yield f"{name} is there {times} times; keep one."
    for name, value in dict(pairs).items():
        if name not in NAMES:
            grouped = "; settings stand side by side, not in groups" if isinstance(value, _Pairs) else ""
            yield f"there is no setting {name}{grouped or hint(name, NAMES)}"


def _syntax(text, error):
    """Return what is wrong where the JSON could not be parsed, in words for somebody who does not know JSON well."""
    before, after = text[:error.pos].rstrip(), text[error.pos:]
    if after.startswith(("//", "/*", "#")):
        return "JSON has no comments; take that one out."
    if before.endswith(",") and after[:1] in ("}", "]") or re.match(r",\s*[}\]]", after):
        return "the last setting has a comma behind it; take it out."
    if after.startswith("'"):
        return 'JSON wants names and words in double quotes, "like this".'
    if word := re.match("True|False|None", after):
        return f"JSON writes {word[0]} as {({'None': 'null'}.get(word[0]) or word[0].lower())}."
    return f"this is not JSON ({error.msg})."


def _refuse_constant(word):
    raise FolioError(f"JSON has no number {word}")
