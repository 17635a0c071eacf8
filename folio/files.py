"""Files that are whole or absent: atomic replacement, fingerprints, locks."""

import hashlib
import json
import os
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path):
    """Yield a binary file that becomes `path` when the block ends well, and vanishes when it does not.

    Whatever happens in between (a full disk, a killed process), `path` is the old file or the new one, whole.
    The temporary has a name of its own, so that two writers never share one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            _to_disk(file)
        _rename(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)      # a write that fails does not say where
        raise


def replace_together(folder, contents):
    """Write {name: bytes} into `folder`; no old file is touched before every new one is safely on the disk.

    The files take their names in the order given: put last the one that vouches for the others.
    """
    with ExitStack() as stack:
        for name, content in reversed(contents.items()):    # an ExitStack unwinds backwards: what is opened last is renamed first
            file = stack.enter_context(replacing(Path(folder) / name))
            file.write(content)
            _to_disk(file)


HEAD_BYTES = 1 << 20        # of a file that is to be replaced, enough to tell what it is; a whole file of settings


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
    """Remove what writers of `path` left behind when they were killed. Call it only where no other writer can be at work."""
    path = Path(path)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
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
