"""A text that a person and a model write in turns: what is typed continues it or, after a slash, is a command.

What is on the screen is what the model sees: typed words begin a new line of the text, and the answer follows them
directly.
"""

import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from folio.base.errors import FolioError, is_out_of_memory
from folio.base.fields import takes_several, value_type
from folio.base.files import replacing
from folio.base.lines import WordWrap, columns, cut, folded, styled, table
from folio.base.spelling import hint
from folio.base.visible import harmless, on_one_line, shown, unescaped
from folio.cli.command_line import sentence
from folio.cli.keyboard import nothing_typed_is_shown, open_keyboard
from folio.cli.screen import BOLD, DIM, WARMTH, Screen, warmth
from Model_Params import SHORT_NAMES, GenerationParams

SHOWN_TOKENS = 10           # of /top
LONGEST_BAR = 20            # columns
NONE = "none"               # typed in place of a value: takes the setting away


def converse(loaded, model, params, samples, home):
    """Read words from the terminal and answer them until Ctrl-D; loaded: a line about the model, shown first."""
    screen = Screen()
    conversation = Conversation(model, params, samples, screen)
    keyboard = open_keyboard(home.history, conversation.commands)
    conversation.keys = keyboard.keys
    screen.note(f"{loaded}\nType the beginning of a text; Enter alone goes on with it. /help lists the commands, "
                "Ctrl-C stops an answer, Ctrl-D ends.\n\n")
    while True:
        try:
            typed = keyboard.read()
            if keyboard.leaves_typed:
                screen.stay(below_typed=True)
            with nothing_typed_is_shown():
                conversation.reply(typed)
        except EOFError:
            return
        except KeyboardInterrupt:
            screen.end_line()


@dataclass
class Turn:
    """What was added to the text at once: a person's words and the model's answer."""
    words: str              # with the line end before them, if they begin a new line
    answer: str = ""
    asked: int = 0          # how many answers to these words the model has been asked for


class Conversation:
    """A text and the settings that continue it. `reply` carries out what was typed and shows the result on a Screen."""

    keys = ""               # what /help says about the keyboard

    def __init__(self, model, params, samples, screen):
        """params: GenerationParams; samples: answers shown for each turn; the text continues with the first."""
        self.model, self.params, self.samples, self.screen = model, params, samples, screen
        self.turns = []
        self.discarded = []                 # turns of the text before /new
        self.answers = 0                    # asked for so far: each is a stream of the seed
        self.may_overwrite = set()          # paths that /save has warned about, or has written
        self.commands = [f"/{name}" for name in [*COMMANDS, *SETTINGS, *SHORT_NAMES]]

    @property
    def text(self):
        """Return all that was written, by both."""
        return _joined(self.turns)

    def reply(self, typed):
        """Carry out what was typed. What cannot be done is answered with a sentence and changes nothing.

        Of an answer that fails or that Ctrl-C stops, what is on the screen is part of the text.
        """
        try:
            if typed.startswith("/") and not typed.startswith("//"):
                self._command(typed)
            elif typed.strip(" \t"):
                words = typed.removeprefix("/") if typed.startswith("//") else typed
                self._go_on(self.turns, _line_break_after(self.text) + words)
            else:
                self.more()
        except (FolioError, OSError) as error:
            self.screen.note(sentence(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.screen.note("There is not enough memory for this. Try fewer /beams, or a /new text.")

    # --- The text ---

    def more(self):
        """Have the model continue without new words; from an empty text, begin one."""
        self._go_on(self.turns, "")

    def again(self):
        """Replace the last answer with another one."""
        if not self.turns:
            raise FolioError("There is no answer yet that another one could replace.")
        *before, last = self.turns
        self.screen.stay()
        self._go_on(before, last.words, last.asked)

    def undo(self):
        """Undo the last turn, or else the last /new."""
        if not self.turns and not self.discarded:
            raise FolioError("There is nothing to take back.")
        if self.turns:
            self.turns = self.turns[:-1]
        else:
            self.turns, self.discarded = self.discarded, []
        self.screen.note("Taken back. Now the text ends:" if self.text else "Taken back: the text is empty again.")
        if self.text:
            self._show_end(self.text)
            self.screen.end_line()

    def new(self):
        """Begin a new text and the streams of the seed anew."""
        self.turns, self.discarded, self.answers = [], self.turns or self.discarded, 0
        self.screen.note("A new text.")

    def save(self, name):
        """Write the text to a file. An existing one is overwritten when the command is repeated."""
        path = Path(os.path.expanduser(name))
        if not self.text:
            raise FolioError("There is no text yet that could be saved.")
        if "\0" in name:
            raise FolioError(f"{name} is no name that a file can have.")
        if path.is_dir():
            raise FolioError(f"{name} is a folder. Say which file in it: /save {path / 'text.txt'}")
        if path.exists() and not path.is_file():
            raise FolioError(f"{name} is no file that a text could take the place of.")
        if path.exists() and path.absolute() not in self.may_overwrite:
            self.may_overwrite.add(path.absolute())
            raise FolioError(f"{name} is there already, and as it was. The same command once more overwrites it.")
        content = self.text.encode("utf-8")
        with replacing(path) as file:
            file.write(content)
        self.may_overwrite.add(path.absolute())
        self.screen.note(f"{len(content):,} bytes are in {name}.")

    def _go_on(self, before, words, asked=0):
        """Add a turn after the turns `before`: these words and the model's answer, one for each sample.

        asked: how many answers to these words the model has given already, where they are repeated.
        """
        text = _joined(before)
        # The next streams of the seed; with beams, the next best texts of the search.
        first = self.answers if self.params.beams is None else asked
        streams = [{"prompt": text + words, "stream": first + sample} for sample in range(self.samples)]
        answers = self.model.stream_each(streams, **asdict(self.params))    # first, because it may refuse the words
        replaced = self.turns[-1].answer if asked else None
        turn = Turn(words, "", asked + self.samples)
        self.turns, self.answers = [*before, turn], self.answers + self.samples
        if not self.screen.go_back():       # the screen shows something else after the text
            self._show_end("" if words else text)
            words = words.removeprefix(_line_break_after(text))
        self.screen.write(words, BOLD)
        others = [""] * self.samples
        try:
            for sample, piece in answers:
                others[sample] += piece
                if sample == 0:             # shown as it is generated, the others afterwards
                    turn.answer += piece
                    self.screen.write(piece)
        finally:
            self.screen.end_line()
        for number, answer in enumerate(others[1:], 2):
            self.screen.note(f"Answer {number} of {self.samples}; the text goes on with the first:")
            self.screen.write(answer)
            self.screen.end_line()
            self.screen.stay()
        if turn.answer == replaced:
            self.screen.note("That is the same answer: nothing is left to chance here.")
        elif not turn.answer and self.params.tokens:
            where = " (or at a text of /stop)" if self.params.stop else ""
            self.screen.note(f"The model ends here{where}: /again, or words of yours, may change its mind.")

    def _show_end(self, text):
        """Show as much of a text's end as one row holds, so that a person sees what is continued."""
        wrap = WordWrap(self.screen.width)
        written = text.rstrip("\n")
        # Four rows, so that the last one begins with a word.
        last_line = harmless(written[-4 * wrap.width:]).rpartition("\n")[2]
        self.screen.write((wrap.add(last_line) + wrap.end()).rpartition("\n")[2] + text[len(written):], DIM)

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
            cells = [(on_one_line(piece).replace(" ", "·"), _percent(2 ** -bits), piece.endswith("\n"))
                     for piece, bits in pieces]
            self.screen.show(_side_by_side(cells, self.screen.width))

    def top(self):
        """Show the likeliest next tokens."""
        found = self.model.next_token_probabilities(self.text)[:SHOWN_TOKENS]
        bars = ["━" * round(LONGEST_BAR * probability / found[0][1]) for _, probability in found]
        rows = [(shown(piece.encode("utf-8")), _percent(probability), bar)
                for (piece, probability), bar in zip(found, bars)]
        self.screen.show(table(rows, "<><", self.screen.width))

    # --- Commands and settings ---

    def help(self):
        """Show what can be typed."""
        rows = [(f"/{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items()]
        settings = [(f"/{name} {on_one_line(self._value(name))}", each.metadata["help"])
                    for name, each in SETTINGS.items()]
        short_names = ", ".join(f"/{short} is short for {_command_of(full)}" for short, full in SHORT_NAMES.items())
        width = self.screen.width
        self.screen.show([
            *_listed(rows, width), "",
            *folded("Settings: the name alone shows one, a value behind it changes it, as in /temperature 0.7; "
                    f"none takes it away. {short_names}.", width),
            *_listed(settings, width, whole=False), "",
            *folded(f"A text that begins with / is typed with two: //. {self.keys}. "
                    "Ctrl-C stops an answer, Ctrl-D ends.", width)])

    def _command(self, typed):
        name, value = re.match(r"/(\S*)\s?(.*)", typed, re.DOTALL).groups()
        name = name.lower().replace("_", "-")
        name = SHORT_NAMES.get(name, name).replace("_", "-")
        if name in COMMANDS:
            command, value = COMMANDS[name], value.strip()
            if command.takes and not value:
                raise FolioError(f"It is /{name} {command.takes}.")
            if value and not command.takes:
                raise FolioError(f"/{name} takes nothing behind it.")
            command.do(self, *([value] if value else []))
        elif name in SETTINGS:
            self._set(name, value)
        else:
            message = f"There is no command /{name}{hint(name, self.commands, _command_of)}"
            message += "" if message.endswith("?") else "."
            raise FolioError(f"{message} /help lists them. (A text that begins with / is typed with two: //)")

    def _set(self, name, value):
        """Change a setting; without a value, show it."""
        each = SETTINGS[name]
        if not value.strip(" "):
            return self.screen.note(f"{name} {self._value(name)}: {each.metadata['help']}")
        if value.strip() == NONE:
            values = each.default
        else:
            try:
                values = value_type(each)(value)
            except ValueError:
                kind = {int: "a whole number", float: "a number"}[value_type(each)]
                raise FolioError(f"/{name} takes {kind}, and {value.strip()!r} is none.") from None
            values = (*getattr(self.params, each.name), unescaped(values)) if takes_several(each) else values
        params = replace(self.params, **{each.name: values})
        problems = list(params.problems())
        if params.beams is not None and params.beams < self.samples:
            problems.append(f"beams={params.beams} find no more answers than that, "
                            f"and --samples {self.samples} are shown.")
        if problems:
            raise FolioError("\n".join(problems))
        self.params = params
        if each.name == "sampling_seed":
            self.answers = 0
        self.screen.note(f"{name} {self._value(name)}")

    def _value(self, name):
        value = getattr(self.params.resolved(), SETTINGS[name].name)
        return " ".join(map(repr, value)) or NONE if isinstance(value, tuple) else NONE if value is None else str(value)


@dataclass(frozen=True)
class Command:
    """A command, typed by its name after a slash."""
    do: Callable            # a method of Conversation
    help: str
    takes: str = ""         # the argument that has to follow the name


COMMANDS = {
    "more": Command(Conversation.more, "go on without new words; Enter alone does the same"),
    "again": Command(Conversation.again, "another answer in place of the last one"),
    "undo": Command(Conversation.undo, "take back what was typed last, and its answer"),
    "top": Command(Conversation.top, f"the {SHOWN_TOKENS} likeliest next tokens, or rests of one"),
    "surprise": Command(Conversation.surprise, "the text, with how likely each of its tokens was"),
    "save": Command(Conversation.save, "write the text to a file", "FILE"),
    "new": Command(Conversation.new, "begin a new text"),
    "help": Command(Conversation.help, "this list"),
}
SETTINGS = {each.name.replace("_", "-"): each for each in fields(GenerationParams)}


def _joined(turns):
    return "".join(turn.words + turn.answer for turn in turns)


def _line_break_after(text):
    """Return the line break that words need to begin a new line after a text."""
    return "\n" if text and not text.endswith("\n") else ""


def _command_of(name):
    return "/" + name.replace("_", "-")


def _percent(probability):
    return f"{100 * probability:.1f} %"


def _listed(rows, width, whole=True):
    """Return [(name, description)] as lines: side by side, or one below the other where that leaves too little room.

    whole: wrap long descriptions; else cut them to one line.
    """
    names = max(columns(name) for name, _ in rows) + 2
    beside = width - names >= 24            # columns: a few words
    for name, text in rows:
        lines = folded(text, width - names if beside else max(1, width - 2))
        first, *more = lines if whole else [cut(text, width - names if beside else width - 2)]
        yield from [name + " " * (names - columns(name)) + first] if beside else [cut(name, width), "  " + first]
        yield from (" " * (names if beside else 2) + line for line in more)


def _side_by_side(cells, width):
    """Return [(above, below, whether it ends a line)] as lines, two for each row of cells."""
    above = below = ""
    for top, bottom, ends_line in cells:
        wide = max(columns(top), columns(bottom)) + 2
        if above and columns(above) + wide - 2 > width:
            yield from (above.rstrip(), below.rstrip(), "")
            above = below = ""
        above, below = above + top + " " * (wide - columns(top)), below + bottom.ljust(wide)
        if ends_line:
            yield from (above.rstrip(), below.rstrip(), "")
            above = below = ""
    if above:
        yield from (above.rstrip(), below.rstrip())
