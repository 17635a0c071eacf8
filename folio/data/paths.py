"""What is named on the command line to files: files, folders, globs, standard input, and one text that everybody knows."""

import glob
import os
import shutil
import stat
import sys
import uuid
from collections import deque
from contextlib import suppress
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import replacing
from folio.base.home import Home
from folio.base.spelling import nearest

TINY_SHAKESPEARE = "tinyshakespeare"
TINY_SHAKESPEARE_ADDRESS = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
STANDARD_INPUT = "standard-input-*.txt"                 # in home.tokens; a new name each time, so that a text in use is not written over

OWN = Home(Path(__file__).resolve().parents[2])      # the project that comes with the scripts


def _where_text_goes():
    return f"Put your text at Train_Data/input.txt, or pass files or folders: {command('init.py', 'PATH')}"


def absolute_paths(names, home):
    """What `names` stand for, as paths that mean the same from any folder and at any later time; Train_Data where there is none.

    A name is a file, a folder, a glob such as "notes/**/*.md", "-" (standard input, which is read now and kept in
    home.tokens; a file of that name is ./-), a pipe with a name, such as /dev/stdin or <(zcat x.gz) of a shell (kept as
    well), or "tinyshakespeare" (downloaded to home.downloads if it is not there). A file that lies there under the name
    of a glob or of that text comes first.
    Raises FileNotFoundError or FolioError where that text cannot be had.
    """
    return [_absolute_path(str(name), home) for name in names] or [home.train_data]


def _absolute_path(name, home):
    if not name:
        raise FolioError(f"A path is empty, as where a variable of the shell has no value. {_where_text_goes()}")
    if name in ("-", "/dev/stdin"):
        return _keep_stream(sys.stdin.buffer, home.tokens)
    if is_pipe(name):
        with open(name, "rb") as stream:
            return _keep_stream(stream, home.tokens)
    if Path(name).exists():
        return _resolved(name)
    if name == TINY_SHAKESPEARE:
        return _tiny_shakespeare(home.downloads / f"{TINY_SHAKESPEARE}.txt")
    if glob.has_magic(name):
        return Path(os.path.normpath(os.path.join(glob.escape(os.getcwd()), name)))
    return _resolved(name)


def is_pipe(path):
    """Whether a path names what can be read only once, from its beginning to its end: a pipe, or a terminal."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) and os.path.realpath(path).startswith(("/dev/pts/", "/dev/tty"))


def _resolved(path):
    """Path.resolve, which some versions of Python let fail where symbolic links lead round in a circle."""
    return Path(os.path.realpath(path))


def supply_text(home, say=print):
    """Give a home whose Train_Data has no text a copy of one that is here already; nothing is downloaded.

    That is tiny shakespeare where init.py has downloaded it, for this home or for the scripts' own, and else the text of the scripts' own: the plays.
    """
    with suppress(FileNotFoundError, FolioError):
        find_files([home.train_data], ignored=[home.tokens, home.downloads])
        return
    downloads = [each.downloads / f"{TINY_SHAKESPEARE}.txt" for each in (home, OWN)]
    source = next((_tiny_shakespeare(path) for path in downloads if path.exists()), OWN.train_data / "input.txt")
    if source.exists():
        with replacing(home.train_data / "input.txt") as file:
            file.write(source.read_bytes())
        say(f"There was no text in {home.train_data}; {source} is copied there.")


def find_files(paths, ignored=()):
    """The files that `paths` (files, folders and globs) name, in sorted order, each once, however many names it has.

    Symbolic links to files and folders are followed; hidden files and the `ignored` folders are passed over.
    Raises FileNotFoundError for a path that is not there, FolioError where no file is found at all.
    """
    passed_over = set(map(_resolved, ignored))
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            files += _files_below(path, passed_over)
        elif path.exists():
            files.append(path)
        elif os.path.islink(path):
            raise FileNotFoundError(f"{path} is a symbolic link to {os.readlink(path)}, which leads to no file. "
                                    + _where_text_goes())
        elif glob.has_magic(str(path)):
            files += _matching_files(path, passed_over)
        else:
            raise FileNotFoundError(f"There is no {path}{nearest_path(path, [TINY_SHAKESPEARE]) or '.'} "
                                    f"{_where_text_goes()}")
    if not files:
        raise FolioError(f"There is no text in {', '.join(map(str, paths))}. {_where_text_goes()}")
    return _each_once(files)


def _each_once(files):
    """Files without those that came before under another name."""
    found = {}
    for file in files:
        found.setdefault(_resolved(file), file)
    return list(found.values())


def _files_below(folder, passed_over):
    shown = (folder / file for file in _walk(folder) if not _is_hidden(file))
    return sorted(file for file in shown if not _lies_in(passed_over, file))


def _is_hidden(path):
    return any(part.startswith(".") for part in path.parts)


def _walk(folder):
    """The files below a folder, as paths from there, through symbolic links as well.

    Every folder and file comes once, by its own name rather than by that of a link.
    """
    seen, links, files = set(), [], []
    waiting = deque([Path()])                               # folders; those that are reached through a link come last
    while waiting:
        inside = waiting.popleft()
        if _resolved(folder / inside) in seen:
            continue
        seen.add(_resolved(folder / inside))
        for name in sorted(_names_in(folder / inside)):
            path = folder / inside / name
            if path.is_dir():
                (waiting.append if path.is_symlink() else waiting.appendleft)(inside / name)
            elif path.is_file():
                (links if path.is_symlink() else files).append(path)
    return [file.relative_to(folder) for file in _each_once([*files, *links])]


def _names_in(folder):
    """What a folder has; nothing, as with glob, where that must not be seen."""
    try:
        return os.listdir(folder)
    except PermissionError:
        return []


def _matching_files(pattern, passed_over):
    """As if a shell had put the matches in its place; but ** matches a folder and what is in it, and no file counts twice."""
    found = set()
    for match in _matches(pattern):
        if match.is_dir():
            found.update(_files_below(match, passed_over))
        elif match.is_file() and not _lies_in(passed_over, match):
            found.add(match)
    if not found:
        raise FileNotFoundError(f"No file matches {pattern}. {_where_text_goes()}")
    return sorted(_each_once(sorted(found, key=lambda file: (file.is_symlink(), file))))


def _matches(pattern):
    """What a glob matches; below its first ** that is files as _walk finds them: glob itself goes round where links do."""
    if "**" not in pattern.parts:
        return map(Path, glob.glob(str(pattern)))
    first = pattern.parts.index("**")
    folders = map(Path, glob.glob(str(Path(*pattern.parts[:first]))))
    rest = pattern.parts[first:]
    return [folder / file for folder in folders for file in _walk(folder) if _is_below(file.parts, rest)]


def _is_below(names, patterns):
    """Whether a file matches the parts of a glob, or lies in a folder that does; what is hidden has to be asked for.
    >>> _is_below(("a", "b", "c.md"), ("**", "*.md")), _is_below(("a", "b", "c.md"), ("**", "b"))
    (True, True)
    >>> _is_below((".a", "c.md"), ("**", "*.md"))
    False
    """
    if not patterns:
        return not any(name.startswith(".") for name in names)
    if patterns[0] == "**" and _is_below(names, patterns[1:]):
        return True
    if not names or names[0].startswith(".") and not patterns[0].startswith("."):
        return False
    if patterns[0] == "**":
        return _is_below(names[1:], patterns)
    return fnmatchcase(os.path.normcase(names[0]), os.path.normcase(patterns[0])) and _is_below(names[1:], patterns[1:])


def _lies_in(passed_over, file):
    """Whether a file is in one of these folders, or among the tokens of any project."""
    return any(folder in passed_over or folder.name == "tokens" and (folder / "corpus.json").exists() for folder in _resolved(file).parents)


def nearest_path(path, here=()):
    """The hint for a path that is not there: the name beside it that is most like the first part of it that is missing.

    here: further names that the current folder has
    """
    missing = next((part for part in [path, *path.parents] if part.parent.is_dir()), path)
    known = [each.name for each in missing.parent.glob("*")]
    return nearest(missing.name, [*known, *here] if missing.parent == Path.cwd() else known)


def _keep_stream(stream, folder):
    """Write what standard input or a pipe says to a file: it is read several times, and train.py may need it again."""
    path = folder / STANDARD_INPUT.replace("*", uuid.uuid4().hex[:8])
    with replacing(path) as file:
        shutil.copyfileobj(stream, file)
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
