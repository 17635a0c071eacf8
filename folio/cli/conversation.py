"""A text that a person and a model write together: what is typed goes on with it or, after a slash, is a command about it.

What is on the screen is what the model sees: typed words begin a new line of the text, and the answer goes on right after them.
"""

import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from folio.cli.command_line import sentence
from folio.base.files import replacing
from folio.cli.keyboard import nothing_typed_is_shown, open_keyboard
from folio.base.errors import FolioError, is_out_of_memory
from folio.base.lines import WordWrap, columns, cut, folded, styled, table
from folio.base.spelling import hint
from folio.base.visible import unescaped, harmless, on_one_line
from folio.cli.screen import BOLD, DIM, WARMTH, Screen, warmth
from folio.base.visible import shown
from folio.base.fields import takes_several, value_type
from Model_Params import SHORT_NAMES, GenerationParams

SHOWN_TOKENS = 10           # of /top
LONGEST_BAR = 20            # columns
NONE = "none"               # what is typed for a setting that is not to be set


def converse(loaded, model, params, samples, home):
    """Ask for words and answer them, on the terminal, until there are no more; loaded: a line about the model, which is shown first"""
    screen = Screen()
    conversation = Conversation(model, params, samples, screen)
    keyboard = open_keyboard(home.history, conversation.commands)
    conversation.keys = keyboard.keys
    screen.note(f"{loaded}\nType the beginning of a text; Enter alone goes on with it. /help lists the commands, Ctrl-C stops an answer, "
                "Ctrl-D ends.\n\n")
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
    """What came to the text at once."""
    words: str              # a person's, with the new line that they begin
    answer: str = ""        # the model's
    asked: int = 0          # answers to these words that the model was asked for until now


class Conversation:
    """A text and the settings it goes on with. `reply` takes what was typed, and shows on a Screen what there is to say."""

    keys = ""               # what /help tells of the keyboard

    def __init__(self, model, params, samples, screen):
        """params: GenerationParams; samples: answers that are shown at once, the first of which the text goes on with"""
        self.model, self.params, self.samples, self.screen = model, params, samples, screen
        self.turns = []
        self.given_up = []                  # turns of the text before this one
        self.answers = 0                    # asked for so far: each is a stream of the seed
        self.may_overwrite = set()          # paths
        self.commands = [f"/{name}" for name in [*COMMANDS, *SETTINGS, *SHORT_NAMES]]

    @property
    def text(self):
        """All that was written, by both."""
        return _joined(self.turns)

    def reply(self, typed):
        """Do what was typed. What cannot be done is told in a sentence, and changes nothing; of an answer that fails or that Ctrl-C ends, what
        is on the screen is part of the text."""
        try:
            if typed.startswith("/") and not typed.startswith("//"):
                self._command(typed)
            elif typed.strip(" \t"):
                typed = typed[typed.startswith("//"):]
                self._go_on(self.turns, "\n" * _ends_inside_a_line(self.text) + typed)
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
        """Let the model go on without new words; on an empty text, begin one."""
        self._go_on(self.turns, "")

    def again(self):
        """Replace the last answer by another one."""
        if not self.turns:
            raise FolioError("There is no answer yet that another one could replace.")
        *before, last = self.turns
        self.screen.stay()
        self._go_on(before, last.words, last.asked)

    def undo(self):
        """Take back the last turn, or else the last /new."""
        if not self.turns and not self.given_up:
            raise FolioError("There is nothing to take back.")
        if self.turns:
            self.turns = self.turns[:-1]
        else:
            self.turns, self.given_up = self.given_up, []
        self.screen.note("Taken back. Now the text ends:" if self.text else "Taken back: the text is empty again.")
        if self.text:
            self._show_end(self.text)
            self.screen.end_line()

    def new(self):
        """Begin a new text, as if just started."""
        self.turns, self.given_up, self.answers = [], self.turns or self.given_up, 0
        self.screen.note("A new text.")

    def save(self, name):
        """Write the text to a file; one that is there already is overwritten the second time."""
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
        """Make `before`, some turns, all that was, and add a turn: these words, and what the model answers them, as often as there are samples."""
        text = _joined(before)
        first = self.answers if self.params.beams is None else asked        # the best of a search, or the next ones of a seed
        streams = [{"prompt": text + words, "stream": first + sample} for sample in range(self.samples)]
        answers = self.model.stream_each(streams, **asdict(self.params))    # before anything is changed: it may refuse the words
        replaced = self.turns[-1].answer if asked else None
        turn = Turn(words, "", asked + self.samples)
        self.turns, self.answers = [*before, turn], self.answers + self.samples
        if not self.screen.go_back():       # something stands between
            self._show_end("" if words else text)
            words = words[_ends_inside_a_line(text):]
        self.screen.write(words, BOLD)
        others = [""] * self.samples
        try:
            for sample, piece in answers:
                others[sample] += piece
                if sample == 0:             # is shown while it is made, and the others meanwhile
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
        """Show as much of a text's end again as one row holds, so that it is seen what goes on."""
        wrap = WordWrap(self.screen.width)
        written = text.rstrip("\n")
        last_line = harmless(written[-4 * wrap.width:]).rpartition("\n")[2]         # four rows, so that the last begins with a word
        self.screen.write((wrap.add(last_line) + wrap.end()).rpartition("\n")[2] + text[len(written):], DIM)

    # --- What the model thinks ---

    def surprise(self):
        """Show the text with its tokens in colours, or else with their probabilities below them."""
        pieces = self.model.surprise(self.text)
        if not pieces:
            raise FolioError("There is no text yet that could surprise the model.")
        nats = [bits * math.log(2) for _, bits in pieces]
        if self.screen.has_colours:
            wrap = WordWrap(self.screen.width)
            lines = [wrap.add(harmless(piece).replace("\n", "⏎\n"), warmth(cost)) for (piece, _), cost in zip(pieces, nats)] + [wrap.end()]
            scale = [styled(f" 1/{float(f'{math.exp(cost):.0e}'):,.0f} ", warmth(cost)) for cost in WARMTH]
            self.screen.show([*"".join(lines).removesuffix("\n").split("\n"), "", " ".join([styled("less likely than", DIM), *scale])])
        else:
            cells = [(on_one_line(piece).replace(" ", "·"), _percent(2 ** -bits), piece.endswith("\n")) for piece, bits in pieces]
            self.screen.show(_side_by_side(cells, self.screen.width))

    def top(self):
        """Show what the model expects next."""
        found = self.model.next_token_probabilities(self.text)[:SHOWN_TOKENS]
        bars = ["━" * round(LONGEST_BAR * probability / found[0][1]) for _, probability in found]
        rows = [(shown(piece.encode("utf-8")), _percent(probability), bar) for (piece, probability), bar in zip(found, bars)]
        self.screen.show(table(rows, "<><", self.screen.width))

    # --- Commands and settings ---

    def help(self):
        """Show what can be typed."""
        rows = [(f"/{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items()]
        settings = [(f"/{name} {on_one_line(self._value(name))}", each.metadata["help"]) for name, each in SETTINGS.items()]
        width = self.screen.width
        self.screen.show([
            *_listed(rows, width), "",
            *folded("Settings: the name alone shows one, a value behind it changes it, as in /temperature 0.7; none takes it away. "
                    f"{', '.join(f'/{short} is short for {_command_of(full)}' for short, full in SHORT_NAMES.items())}.", width),
            *_listed(settings, width, whole=False), "",
            *folded(f"A text that begins with / is typed with two: //. {self.keys}. Ctrl-C stops an answer, Ctrl-D ends.", width)])

    def _command(self, typed):
        name, value = re.match(r"/(\S*)\s?(.*)", typed, re.DOTALL).groups()
        name = name.lower().replace("_", "-")
        name = SHORT_NAMES.get(name, name).replace("_", "-")
        if name in COMMANDS:
            command, value = COMMANDS[name], value.strip()
            if bool(value) != bool(command.takes):
                raise FolioError(f"It is /{name} {command.takes}." if command.takes else f"/{name} takes nothing behind it.")
            command.do(self, *([value] if value else []))
        elif name in SETTINGS:
            self._set(name, value)
        else:
            told = f"There is no command /{name}{hint(name, self.commands, _command_of)}"
            raise FolioError(f"{told}{'' if told.endswith('?') else '.'} /help lists them. (A text that begins with / is typed with two: //)")

    def _set(self, name, value):
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
            problems.append(f"beams={params.beams} find no more answers than that, and --samples {self.samples} are shown.")
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
    """What is done where its name is typed after a slash."""
    do: Callable            # a method of Conversation
    help: str
    takes: str = ""         # what has to stand behind the name


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


def _ends_inside_a_line(text):
    return bool(text) and not text.endswith("\n")


def _command_of(name):
    return "/" + name.replace("_", "-")


def _percent(probability):
    return f"{100 * probability:.1f} %"


def _listed(rows, width, whole=True):
    """[(name, what it is)] as lines: side by side, or where that leaves too little room one below the other; whole: else cut to one line."""
    names = max(columns(name) for name, _ in rows) + 2
    beside = width - names >= 24            # columns: a few words
    for name, text in rows:
        lines = folded(text, width - names if beside else max(1, width - 2))
        first, *more = lines if whole else [cut(text, width - names if beside else width - 2)]
        yield from [name + " " * (names - columns(name)) + first] if beside else [cut(name, width), "  " + first]
        yield from (" " * (names if beside else 2) + line for line in more)


def _side_by_side(cells, width):
    """[(above, below, whether it ends a line)] as lines, two for each row of cells."""
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
