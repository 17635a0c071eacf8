"""Commands as messages name them: pasted into a shell, they run, and find the same project."""

import os
import re
import shlex
import sys
from contextvars import ContextVar

# The --home of the command line that is being carried out; None: the scripts' own project, which needs no flag.
_HOME = ContextVar("home", default=None)
# (program, words) of the command line that is being carried out: ("python init.py", ["novel.txt"]).
_LINE: "ContextVar[tuple[str, list[str]] | None]" = ContextVar("line", default=None)


def command(script, *words, launcher="python"):
    """Return a command line that can be pasted: `script`, `words`, and the --home that `remember_home` was given.

    script: what Python takes, such as "train.py" or "-m folio.plot"; words: flags and values, not quoted yet.
    >>> command("run.py", "--weights", "night")
    'python run.py --weights night'
    """
    if called_as_folio() and launcher == "python":
        launcher, script = "folio", short_name(script)
    folder = _HOME.get()
    if folder is not None:
        # argparse takes a value with a leading hyphen only after an equals sign.
        words += (f"--home={folder}",) if str(folder).startswith("-") else ("--home", folder)
    return " ".join([launcher, script, *map(quoted, words)])


def short_name(script):
    """Return the name by which the installed command knows what Python takes.
    >>> short_name("train.py"), short_name("-m folio.plot")
    ('train', 'plot')
    """
    return script[:-len(".py")] if script.endswith(".py") else script[len("-m folio."):]


def called_as_folio():
    """Return whether this process began as `folio NAME`: folio/__main__.py puts these two words into sys.argv[0]."""
    return sys.argv[0].startswith("folio ")


def remember_home(folder):
    """Have every command of this context (contextvars) name this --home; None: the scripts' own project.

    `front_door` runs each command line in a context of its own, so that nothing of it outlives it.
    """
    _HOME.set(folder)


def remember_line(program, words):
    """Have `repeated` return this command line. program: "python init.py", None for no command line; words: what
    follows it, not quoted yet.
    """
    _LINE.set(program and (program, list(words)))


def repeated(*words, instead=("init.py",)):
    """Return the command line that is being carried out with `words` added; it can be pasted.

    instead: the words of `command`, before these, where no command line is being carried out.
    >>> repeated("--encoding", "koi8-r", instead=("init.py", "novel.txt"))
    'python init.py novel.txt --encoding koi8-r'
    """
    line = _LINE.get()
    if line is None:
        return command(*instead, *words)
    program, given = line
    end = given.index("--") if "--" in given else len(given)        # after it, nothing is a flag
    return " ".join([program, *map(quoted, [*given[:end], *words, *given[end:]])])


def quoted(word, windows=os.name == "nt"):
    """Return a word as a shell takes it: of POSIX, or PowerShell and cmd on Windows. Plain words get no quotes.
    >>> print(quoted("my project", windows=False), quoted("it's", windows=False), quoted("my project", windows=True))
    'my project' 'it'"'"'s' "my project"
    """
    word = str(word)
    if windows:
        return _quoted_on_windows(word)
    if word.isprintable():
        return shlex.quote(word)
    # A control character, or a byte that is not UTF-8: as an escape, which also keeps it from commanding the terminal.
    escaped = (c if c.isprintable() and c not in "\\'" else "".join(f"\\{byte:03o}" for byte in os.fsencode(c))
               for c in word)
    return f"$'{''.join(escaped)}'"


def _quoted_on_windows(word):
    if re.fullmatch(r"[\w.:\\/+=-]+", word):
        return word
    if re.search("[$`]", word):         # PowerShell replaces them inside double quotes; cmd knows no single ones
        return "'" + word.replace("'", "''") + "'"
    # The program that is called takes a backslash before a quote for part of it; inside, a file name has no quotes.
    return '"' + word + "\\" * (len(word) - len(word.rstrip("\\"))) + '"'
