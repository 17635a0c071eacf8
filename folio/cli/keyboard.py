"""Typed input of one line or several, with a history that lasts: by prompt_toolkit, or else by Python's own input()."""

import json
import os
import sys
from contextlib import contextmanager, suppress

from folio.base.files import ordinary, replacing
from folio.base.visible import harmless
from folio.cli.screen import shows_colors

ASK, ASK_ON = "> ", "  "            # the prompts of the first line and of those that continue it
REMEMBERED = 1000                   # entries of the history
STAND_IN = "\ufffd"                 # shown while typing, for a character that could command the terminal
LONGEST = 10_000                    # characters of an entry: nobody recalls a pasted book by the arrow key


def open_keyboard(history, commands):
    """Return a TextEditor, or a LineEditor if prompt_toolkit is not installed or the terminal is a simple one.

    history: the path of the history file; commands: words that Tab completes at the beginning of a line.
    """
    history = History(history)
    if os.environ.get("TERM") in ("dumb", "unknown"):
        return LineEditor(history)
    try:
        return TextEditor(history, commands)
    except ImportError:
        return LineEditor(history)


class Keyboard:
    """What reads typed text; this one has nobody who types."""

    keys = ""                       # what can be typed beside letters, for /help
    leaves_typed = False            # whether what was typed stays on the screen
    edits = True                    # whether `read` brings up a text to be edited

    def read(self, begun=""):
        """Return what was typed; begun: brought up first. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
        raise EOFError


class TextEditor(Keyboard):
    """Read by prompt_toolkit: Alt-Enter begins a new line, pasted lines stay together.

    What was typed is removed from the screen once it is entered.
    """

    keys = "Alt-Enter, or Enter after a \\, begins a new line; Tab completes commands"

    def __init__(self, history, commands):
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.layout.processors import Processor, Transformation
        from prompt_toolkit.output import create_output
        from prompt_toolkit.shortcuts import CompleteStyle
        from prompt_toolkit.styles import Style
        keys = KeyBindings()

        @keys.add("enter")
        def enter(event):
            text = event.current_buffer
            if text.document.text_before_cursor.endswith("\\"):
                text.delete_before_cursor()
                text.newline(copy_margin=False)
            else:
                text.validate_and_handle()

        @keys.add("escape", "enter")
        def alt_enter(event):
            event.current_buffer.newline(copy_margin=False)

        class OnlyHarmless(Processor):
            def apply_transformation(self, line):
                return Transformation([(style, "".join(map(_harmless_character, text)), *rest)
                                       for style, text, *rest in line.fragments])

        # The stream below Output: prompt_toolkit has to command the terminal.
        output = create_output(getattr(sys.stdout, "stream", sys.stdout))
        # Else it asks the terminal for the cursor's position, for menus that we do not have, and warns without an
        # answer.
        output.enable_cpr = False
        self._history = history
        self._session = PromptSession(
            ASK, multiline=True, prompt_continuation=ASK_ON, key_bindings=keys, output=output, erase_when_done=True,
            input_processors=[OnlyHarmless()],
            style=Style([("", "bold"), ("prompt", "nobold fg:ansibrightblack")]) if shows_colors() else None,
            completer=WordCompleter(commands, sentence=True), complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE, history=InMemoryHistory(history.entries))

    def read(self, begun=""):
        """Return what was typed, as Keyboard.read does."""
        text = self._session.prompt(default=begun)
        self._history.add(text)
        return text


def _harmless_character(character):
    return character if harmless(character) == character else STAND_IN


class LineEditor(Keyboard):
    """Read by input(), with arrow keys and history where Python has readline."""

    keys = "Enter after a \\ begins a new line"
    leaves_typed = True
    edits = False

    def __init__(self, history):
        self._history, self._readline = history, None
        with suppress(ImportError):             # Windows has none; its console edits lines itself
            import readline
            self._readline = readline
            readline.set_auto_history(False)
            for entry in history.entries:
                self._remember(entry)

    def read(self, begun=""):
        """Return what was typed, as Keyboard.read does; an exception comes after a new line, `begun` is not shown."""
        lines = []
        try:
            with _echo(True):
                while not lines or lines[-1].endswith("\\"):
                    lines[-1:] = [line.removesuffix("\\") for line in lines[-1:]]
                    lines.append(input(ASK_ON if lines else ASK))
        except (EOFError, KeyboardInterrupt):
            print()
            raise
        text = "\n".join(lines)
        if self._history.add(text) and self._readline:
            self._remember(text)
        return text

    def _remember(self, text):
        if harmless(text) == text:              # readline would print it unchanged
            self._readline.add_history(text)


class History:
    """What was typed in this session and earlier ones, in a file of JSON strings, one a line.

    Several programs may add to it. Where it cannot be read or written, this session's entries are all there is.
    """

    def __init__(self, path):
        self._path, self.entries = path, []
        with suppress(OSError):
            with open(path, encoding="utf-8", errors="replace", opener=ordinary) as file:
                lines = file.read().split("\n")
            for line in lines:
                with suppress(ValueError, RecursionError):          # such as half a line, after a full disk
                    if isinstance(entry := json.loads(line), str):
                        self.entries.append(entry)
            if len(self.entries) > 2 * REMEMBERED:
                with replacing(path) as file:
                    file.write("".join(map(_line, self.entries[-REMEMBERED:])).encode("ascii"))
        self.entries = self.entries[-REMEMBERED:]

    def add(self, text):
        """Remember a text, unless it is blank, too long, or the same as the last one. -> whether it is remembered"""
        if not text.strip() or len(text) > LONGEST or text in self.entries[-1:]:
            return False
        self.entries.append(text)
        with suppress(OSError), open(self._path, "a", encoding="ascii", opener=_readable_by_owner_only) as file:
            file.write(_line(text))
        return True


def _line(text):
    return "\n" + json.dumps(text)          # the new line first: it ends what may be half a line


def _readable_by_owner_only(path, flags):
    return ordinary(path, flags, 0o600)


def nothing_typed_is_shown():
    """Switch off the terminal's echo in the block, such as ^C inside a text; keys typed meanwhile are read after it."""
    return _echo(False)


@contextmanager
def _echo(is_on):
    try:
        import termios
        before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    except ImportError:             # Windows has no termios, and shows no key before it is read
        before = None
    try:
        if before:
            flags = before[3] | termios.ECHO if is_on else before[3] & ~termios.ECHO
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before[:3] + [flags] + before[4:])
        yield
    finally:
        if before:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
