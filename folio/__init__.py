"""Folio: a language model of your own text, trained from scratch on the machine you have."""

import os

__version__ = "0.1.0"

# Threads that wait for the next parallel piece of work spin for a moment before they sleep. The runtimes' own moments (5 to 200 ms) take the cores away
# from whatever else runs, and then wait for a thread that those others hold up. Long enough is what lies between two pieces of a step, about 0.2 ms.
# The runtimes read this when torch and numpy are loaded, so it stands in the module that every other one of Folio's imports first.
SPIN_BEFORE_SLEEP = {
    "GOMP_SPINCOUNT": "10000",              # GNU's OpenMP, in torch for Linux: turns of a loop
    "KMP_BLOCKTIME": "1",                   # LLVM's and Intel's, in torch for macOS and Windows: milliseconds
    "OPENBLAS_THREAD_TIMEOUT": "20",        # OpenBLAS, in numpy: a power of two of processor cycles
}
if "OMP_WAIT_POLICY" not in os.environ:     # the user's own wish, which these would override
    for _name, _value in SPIN_BEFORE_SLEEP.items():
        os.environ.setdefault(_name, _value)


def __getattr__(name):
    """`folio.load` arrives when first asked for, so that importing folio never pays for torch."""
    if name == "load":
        from folio.generation.language_model import load
        return load
    raise AttributeError(f"module 'folio' has no attribute {name!r}")


def _begin():
    """What `python -m folio.NAME` lacks is said before that module is looked for; until then Python calls itself -m."""
    import sys
    if getattr(sys, "argv", [])[:1] == ["-m"]:
        from folio.base.startup import require_for_module
        require_for_module()


_begin()
