"""Files that are whole or absent: atomic replacement, fingerprints, locks."""

import errno
import hashlib
import json
import os
import stat
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

HEAD_BYTES = 1 << 20        # of a file that is to be replaced, enough to tell what it is; a whole file of settings
_MARKER = ".whole"          # in the name of a file that says: all temporaries with this key are whole


def ordinary(path, flags, mode=0o666):
    """Open a file, as the `opener` of open(): OSError for a pipe or a device, with which one might wait for ever."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), mode)      # which changes nothing for a file
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):        # a folder open() refuses itself
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "It is a pipe or a device, where a file should be", str(path))


@contextmanager
def replacing(path):
    """Yield a binary file that becomes `path` when the block ends well, and vanishes when it does not.

    Whatever happens in between (a full disk, a killed process), `path` is the old file or the new one, whole.
    The temporary has a name of its own, so that two writers never share one.
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
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)      # a write that fails does not say where
        raise


def replace_together(folder, contents):
    """Write {name: bytes} into `folder`: all of the files or none, even if the process is killed in between.

    Every new file is on the disk under a temporary name before a marker appears, and until then no old file is touched.
    Once the marker is there, finish_replacing completes the set, now or for the next reader.
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
        _folder_to_disk(folder)             # so that the marker is never on the disk without the files it speaks for
        with replacing(marker):
            pass
        finish_replacing(folder)
    except BaseException as error:
        if marker.exists():                 # it was decided: Ctrl-C leaves nothing for the next reader to do
            with suppress(OSError):
                finish_replacing(folder)
        else:
            for path in temporaries:
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(folder)
        raise


def finish_replacing(folder):
    """Complete what replace_together decided in `folder` and was killed in. Readers of such files call it first."""
    folder = Path(folder)
    for marker in folder.glob(f".*{_MARKER}"):
        ending = f".{marker.name[1:].removesuffix(_MARKER)}.tmp"
        for temporary in folder.glob(f".*{ending}"):
            with suppress(FileNotFoundError):       # another reader was faster
                _rename(temporary, folder / temporary.name[1:].removesuffix(ending))
        _folder_to_disk(folder)
        marker.unlink(missing_ok=True)


def refuse_foreign(path, kind, is_own):
    """Raise FileExistsError where something lies at `path` that is not of the kind that is about to be written there.

    kind: in words; is_own: bytes -> bool, of the first HEAD_BYTES of a file. An empty file is no loss.
    """
    path = Path(path)
    if not path.exists():
        return
    if not path.is_file():
        raise FileExistsError(f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}, and {kind} is to be written there. Name a file.")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head and not is_own(head):
        raise FileExistsError(f"{path} exists, and is not {kind}; it was left as it is. Name another file, or move that one away.")


def remove_leftovers(path):
    """Remove what writers of `path` left behind when they were killed; of `folder / "*"`, of all writers there.

    Call it only where no other writer can be at work.
    """
    path = Path(path)
    finish_replacing(path.parent)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def remove_abandoned(folder, lock_of):
    """Remove what killed writers left behind in `folder`, unless another process holds the lock of the file they wrote.

    lock_of: the name of a file -> the path of its lock, or None where it is none of the files meant
    """
    for leftover in Path(folder).glob(".*.tmp"):
        lock = lock_of(leftover.name[1:].removesuffix(".tmp").rpartition(".")[0])
        if lock:
            with suppress(BlockingIOError), only_one(lock, "somebody is at work"):
                leftover.unlink(missing_ok=True)


def fingerprint(content):
    """A short name for bytes, or for a JSON value: the first 16 hexadecimal digits of the SHA-256.
    >>> fingerprint(b"abc")
    'ba7816bf8f01cfea'
    """
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True).encode("utf-8")
    return hashlib.sha256(content).hexdigest()[:16]


@contextmanager
def only_one(path, complaint):
    """Hold the lock file `path` during the block; raises BlockingIOError(complaint) where another process holds it.

    The system lets go of the lock when its process ends, however it ends.
    """
    from filelock import FileLock, Timeout      # comes with torch
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(complaint) from None
    with lock:
        yield


def _temporary(path, key):
    return path.with_name(f".{path.name}.{key}.tmp")


def _rename(temporary, path):
    """os.replace, which Windows refuses for a moment while a reader or a virus scanner has the old file open."""
    for _ in range(20):
        with suppress(PermissionError):
            return os.replace(temporary, path)
        time.sleep(0.1)
    os.replace(temporary, path)


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder):
    """Make the names in a folder survive a power cut where the system can: Windows opens no folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
