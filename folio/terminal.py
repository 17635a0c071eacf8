"""What the terminal shows: words as they come, nothing that could command it."""

import os
import sys
import unicodedata


_HARMLESS = "\n\t\u200c\u200d"       # the last two join and part letters and emoji, and move nothing


def harmless(text):
    """The text with everything that could command a terminal made visible: escape sequences, bells, NUL, right-to-left overrides.
    >>> print(harmless("red \\x1b[31m"))
    red \\x1b[31m
    """
    return "".join(c if c.isprintable() or c in _HARMLESS or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text)


def shows_colours():
    """Whether stdout is a terminal that shows colours, and nobody wants it without (no-color.org)."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if coloured and os.name == "nt":
        os.system("")               # Windows' console understands colours from here on
    return coloured


class Screen:
    """Writes to stdout as text comes in: harmless where a person looks, unchanged where it goes into a file or a pipe."""

    def __init__(self):
        self.is_terminal = sys.stdout.isatty()
        self.at_line_start = True

    def write(self, text):
        """Show some text at once."""
        sys.stdout.write(harmless(text) if self.is_terminal else text)
        sys.stdout.flush()
        self.at_line_start = text.endswith("\n") if text else self.at_line_start

    def end_line(self):
        """Go to the start of a line, unless there already."""
        if not self.at_line_start:
            self.write("\n")


def enable_line_editing():
    """Let input() take arrow keys and remember what was typed, where Python or the system can."""
    try:
        import readline     # noqa: F401  (importing it is what it takes)
    except ImportError:     # on Windows the console edits lines by itself; pyreadline3, an extra, does it better
        pass
