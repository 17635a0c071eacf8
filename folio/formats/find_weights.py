"""Which weights file is meant: by the name of a run, a file's name, a path or a glob, or the newest one.

Nothing here imports torch before a file has to be read.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.base.run_files import listed, meant, one_file, places, run_name

WEIGHTS = "weights-*.pth"


def _say_on_stderr(text):
    print(text, file=sys.stderr)


def newest_weights(home: Home, say: Callable[[str], None] = _say_on_stderr) -> Path:
    """Return the weights file written last; of complete ones, if there are any. Raises FileNotFoundError without any.

    The weights of a run that was stopped before its first validation are not complete; `say` tells when such a file is
    newer than the one returned.
    """
    found = home.newest(WEIGHTS)
    if not found:
        raise FileNotFoundError(f"There are no weights in {home.saved_weights}. Train first: {command('train.py')}")
    newest, *older = found
    if older and _is_complete(newest) is False and (complete := next(filter(_is_complete, older), None)):
        say(f"{newest.name} is newer than {complete.name}, but its run was stopped before it was measured. "
            f"--weights {newest.name} takes it all the same.")
        return complete
    return newest


def _is_complete(path):
    """Return whether a weights file was measured, or comes from another program; None where it cannot be read."""
    from folio.formats import checkpoint  # imports torch, which most calls do not have to wait for
    with suppress(FolioError, OSError):
        contents = checkpoint.load_metadata(path)
        return contents.get("val_bpb") is not None or is_imported(contents)


def is_imported(contents: dict) -> bool:
    """Return whether the model in a weights file was imported: Folio has neither trained nor measured it."""
    return contents.get("training") == {}


def find_weights(home: Home, wanted: str | None) -> Path:
    """Return the path of one weights file.

    wanted: the name of its run, its own name, its path, or a glob that matches no other; None: the newest_weights
    Raises FileNotFoundError, which lists what there is, and FolioError where several files match.
    """
    if wanted is None:
        return newest_weights(home)
    if not wanted:              # as a shell makes of a variable that is not set
        raise FolioError("The name of the weights is empty. Name a run or a file.")
    # What is no ordinary file is explained by whoever opens it.
    found = one_file(home, WEIGHTS, wanted) or next(filter(Path.exists, places(home, WEIGHTS, wanted)), None)
    if found:
        return found
    existing = home.newest(WEIGHTS)
    hint = meant(wanted, [run_name(path, WEIGHTS) for path in existing])
    raise FileNotFoundError(f"There are no weights named {wanted}{hint} "
                            f"{home.saved_weights} has {listed([path.name for path in existing])}.")
