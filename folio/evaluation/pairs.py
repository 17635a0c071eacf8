"""Questions with their right answers, and what models answer to them.

A pair is a conversation: its last answer is the right one, and everything before it the question. A model that was
taught to chat answers by its template. Any other model continues a text: the prompt of prompt and completion as it
is, a conversation in turns.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from folio.base.errors import FolioError
from folio.base.home import Home
from folio.chat import plain_text
from folio.chat.messages import ASSISTANT, Message
from folio.data.conversations import ADVICE, conversations_in, project_conversations
from folio.data.paths import find_files
from folio.readers.dialogues import PROMPTS
from Model_Params import TextParams

AT_ONCE = 32                # questions that are answered together: more need more memory and are hardly faster
LEAST_TOKENS = 16           # beside twice the longest right answer: how much longer an answer may become
_TURN_STOPS = ("\n> ", "\n>> ")


@dataclass(frozen=True)
class Pair:
    """A question with its right answer."""
    before: list[Message]           # the conversation up to the answer
    right: str
    where: str = ""
    prompt: str | None = None       # the text of a prompt with a completion, as the file has it

    @property
    def question(self) -> str:
        """Everything before the answer as one text."""
        return "\n".join(message.content for message in self.before)


def read_pairs(paths: Iterable[Path | str], reading: TextParams = TextParams(),
               say: Callable[[str], None] = print) -> list[Pair]:
    """Return the pairs in files of conversations. Raises like `conversations_in`, and where there is no file."""
    return [_pair(found) for path in find_files(list(paths), reading=reading, advice=ADVICE)
            for found in conversations_in(path, reading, say)]


def project_pairs(home: Home) -> list[Pair]:
    """Return the pairs among the conversations that a project's models learn from; none where it has none."""
    try:
        conversations = project_conversations(home, lambda line: None)
    except (FolioError, OSError):
        return []
    return [Pair(messages[:-1], messages[-1].content) for messages in conversations.train]


def answers_of(model: Any, pairs: Sequence[Pair], settings: dict[str, Any]) -> list[str]:
    """Return a LanguageModel's answer to each question, greedy where `settings` do not say otherwise.

    settings: fields of GenerationParams. An answer has no more than `tokens`, by default twice as many as the longest
    right one. Raises FolioError like LanguageModel.stream_each.
    """
    longest = max(len(model.tokenizer.encode(pair.right)) for pair in pairs)
    usual = {"temperature": 0.0, "sampling_seed": 1, "tokens": 2 * longest + LEAST_TOKENS}
    if "beams" in settings:
        del usual["temperature"]
    settings = usual | settings
    stops = _stops(pairs)
    asked = [_request(model, pair, tuple(settings.get("stop", ())), stops) for pair in pairs]
    answers = [""] * len(pairs)
    # Questions of like length together: rows of a batch wait for the longest of them.
    order = sorted(range(len(pairs)), key=lambda number: len(pairs[number].question))
    with tqdm(total=len(pairs), desc=f"Answers of {model.name}", leave=False, disable=None, delay=1) as bar:
        for start in range(0, len(order), AT_ONCE):
            numbers = order[start:start + AT_ONCE]
            parts = [[] for _ in numbers]
            for place, text in model.stream_each([asked[number] for number in numbers], **settings):
                parts[place].append(text)
            for number, texts in zip(numbers, parts):
                answers[number] = "".join(texts)
            bar.update(len(numbers))
    if model.chat is None:
        answers = [answer if pair.prompt is not None else _first_turn(answer) for answer, pair in zip(answers, pairs)]
    return [answer.strip() for answer in answers]


def way_of(model: Any, pairs: Sequence[Pair]) -> str:
    """Return a phrase for how a model is asked."""
    if model.chat is not None:
        return "answers by its chat template"
    return "continues the prompts as text" if all(pair.prompt is not None for pair in pairs) else (
        "was not taught to chat and continues the conversations as text in turns")


def _pair(found):
    *before, last = found.messages
    prompt = None
    if found.format == PROMPTS:
        fields = {name.strip().casefold(): value for name, value in found.record.items()}
        prompt, completion = fields["prompt"], fields["completion"]
        if isinstance(prompt, str) and isinstance(completion, str) and not fields.get("system"):
            blank = completion[:len(completion) - len(completion.lstrip())]
            prompt = (prompt + blank[:blank.rfind("\n") + 1]).replace("\r\n", "\n")
        else:
            prompt = None
    return Pair(before, last.content, found.where, prompt)


def _request(model, pair, wanted, stops):
    """Return the prompt of LanguageModel.stream_each for a question.

    wanted: stop strings that were asked for; stops: as `_stops` returns them
    """
    if model.chat is not None:
        return {"messages": pair.before, "stream": 0}
    if pair.prompt is not None:
        return {"prompt": pair.prompt, "stream": 0, "stop": wanted + stops}
    return {"prompt": plain_text.written(pair.before) + "\n", "stream": 0, "stop": wanted + _TURN_STOPS}


def _stops(pairs):
    """Return the stop string of completions: a line end where no right one has one in it, or else a blank line."""
    right = [pair.right for pair in pairs if pair.prompt is not None]
    return next(((stop,) for stop in ("\n", "\n\n") if not any(stop in text for text in right)), ())


def _first_turn(text):
    """Return the answer in a text in turns, without the signs that begin its lines."""
    messages = plain_text.read(text)
    return messages[0].content if messages and messages[0].role == ASSISTANT else ""
