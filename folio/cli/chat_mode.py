"""A conversation with a model that was taught to chat: what is typed is a message or, after a slash, a command.

The screen shows what both say; the template that the model reads around it is hidden, except by /tokens.
"""

import json

from folio.base.errors import FolioError
from folio.base.spelling import counted
from folio.base.visible import shown
from folio.chat import plain_text
from folio.chat.messages import ASSISTANT, SYSTEM, USER, Message
from folio.cli.interactive import HELP, NONE, Command, InteractiveMode, Turn
from folio.cli.keyboard import ASK, ASK_ON
from folio.cli.layout import side_by_side
from folio.cli.probabilities import show_surprise
from folio.cli.screen import BOLD, DIM

LISTED_TOKENS = 400         # of /tokens: the last ones
MARKS = {SYSTEM: ">>", USER: ">", ASSISTANT: ""}


class ChatMode(InteractiveMode):
    """A conversation and the settings that answer it. A turn without words goes on with the answer before it."""

    commands = {
        "more": Command("go on with an answer that stopped at its length"),
        **InteractiveMode.commands,
        "system": Command("show the system prompt, or set it; none takes it away", "[TEXT]"),
        "surprise": Command("the conversation, with how likely each of its tokens was"),
        "save": Command("write the conversation to a file: as text, or .jsonl", "FILE"),
        "open": Command("go on with the conversation of a file", "FILE"),
        "new": Command("begin a new conversation, with the same system prompt"),
        "help": HELP,
    }
    welcome = "Type a message. /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends."
    subject = "conversation"
    state = ("turns", "system_prompt")

    def __init__(self, model, params, samples, screen=None, read_file=None, on_keep=None, system=""):
        """Take what InteractiveMode takes, and a system prompt. Raises FolioError where that is too long."""
        super().__init__(model, params, samples, screen, read_file, on_keep)
        refuse_long_system(model, system)
        self.system_prompt = system.strip()
        if self.system_prompt:
            self.welcome = f"{self._about_system()}\n{self.welcome}"
        self.left_out = 0                   # oldest turns that the model did not see when it answered last

    def _messages(self, turns):
        messages = [Message(SYSTEM, self.system_prompt)] if self.system_prompt else []
        for turn in turns:
            if turn.words:
                messages.append(Message(USER, turn.words))
            if not turn.words and messages and messages[-1].role == ASSISTANT:
                messages[-1] = Message(ASSISTANT, messages[-1].content + turn.answer)
            elif turn.answer or turn is not turns[-1]:
                messages.append(Message(ASSISTANT, turn.answer))
        return messages

    def _request(self, turns):
        return {"messages": self._messages(turns), "continues": not turns[-1].words}

    def _read(self):
        if not self.turns:
            raise FolioError("There is no conversation yet: type a message.")
        return self._messages(self.turns)

    def _answer(self, words, before=None):
        self._go_on(self.turns if before is None else before, words)

    def _enter(self):
        self.screen.note("Type a message; /more goes on with an answer, /help lists the commands.")

    def more(self):
        """Have the model go on with its answer, or answer a message that has none yet."""
        if not self.turns:
            raise FolioError("There is no answer yet that could go on: type a message.")
        *before, last = self.turns
        if last.words and not last.answer:
            self._go_on(before, last.words, last.asked)
        else:
            self._go_on(self.turns, "")

    def system(self, text=None):
        """Show the system prompt, or set it from now on."""
        if text is not None:
            text = "" if text == NONE else text
            refuse_long_system(self.model, text)
            self.system_prompt = text
        self.screen.note(self._about_system())

    def new(self):
        """Begin a new conversation, and the streams of the seed as well."""
        super().new()
        if self.system_prompt:
            self.screen.note(self._about_system())

    def _about_system(self):
        return f"System prompt: {self.system_prompt}" if self.system_prompt else "There is no system prompt."

    def _last_typed(self):
        typed = [place for place, turn in enumerate(self.turns) if turn.words]
        if not typed:
            raise FolioError("There is no message yet that could be edited.")
        return self.turns[:typed[-1]], self.turns[typed[-1]].words

    # --- The screen ---

    def _show_words(self, before, turn):
        self.screen.stay()
        if not turn.words:
            self.screen.leave_empty_line()
            self._show_end(self._messages(before)[-1].content)
        elif not self.keyboard.leaves_typed or turn.asked > self.samples:       # else they are on the screen
            self.screen.leave_empty_line()
            self._show_message(turn.words)

    def _end_answer(self):
        super()._end_answer()
        self.screen.leave_empty_line()

    def _show_message(self, words):
        self.screen.write(ASK, DIM)
        self.screen.write(words.replace("\n", "\n" + ASK_ON), BOLD)
        self.screen.end_line()

    def _show_state(self):
        if self.turns:
            last = self.turns[-1]
            self.screen.note("Now the conversation ends:")
            if last.words:
                self._show_message(last.words)
            self.screen.write(last.answer)
            self.screen.end_line()
            self.screen.leave_empty_line()

    def _remark_on(self, turn, finish):
        remarks = []
        if not turn.answer and finish != "length":
            what = "ended its turn at once" if turn.words else "has nothing to add"
            where = " (or came upon a text of /stop)" if self.params.stop else ""
            remarks.append(f"The model {what}{where}: /again, or other words, may change its mind.")
        elif finish == "length":
            remarks.append(f"Stopped after {counted(self.params.tokens, 'token')}, as /tokens says; /more goes on.")
        for remark in [*remarks, *self._out_of_sight()]:
            self.screen.note(remark)

    def _out_of_sight(self):
        """Yield what the model could not see when it answered: turns that left its context, or part of the last."""
        context, before = self.model.net.context, self.left_out
        kept, self.left_out = self._seen()
        if context is not None and len(self.model.chat.prompt(kept, continues=not self.turns[-1].words)) > context:
            yield (f"The last message alone is longer than the {context:,} tokens that the model can look back on; it "
                   "did not see the beginning.")
        elif self.left_out and not before:
            yield (f"The conversation and an answer no longer fit into the {context:,} tokens that the model can look "
                   f"back on: it did not see {_first_turns(self.left_out)}. /new begins a new one.")
        elif self.left_out > before:
            yield f"The model did not see {_first_turns(self.left_out)}."

    def _seen(self):
        """Return the messages that the model had before it for the last answer, and how many turns it had not."""
        messages = self._messages([*self.turns[:-1], Turn(self.turns[-1].words)])
        continues = bool(messages) and messages[-1].role == ASSISTANT
        return self.model.chat.fitted(messages, self.model.net.context, self.params.tokens, continues)

    # --- Files ---

    def _saved(self, path):
        messages = self._messages(self.turns)
        if not self.turns:
            return b""
        if path.suffix.lower() in (".json", ".jsonl"):
            entries = [{"role": message.role, "content": message.content.strip()} for message in messages]
            return (json.dumps({"messages": entries}, ensure_ascii=False) + "\n").encode("utf-8")
        return plain_text.written(messages).encode("utf-8")

    def _opened(self, content):
        system, turns = [], []
        for message in content:
            words = message.content.strip()
            if message.role == SYSTEM:
                if turns:
                    raise FolioError("The conversation has a system message in the middle, and can have one only at "
                                     "its beginning. What was open is as it was.")
                system.append(words)
            elif message.role == USER and words:
                if turns and not turns[-1].answer:
                    words = f"{turns.pop().words}\n\n{words}"
                turns.append(Turn(words))
            elif words:
                if not turns:
                    turns.append(Turn(""))
                turns[-1].answer = "\n\n".join(filter(None, [turns[-1].answer, words]))
        if not turns:
            raise FolioError("The file has no message of a user or an assistant. What was open is as it was.")
        refuse_long_system(self.model, "\n\n".join(system))
        return {"turns": turns, "system_prompt": "\n\n".join(system)}

    # --- What the model reads ---

    def _set(self, name, value):
        if name == "tokens" and not value.strip() and self.turns:
            self._show_tokens()
        super()._set(name, value)

    def _show_tokens(self):
        """Show the ids and texts of the tokens before the model in its last turn: the template's, and its answer's."""
        chat, context, last = self.model.chat, self.model.net.context, self.turns[-1]
        messages, _ = self._seen()
        if last.answer and (last.words or not messages):
            messages = [*messages, Message(ASSISTANT, last.answer)]
        elif last.answer:
            messages = [*messages[:-1], Message(ASSISTANT, messages[-1].content + last.answer)]
        ids = chat.encode(messages)[0] if messages[-1].role == ASSISTANT else chat.prompt(messages)
        cells = []
        for token in ids[-LISTED_TOKENS:]:
            content = chat.tokenizer.decode_bytes([token])
            cells.append((shown(content), str(token), content.endswith(b"\n")))
        self.screen.show(side_by_side(cells, self.screen.width))
        of_context = "" if context is None else f" before it, and can look back on {context:,}"
        left_out = "" if len(ids) <= LISTED_TOKENS else f"; these are the last {LISTED_TOKENS}"
        self.screen.note(f"The model had {counted(len(ids), 'token')}{of_context}{left_out}.")

    def surprise(self):
        """Show the conversation with how likely each of its tokens was."""
        messages = self._read()
        show_surprise(self.screen, [(MARKS[message.role], pieces)
                                    for message, pieces in zip(messages, self.model.surprise_each(messages))])


def _first_turns(count):
    return "the first turn" if count == 1 else f"the first {count:,} turns"


def refuse_long_system(model, system):
    """Raise FolioError where a system prompt takes more than half of what the model can look back on."""
    context, need = model.net.context, len(model.chat.encode([Message(SYSTEM, system)])[0])
    if system.strip() and context is not None and need > context // 2:
        raise FolioError(f"The system prompt has {need:,} tokens, more than half of the {context:,} that the model can "
                         "look back on: shorten it.")
