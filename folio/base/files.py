"""Files that are either whole or absent: atomic replacement, fingerprints, locks."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

HEAD_BYTES = 1 << 20        # of a file that is to be replaced, enough to recognize its kind; a whole file of settings
LOOKED_AT = 0.2             # seconds that another process may hold a lock only to see whether it is free
_MARKER = ".whole"          # suffix of a file whose presence says that all temporary files with its key are whole


def ordinary(path, flags, mode=0o666):
    """Open an ordinary file, as the `opener` of open(). Raises OSError for a pipe or a device, which might block."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), mode)      # without effect on ordinary files
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):        # open() itself refuses a folder
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "It is a pipe or a device, where a file should be", str(path))


def read_up_to(path, most):
    """Return the bytes of an ordinary file; None where they are more than `most`, of which no more are read."""
    with open(path, "rb", opener=ordinary) as file:
        content = file.read(most + 1)
    return content if len(content) <= most else None


@contextmanager
def replacing(path):
    """Yield a temporary binary file. It is renamed to `path` when the block ends, and removed if the block raises.

    Whatever happens in between (a full disk, a killed process), `path` is the old file or the new one, whole.
    The name of the temporary file is unique, so two writers never share one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, uuid.uuid4().hex)
    try:
        with temporary.open("xb") as file:
            yield file
            _to_disk(file)
        _rename(temporary, path)
        _folder_to_disk(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_target(error, temporary, path)
        raise


def replace_together(folder, contents):
    """Write {name: bytes} into `folder`: all of the files or none, even if the process is killed in between.

    Every new file is on the disk under a temporary name before a marker file is created. Until then no old file is
    changed. Once the marker exists, finish_replacing completes the set, either now or when the next reader calls it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    finish_replacing(folder)
    key = uuid.uuid4().hex
    marker = folder / f".{key}{_MARKER}"
    temporaries = {_temporary(folder / name, key): content for name, content in contents.items()}
    try:
        for path, content in temporaries.items():
            with path.open("xb") as file:
                file.write(content)
                _to_disk(file)
        _folder_to_disk(folder)             # so that the marker is never on the disk without the files it stands for
        with replacing(marker):
            pass
        finish_replacing(folder)
    except BaseException as error:
        if marker.exists():                 # then the new set is valid: complete it even after Ctrl-C
            with suppress(OSError):
                finish_replacing(folder)
        else:
            for path in temporaries:
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(folder)
        raise


@contextmanager
def replacing_folder(path):
    """Yield a temporary folder beside `path`. It takes that place when the block ends, and is removed if it raises.

    A folder that was there is replaced as a whole; where `path` is a link, the folder that it leads to. A kill between
    the two renames leaves it beside, under a name that begins with a dot and ends in .old; until then it is as it was.
    Raises FileExistsError for the current folder, since whoever works in it would be left in a removed one.
    """
    target, path = path, Path(path).resolve()
    if path == Path.cwd():
        raise FileExistsError(f"{target} is the current folder, which cannot be replaced. Name another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    key = uuid.uuid4().hex
    temporary, old = _temporary(path, key), path.with_name(f".{path.name}.{key}.old")
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as opened:
                _to_disk(opened)
        _folder_to_disk(temporary)
        if path.exists():
            _rename(path, old)
        try:
            _rename(temporary, path)
        except BaseException:
            if old.exists():
                _rename(old, path)
            raise
        _folder_to_disk(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name_target(error, temporary, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def finish_replacing(folder):
    """Complete what an interrupted replace_together left in `folder`. Readers of such files call this first."""
    folder = Path(folder)
    for marker in folder.glob(f".*{_MARKER}"):
        ending = f".{marker.name[1:].removesuffix(_MARKER)}.tmp"
        for temporary in folder.glob(f".*{ending}"):
            with suppress(FileNotFoundError):       # another reader was faster
                _rename(temporary, folder / temporary.name[1:].removesuffix(ending))
        _folder_to_disk(folder)
        marker.unlink(missing_ok=True)


def refuse_foreign(path, kind, is_own):
    """Raise FileExistsError if `path` exists and is not of the kind of file that is about to be written there.

    kind: in words; is_own: the first HEAD_BYTES of a file -> whether it is of this kind. An empty file may be replaced.
    """
    path = Path(path)
    if not path.exists():
        return
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no ordinary file"
        raise FileExistsError(f"{path} is {found}, and {kind} is to be written there. Name a file.")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head and not is_own(head):
        raise FileExistsError(f"{path} exists, and is not {kind}; it was left as it is. "
                              "Name another file, or move that one away.")


def refuse_foreign_folder(path, kind, names):
    """Raise FileExistsError if `path` exists and is not a folder that has nothing but files of these names.

    kind: of folder that is about to be written, in words; names: regular expression for the names of its files
    """
    path = Path(path)
    if path.is_dir():
        foreign = next((file.name for file in sorted(path.iterdir()) if not re.fullmatch(names, file.name)), None)
        if foreign is not None:
            raise FileExistsError(f"{path} holds {foreign}, and is not {kind}; it was left as it is. "
                                  "Name another folder, or move that one away.")
    elif path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} is no folder, and {kind} is to be written there. Name a folder.")


def remove_leftovers(path):
    """Remove temporary files that killed writers of `path` left. `folder / "*"`: those of all writers in a folder.

    Call it only while no other writer can be active.
    """
    path = Path(path)
    finish_replacing(path.parent)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def remove_abandoned(folder, lock_of):
    """Remove temporary files that killed writers left in `folder`, except while another process holds the file's lock.

    lock_of: the name of a file -> the path of its lock, or None for a file that is not to be considered
    """
    for leftover in Path(folder).glob(".*.tmp"):
        lock = lock_of(leftover.name[1:].removesuffix(".tmp").rpartition(".")[0])
        if lock:
            with suppress(BlockingIOError), only_one(lock, "another process writes it"):
                leftover.unlink(missing_ok=True)


def fingerprint(content):
    """Return the first 16 hexadecimal digits of the SHA-256 of bytes, or of a JSON value.
    >>> fingerprint(b"abc")
    'ba7816bf8f01cfea'
    """
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True).encode("utf-8")
    return hashlib.sha256(content).hexdigest()[:16]


@contextmanager
def only_one(path, message):
    """Hold the lock file `path` during the block. Raises BlockingIOError(message) if another process holds it.

    The system releases the lock when its process ends, in whatever way.
    """
    from filelock import FileLock, Timeout  # comes with torch
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path).acquire(timeout=LOOKED_AT, poll_interval=LOOKED_AT / 10)
    except Timeout:
        raise BlockingIOError(message) from None
    with lock:
        yield


def _temporary(path, key):
    return path.with_name(f".{path.name}.{key}.tmp")


def _name_target(error, temporary, path):
    """Let an OSError about a temporary file or folder name what was to be written: nobody knows the temporary name."""
    # A failed write names no file at all.
    if isinstance(error, OSError) and (error.filename is None or str(error.filename).startswith(str(temporary))):
        error.filename = str(path)


def _rename(temporary, path):
    """Call os.replace, again if need be: Windows refuses while a reader or a virus scanner has the old file open."""
    for _ in range(20):
        with suppress(PermissionError):
            return os.replace(temporary, path)
        time.sleep(0.1)
    os.replace(temporary, path)


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder):
    """Flush the names in a folder to the disk, if the system can: Windows opens no folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
