"""What both interactive modes share: turns of a person and a model, commands behind a slash, settings, the screen.

`TextMode` writes one text in turns, `ChatMode` has a conversation.
"""

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from folio.base.errors import FolioError, is_out_of_memory
from folio.base.fields import takes_several, value_type
from folio.base.files import replacing
from folio.base.lines import WordWrap, folded
from folio.base.spelling import hint
from folio.base.visible import harmless, on_one_line, unescaped
from folio.cli.command_line import sentence
from folio.cli.keyboard import Keyboard, nothing_typed_is_shown, open_keyboard
from folio.cli.layout import listed
from folio.cli.mixing import BLENDS, legend, style_of
from folio.cli.probabilities import SHOWN_TOKENS, show_top
from folio.cli.screen import DIM, Screen
from Model_Params import SHORT_NAMES, GenerationParams

NONE = "none"               # typed in place of a value: takes the setting away
SETTINGS = {each.name.replace("_", "-"): each for each in fields(GenerationParams)}


def interact(mode, loaded, history):
    """Read words from the terminal and have a mode answer them until Ctrl-D.

    loaded: a line about the model, shown first; history: path of the file of what was typed
    """
    keyboard = open_keyboard(history, mode.completions)
    mode.keyboard = keyboard
    mode.screen.note(f"{loaded}\n{mode.welcome}\n\n")
    while True:
        try:
            typed = keyboard.read()
            if keyboard.leaves_typed:
                mode.screen.stay(below_typed=True)
            with nothing_typed_is_shown():
                mode.reply(typed)
        except EOFError:
            return
        except KeyboardInterrupt:
            mode.screen.end_line()


@dataclass
class Turn:
    """What was added at once: a person's words and the model's answer."""
    words: str              # "": the model went on without new ones
    answer: str = ""
    asked: int = 0          # how many answers to these words the model has been asked for
    answers: list[str] = field(default_factory=list)        # of all samples, `answer` among them


@dataclass(frozen=True)
class Command:
    """A command, typed by its name after a slash; the mode's method of that name carries it out."""
    help: str
    takes: str = ""         # the argument that has to follow the name; may follow where it is in brackets


HELP = Command("this list")


class InteractiveMode:
    """Turns and the settings that answer them. `reply` carries out what was typed and shows the result on a Screen.

    A mode defines what its turns are to the model and how they are shown: the methods that raise NotImplementedError.
    """

    commands = {
        "again": Command("another answer in place of the last one"),
        "keep": Command("with --samples: go on with this answer in place of the first", "N"),
        "undo": Command("take back what was typed last, and its answer"),
        "edit": Command("change what was typed last, and have it answered anew"),
        "top": Command(f"the {SHOWN_TOKENS} likeliest next tokens, or rests of one"),
        "mix": Command("mix other models of the same tokenizer in, as in /mix letters=0.3; none takes them away",
                       "[NAME=SHARE ...]"),
    }                       # {name: Command}, in the order of /help, which a mode adds as the last
    welcome = ""            # below the line about the model, at the beginning
    subject = "text"        # what the turns are called
    state = ("turns",)      # names of what /new and /open replace and /undo brings back
    keyboard = Keyboard()   # what /edit reads
    mixer = None            # a folio.cli.mixing.Mixer, where /mix can name other models

    def __init__(self, model, params, samples, screen=None, read_file=None, on_keep=None):
        """params: GenerationParams; samples: answers shown for each turn, which continues with the first.

        read_file: a function from a path to what `_opened` takes, and remarks: [sentence]
        on_keep: is told about a choice of /keep: what was asked (a prompt of stream_each), the answer, [other answers]
        """
        self.model, self.params, self.samples, self.screen = model, params, samples, screen or Screen()
        self.read_file: Callable | None = read_file
        self.on_keep: Callable | None = on_keep
        self.turns = []
        self.replaced = {}                  # {name: value}: the state before /new or /open
        self.answers = 0                    # asked for so far: each is a stream of the seed
        self.may_overwrite = set()          # paths that /save has warned about, or has written

    @property
    def completions(self):
        """Return all that can be typed after a slash, with it."""
        return [f"/{name}" for name in [*self.commands, *SETTINGS, *SHORT_NAMES]]

    def reply(self, typed):
        """Carry out what was typed. What cannot be done is answered with a sentence and changes nothing.

        Of an answer that fails or that Ctrl-C stops, what is on the screen stays.
        """
        try:
            if typed.startswith("/") and not typed.startswith("//"):
                self._command(typed)
            elif typed.strip(" \t"):
                self._answer(typed.removeprefix("/") if typed.startswith("//") else typed)
            else:
                self._enter()
        except (FolioError, OSError) as error:
            self.screen.note(sentence(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.screen.note(f"There is not enough memory for this. Try fewer /beams, or a /new {self.subject}.")

    # --- What a mode defines ---

    def _request(self, turns):
        """Return what the model answers or continues after these turns: a prompt of LanguageModel.stream_each."""
        raise NotImplementedError

    def _answer(self, words):
        """Have the model answer typed words."""
        raise NotImplementedError

    def _enter(self):
        """Carry out Enter alone."""
        raise NotImplementedError

    def _show_words(self, before, turn):
        """Show the words that follow the turns `before`, or where the answer continues if there are none."""
        raise NotImplementedError

    def _end_answer(self):
        """Go to a new line below an answer, complete or not."""
        self.screen.end_line()

    def _show_state(self):
        """Show with what the turns end, after they were changed."""
        raise NotImplementedError

    def _remark_on(self, turn, finish):
        """Say what is remarkable about an answer; finish: "stop" or "length", as stream_each says."""
        raise NotImplementedError

    def _last_typed(self):
        """Return the turns before the words that were typed last, and the words. Raises FolioError without any."""
        raise NotImplementedError

    def _saved(self, path):
        """Return the bytes that /save writes to a path."""
        raise NotImplementedError

    def _opened(self, content):
        """Return the state, {name: value}, that the content of a file makes. Raises FolioError where it makes none."""
        raise NotImplementedError

    def _read(self):
        """Return what the model has before it: a text, or messages."""
        raise NotImplementedError

    # --- The turns ---

    def again(self):
        """Replace the last answer with another one."""
        if not self.turns or not self.turns[-1].words and not self.turns[-1].asked:         # nor in an opened text
            raise FolioError("There is no answer yet that another one could replace.")
        *before, last = self.turns
        self.screen.stay()
        self._go_on(before, last.words, last.asked)

    def keep(self, number):
        """Continue with another one of the last answers."""
        answers = self.turns[-1].answers if self.turns else []
        if len(answers) < 2:
            raise FolioError("There are no several answers to choose from: run.py --samples 2 shows two each time.")
        if not number.isdecimal() or not 1 <= int(number) <= len(answers):
            raise FolioError(f"/keep takes the number of an answer, from 1 to {len(answers)}.")
        *before, last = self.turns
        last.answer = answers[int(number) - 1]
        self.screen.note(f"The {self.subject} goes on with answer {int(number)}:")
        self._show_end(last.answer)
        self.screen.end_line()
        if self.on_keep is not None:
            others = [answer for answer in dict.fromkeys(answers) if answer != last.answer]
            self.on_keep(self._request([*before, Turn(last.words)]), last.answer, others)

    def edit(self):
        """Bring up the words that were typed last; what becomes of them is answered in their place."""
        before, words = self._last_typed()
        if not self.keyboard.edits:
            self.screen.note("It was, to be typed anew; Enter alone leaves it as it is:")
            self.screen.write(words)
            self.screen.end_line()
        try:
            typed = self.keyboard.read(words)
        except EOFError:
            typed = ""
        if self.keyboard.leaves_typed:
            self.screen.stay(below_typed=True)
        if typed.strip() in ("", words):
            self.screen.note("Left as it was.")
        else:
            self.screen.stay()
            self._answer(typed, before)

    def undo(self):
        """Undo the last turn, or else the last /new or /open."""
        if not self.turns and not self.replaced:
            raise FolioError("There is nothing to take back.")
        if self.turns:
            self.turns = self.turns[:-1]
        else:
            vars(self).update(self.replaced)
            self.replaced = {}
        self.screen.note("Taken back." + ("" if self.turns else f" The {self.subject} is empty again."))
        self._show_state()

    def new(self):
        """Begin anew, and the streams of the seed as well."""
        self._replace({"turns": []})
        self.screen.note(f"A new {self.subject}.")

    def open(self, name):
        """Continue with what is in a file."""
        path = _path(name)
        if path.is_dir():
            raise FolioError(f"{name} is a folder. Say which file in it.")
        if path.exists() and not path.is_file():
            raise FolioError(f"{name} is no file that could be opened, but a pipe or a device.")
        if not path.exists():
            raise FolioError(f"There is no file {name}; the {self.subject} is as it was.")
        content, remarks = self.read_file(path)
        self._replace(self._opened(content))
        self.screen.note("\n".join([*remarks, f"{name} is open."]))
        self._show_state()

    def _replace(self, state):
        if self.turns:
            self.replaced = {name: getattr(self, name) for name in self.state}
        self.answers = 0
        vars(self).update(state)

    def save(self, name):
        """Write the turns to a file. An existing one is overwritten when the command is repeated."""
        path = _path(name)
        if not (content := self._saved(path)):
            raise FolioError(f"There is no {self.subject} yet that could be saved.")
        if path.is_dir():
            raise FolioError(f"{name} is a folder. Say which file in it: /save {path / f'{self.subject}.txt'}")
        if path.exists() and not path.is_file():
            raise FolioError(f"{name} is no file that a {self.subject} could take the place of.")
        if path.exists() and path.absolute() not in self.may_overwrite:
            self.may_overwrite.add(path.absolute())
            raise FolioError(f"{name} is there already, and as it was. The same command once more overwrites it.")
        with replacing(path) as file:
            file.write(content)
        self.may_overwrite.add(path.absolute())
        self.screen.note(f"{len(content):,} bytes are in {name}.")

    def _go_on(self, before, words, asked=0):
        """Add a turn after the turns `before`: these words and the model's answer, one for each sample.

        asked: how many answers to these words the model has given already, where they are repeated.
        """
        # The next streams of the seed; with beams, the next best texts of the search.
        first = self.answers if self.params.beams is None else asked
        request = self._request([*before, Turn(words)])
        streams = [{**request, "stream": first + sample} for sample in range(self.samples)]
        stream_each = self.model.voiced_each if self._is_mixed else self.model.stream_each
        answers = stream_each(streams, **asdict(self.params))       # first, because it may refuse the words
        replaced = self.turns[-1].answer if asked else None
        turn = Turn(words, "", asked + self.samples, [""] * self.samples)
        self.turns, self.answers = [*before, turn], self.answers + self.samples
        self._show_words(before, turn)
        finishes, others = [], [[] for _ in range(self.samples - 1)]
        try:
            for sample, piece, *voice in with_returned(answers, finishes):
                turn.answers[sample] += piece
                style = style_of(self.model, *voice)
                if sample == 0:             # shown as it is generated, the others afterwards
                    turn.answer += piece
                    self.screen.write(piece, style)
                else:
                    others[sample - 1].append((piece, style))
        except BaseException:
            turn.answers = []               # cut off: /keep has nothing to choose from
            raise
        finally:
            self._end_answer()
        for number, pieces in enumerate(others, 2):
            self.screen.note(f"Answer {number} of {self.samples}; the {self.subject} goes on with the first, unless "
                             f"/keep {number}:")
            for piece, style in pieces:
                self.screen.write(piece, style)
            self._end_answer()
            self.screen.stay()
        if turn.answer == replaced:
            self.screen.note("That is the same answer: nothing is left to chance here.")
        else:
            self._remark_on(turn, finishes[0] and finishes[0][0])

    def _show_end(self, text):
        """Show as much of a text's end as one row holds, so that a person sees what is continued."""
        wrap = WordWrap(self.screen.width)
        written = text.rstrip("\n")
        # Four rows, so that the last one begins with a word.
        last_line = harmless(written[-4 * wrap.width:]).rpartition("\n")[2]
        self.screen.write((wrap.add(last_line) + wrap.end()).rpartition("\n")[2] + text[len(written):], DIM)

    def top(self):
        """Show the likeliest next tokens."""
        show_top(self.screen, self.model.next_token_probabilities(self._read()))

    # --- Commands and settings ---

    def help(self):
        """Show what can be typed."""
        rows = [(f"/{name} {command.takes}".rstrip(), command.help) for name, command in self.commands.items()]
        settings = [(f"/{name} {on_one_line(self._value(name))}", each.metadata["help"])
                    for name, each in SETTINGS.items()]
        short_names = ", ".join(f"/{short} is short for {_command_of(full)}" for short, full in SHORT_NAMES.items())
        width = self.screen.width
        self.screen.show([
            *listed(rows, width), "",
            *folded("Settings: the name alone shows one, a value behind it changes it, as in /temperature 0.7; "
                    f"none takes it away. {short_names}.", width),
            *listed(settings, width, whole=False), "",
            *folded(f"A text that begins with / is typed with two: //. {self.keyboard.keys}. "
                    "Ctrl-C stops an answer, Ctrl-D ends.", width)])

    @property
    def _is_mixed(self):
        return self.mixer is not None and bool(self.model.voices)

    def mix(self, words=""):
        """Mix other models in, which words such as letters=0.3 name; take them away; or show which there are."""
        if not words and not self._is_mixed:
            raise FolioError("One model writes alone. To mix another one in: /mix NAME=0.3")
        if words:
            parts = [] if words == NONE else words.split()
            blend = next((part for part in parts if part in BLENDS), None)
            self.model = self.mixer.mixed([part for part in parts if part != blend], blend, "/mix")
        if self._is_mixed:
            self.screen.show([legend(self.model, self.screen.has_colors)])
        else:
            self.screen.note(f"{self.model.name} writes alone again.")

    def _command(self, typed):
        name, value = re.match(r"/(\S*)\s?(.*)", typed, re.DOTALL).groups()
        name = name.lower().replace("_", "-")
        name = SHORT_NAMES.get(name, name).replace("_", "-")
        if name in self.commands:
            command, value = self.commands[name], value.strip()
            if command.takes and not command.takes.startswith("[") and not value:
                raise FolioError(f"It is /{name} {command.takes}.")
            if value and not command.takes:
                raise FolioError(f"/{name} takes nothing behind it.")
            getattr(self, name)(*([value] if value else []))
        elif name in SETTINGS:
            self._set(name, value)
        else:
            message = f"There is no command /{name}{hint(name, self.completions, _command_of)}"
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


def with_returned(stream, returned):
    """Yield what a generator yields, and append what it returns to a list."""
    returned.append((yield from stream))


def _path(name):
    """Return the path that was typed. Raises FolioError where no file can have it."""
    if "\0" in name:
        raise FolioError(f"{name} is no name that a file can have.")
    return Path(os.path.expanduser(name))


def _command_of(name):
    return "/" + name.replace("_", "-")
