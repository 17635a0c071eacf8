"""The house has floors: a module imports only from what stands above it, importing does nothing, and torch comes only where it is needed."""

import ast

import pytest
from conftest import ROOT, run_python

# From top to bottom. A module imports only from earlier layers, or from what stands before it in its own; leaves import no leaf.
# What stands here and does not exist yet is no mistake; what exists and does not stand here has no place in the house yet.
LAYERS = [
    ["folio.commands", "folio.startup", "folio.errors", "folio.files", "folio.splitting", "folio.kernels", "Model_Params", "tokenizer", "Model"],
    ["home", "spelling", "parallel", "hardware", "lstm", "sampling", "stopping", "pace", "schedules", "optimizers", "run_log", "tensorboard", "suffixes", "torch_file"],
    ["batches", "networks", "streams", "checkpoint", "paths", "sources", "corpus", "interchange"],
    ["numpy_decoder", "healing", "decoder", "beam", "bits_per_byte", "attention_weights", "plan", "fastest", "distributed"],
    ["training", "runs", "language_model"],
    ["lines", "terminal", "keyboard", "configuration", "command_line", "convert", "tokens", "pictures", "plot", "evaluate", "conversation"],
    ["init", "train", "run"],
]
LEAVES = 1
TOP = {"Model_Params", "tokenizer", "Model", "init", "train", "run"}        # the others lie in folio/
PLACES = {name if name in TOP or "." in name else f"folio.{name}": (layer, place)
          for layer, names in enumerate(LAYERS) for place, name in enumerate(names)}

FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
         for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("folio/**/*.py")])}


def place_of(module):
    """(layer, place) of a module; what lies in a sub-folder has the place of its own name, or else that of the folder."""
    parts = module.split(".")
    if parts[0] != "folio":
        return PLACES.get(module)
    return next((PLACES[f"folio.{part}"] for part in reversed(parts[1:]) if f"folio.{part}" in PLACES), None)


def imports_of(source, module="x", is_package=False):
    """The modules that the import statements of a source name, wherever in it they stand: {(full name, at module level)}."""
    tree = ast.parse(source)
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
              for node in ast.walk(function)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[:len(module.split(".")) + is_package - node.level] if node.level else []
            names = [".".join([*package, *([node.module] if node.module else []), alias.name]) for alias in node.names]
        else:
            continue
        found |= {(name, id(node) not in inside) for name in names}
    return found


def ours(name):
    """The module of ours that an imported name is or comes from, or None: "folio.files.replacing" -> "folio.files"."""
    if name == "folio.load":
        return "folio.language_model"           # folio/__init__.py hands it out
    parts = name.split(".")
    return next((module for end in range(len(parts), 0, -1) if (module := ".".join(parts[:end])) in FILES or module in PLACES), None)


def wrong_imports(module, source, is_package=False):
    """What a module imports from its own floor or from below."""
    layer, place = place_of(module)
    for name, _ in sorted(imports_of(source, module, is_package)):
        imported = ours(name)
        if imported is None or imported == "folio" or imported == module:
            continue
        if place_of(imported) is None or place_of(imported) > (layer, place) or layer == LEAVES == place_of(imported)[0]:
            yield imported


@pytest.mark.parametrize("module", [name for name in FILES if name != "folio" and place_of(name)])
def test_a_module_imports_only_from_above(module):
    assert list(wrong_imports(module, FILES[module].read_text(encoding="utf-8"), FILES[module].name == "__init__.py")) == []


def test_every_module_has_a_place_in_the_house():
    assert [name for name in FILES if name != "folio" and not place_of(name)] == []


def test_folio_itself_imports_nothing_before_it_is_asked():
    source = FILES["folio"].read_text(encoding="utf-8")
    assert [name for name, at_module_level in imports_of(source, "folio", is_package=True) if at_module_level] == ["os"]          # which Python has loaded


@pytest.mark.parametrize("module, source, wrong", [
    ("folio.sources", "from folio.corpus import find", ["folio.corpus"]),
    ("folio.sources", "def f():\n    from folio import corpus", ["folio.corpus"]),
    ("folio.sources", "from . import corpus", ["folio.corpus"]),
    ("folio.sources", "from .training import step", ["folio.training"]),
    ("folio.training", "from folio import load", ["folio.language_model"]),
    ("folio.text.sources", "from ..training import step", ["folio.training"]),
    ("folio.training.step", "import folio.command_line as line", ["folio.command_line"]),
    ("folio.schedules", "from folio.home import Home", ["folio.home"]),
    ("tokenizer", "from Model import Transformer", ["Model"]),
    ("Model", "import run", ["run"]),
    ("Model_Params", "import tokenizer, Model", ["Model", "tokenizer"]),
    ("train", "import init", []),
    ("folio.corpus", "import numpy\nfrom folio.sources import Documents\nfrom tokenizer import load\nfrom folio.files import replacing", []),
])
def test_the_check_sees_every_form_of_import(module, source, wrong):
    assert list(wrong_imports(module, source)) == wrong


@pytest.mark.parametrize("module", ["Model_Params", "tokenizer", "folio", "folio.sources", "folio.corpus", "folio.configuration", "folio.command_line",
                                    "folio.interchange", "folio.convert", "folio.tokens", "folio.plot", "folio.evaluate",
                                    "folio.suffixes", "folio.keyboard", "folio.conversation", "init"])
def test_text_and_parameters_do_without_torch(module):
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        imported = {name for name, at_module_level in imports_of(FILES[name].read_text(encoding="utf-8"), name, name == "folio") if at_module_level}
        assert not {each for each in imported if each.split(".")[0] in ("torch", "filelock")}, name
        waiting += {ours(each) for each in imported} - {None} - seen
    done = run_python("-c", "import importlib, sys; importlib.import_module(sys.argv[1]); print('torch' in sys.modules)", module)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_importing_a_module_prints_nothing():
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = run_python("-c", code, *FILES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
