"""The command `folio`: `folio NAME ...` runs init.py, train.py, run.py or folio/NAME.py.

The default project is then the current folder, not the one in which the scripts lie.
"""

import runpy
import sys

from folio.base import startup
from folio.base.commands import short_name

SCRIPTS = {short_name(script): script for script in startup.TO_RUN}


def main():
    """Run the command that the first word names, with the words after it.

    Exits with code 2 if there is no such command.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(*_rows(), sep="\n")
        return
    if name not in SCRIPTS:
        problem = f"there is no command {name}" if name else "no command was given"
        print(f"folio: {problem}. There are (each has --help):", *_rows(), sep="\n", file=sys.stderr)
        sys.exit(2)
    startup.require(SCRIPTS[name])
    sys.argv = [f"folio {name}", *sys.argv[2:]]
    runpy.run_module(SCRIPTS[name].removeprefix("-m ").removesuffix(".py"), run_name="__main__")


def _rows():
    """Yield one line per command."""
    for name, script in SCRIPTS.items():
        yield f"  folio {name:<8}  {startup.TO_RUN[script]}"


if __name__ == "__main__":
    main()
