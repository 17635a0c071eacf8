"""Names on the command line to files: files, folders, globs, standard input, and tiny shakespeare by its name."""

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
from folio.data.folder_report import FolderReport, LeftOut, why_skipped

TINY_SHAKESPEARE = "tinyshakespeare"
TINY_SHAKESPEARE_ADDRESS = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
STANDARD_INPUT = "standard-input-*.txt"     # in home.tokens; a new name each time, so no text in use is replaced

OWN = Home(Path(__file__).resolve().parents[2])         # the project that comes with the scripts


def _where_text_goes():
    """Return the advice for a text that is missing."""
    return f"Put your text at Train_Data/input.txt, or pass files or folders: {command('init.py', 'PATH')}"


def absolute_paths(names, home):
    """Return absolute paths for `names`, valid from any folder and at any later time; [Train_Data] if there are none.

    A name is one of these; a file whose name looks like a glob or like "tinyshakespeare" is taken as the file:
    - a file, a folder, or a glob such as "notes/**/*.md";
    - "-" or a named pipe, such as /dev/stdin or <(zcat x.gz) of a shell: it is read now and copied into home.tokens
      (a file with the name - is ./-);
    - "tinyshakespeare": it is downloaded to home.downloads if it is not there.

    Raises FolioError for an empty name, FileNotFoundError or FolioError if tiny shakespeare cannot be downloaded.
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
    """Whether a path names something that can be read only once: a pipe or a terminal."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) and os.path.realpath(path).startswith(("/dev/pts/", "/dev/tty"))


def _resolved(path):
    """Return Path.resolve(), which in some versions of Python fails for circular symbolic links."""
    return Path(os.path.realpath(path))


def supply_text(home, say=print):
    """Copy a text into Train_Data of a home that has none. Nothing is downloaded.

    The text is tiny shakespeare if init.py has downloaded it, for this home or for the project that comes with the
    scripts. Otherwise it is the text of that project: the plays.
    """
    with suppress(FileNotFoundError, FolioError):
        find_files([home.train_data], ignored=[home.tokens, home.downloads, home.preferences])
        return
    downloads = [project.downloads / f"{TINY_SHAKESPEARE}.txt" for project in (home, OWN)]
    source = next((_tiny_shakespeare(path) for path in downloads if path.exists()), OWN.train_data / "input.txt")
    if source.exists():
        with replacing(home.train_data / "input.txt") as file:
            file.write(source.read_bytes())
        say(f"There was no text in {home.train_data}; {source} is copied there.")


def find_files(paths, ignored=(), reading=None, report=None, advice=None):
    """Return the files that `paths` (files, folders and globs) name, sorted, each once even if it has several names.

    Symbolic links to files and folders are followed. Of a folder, hidden and ignored files are skipped, and the
    `ignored` files and folders, and where `reading` (TextParams) is given also files that are no text.
    report: a FolderReport, which is told of what is found; advice: what a message about a missing file ends with
    (default: where a text goes)
    Raises FileNotFoundError for a path that does not exist, FolioError if no file is found at all.
    """
    skipped, report = set(map(_resolved, ignored)), report or FolderReport()
    advice = advice or _where_text_goes()
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            files += _texts(_files_below(path, skipped, report), reading, report)
        elif path.exists():
            files.append(path)
        elif os.path.islink(path):
            raise FileNotFoundError(f"{path} is a symbolic link to {os.readlink(path)}, which leads to no file. "
                                    f"{advice}")
        elif glob.has_magic(str(path)):
            files += _texts(_matching_files(path, skipped, advice), reading, report)
        else:
            raise FileNotFoundError(f"There is no {path}{nearest_path(path, [TINY_SHAKESPEARE]) or '.'} {advice}")
    report.check()
    if not files and report.first_refused:
        files = [report.first_refused]              # reading it says what is wrong
    if not files:
        raise FolioError(f"There is no text in {', '.join(map(str, paths))}. {advice}")
    files = _unique(files)
    if reading is not None:
        for file in files:
            report.take(file)
    return files


def _texts(files, reading, report):
    """Return those files that are texts; all without `reading`."""
    texts = []
    for file in files:
        if reading is not None and (why := why_skipped(file, reading)):
            report.skip(file, *why)
        else:
            texts.append(file)
    return texts


def _unique(files):
    """Return files without those that came before under another name."""
    found = {}
    for file in files:
        found.setdefault(_resolved(file), file)
    return list(found.values())


def _files_below(folder, skipped, report):
    left_out = LeftOut(folder, lambda path: _resolved(path) in skipped or _has_tokens(path), report)
    found = (folder / file for file in _walk(folder, left_out, report))
    return sorted(file for file in found if not _lies_in(skipped, file))


def _walk(folder, left_out=lambda relative, is_folder: False, report=None):
    """Return the files below a folder, relative to it. Symbolic links are followed.

    Each folder and file comes once, under its own name rather than that of a link.
    left_out: (relative path, whether it is a folder) -> whether to leave it out; report: is told what cannot be read
    """
    seen, links, files = set(), [], []
    waiting = deque([Path()])                               # folders; those that are reached through a link come last
    while waiting:
        subfolder = waiting.popleft()
        if _resolved(folder / subfolder) in seen:
            continue
        seen.add(_resolved(folder / subfolder))
        for name in sorted(_names_in(folder / subfolder, report)):
            path = folder / subfolder / name
            is_folder = path.is_dir()
            if left_out(subfolder / name, is_folder):
                continue
            if is_folder:
                (waiting.append if path.is_symlink() else waiting.appendleft)(subfolder / name)
            elif path.is_file():
                (links if path.is_symlink() else files).append(path)
            elif report:
                report.skip(path, "no file, or a link that leads to none", f"{path} is no file that can be read.")
    return [file.relative_to(folder) for file in _unique([*files, *links])]


def _names_in(folder, report):
    """Return the names in a folder; none, as glob does, without the permission to list it."""
    try:
        return os.listdir(folder)
    except PermissionError:
        if report:
            report.skip(folder, "a folder that may not be listed", f"{folder} may not be listed.")
        return []


def _matching_files(pattern, skipped, advice):
    """Return the files that a glob matches, as in a shell; but ** matches whole folders, and each file comes once."""
    found = set()
    for match in _matches(pattern):
        if match.is_dir():
            found.update(_files_below(match, skipped, FolderReport()))
        elif match.is_file() and not _lies_in(skipped, match):
            found.add(match)
    if not found:
        raise FileNotFoundError(f"No file matches {pattern}. {advice}")
    return sorted(_unique(sorted(found, key=lambda file: (file.is_symlink(), file))))


def _matches(pattern):
    """Return what a glob matches. From its first ** on, _walk finds the files: glob itself follows circular links."""
    if "**" not in pattern.parts:
        return map(Path, glob.glob(str(pattern)))
    first = pattern.parts.index("**")
    folders = map(Path, glob.glob(str(Path(*pattern.parts[:first]))))
    rest = pattern.parts[first:]
    return [folder / file for folder in folders for file in _walk(folder) if _is_below(file.parts, rest)]


def _is_below(names, patterns):
    """Whether a file matches the parts of a glob, or is in a folder that does. Hidden names need a pattern with a dot.

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


def _lies_in(skipped, file):
    """Whether a file is one of these, or in one of these folders, or among the tokens of any project."""
    path = _resolved(file)
    return path in skipped or any(folder in skipped or _has_tokens(folder) for folder in path.parents)


def _has_tokens(folder):
    return folder.name == "tokens" and (folder / "corpus.json").exists()


def nearest_path(path, here=()):
    """Return a hint for a path that does not exist: the name most similar to the first part of it that is missing.

    here: names that count as being in the current folder
    """
    missing = next((part for part in [path, *path.parents] if part.parent.is_dir()), path)
    known = [neighbor.name for neighbor in missing.parent.glob("*")]
    return nearest(missing.name, [*known, *here] if missing.parent == Path.cwd() else known)


def _keep_stream(stream, folder):
    """Copy standard input or a pipe to a file, as it is read several times, and train.py may need it again. -> path"""
    path = folder / STANDARD_INPUT.replace("*", uuid.uuid4().hex[:8])
    with replacing(path) as file:
        shutil.copyfileobj(stream, file)
    return path.resolve()


def _tiny_shakespeare(path):
    """Download tiny shakespeare to `path` if it is not there, and verify its checksum. -> path"""
    from http.client import HTTPException  # these two take as long to import as init.py takes for a small text
    from urllib.request import urlopen
    by_hand = f"put the file from {TINY_SHAKESPEARE_ADDRESS} at {path}"
    if not path.exists():
        try:
            with urlopen(TINY_SHAKESPEARE_ADDRESS, timeout=30) as response:
                content = response.read()
        except (OSError, HTTPException) as error:
            raise FileNotFoundError(f"{TINY_SHAKESPEARE} cannot be downloaded ({error}); {by_hand}.") from None
        if sha256(content).hexdigest() != TINY_SHAKESPEARE_SHA256:
            raise FolioError(f"What came from the network is not {TINY_SHAKESPEARE} "
                             f"(whose SHA-256 is {TINY_SHAKESPEARE_SHA256}) and was not kept; {by_hand}.")
        with replacing(path) as file:
            file.write(content)
    elif sha256(path.read_bytes()).hexdigest() != TINY_SHAKESPEARE_SHA256:
        raise FolioError(f"{path} is not {TINY_SHAKESPEARE} (whose SHA-256 is {TINY_SHAKESPEARE_SHA256}), "
                         f"or not all of it. Remove it and run this again, or {by_hand}.")
    return path.resolve()
