"""How the scripts read each kind of file, as calls: what comes of a file, as {name: value} that can be compared.

This is the one module of the campaigns that knows where the readers are.
"""

from dataclasses import fields, replace

import tokenizer as tokenizers
from folio.base.errors import FolioError
from folio.cli import configuration
from folio.cli.keyboard import History
from folio.data import corpus
from folio.formats import checkpoint, run_log
from folio.generation import language_model
from folio.training import runs
from Model_Params import ModelParams, Params, TextParams, TrainingParams


def weights(home):
    """As run.py and --start-from do."""
    model = language_model.load(home.weights("k"))
    return {"name": model.name, "weights": checkpoint.checksum(model.net.state_dict()), "params": model.net.params,
            "tokenizer": model.tokenizer.fingerprint, "opening": model.opening, "step": model.step,
            "val_bpb": model.val_bpb, "learned_from": model.learned_from}


def resume(home):
    """As train.py --resume does."""
    contents, params = runs._load_resume(home, "k")
    return {"contents": checkpoint.checksum(contents), "params": params}


def text(home):
    """As train.py does: the tokenizer, and the tokens of the text.

    Less the vocab_size that was asked for, which nobody knows where the tokens had to be made again.
    """
    tokenizer, made = corpus.open_corpus(home, say=lambda words: None)
    values = {each.name: getattr(made, each.name) for each in fields(made)}
    return values | {"tokenizer": tokenizer.fingerprint, "dtype": made.tokens.dtype, "tokens": made.tokens.tobytes(),
                     "text": replace(made.text, vocab_size=None)}


def tokenizer(home):
    """As every script does."""
    loaded = tokenizers.load(home.tokenizer)
    return {"fingerprint": loaded.fingerprint, "names": loaded.names()}


def log(home):
    """As train.py --resume and plot do. A report that is left has to be a dictionary with a step."""
    reports = run_log.read(home.log("k"))
    kept = run_log.RunLog(home.log("k")).cut_back(8)
    if not all(isinstance(report, dict) and type(report["step"]) is int for report in reports):
        raise AssertionError("a report is none")
    if kept != [report for report in reports if report["step"] <= 8]:
        raise AssertionError("a resumed run would go on with other reports than those up to its step")


def settings(home):
    """As --config does. It is a person's file: whatever it says counts, if its fields can be what it says."""
    values, problems = configuration.load(home.folder / "settings.json")
    for part in (TextParams, ModelParams, TrainingParams):
        own = {name: value for name, value in values.items() if name in part.__dataclass_fields__}
        problems += part(**own).problems()
    if problems:
        raise FolioError("\n".join(problems))


def history(home):
    """As a conversation does."""
    entries = History(home.history).entries
    if not all(isinstance(entry, str) for entry in entries):
        raise AssertionError("the history has an entry that is no text")


def write_settings(home):
    """A file such as --save-config writes."""
    configuration.save(home.folder / "settings.json", Params().values())


def write_history(home):
    """A file such as conversations leave."""
    told = History(home.history)
    for entry in ("MERRAN:", "/top", "The sea\nof stars", "naïve 中 é"):
        told.add(entry)
