"""List the runs in a project: what each was trained with, how good it is, and what can be done with it.

    python -m folio.runs                    # all of them, newest first
    python -m folio.runs "night*"           # some of them, by names or globs
    python -m folio.runs --json             # everything about them, for other programs
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime

from folio.base.commands import command
from folio.base.lines import columns, cut, styled, table, terminal_width, wrapped
from folio.base.visible import on_one_line
from folio.cli.command_line import Parser, front_door
from folio.cli.screen import BOLD, send, shows_colors
from folio.data.token_files import names_of_texts
from folio.formats import run_list
from folio.formats.run_list import Run
from folio.formats.run_settings import as_flags

MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
NARROWEST = 40                          # columns of the table
LONGEST_NAME = 24                       # columns of a name where others would need the room
BESIDE_NAME = 21                        # columns that a name leaves to the figure and the state beside it
LEAST_DIFFERS = 14                      # columns for the settings, below which another column is left out


def main():
    """Parse the arguments and print the list."""
    parser = Parser("List the runs in a project: settings, text, quality, time, and whether they are finished.",
                    stray="a name of several words needs quotes")
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help='names of runs, or globs such as "night*" (default: all)')
    parser.add_argument("--json", action="store_true", help="print everything about them as JSON")
    arguments = parser.parse()
    home = arguments.home
    runs = run_list.list_runs(home, arguments.names, names_of_texts(home))
    if arguments.json:
        print(json.dumps([asdict(run) for run in runs], indent=1))
    elif not runs:
        print(f"There is no run in {home.saved_weights} yet. Train one: {command('train.py')}")
    else:
        width = max(NARROWEST, shutil.get_terminal_size().columns)
        send("\n".join(lines_of(runs, width, shows_colors())) + "\n")


# --- The table ---

@dataclass(frozen=True)
class Column:
    """A column of the table. Those with the smallest ranks get room first, and rank 0 is always there."""
    title: str
    rank: int
    shown: Callable[[Run], str]
    side: str = ">"                 # as folio.base.lines.table takes it


def _differs(run):
    start = {"start_from": run.started_from["name"]} if run.started_from else {}
    return on_one_line(as_flags(start | run.differs)) or ("none" if run.settings else "")


def _steps(run):
    if run.steps is None or run.state == "imported":
        return ""
    planned = run.planned_steps if run.state in ("running", "unfinished") else None
    return f"{run.steps:,}" + (f"/{planned:,}" if planned else "")


def _text(run):
    return on_one_line(run.text["name"] or _rounded(run.text["train_bytes"], "B"))


def _date(run):
    """Return the day of the last change, or of an earlier year its month."""
    if run.changed is None:
        return ""
    day = datetime.fromisoformat(run.changed)
    month = MONTHS[3 * day.month - 3:3 * day.month]
    return f"{month} {day.day:>2}" if day.year == datetime.now().year else f"{month} {day.year}"


def _rounded(number, unit=""):
    """Return a number in at most four characters and a letter; "" for None.
    >>> _rounded(950), _rounded(1066624), _rounded(4295958, "B")
    ('950', '1.07M', '4.3 MB')
    """
    if number is None:
        return ""
    prefix = 0
    while number >= 999.5 and prefix < 5:
        number, prefix = number / 1000, prefix + 1
    letter = " kMGTP"[prefix].strip()
    if unit:
        return f"{number:.2g} {letter}{unit}" if number < 9.95 else f"{number:.0f} {letter}{unit}"
    return f"{number:.3g}{letter}"


NAME = Column("name", 0, lambda run: on_one_line(run.name), "<")
DIFFERS = Column("own settings", 2, _differs, "<")
COLUMNS = (
    NAME,
    Column("nats/byte", 1, lambda run: "" if run.nats_per_byte is None else f"{run.nats_per_byte:.4f}"),
    Column("steps", 4, _steps),
    Column("min", 6, lambda run: f"{run.minutes:,.1f}" if run.minutes else ""),
    Column("tokens/s", 8, lambda run: _rounded(run.tokens_per_second)),
    Column("size", 5, lambda run: _rounded(run.parameters)),
    Column("file", 9, lambda run: _rounded(run.files.get("weights", {}).get("bytes"), "B")),
    Column("text", 7, _text, "<"),
    Column("date", 3, _date, "<"),
    Column("time", 10, lambda run: (run.changed or "")[11:16], "<"),
    Column("state", 0, lambda run: run.state, "<"),
    DIFFERS,
)


def lines_of(runs, width, colored=False):
    """Return the lines of the list, at most `width` columns wide, less the commands at its end.

    colored: make the heading bold
    """
    cells = {column: [column.title, *map(column.shown, runs)] for column in COLUMNS}
    longest_name = max(LONGEST_NAME, min(_distinct(cells[NAME]), width - BESIDE_NAME))
    chosen = set()
    for column in sorted(COLUMNS, key=lambda column: column.rank):
        if column.rank == 0 or any(cells[column][1:]) and (
                _width(cells, chosen | {column}, longest_name) <= width):
            chosen.add(column)
    shown = [column for column in COLUMNS if column in chosen]
    if DIFFERS in shown:
        room = width - _width(cells, [column for column in shown if column is not DIFFERS], longest_name) - 2
        cells[DIFFERS] = [cut(cell, room) for cell in cells[DIFFERS]]
    cells[NAME] = [cut(name, max(longest_name, width // 4)) for name in cells[NAME]]
    heading, *rows = table(zip(*(cells[column] for column in shown)), [column.side for column in shown], width)
    return [styled(heading, BOLD if colored else ""), *_with_problems(runs, rows, shown, cells, width),
            *_commands(runs)]


def _distinct(names):
    """Return the columns that names can be cut to without two of them becoming equal.
    >>> _distinct(["night", "sweep-seed-1", "sweep-seed-2"])
    12
    """
    return next(width for width in range(1, 1 << 16) if len({cut(name, width) for name in names}) == len(set(names)))


def _width(cells, shown, longest_name):
    """Return how many columns a table needs for all of these cells, less what can be cut of the settings and names."""
    most = {NAME: longest_name, DIFFERS: LEAST_DIFFERS}
    widths = [min(most.get(column, 1 << 16), max(map(columns, cells[column]))) for column in shown]
    return sum(widths) + 2 * (len(widths) - 1)


def _with_problems(runs, rows, shown, cells, width):
    """Yield the rows; what cannot be read follows, or comes in their place where a run has nothing else to say."""
    indent = " " * (max(map(columns, cells[NAME])) + 2)
    for run, row, name in zip(runs, rows, cells[NAME][1:]):
        problems = [on_one_line(problem) for problem in run.problems]
        if problems and not run.settings and run.steps is None:
            start, problems = name.ljust(len(indent) + len(name) - columns(name)), [" ".join(problems)]
            yield cut(start + problems[0], width)
            continue
        yield row
        for problem in problems:
            yield cut(indent + problem, width)


def _commands(runs):
    """Return lines with the commands that continue unfinished runs."""
    width = terminal_width(sys.stdout)
    lines = [wrapped(f"To continue {on_one_line(run.name)}: {run.go_on}", width) for run in runs if run.go_on]
    return ["", *lines] if lines else []


if __name__ == "__main__":
    front_door(main)
