"""Output to the terminal: nothing that could command it, colors where it has them, streamed text in wrapped lines."""

import errno
import os
import re
import sys

from folio.base.lines import USUAL_WIDTH, WordWrap, terminal_width, wrapped
from folio.base.visible import harmless

WRITTEN_AT_ONCE = 1 << 16           # characters: a longer text is wrapped piece by piece
BOLD, DIM = "\x1b[1m", "\x1b[2m"    # styles: each is written before the text
# Nats -> a light background among the 256 colors of a terminal: one in 20, one in 400, one in 8,000.
WARMTH = {3: 230, 6: 223, 9: 217}


# --- Standard streams ---

class Output:
    """A standard stream whose text cannot command the terminal, whatever files and names it comes from.

    `write` makes a text harmless first; `send` writes one that already is, with styles. When nobody reads the
    stream any more, `reader_left` is called or, where it is None, ReaderLeft raised; what is written from then on
    is lost. keep: a pattern of sequences that pass, such as those that move a progress bar; wraps: whether what has
    none of them is messages, which are wrapped at the terminal's width.
    """

    class ReaderLeft(BrokenPipeError):
        """Nobody reads the stream any more, as after `| head`."""

    def __init__(self, stream, reader_left=None, keep=None, wraps=False):
        self.stream, self._reader_left, self._keep, self._wraps = stream, reader_left, keep, wraps

    def write(self, text):
        """Write a text, made harmless. -> its length"""
        parts = re.split(f"({self._keep})", text) if self._keep else [text]
        # re.split puts what the group matched, to be kept, at the odd places.
        shown = "".join(part if place % 2 else harmless(part) for place, part in enumerate(parts))
        self.send(wrapped(shown, terminal_width(self.stream)) if self._wraps and len(parts) == 1 else shown)
        return len(text)

    def send(self, text):
        """Write a text as it is."""
        self._try(self.stream.write, text)

    def flush(self):
        """Write what is in the stream's buffer."""
        self._try(self.stream.flush)

    def _try(self, action, *arguments):
        try:
            action(*arguments)
        except OSError as error:
            # A pipe without a reader (Windows: EINVAL). A closed terminal and a broken disk both give EIO: it counts as
            # a lost reader only where the work outlives its reader.
            if error.errno not in (errno.EPIPE, errno.EINVAL) and not (error.errno == errno.EIO and self._reader_left):
                raise
            self._lose()
            if self._reader_left is None:
                raise self.ReaderLeft(error.errno, error.strerror) from None
            self._reader_left()

    def _lose(self):
        """Discard everything from here on, what is still in the buffer as well."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def send(text):
    """Write text that has been made harmless, with its styles, to stdout."""
    getattr(sys.stdout, "send", sys.stdout.write)(text)
    sys.stdout.flush()


def say(message):
    """Print a message, wrapped at the terminal's width; into a file or a pipe as it is."""
    print(wrapped(harmless(message), terminal_width(sys.stdout)), flush=True)


# --- Colors ---

def shows_colors():
    """Return whether stdout is a terminal that shows colors, and NO_COLOR is not set (no-color.org)."""
    has_colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if has_colors and os.name == "nt":
        os.system("")               # Windows' console understands colors from here on
    return has_colors


def warmth(nats):
    """Return the style of a token that cost so many nats: the more, the warmer its background; "" below one in 20."""
    threshold = max((threshold for threshold in WARMTH if nats >= threshold), default=None)
    return f"\x1b[48;5;{WARMTH[threshold]}m\x1b[38;5;16m" if threshold else ""


# --- The screen ---

class Screen:
    """Write streamed text to stdout: harmless and wrapped on a terminal, unchanged into a file or pipe."""

    def __init__(self):
        self.is_terminal = sys.stdout.isatty()
        self.has_colors = shows_colors()
        self._end = "\n\n"           # the last two characters of what was written
        self._wrap = WordWrap(0)
        self._is_open = False       # whether text was written since end_line
        self._left = None           # (column, width) where end_line left the text; None once something else follows it
        self._follows_note = False

    @property
    def width(self):
        """Return the terminal's columns, as it is now."""
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns or USUAL_WIDTH
        except OSError:
            return USUAL_WIDTH

    def write(self, text, style=""):
        """Show text at once, except what may still move to the next line: the last word, if it could continue."""
        self._is_open, self._left, self._follows_note = True, None, False
        for start in range(0, len(text), WRITTEN_AT_ONCE):
            self._put(text[start:start + WRITTEN_AT_ONCE], style)

    def _put(self, text, style):
        if self.is_terminal:
            self._wrap.width = self.width
            text = self._wrap.add(harmless(text), style if self.has_colors else "")
        self._send(text)

    def _send(self, text):
        send(text)
        self._end = (self._end + text[-2:])[-2:]

    def end_line(self):
        """Go to the start of a line, unless there already."""
        if not self._is_open:
            return
        self._send(self._wrap.end())
        self._left = self._wrap.column, self.width
        if not self._end.endswith("\n"):
            self._send("\n")
        self._wrap.column, self._is_open = 0, False

    def go_back(self):
        """Move the cursor back to where end_line left the text. -> whether it could

        Where something was written since, or the width changed, leave an empty line instead.
        """
        if self._left is None or self._left[1] != self.width:
            self.leave_empty_line()
            return False
        if column := self._left[0]:
            send(f"\x1b[A\x1b[{column}C")
            self._wrap.column, self._end, self._is_open = column, "", True
        return True

    def stay(self, below_typed=False):
        """Have the next text begin where the cursor is, at the start of a line.

        below_typed: whether the line above was typed by a person, not written here.
        """
        self._left = None
        if below_typed:
            self._end, self._follows_note = "\n", False

    def note(self, text):
        """Show a message that is not part of the text, on lines of its own, after an empty line or another message."""
        self.end_line()
        if not self._follows_note:
            self.leave_empty_line()
        self.write(text, DIM)
        self.end_line()
        self._left, self._follows_note = None, True

    def show(self, lines):
        """Show finished lines after an empty one; lines: harmless, no wider than the terminal, with their styles."""
        self.end_line()
        self.leave_empty_line()
        self._send("".join(line + "\n" for line in lines))
        self._left, self._follows_note = None, False

    def leave_empty_line(self):
        """Have an empty line above what comes next; call it at the start of a line."""
        if self._end != "\n\n":
            self._send("\n")
