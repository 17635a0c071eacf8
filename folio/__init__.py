"""Folio: a language model of your own text, trained from scratch on the machine you have."""

import os

__version__ = "0.1.0"

# How long threads that wait for the next parallel task spin before they sleep. The runtimes' own defaults (5 to 200 ms)
# take the cores away from whatever else runs, and then wait for a thread that those other programs delay. About 0.2 ms,
# the gap between two parallel tasks of a training step, is enough. The runtimes read these variables when torch and
# numpy are loaded, so they are set here: every import of a module of Folio's runs this file first.
SPIN_BEFORE_SLEEP = {
    "GOMP_SPINCOUNT": "10000",              # GNU's OpenMP, in torch for Linux: turns of a loop
    "KMP_BLOCKTIME": "1",                   # LLVM's and Intel's, in torch for macOS and Windows: milliseconds
    "OPENBLAS_THREAD_TIMEOUT": "20",        # OpenBLAS, in numpy: a power of two of processor cycles
}
if "OMP_WAIT_POLICY" not in os.environ:     # the user's own choice, which these would override
    for _name, _value in SPIN_BEFORE_SLEEP.items():
        os.environ.setdefault(_name, _value)


def __getattr__(name):
    """Import `folio.load` on first use, so that importing folio never pays for torch."""
    if name == "load":
        from folio.generation.language_model import load
        return load
    raise AttributeError(f"module 'folio' has no attribute {name!r}")


def _check_module_run():
    """Check what `python -m folio.NAME` needs before Python looks for that module; until then sys.argv[0] is "-m"."""
    import sys
    if getattr(sys, "argv", [])[:1] == ["-m"]:
        from folio.base.startup import require_for_module
        require_for_module()


_check_module_run()
