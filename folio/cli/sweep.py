"""--sweep on a command line: which settings, which values, the command line of each run, and the table at the end."""

import itertools
import re
from dataclasses import fields

from folio.base.fields import value_type
from folio.base.lines import columns, table
from folio.base.spelling import hint
from Model_Params import ModelParams, TrainingParams

KNOWN = {each.name: each for part in (TrainingParams, ModelParams) for each in fields(part)
         if each.name != "vocab_size"}          # which the home's tokenizer decides
TRUTH = {"true": True, "false": False}
LEFT_OUT = ("tokens/s", "minutes", "steps")     # columns of the table, in this order, where a terminal is too narrow
LONGEST_NAME = 200          # characters of a run's name: file systems take 255 bytes with what Folio adds


def combinations(parser, sweep, prefix):
    """Return {name of a run: {field: value}} for every combination of values; those of the last field change fastest.

    sweep: the words of --sweep; prefix: with which the names begin. Exits as `parser` does where something is wrong.
    """
    values, found = _values(parser, sweep), {}
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination))
        name = "-".join([prefix, *(f"{field}-{value}" for field, value in chosen.items())])
        if len(name) > LONGEST_NAME or not re.fullmatch(r"\w[\w.+-]*", name):
            parser.error(f"a run cannot be called {name}: sweep fewer settings, or values of letters, digits and . _ -")
        found[name] = chosen
    return found


def command_line(words, combination):
    """Return the command line of one run of a sweep, without --name and --home. words: the sweep's own"""
    return [*without_flags(words, ("--sweep", "--name", "--home")),
            *(_flag(field, value) for field, value in combination.items())]


def lines_of(runs, swept, width):
    """Return the lines of a table of runs: what each was given, and what it has reached; LEFT_OUT where it is narrow.

    runs: folio.formats.run_list.Run, in the order of the table; swept: {name: {field: value}}
    """
    names = list(dict.fromkeys(name for combination in swept.values() for name in combination))
    table_of = {name: [str(swept[run.name][name]) for run in runs] for name in names} | {
        **({"nats/pair": [_shown(run.nats_per_pair, ".4f") for run in runs]}
           if any(run.nats_per_pair is not None for run in runs) else {}),
        "nats/byte": [_shown(run.nats_per_byte, ".4f") for run in runs],
        "steps": [_shown(run.steps, ",d") for run in runs],
        "minutes": [_shown(run.minutes, ",.1f") for run in runs],
        "tokens/s": [_shown(run.tokens_per_second, ",.0f") for run in runs],
        "state": [run.state for run in runs]}
    for left_out in (None, *LEFT_OUT):
        table_of.pop(left_out, None)
        rows = [list(table_of), *zip(*table_of.values())]
        lines = table(rows, [*">" * (len(table_of) - 1), "<"], width)
        if max(map(columns, lines)) <= width:
            break
    return lines


def _shown(number, form):
    return "" if number is None else format(number, form)


def without_flags(words, flags):
    """Return the words of a command line without these flags and their values.
    >>> without_flags(["--sweep", "a=1", "--steps", "5", "--name=x"], ("--sweep", "--name"))
    ['--steps', '5']
    """
    left, words = [], iter(words)
    for word in words:
        if word in flags:
            next(words, None)
        elif word.partition("=")[0] not in flags:
            left.append(word)
    return left


def _values(parser, sweep):
    """Return {field: values, of the field's type}."""
    found = {}
    for word in sweep:
        name, _, values = word.partition("=")
        name, values = name.strip().replace("-", "_"), [value.strip() for value in values.split(",")]
        if name not in KNOWN:
            parser.error(f"--sweep {word}: there is no setting {name}{hint(name, KNOWN)}")
        if name in found or "" in values:
            parser.error(f"--sweep {word}: it takes a setting once, with its values, as in learning_rate=1e-3,3e-3")
        kind = value_type(KNOWN[name])
        try:
            found[name] = list(dict.fromkeys(TRUTH[value.lower()] if kind is bool else kind(value) for value in values))
        except (ValueError, KeyError):
            wanted = {int: "whole numbers", float: "numbers", bool: "true and false"}[kind]
            parser.error(f"--sweep {word}: {name} takes {wanted}")
    return found


def _flag(field, value):
    name = field.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"
