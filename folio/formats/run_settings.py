"""How the settings of a run differ from the defaults.

A run's files have its settings as they were in effect, not as they were typed. So a value counts as different where
the defaults, given the rest of the run's settings, would have come out as another.
"""

from dataclasses import fields, replace

from folio.base.defaults import for_length, tuning_defaults
from folio.base.fields import field_problems
from Model_Params import (
    FAMILIES,
    LENGTHS,
    OLDER_TEXT,
    ModelParams,
    Params,
    TextParams,
    TrainingParams,
    TuningParams,
)

# What folio/training/settle.py decides by the text and by the machine. No file says whether it did, or a flag.
SETTLED = {"bpe_dropout", "micro_batch_size", "device", "precision", "threads", "compile"}
# What a fine-tuned run has from the weights that it started from.
INHERITED = {field.name for field in fields(ModelParams)} - {"block_size", "dropout", "attention_dropout"}
INHERITED |= {"tokenizer", "vocab_size", "pattern"}
# Of ModelParams, in the order in which they follow from each other; all others follow from these.
_DECIDED_FIRST = (*FAMILIES["folio"], "emb_len", "num_layers", "num_heads")
# How far the number of steps may be from the one that a run by the clock expected when it chose its learning rate.
_UNCERTAIN = 1.3


def read(parts: dict) -> Params:
    """Return the Params in {"text", "model", "training", "tuning"}: {field: value} each; an older file lacks the last.

    Fields that are missing have their defaults, and unknown ones are passed over.
    Raises ValueError where a value is none that the field can have.
    """
    made = {}
    for name, kind in (("text", TextParams), ("model", ModelParams), ("training", TrainingParams),
                       ("tuning", TuningParams)):
        values = parts.get(name, {} if kind is TuningParams else None)
        if not isinstance(values, dict):
            raise ValueError(f"it has no settings of the {name}")
        if kind is TextParams:
            values = OLDER_TEXT | values
        known = {field.name: values[field.name] for field in fields(kind) if field.name in values}
        made[name] = kind(**known)
        if wrong := next(made[name].problems() if kind is ModelParams else field_problems(made[name]), None):
            raise ValueError(wrong.removesuffix("."))
    return Params(**made)


def differing(params: Params, expected_steps=(), *, is_tuned=False, is_imported=False) -> dict:
    """Return {field: value} for the settings of a run that are not the defaults: model, text, tuning, training, length.

    expected_steps: estimates of the number that a run by the clock expected when it began; is_tuned: whether it started
    from other weights; is_imported: whether only the model is its own
    """
    found = _of_model(params.model)
    if not is_imported:
        found |= {name: value for name, value in vars(params.text).items() if value != getattr(TextParams(), name)}
        found |= {name: value for name, value in vars(params.tuning).items() if value != getattr(TuningParams(), name)}
        tuned = tuning_defaults(params.tuning.learns, params.tuning.lora_rank is not None) if is_tuned else {}
        found |= _of_training(replace(TrainingParams(), **tuned), params.training, expected_steps)
    hidden = SETTLED | (INHERITED if is_tuned else set())
    found = {name: value for name, value in found.items() if name not in hidden and value is not None}
    return dict(sorted(found.items(), key=lambda item: item[0] in LENGTHS))


def _of_model(model):
    derived = [field.name for field in fields(model) if field.default is None and field.name != "vocab_size"]
    derived.sort(key=lambda name: (*_DECIDED_FIRST, name).index(name))
    plain = replace(model, **dict.fromkeys(derived))
    different = {field.name for field in fields(model)
                 if field.default is not None and getattr(model, field.name) != field.default}
    for name in derived:
        value = getattr(model, name)
        if value not in (None, getattr(plain.resolved(), name)):
            plain = replace(plain, **{name: value})
            different.add(name)
    return {name: value for name, value in vars(model).items() if name in different}


def _of_training(defaults, training, expected_steps):
    derived = {field.name: getattr(defaults, field.name) for field in fields(training) if field.default is None
               and field.name != "steps"}
    bounds = [vars(replace(training, **derived).resolved(steps)) for steps in _around(expected_steps)]
    found = {}
    for name, value in vars(training).items():
        usual = [each[name] for each in bounds] if name in derived else [getattr(defaults, name)]
        by_length = name in for_length(1) and None not in (value, *usual)
        is_usual = min(usual) <= value <= max(usual) if by_length else value in usual
        if not is_usual:
            found[name] = value
    return found


def _around(estimates):
    """Return the least and the largest number of steps that a run may have expected; None without any estimate."""
    if not estimates:
        return [None]
    return [max(1, round(min(estimates) / _UNCERTAIN)), max(1, round(max(estimates) * _UNCERTAIN))]


def as_flags(values: dict) -> str:
    """Return settings by the names of their flags.
    >>> as_flags({"emb_len": 256, "tied_head": True, "query_key_norm": False, "learning_rate": 0.003})
    'emb-len 256, tied-head, no-query-key-norm, learning-rate 0.003'
    """
    return ", ".join(_as_flag(name.replace("_", "-"), value) for name, value in values.items())


def _as_flag(name, value):
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
