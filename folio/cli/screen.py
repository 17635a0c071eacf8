"""What reaches the terminal: nothing that could command it, colours where it has them, text in lines of its width as it comes in."""

import errno
import os
import re
import sys

from folio.base.lines import WordWrap
from folio.base.visible import harmless

USUAL_WIDTH = 80                    # columns, where the terminal does not say
WRITTEN_AT_ONCE = 1 << 16           # characters: a longer text is broken into lines piece by piece
BOLD, DIM = "\x1b[1m", "\x1b[2m"    # styles: what a text is written after
WARMTH = {3: 230, 6: 223, 9: 217}   # nats -> a light background among the 256 colours of a terminal: one in 20, one in 400, one in 8,000


# --- Standard streams ---

class Output:
    """A standard stream whose text cannot command the terminal, whatever files and names it comes from.

    `send` writes text that has been made harmless already, and styles. reader_left: is called where nobody reads any
    more, or else ReaderLeft is raised; what is written from then on is lost. keep: a pattern of sequences that pass, such
    as those that move a progress bar.
    """

    class ReaderLeft(BrokenPipeError):
        """Nobody reads the stream any more, as after `| head`."""

    def __init__(self, stream, reader_left=None, keep=None):
        self.stream, self._reader_left, self._keep = stream, reader_left, keep

    def write(self, text):
        parts = re.split(f"({self._keep})", text) if self._keep else [text]
        self.send("".join(part if place % 2 else harmless(part) for place, part in enumerate(parts)))
        return len(text)

    def send(self, text):
        """Write a text as it is."""
        self._try(self.stream.write, text)

    def flush(self):
        self._try(self.stream.flush)

    def _try(self, action, *arguments):
        try:
            action(*arguments)
        except OSError as error:
            # A pipe without a reader (Windows: EINVAL). A terminal that was closed says what a broken disk says (EIO):
            # only where the work outlives its reader it counts as left.
            if error.errno not in (errno.EPIPE, errno.EINVAL) and not (error.errno == errno.EIO and self._reader_left):
                raise
            self._lose()
            if self._reader_left is None:
                raise self.ReaderLeft(error.errno, error.strerror) from None
            self._reader_left()

    def _lose(self):
        """Have everything from here on go nowhere, what is still in the buffer as well."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def send(text):
    """Write text that has been made harmless, styles and all, to stdout."""
    getattr(sys.stdout, "send", sys.stdout.write)(text)
    sys.stdout.flush()


# --- Colours ---

def shows_colours():
    """Whether stdout is a terminal that shows colours, and nobody wants it without (no-color.org)."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if coloured and os.name == "nt":
        os.system("")               # Windows' console understands colours from here on
    return coloured


def warmth(nats):
    """The style of a token that cost so many nats: on warmer ground the more they are, from one in 20 on."""
    ground = max((each for each in WARMTH if nats >= each), default=None)
    return f"\x1b[48;5;{WARMTH[ground]}m\x1b[38;5;16m" if ground else ""


# --- The screen ---

class Screen:
    """Writes to stdout as text comes in: harmless, in lines of words, in colours where a person looks, unchanged where it goes into a file or pipe."""

    def __init__(self):
        self.is_terminal = sys.stdout.isatty()
        self.has_colours = shows_colours()
        self._end = "\n\n"           # of what was written: its last two characters
        self._wrap = WordWrap(0)
        self._is_open = False       # whether something was written since end_line
        self._left = None           # (column, width) where end_line left the text, while nothing else was written
        self._follows_note = False

    @property
    def width(self):
        """The columns of the terminal, as it is now."""
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns or USUAL_WIDTH
        except OSError:
            return USUAL_WIDTH

    def write(self, text, style=""):
        """Show some text at once; of a word that may not be complete, as much as can stay where it is."""
        self._is_open, self._left, self._follows_note = True, None, False
        for start in range(0, len(text), WRITTEN_AT_ONCE):
            self._put(text[start:start + WRITTEN_AT_ONCE], style)

    def _put(self, text, style):
        if self.is_terminal:
            self._wrap.width = self.width
            text = self._wrap.add(harmless(text), style if self.has_colours else "")
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
        """Go back to where end_line left the text; where something was written since, or the width changed, leave an empty line. -> whether it went"""
        if self._left is None or self._left[1] != self.width:
            self._leave_empty_line()
            return False
        if column := self._left[0]:
            send(f"\x1b[A\x1b[{column}C")
            self._wrap.column, self._end, self._is_open = column, "", True
        return True

    def stay(self, below_typed=False):
        """Let what is written next begin where the cursor is: at the start of a line; below_typed: of which the one above was typed, not written."""
        self._left = None
        if below_typed:
            self._end, self._follows_note = "\n", False

    def note(self, text):
        """Show some text that is not part of what is written, on lines of its own; after an empty one, or other notes."""
        self.end_line()
        if not self._follows_note:
            self._leave_empty_line()
        self.write(text, DIM)
        self.end_line()
        self._left, self._follows_note = None, True

    def show(self, lines):
        """Show lines that are ready, after an empty one: harmless, no wider than the terminal, their styles in them."""
        self.end_line()
        self._leave_empty_line()
        self._send("".join(line + "\n" for line in lines))
        self._left, self._follows_note = None, False

    def _leave_empty_line(self):
        if self._end != "\n\n":
            self._send("\n")
