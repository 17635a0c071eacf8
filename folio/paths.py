"""What is named on the command line to files: files, folders, globs, standard input, and one text that everybody knows."""

import glob
import os
import shutil
import sys
import uuid
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from folio.commands import command
from folio.errors import FolioError
from folio.files import replacing
from folio.home import Home
from folio.spelling import nearest

TINY_SHAKESPEARE = "tinyshakespeare"
TINY_SHAKESPEARE_ADDRESS = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
STANDARD_INPUT = "standard-input-*.txt"                 # in home.tokens; a new name each time, so that a text in use is not written over

OWN = Home(Path(__file__).resolve().parent.parent)      # the project that comes with the scripts


def _where_text_goes():
    return f"Put your text at Train_Data/input.txt, or pass files or folders: {command('init.py', 'PATH')}"


def absolute_paths(names, home):
    """What `names` stand for, as paths that mean the same from any folder and at any later time; Train_Data where there is none.

    A name is a file, a folder, a glob such as "notes/**/*.md", "-" (standard input, which is read now and kept in home.tokens) or
    "tinyshakespeare" (downloaded to home.downloads if it is not there); what really lies there under such a name comes first.
    Raises FileNotFoundError or FolioError where that text cannot be had.
    """
    return [_absolute_path(str(name), home) for name in names] or [home.train_data]


def _absolute_path(name, home):
    if name == "-":
        return _keep_standard_input(home.tokens)
    if Path(name).exists():
        return Path(name).resolve()
    if name == TINY_SHAKESPEARE:
        return _tiny_shakespeare(home.downloads / f"{TINY_SHAKESPEARE}.txt")
    if glob.has_magic(name):
        return Path(os.path.normpath(os.path.join(glob.escape(os.getcwd()), name)))
    return Path(name).resolve()


def supply_text(home, say=print):
    """Give a home whose Train_Data has no text a copy of one that is here already; nothing is downloaded.

    That is tiny shakespeare where init.py has downloaded it, for this home or for the scripts' own, and else the text of the scripts' own: the plays.
    """
    with suppress(FileNotFoundError, ValueError):
        find_files([home.train_data], ignored=[home.tokens, home.downloads])
        return
    downloads = [each.downloads / f"{TINY_SHAKESPEARE}.txt" for each in (home, OWN)]
    source = next((_tiny_shakespeare(path) for path in downloads if path.exists()), OWN.train_data / "input.txt")
    if source.exists():
        with replacing(home.train_data / "input.txt") as file:
            file.write(source.read_bytes())
        say(f"There was no text in {home.train_data}; {source} is copied there.")


def find_files(paths, ignored=()):
    """The files that `paths` (files, folders and globs) name, in sorted order; hidden files and the `ignored` folders are passed over.

    Raises FileNotFoundError for a path that is not there, ValueError where no file is found at all.
    """
    passed_over = {Path(folder).resolve() for folder in ignored}
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            files += _files_below(path, passed_over)
        elif path.exists():
            files.append(path)
        elif glob.has_magic(str(path)):
            files += _matching_files(path, passed_over)
        else:
            raise FileNotFoundError(f"There is no {path}{_nearest_path(path) or '.'} {_where_text_goes()}")
    if not files:
        raise FolioError(f"There is no text in {', '.join(map(str, paths))}. {_where_text_goes()}")
    return files


def _files_below(folder, passed_over):
    inside = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and not _lies_in(passed_over, file)]
    return [folder / file for file in sorted(inside) if not any(part.startswith(".") for part in file.parts)]


def _matching_files(pattern, passed_over):
    """As if a shell had put the matches in its place; but ** matches a folder and what is in it, and no file counts twice."""
    found = set()
    for match in map(Path, glob.glob(str(pattern), recursive=True)):
        if match.is_dir():
            found.update(_files_below(match, passed_over))
        elif not _lies_in(passed_over, match):
            found.add(match)
    if not found:
        raise FileNotFoundError(f"No file matches {pattern}. {_where_text_goes()}")
    return sorted(found)


def _lies_in(passed_over, file):
    """Whether a file is in one of these folders, or among the tokens of any project."""
    return any(folder in passed_over or folder.name == "tokens" and (folder / "corpus.json").exists() for folder in file.resolve().parents)


def _nearest_path(path):
    """The hint for a path that is not there: the name beside it that is most like the first part of it that is missing."""
    missing = next((part for part in [path, *path.parents] if part.parent.is_dir()), path)
    known = [each.name for each in missing.parent.glob("*")]
    return nearest(missing.name, [*known, TINY_SHAKESPEARE] if missing.parent == Path.cwd() else known)


def _keep_standard_input(folder):
    """Write what standard input says to a file: the text is read several times, and train.py may need it again."""
    path = folder / STANDARD_INPUT.replace("*", uuid.uuid4().hex[:8])
    with replacing(path) as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path.resolve()


def _tiny_shakespeare(path):
    """The text of so many lectures at `path`, downloaded the first time, and checked every time."""
    from http.client import HTTPException       # together they take as long to import as a small text to learn
    from urllib.request import urlopen
    by_hand = f"put the file from {TINY_SHAKESPEARE_ADDRESS} at {path}"
    if not path.exists():
        try:
            with urlopen(TINY_SHAKESPEARE_ADDRESS, timeout=30) as response:
                content = response.read()
        except (OSError, HTTPException) as error:
            raise FileNotFoundError(f"{TINY_SHAKESPEARE} cannot be downloaded ({error}); {by_hand}.") from None
        if sha256(content).hexdigest() != TINY_SHAKESPEARE_SHA256:
            raise FolioError(f"What came from the network is not {TINY_SHAKESPEARE} (whose SHA-256 is {TINY_SHAKESPEARE_SHA256}) "
                             f"and was not kept; {by_hand}.")
        with replacing(path) as file:
            file.write(content)
    elif sha256(path.read_bytes()).hexdigest() != TINY_SHAKESPEARE_SHA256:
        raise FolioError(f"{path} is not {TINY_SHAKESPEARE} (whose SHA-256 is {TINY_SHAKESPEARE_SHA256}), or not all of it. "
                         f"Remove it and run this again, or {by_hand}.")
    return path.resolve()
