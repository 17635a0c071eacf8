"""Command lines: flags from dataclass fields, hints for misspelt ones, a frame that turns errors into messages."""

import argparse
import os
import platform
import signal
import sys
import traceback
import warnings
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import fields, is_dataclass, replace
from importlib import metadata
from pathlib import Path

from folio.base import commands
from folio.base.errors import FolioError, is_out_of_memory
from folio.base.fields import bounds_problem, field_problems, takes_several, value_type
from folio.base.home import Home
from folio.base.spelling import hint, nearest
from folio.base.visible import harmless
from folio.cli import configuration
from folio.cli.screen import Output
from Model_Params import LENGTHS, PRESETS


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest flag for a misspelt one, and accepts --emb_len for --emb-len."""

    def __init__(self, description, free_text=(), command="", stray="a prompt or name of several words needs quotes"):
        """free_text: flags whose value may look like a flag; command: the program's subcommand, if it has them.

        stray: what the message says about a word that belongs to no flag.
        """
        # allow_abbrev: a flag that only happens to begin like another is a mistake, not a short form.
        program, home = _program()
        super().__init__(prog=f"{program} {command}".strip(), description=description, allow_abbrev=False,
                         formatter_class=_HelpFormatter)
        self.color = False      # Python 3.14 colors the help, by sequences that the streams of front_door do not pass
        self.free_text, self.stray = free_text, stray
        self.wrong_settings = []  # sentences about the file that --config names
        self.add_argument(
            "--home",
            type=Path,
            default=home,
            metavar="DIR",
            help="the project's folder, with its own Train_Data, tokenizer_save and Saved_Weights "
            f"(default: {'the current folder' if commands.called_as_folio() else 'where the scripts lie'})",
        )

    def add_fields(self, title, params, without=(), short_names=None):
        """Add a flag for every field of a dataclass, or of an instance with defaults of its own.

        without: fields that get none; short_names: {short name: field}, a second flag for some. A flag that is not
        given leaves no trace in the parsed arguments.
        """
        group = self.add_argument_group(title)
        for each in fields(params):
            if each.name in without:
                continue
            value, text = getattr(params, each.name), each.metadata["help"]
            if value not in (None, ()):
                text = f"{text.partition(' (default: ')[0]} (default: {value})"
            if value_type(each) is bool:
                options = {"action": argparse.BooleanOptionalAction}
            else:
                options = {"type": value_type(each), "metavar": _metavar(each)}
            if takes_several(each):
                options["action"] = "append"
            spellings = [each.name, *(short for short, full in (short_names or {}).items() if full == each.name)]
            group.add_argument(*map(_flag, spellings), default=argparse.SUPPRESS, help=text.replace("%", "%%"),
                               **options)

    def add_number(self, flag, default, help, low, high):
        """Add a flag that takes a whole number within bounds."""
        def number(word):
            if problem := bounds_problem(value := int(word), low, high=high):
                raise argparse.ArgumentTypeError(problem.removesuffix("."))
            return value
        number.__name__ = "int"         # what argparse says of a word that is no number
        self.add_argument(flag, type=number, default=default, metavar="N", help=help)

    def add_preset(self):
        """Add --preset; `preset_of` returns its value."""
        self.add_argument("--preset", metavar="NAME",
                          help=f"named settings to start from: {', '.join(PRESETS)} (default: default)")

    def add_configuration(self):
        """Add --config and --save-config; `settings` returns what the first one's file says."""
        self.add_argument("--config", type=Path, metavar="FILE",
                          help="settings in JSON, by the names of the flags with _ for -; flags overrule them")
        self.add_argument("--save-config", type=Path, metavar="FILE",
                          help="write the settings in effect there, for --config")

    def parse(self, words=None):
        """Return the arguments of a command line. Exits with code 2 and one message where they are wrong.

        words: default sys.argv[1:]. The commands that later messages name have the same --home.
        """
        words = list(sys.argv[1:] if words is None else words)
        arguments, unknown = self.parse_known_args(self._unambiguous(list(words)))
        if unknown:
            self.error(self._unknown(unknown))
        commands.remember_home(None if arguments.home == self.get_default("home") else arguments.home)
        commands.remember_line(self.prog, words)
        arguments.home = Home(arguments.home)
        if getattr(arguments, "save_config", None):         # now, rather than when the work is done
            configuration.refuse_other(arguments.save_config)
        return arguments

    def _unknown(self, words):
        """Return the message about words that argparse does not know: unknown flags, or else words without a flag."""
        known = [flag for action in self._actions for flag in action.option_strings]
        # What follows them is not known either.
        flags = [word.partition("=")[0] for word in words if word.startswith("-")]
        if flags:
            return "; ".join(f"unknown flag {flag}" + hint(flag, known, _flag) for flag in flags)
        return f"{' '.join(words)} belongs to no flag ({self.stray})"

    def _unambiguous(self, words):
        """Return words that argparse reads as they were meant.

        --emb_len=8 becomes --emb-len=8, and --prompt -x becomes --prompt=-x. All that follows a lone -- stays as it is.
        """
        changed = []
        while words and words[0] != "--":
            flag, equals, value = words.pop(0).partition("=")
            flag = flag.replace("_", "-") if flag.startswith("--") else flag
            if flag in self.free_text and not equals and words:
                equals, value = "=", words.pop(0)
            action = self._option_string_actions.get(flag)
            if action and action.nargs == 0 and (equals or words and words[0].lower() in ("true", "false")):
                no = f"--no-{flag[2:]}"
                opposite = f", or {no} for the opposite" if no in action.option_strings else ""
                found = (value if equals else words[0]) or "an empty one"
                self.error(f"{flag} takes no value, and here is {found}: write {flag} alone{opposite}")
            changed.append(flag + equals + value)
        return changed + words

    def _get_values(self, action, words):
        """Return the value of an argument; Python 3.11 loses a flag's value that is two hyphens."""
        if action.option_strings and action.nargs is None and words == ["--"]:
            value = self._get_value(action, words[0])
            self._check_value(action, value)
            return value
        return super()._get_values(action, words)

    def preset_of(self, arguments):
        """Return the name of the preset that --preset chose. Exits with code 2 where there is none of that name."""
        preset = arguments.preset or "default"
        if preset not in PRESETS:
            self.error(f"there is no preset {preset}{nearest(preset, PRESETS)} (there are: {', '.join(PRESETS)})")
        return preset

    def settings(self, arguments, *params):
        """Return {field: value} for those fields of `params`, dataclasses, that --config or a flag gave.

        Where both did, the flag counts. What is wrong with the file waits for `check`.
        """
        values, self.wrong_settings = configuration.load(arguments.config) if arguments.config else ({}, [])
        own = {each.name for part in params for each in fields(part)}
        values = {name: value for name, value in values.items() if name in own}
        return one_length(values) | one_length(given(arguments, *params))

    def check(self, params, one_by_one=False):
        """Exit with code 2 and one message that names all problems of the settings file and of `params`, if any.

        one_by_one: look at each value by itself, not at values together; for Params of which some values will come from
        elsewhere.
        """
        if one_by_one:
            problems = (problem for part in fields(params) for problem in field_problems(getattr(params, part.name)))
        else:
            problems = params.problems()
        # Two parts may share a field and its problem.
        if found := dict.fromkeys([*self.wrong_settings, *problems]):
            self.error("\n".join(found))

    def error(self, message):
        """Exit with code 2 and one message, without argparse's usage lines."""
        self.exit(2, f"{self.prog.split()[-1]}: {harmless(message)}\n({self.prog} --help lists what there is)\n")


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=34)


def chosen(params, values):
    """Return a dataclass, or a dataclass of dataclasses, with the fields replaced that are named in {field: value}."""
    parts = {each.name: getattr(params, each.name) for each in fields(params)}
    return replace(params, **{name: chosen(part, values) if is_dataclass(part) else values.get(name, part)
                              for name, part in parts.items()})


def one_length(values):
    """Return {field: value} in which a given one of steps, minutes and epochs sets the other two to None.
    >>> one_length({"steps": 100})
    {'minutes': None, 'epochs': None, 'steps': 100}
    """
    is_given = any(values.get(name) is not None for name in LENGTHS)
    return ({name: None for name in LENGTHS if name not in values} if is_given else {}) | values


def given(arguments, *params):
    """Return {field: value} for those fields of `params`, dataclasses, that the command line gave."""
    found = {each.name: getattr(arguments, each.name) for part in params for each in fields(part)
             if hasattr(arguments, each.name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def sentence(error):
    """Return the message for an error that a user can cause."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. Files that were there before are as they were."
    return str(error)


def front_door(main, needs_less="a smaller --block-size or --emb-len", outlives_reader=False):
    """Run `main` as a script, in a context of its own (contextvars), and exit with the code that it returns.

    What a user can cause (FolioError, OSError) becomes one message on stderr, without a traceback, and exit code 1.
    Any other exception shows its traceback and asks for a report. Of several processes that torchrun started, only
    the first writes anything.

    needs_less: what the message advises where memory runs out; outlives_reader: whether the work continues when nobody
    reads stdout any more.
    """
    warnings.formatwarning = lambda message, *where, **line: f"{message}\n"      # a user needs no line of our code
    with _harmless_streams(outlives_reader):
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0":
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
        try:
            sys.exit(copy_context().run(main))      # what Parser.parse remembers ends with the command
        except Output.ReaderLeft:       # not an error: as after `| head`
            sys.exit(0)
        except (FolioError, OSError) as error:
            print(harmless(sentence(error)), file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            if isinstance(error, (MemoryError, RuntimeError)) and is_out_of_memory(error):
                print(f"There is not enough memory for this. Try {needs_less}.", file=sys.stderr)
            else:
                print(f"{harmless(traceback.format_exc())}{_request()}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("Stopped. Nothing half-written was left behind.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)


def _request():
    """Return the line that asks for a report of a bug, with what to include."""
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "none"
    return ("This is a bug in Folio, not in what you did. Please report it with the command, "
            "all lines from Traceback on, and: "
            f"Python {platform.python_version()}, torch {torch}, {platform.platform()}.")


def _program():
    """Return how this program was called, and its default project folder.

    That is where the script lies, for `python -m folio.NAME` where folio/ lies, for `folio NAME` the current folder.
    """
    if commands.called_as_folio():
        return sys.argv[0], Path.cwd()
    script, spec = Path(sys.argv[0]), sys.modules["__main__"].__spec__
    if spec is not None and spec.name.startswith("folio."):
        return f"python -m {spec.name}", Path(__file__).resolve().parents[2]
    return f"python {script.name}", script.resolve().parent


@contextmanager
def _harmless_streams(outlives_reader):
    """Pass everything that is written in the block through an Output."""
    _open_streams()
    before = sys.stdout, sys.stderr
    unread = "Nobody reads what is written here any more; the work goes on without it."
    sys.stdout = Output(sys.stdout, (lambda: print(unread, file=sys.stderr)) if outlives_reader else None)
    # tqdm moves its bars with these.
    sys.stderr = Output(sys.stderr, lambda: None, keep=r"\r|\x1b\[A", wraps=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _open_streams():
    """Make the standard streams UTF-8, with \\n at line ends in files and pipes on Windows too; replace closed ones."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    sys.stdout.reconfigure(encoding="utf-8", errors="replace", newline=None if sys.stdout.isatty() else "\n",
                           line_buffering=True)
    sys.stderr.reconfigure(encoding="utf-8", errors="replace")


def _flag(name):
    return "--" + name.replace("_", "-")


def _metavar(each):
    text = "TEXT" if takes_several(each) else "NAME"
    return "|".join(each.metadata["choices"] or ({int: "N", float: "X", str: text}[value_type(each)],))
