"""The check of Python and packages that comes before any other import, and the list of what can be run.

Python 3.7 and newer must be able to read this file and those it imports: no newer syntax here.
"""

import os
import sys
from importlib.util import find_spec

from folio.base.commands import quoted

OLDEST_PYTHON = (3, 11)
PACKAGES = ("torch", "numpy", "regex", "tqdm")          # requirements.txt
TO_RUN = {
    "init.py": "learn a tokenizer from your text and encode the text with it",
    "train.py": "train a model on it",
    "run.py": "complete a text with the model",
    "-m folio.tokens": "show how the tokenizer sees a text",
    "-m folio.evaluate": "measure how good a model is",
    "-m folio.runs": "list the runs: settings, quality, time, what is unfinished",
    "-m folio.report": "write a report on runs as one HTML file: curves, samples, surprise, copying",
    "-m folio.serve": "serve models over HTTP: a page to write with, an API in OpenAI's form",
    "-m folio.plot": "draw what a run did, and what a model has inside",
    "-m folio.convert": "give a model to other programs, or take one of theirs",
}
_ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def require(script):
    """Exit with one message if Python is too old or a package is missing; script: what was run, as TO_RUN names it."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if sys.version_info < OLDEST_PYTHON:
        found = "This is Python {}.{}, and Folio needs {}.{} or newer".format(*sys.version_info[:2], *OLDEST_PYTHON)
    elif missing:
        found = "This Python lacks what Folio needs: {}".format(", ".join(missing))
    else:
        return
    sys.exit("{}: {} (it is {}). {}".format(script.split()[-1], found, sys.executable, _remedy(script)))


def list_commands(mistaken):
    """Exit with a list of what can be run; mistaken: the command that was run instead."""
    width = max(map(len, TO_RUN))
    rows = ["  python {:<{}}   {}".format(script, width, about) for script, about in TO_RUN.items()]
    sys.exit("\n".join(["{} does nothing by itself. What there is to run (each has --help):".format(mistaken)] + rows))


def require_for_module():
    """Do for `python -m folio.NAME` what `require` does for a script, before Python looks for the module.

    Exit with a list of what can be run if the module is a part that does nothing by itself.
    """
    words = getattr(sys, "orig_argv", [])[1:]
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    script = "-m " + module if module else "-m folio"
    if script in TO_RUN or sys.version_info < OLDEST_PYTHON:
        require(script)
    elif module.startswith("folio.") and _exists(module):
        list_commands("python " + script)


def _exists(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:             # as for folio.plot.py, where Python's own message is better
        return False


def _remedy(script):
    """Return what to do: use the environment that is there already, or install what is missing."""
    folder = os.path.join(".venv", "Scripts" if os.name == "nt" else "bin")
    own = os.path.join(_ROOT, folder, "python.exe" if os.name == "nt" else "python")
    if os.path.exists(own) and os.path.abspath(sys.prefix) != os.path.join(_ROOT, ".venv"):
        return "Folio's own environment is there, only not active: {} {}".format(os.path.join(folder, "python"), script)
    if sys.version_info < OLDEST_PYTHON:
        return "Install a newer Python, then do what README.md says under Start."
    # PowerShell takes what is in quotes for a string, unless & stands before it.
    call = "& " if os.name == "nt" and " " in sys.executable else ""
    return "Install what is missing: {}{} -m pip install -r requirements.txt".format(call, quoted(sys.executable))
