"""A text that a person and a model write in turns: what is typed continues it or, after a slash, is a command.

What is on the screen is what the model sees: typed words begin a new line of the text, and the answer follows them
directly.
"""

import math

from folio.base.errors import FolioError
from folio.base.lines import WordWrap, styled, table
from folio.base.visible import harmless, on_one_line, shown
from folio.cli.interactive import Command, InteractiveMode
from folio.cli.layout import percent, side_by_side
from folio.cli.screen import BOLD, DIM, WARMTH, warmth

SHOWN_TOKENS = 10           # of /top
LONGEST_BAR = 20            # columns


class TextMode(InteractiveMode):
    """A text and the settings that continue it."""

    commands = {
        "more": Command("go on without new words; Enter alone does the same"),
        "again": Command("another answer in place of the last one"),
        "undo": Command("take back what was typed last, and its answer"),
        "top": Command(f"the {SHOWN_TOKENS} likeliest next tokens, or rests of one"),
        "surprise": Command("the text, with how likely each of its tokens was"),
        "mix": Command("mix other models of the same tokenizer in, as in /mix letters=0.3; none takes them away",
                       "[NAME=SHARE ...]"),
        "save": Command("write the text to a file", "FILE"),
        "new": Command("begin a new text"),
        "help": Command("this list"),
    }
    welcome = ("Type the beginning of a text; Enter alone goes on with it. /help lists the commands, Ctrl-C stops an "
               "answer, Ctrl-D ends.")

    @property
    def text(self):
        """Return all that was written, by both."""
        return _joined(self.turns)

    def _request(self, turns):
        return {"prompt": _joined(turns)}

    def _answer(self, words):
        self._go_on(self.turns, _line_break_after(self.text) + words)

    def _enter(self):
        self.more()

    def more(self):
        """Have the model continue without new words; from an empty text, begin one."""
        self._go_on(self.turns, "")

    def _show_words(self, before, words):
        text = _joined(before)
        if not self.screen.go_back():       # the screen shows something else after the text
            self._show_end("" if words else text)
            words = words.removeprefix(_line_break_after(text))
        self.screen.write(words, BOLD)

    def _show_state(self):
        self.screen.note("Taken back. Now the text ends:" if self.text else "Taken back: the text is empty again.")
        if self.text:
            self._show_end(self.text)
            self.screen.end_line()

    def _saved(self, path):
        return self.text.encode("utf-8")

    # --- The model's probabilities ---

    def surprise(self):
        """Show the text with its tokens in colors, or else with their probabilities below them."""
        pieces = self.model.surprise(self.text)
        if not pieces:
            raise FolioError("There is no text yet that could surprise the model.")
        nats = [bits * math.log(2) for _, bits in pieces]
        if self.screen.has_colors:
            wrap = WordWrap(self.screen.width)
            text = "".join(wrap.add(harmless(piece).replace("\n", "⏎\n"), warmth(cost))
                           for (piece, _), cost in zip(pieces, nats)) + wrap.end()
            scale = [styled(f" 1/{float(f'{math.exp(cost):.0e}'):,.0f} ", warmth(cost)) for cost in WARMTH]
            self.screen.show([*text.removesuffix("\n").split("\n"), "",
                              " ".join([styled("less likely than", DIM), *scale])])
        else:
            cells = [(on_one_line(piece).replace(" ", "·"), percent(2 ** -bits), piece.endswith("\n"))
                     for piece, bits in pieces]
            self.screen.show(side_by_side(cells, self.screen.width))

    def top(self):
        """Show the likeliest next tokens."""
        found = self.model.next_token_probabilities(self.text)[:SHOWN_TOKENS]
        bars = ["━" * round(LONGEST_BAR * probability / found[0][1]) for _, probability in found]
        rows = [(shown(piece.encode("utf-8")), percent(probability), bar)
                for (piece, probability), bar in zip(found, bars)]
        self.screen.show(table(rows, "<><", self.screen.width))


def _joined(turns):
    return "".join(turn.words + turn.answer for turn in turns)


def _line_break_after(text):
    """Return the line break that words need to begin a new line after a text."""
    return "\n" if text and not text.endswith("\n") else ""
