"""Text that one command-line argument stands for: a file, a folder, a pipe, standard input, or the argument itself."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import regex

from folio.data.paths import find_files, is_pipe, nearest_path
from folio.data.sources import Documents
from Model_Params import TextParams

_SUFFIXES = (".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".gz", ".html", ".xml", ".tex",
             ".log", ".py")


def named_text(name, reading=TextParams(invalid_bytes="keep")):
    """Return the chunks of the text that `name` stands for: an iterable of (text, ends_document).

    It can be iterated more than once, and no chunk ends inside a pre-token.
    Raises FileNotFoundError for a name that looks like a path but does not exist.
    """
    if name in ("-", "/dev/stdin"):
        return Documents([BufferedInput("standard input", sys.stdin.buffer)], reading)
    if is_pipe(name):
        with open(name, "rb") as stream:
            return Documents([BufferedInput(name, stream)], reading)
    if os.path.exists(name):
        return Documents(find_files([name], reading=reading), reading)
    if looks_like_a_path(name):
        raise FileNotFoundError(f"There is no {name}{nearest_path(Path(name)) or '.'} "
                                f"To pass these characters as the text itself: --text {name}")
    return [(name, True)]


def looks_like_a_path(name):
    """Return whether an argument is more likely a path than a text: one word with a slash or a known suffix.
    >>> looks_like_a_path("novel.txt"), looks_like_a_path("notes/May"), looks_like_a_path("Once, in novel.txt")
    (True, True, False)
    """
    return not regex.search(r"\s", name) and (name.lower().endswith(_SUFFIXES) or "/" in name or os.sep in name)


class BufferedInput:
    """The part of pathlib.Path that Documents uses, over input that can be read only once."""

    def __init__(self, name, file):
        self.name, self.content = name, file.read()

    def __str__(self):
        return self.name

    def open(self, mode):
        return io.BytesIO(self.content)

    def stat(self):
        return SimpleNamespace(st_size=len(self.content))
