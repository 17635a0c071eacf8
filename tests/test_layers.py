"""The order of the packages: a package imports only those that it may, without cycles inside it, and torch comes only
where it is needed.
"""

import ast

import pytest

from conftest import ROOT, run_python

# What each package of folio/, each script at the top and each command in folio/ may import,
# from the bottom up.
TOP_LEVEL = {"Model_Params", "tokenizer", "Model"}
MAY_IMPORT = {
    "folio": set(),                         # folio/__init__.py, beside the lazy folio.load
    "base": set(),
    "kernels": set(),
    "Model_Params": {"base"},
    "tokenizer": {"base", "kernels"},
    "Model": {"base", "kernels"},
    "chat": {"base", "tokenizer"},
    "readers": {"base", "chat", "Model_Params", "tokenizer"},
    "data": {"base", "kernels", "chat", "readers"} | TOP_LEVEL,
    "networks": {"base"} | TOP_LEVEL,
    "evaluation": {"base", "kernels", "chat", "readers", "data"} | TOP_LEVEL,
    "formats": {"base", "chat", "networks"} | TOP_LEVEL,
    "generation": {"base", "kernels", "chat", "formats", "evaluation"} | TOP_LEVEL,
    "training": {"base", "kernels", "chat", "data", "networks", "evaluation", "formats", "generation"} | TOP_LEVEL,
    "cli": {"base", "chat"} | TOP_LEVEL,
    "pictures": {"base", "formats.run_log"},
    "server": {"base", "kernels", "chat", "readers", "data", "evaluation", "formats", "generation"} | TOP_LEVEL,
}
EVERYTHING = {*MAY_IMPORT}
COMMANDS = EVERYTHING - {"training"}        # folio/NAME.py, init.py and run.py; train.py alone reaches training


FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
         for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("folio/**/*.py")])}


def imports_of(source, module="x", is_package=False):
    """The modules that the import statements of a source name, wherever in it they stand: {(full name, at module
    level)}.
    """
    tree = ast.parse(source)
    inside = {id(node) for function in ast.walk(tree)
              if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
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
    """The module of ours that an imported name is or comes from, or None: "folio.base.files.replacing" ->
    "folio.base.files".
    """
    if name == "folio.load":
        return "folio.generation.language_model"           # folio/__init__.py hands it out
    parts = name.split(".")
    return next((module for end in range(len(parts), 0, -1) if (module := ".".join(parts[:end])) in FILES), None)


def part_of(module):
    """The package that a module of folio/ lies in; a script's or command's own name; "folio" for folio/__init__.py.
    >>> part_of("folio.base.files"), part_of("folio.plot"), part_of("train"), part_of("folio")
    ('base', 'plot', 'train', 'folio')
    """
    return module.split(".")[1] if module.startswith("folio.") else module


def allowed(module):
    """The packages and files that a module may import."""
    part = part_of(module)
    return MAY_IMPORT.get(part, EVERYTHING if part == "train" else COMMANDS)


def wrong_imports(module, source, is_package=False):
    """What a module imports and may not."""
    for name, _ in sorted(imports_of(source, module, is_package)):
        imported = ours(name)
        if imported is None or imported == "folio" or part_of(imported) == part_of(module):
            continue
        if part_of(imported) not in allowed(module) and imported.removeprefix("folio.") not in allowed(module) and \
                not (is_command(module) and is_command(imported)):
            yield imported


def is_command(module):
    """Whether people run it: a script or python -m folio.NAME. These may use each other."""
    return part_of(module) not in MAY_IMPORT


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_its_package_may(module):
    source = FILES[module].read_text(encoding="utf-8")
    if module == "folio":
        source = source.replace("from folio.generation.language_model import load",
                                "").replace("from folio.base.startup import require_for_module", "")
    assert list(wrong_imports(module, source, FILES[module].name == "__init__.py")) == []


def test_the_packages_stand_in_an_order():
    """No package reaches itself through what it may import."""
    placed = set()
    while ready := {part for part, parts in MAY_IMPORT.items() if part not in placed
                    and {each for each in parts if "." not in each} <= placed}:
        placed |= ready
    assert placed == set(MAY_IMPORT)


def test_no_modules_of_a_package_import_each_other_in_a_circle():
    imported = {module: {ours(name)
                         for name, _ in imports_of(path.read_text(encoding="utf-8"), module,
                                                   path.name == "__init__.py")} - {None, module}
                for module, path in FILES.items() if module != "folio"}
    placed = {"folio"}
    while ready := {module for module, modules in imported.items() if module not in placed and modules <= placed}:
        placed |= ready
    assert set(imported) - placed == set()


@pytest.mark.parametrize("module, source, wrong", [
    ("folio.data.sources", "from folio.training import runs", ["folio.training.runs"]),
    ("folio.data.sources", "def f():\n    from folio.formats import run_log", ["folio.formats.run_log"]),
    ("folio.data.sources", "from ..cli import screen", ["folio.cli.screen"]),
    ("folio.data.sources", "from . import corpus", []),
    ("folio.networks.build", "from folio import load", ["folio.generation.language_model"]),
    ("folio.base.files", "import Model_Params", ["Model_Params"]),
    ("folio.pictures.loss", "from folio.formats import run_log, checkpoint", ["folio.formats.checkpoint"]),
    ("tokenizer", "from Model import Transformer", ["Model"]),
    ("Model", "import run", ["run"]),
    ("folio.evaluate", "from folio.training import plan", ["folio.training.plan"]),
    ("folio.evaluate", "from folio.tokens import main", []),
    ("train", "from folio.training import runs\nimport init", []),
    ("folio.cli.screen", "from folio import plot", ["folio.plot"]),
])
def test_the_check_sees_every_form_of_import(module, source, wrong):
    assert list(wrong_imports(module, source)) == wrong


def test_only_what_people_run_lies_directly_in_folio():
    assert [path.name for path in (ROOT / "folio").glob("*.py")
            if path.name not in ("__init__.py", "__main__.py")
            and "front_door(" not in path.read_text(encoding="utf-8")] == []


def test_folio_itself_imports_nothing_before_it_is_asked():
    source = FILES["folio"].read_text(encoding="utf-8")
    # which Python has loaded
    assert [name for name, at_module_level in imports_of(source, "folio", is_package=True) if at_module_level] == ["os"]


@pytest.mark.parametrize("module", [
    "Model_Params", "tokenizer", "folio", "folio.data.sources", "folio.data.corpus", "folio.formats.tokenizers",
    "folio.convert", "folio.tokens",
    "folio.runs", "folio.plot", "folio.report", "folio.evaluate", "folio.evaluation.suffixes", "init",
    *(module for module in FILES if module.startswith("folio.cli."))])
def test_text_and_parameters_do_without_torch(module):
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        imported = {name
                    for name, at_module_level in imports_of(FILES[name].read_text(encoding="utf-8"), name,
                                                            name == "folio") if at_module_level}
        assert not {each for each in imported if each.split(".")[0] in ("torch", "filelock")}, name
        waiting += {ours(each) for each in imported} - {None} - seen
    done = run_python("-c",
                      "import importlib, sys; importlib.import_module(sys.argv[1]); print('torch' in sys.modules)",
                      module)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_importing_a_module_prints_nothing():
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = run_python("-c", code, *FILES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
