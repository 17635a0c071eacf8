"""Run a script that ends itself by a signal at its n-th change of a file: a program of its own.

    python killer.py SIGNAL N FOLDER COUNT SCRIPT WORD...

The changes are counted that are made below FOLDER: files opened to be written, made, renamed, removed, flushed to the
disk. N is 0 for never; COUNT is the file that gets their number in the end. A COUNT whose name begins with "several"
lets init.py work in several processes however short the text is.
"""

import atexit
import os
import runpy
import signal
import sys
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def count_changes(number, last, folder):
    """End this process by signal `number` before its change number `last`. -> a list with a True for every change"""
    changes = []

    def change():
        changes.append(True)
        if len(changes) == last:
            os.kill(os.getpid(), number)

    def hear(event, arguments):
        is_change = event in CHANGES or event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        is_path = is_change and isinstance(arguments[0], (str, bytes, os.PathLike))
        if is_path and os.fsdecode(arguments[0]).startswith(folder):
            change()

    def flush(descriptor, fsync=os.fsync):
        change()
        fsync(descriptor)

    sys.addaudithook(hear)
    os.fsync = flush
    return changes


def main(number, last, folder, count, script, *words):
    """Be that script."""
    # As a shell in the foreground has them, whoever began us: in the background some are ignored.
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [script, *words]
    sys.path[0] = str(Path(script).parent)
    if Path(count).name.startswith("several"):
        from folio.data import encoding
        assert hasattr(encoding, "PARALLEL_BYTES")
        encoding.PARALLEL_BYTES = 1
        encoding.cores = lambda: 2
    changes = count_changes(int(number), int(last), folder)
    atexit.register(lambda: Path(count).write_text(str(len(changes))))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
