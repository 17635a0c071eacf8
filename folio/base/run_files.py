"""What a word on the command line means among the files of runs: a run's name, a file's name, a path, or a glob."""

from fnmatch import fnmatch
from glob import glob
from pathlib import Path

from folio.base.errors import FolioError
from folio.base.home import Home
from folio.base.spelling import nearest

LISTED = 10         # names in an error message


def run_name(path: Path, pattern: str) -> str:
    """Return the name of the run that a file belongs to; that of another file is its name without the suffix.

    pattern: of the names of such files
    >>> run_name(Path("Saved_Weights/weights-night.pth"), "weights-*.pth"), run_name(Path("gift.pth"), "weights-*.pth")
    ('night', 'gift')
    """
    prefix, _, suffix = pattern.partition("*")
    return path.name.removesuffix(suffix).removeprefix(prefix)


def places(home: Home, pattern: str, word: str) -> list[Path]:
    """Return the paths that a word means if it is no glob, the one that counts first: run, path, file's name."""
    return [home.saved_weights / pattern.replace("*", word), Path(word), home.saved_weights / word]


def files_of_runs(home: Home, pattern: str, word: str) -> list[Path]:
    """Return the ordinary files that a word means, newest first.

    A file that is named exactly comes before what the word matches as a glob: of all names in Saved_Weights, or else of
    paths. No shell needs to have expanded it.
    pattern: of the names of such files in Saved_Weights, as in "weights-*.pth"
    """
    if exact := next(filter(Path.is_file, places(home, pattern, word)), None):
        return [exact]
    if found := [path for path in home.newest(pattern) if means(word, path, pattern)]:
        return found
    suffix = pattern.partition("*")[2]
    paths = [path for path in map(Path, glob(word)) if path.is_file() and path.name.endswith(suffix)]
    paths = [path for path in paths if fnmatch(path.name, pattern)] or paths
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def one_file(home: Home, pattern: str, word: str) -> Path | None:
    """Return the ordinary file that a word means, or None. Raises FolioError where a glob matches several."""
    found = files_of_runs(home, pattern, word)
    if len(found) > 1:
        raise FolioError(f"{word} matches {len(found)} files, and one is wanted. Newest first they are: "
                         f"{listed([path.name for path in found])}. Name one of them.")
    return next(iter(found), None)


def means(word: str, path: Path, pattern: str) -> bool:
    """Return whether a word matches the name of a run's file, or of the run, as a glob."""
    return fnmatch(path.name, word) or fnmatch(run_name(path, pattern), word)


def listed(names: list[str]) -> str:
    """Return the first names of a list, for a sentence.
    >>> listed(["night", "day"]), listed([])
    ('night, day', 'nothing')
    """
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "nothing") + more


def meant(word: str, names: list[str]) -> str:
    """Return the end of a sentence on an unknown word: "; did you mean night?", or a full stop where none is near."""
    return nearest(word, names) or "."
