"""A text that a person and a model write in turns: what is typed continues it or, after a slash, is a command.

What is on the screen is what the model sees: typed words begin a new line of the text, and the answer follows them
directly.
"""

from folio.base.errors import FolioError
from folio.cli.interactive import HELP, Command, InteractiveMode, Turn
from folio.cli.probabilities import show_surprise
from folio.cli.screen import BOLD


class TextMode(InteractiveMode):
    """A text and the settings that continue it."""

    commands = {
        "more": Command("go on without new words; Enter alone does the same"),
        **InteractiveMode.commands,
        "surprise": Command("the text, with how likely each of its tokens was"),
        "save": Command("write the text to a file", "FILE"),
        "open": Command("go on with the text of a file", "FILE"),
        "new": Command("begin a new text"),
        "help": HELP,
    }
    welcome = ("Type the beginning of a text; Enter alone goes on with it. /help lists the commands, Ctrl-C stops an "
               "answer, Ctrl-D ends.")

    @property
    def text(self):
        """Return all that was written, by both."""
        return _joined(self.turns)

    def _request(self, turns):
        return {"prompt": _joined(turns)}

    def _read(self):
        return self.text

    def _answer(self, words, before=None):
        before = self.turns if before is None else before
        self._go_on(before, _line_break_after(_joined(before)) + words)

    def _enter(self):
        self.more()

    def more(self):
        """Have the model continue without new words; from an empty text, begin one."""
        self._go_on(self.turns, "")

    def _last_typed(self):
        typed = [place for place, turn in enumerate(self.turns) if turn.words]
        if typed:
            return self.turns[:typed[-1]], self.turns[typed[-1]].words.removeprefix("\n")
        head, line_break, last_line = self.text.rstrip("\n").rpartition("\n")
        if not last_line:
            raise FolioError("There is no text yet that could be edited.")
        return [Turn("", head + line_break)] if head else [], last_line

    def _show_words(self, before, turn):
        text, words = _joined(before), turn.words
        if not self.screen.go_back():       # the screen shows something else after the text
            self._show_end("" if words else text)
            words = words.removeprefix(_line_break_after(text))
        self.screen.write(words, BOLD)

    def _show_state(self):
        if self.text:
            self.screen.note("Now the text ends:")
            self._show_end(self.text)
            self.screen.end_line()

    def _remark_on(self, turn, finish):
        if not turn.answer and self.params.tokens:
            where = " (or at a text of /stop)" if self.params.stop else ""
            self.screen.note(f"The model ends here{where}: /again, or words of yours, may change its mind.")

    def _saved(self, path):
        return self.text.encode("utf-8")

    def _opened(self, content):
        if not content:
            raise FolioError("The file is empty, and the text as it was.")
        return {"turns": [Turn("", content)]}

    def surprise(self):
        """Show the text with how likely each of its tokens was."""
        pieces = self.model.surprise(self.text)
        if not pieces:
            raise FolioError("There is no text yet that could surprise the model.")
        show_surprise(self.screen, [("", pieces)])


def _joined(turns):
    return "".join(turn.words + turn.answer for turn in turns)


def _line_break_after(text):
    """Return the line break that words need to begin a new line after a text."""
    return "\n" if text and not text.endswith("\n") else ""
