"""POST /v1/completions: continue texts or tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from folio.base.fields import option
from folio.generation.engine import Event, Request
from folio.server.errors import Json
from folio.server.logprobs import for_completions
from folio.server.requests import (
    DEFAULT_TOKENS,
    MOST_LOGPROBS,
    MOST_PROMPTS,
    MOST_ROWS,
    GenerationRequest,
    adjustments_of,
    aside,
    check_context,
    check_ids,
    read_object,
    settings_of,
    spelled,
    submit,
)
from folio.server.shapes import check_count, invalid, shaped, shown, unsupported, whole_text
from folio.server.streams import EventStream, Inbox, chunks, report_of
from tokenizer import Tokenizer

MOST_BEST_OF = 20


class Prompts:
    """A text, a list of texts, a list of token ids, or a list of such lists."""

    def read(self, value: Any, param: str) -> list:
        """Return the prompts: all texts, or all lists of ids. Raises ApiError."""
        values = value if isinstance(value, list) else [value]
        if values and all(_is_id(each) for each in values):
            values = [values]
        check_count(values, param, 1, MOST_PROMPTS)
        if all(isinstance(each, str) for each in values):
            return [whole_text(each, param) for each in values]
        for each in values:
            if not (isinstance(each, list) and all(map(_is_id, each))):
                raise invalid(param, f"{param} should be a text, a list of texts, a list of token ids or a list of "
                              f"such lists, and this has {shown(each)}.", "invalid_type")
            if not each:
                raise invalid(param, f"{param} has an empty list of token ids; send an empty text for a new document.")
        return [[int(token) for token in each] for each in values]

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}, ids,
                          {"type": "array", "items": ids, "minItems": 1}]}


def _is_id(value):
    return isinstance(value, int) and not isinstance(value, bool) or isinstance(value, float) and value.is_integer()


@dataclass(frozen=True)
class CompletionRequest(GenerationRequest):
    """A request for texts that continue prompts."""
    prompt: list | None = shaped(None, "a text, several, token ids, or several lists of ids; default: a new document",
                                 Prompts())
    best_of: int = option(0, "generate this many answers and return the n likeliest per token; 0: n", low=0,
                          high=MOST_BEST_OF)
    echo: bool = option(False, "begin each answer with its prompt; with logprobs, its log-probabilities too")
    logprobs: int | None = option(None, "add the log-probability of each token and of this many likeliest ones", low=0,
                                  high=MOST_LOGPROBS)
    suffix: str | None = unsupported("text after the answer; a model of Folio only goes on", "")

    @property
    def rows(self) -> int:
        """Answers to generate for each prompt."""
        return max(self.n, self.best_of)

    @property
    def tokens(self) -> int:
        """Maximum length of each answer in tokens."""
        return DEFAULT_TOKENS if self.most_tokens is None else self.most_tokens

    def check(self) -> None:
        """Raise ApiError where fields contradict each other."""
        super().check()
        if 0 < self.best_of < self.n:
            raise invalid("best_of", f"best_of={self.best_of} is below n={self.n}, the number of answers to return.")
        if self.best_of > self.n and self.stream:
            raise invalid("best_of", f"best_of={self.best_of} compares complete answers, and a stream has none; leave "
                          "one of them out.")
        if self.tokens == 0 and not self.echo:
            raise invalid("max_tokens", "max_tokens=0 asks for nothing; it is for echo=true.")
        if len(self.prompt or [""]) * self.rows > MOST_ROWS:
            raise invalid("prompt", f"{len(self.prompt)} prompts with {self.rows} answers each are "
                          f"{len(self.prompt) * self.rows} answers; {MOST_ROWS} is the most for one request.")


# --- The answers ---

class Writer:
    """Put the answers to one request into the form of this route."""

    def __init__(self, wanted: CompletionRequest, tokenizer: Tokenizer, ids: list[list[int]],
                 voices: tuple[str, ...] = ()):
        """ids: of each prompt; only needed with echo or return_token_ids. voices: names of a mixture's models"""
        self.wanted, self.tokenizer, self.ids, self.voices = wanted, tokenizer, ids, voices

    def repeated(self, event: Event) -> int:
        """Return how many tokens at the beginning of an answer are its prompt's."""
        return len(self.ids[event.index // self.wanted.rows]) if self.wanted.echo else 0

    def choice(self, event: Event, is_first: bool = True) -> dict[str, Any]:
        """Return a whole answer, or the part of one that an event has, as a choice."""
        made = {"index": event.index, "text": event.text, "logprobs": None, "finish_reason": event.finish}
        if self.wanted.logprobs is not None:
            made["logprobs"] = for_completions(event.tokens, self.wanted.logprobs, self.tokenizer, self.voices)
        if self.wanted.return_token_ids:
            begun = self.repeated(event) if is_first else 0
            made["token_ids"] = [token.id for token in event.tokens[begun:]]
            made["prompt_token_ids"] = self.ids[event.index // self.wanted.n] if is_first else None
        return made

    def choices(self, event: Event, is_first: bool) -> list[dict[str, Any]]:
        """Return the choices that an event of a stream becomes, one chunk each; none where it says nothing."""
        made = self.choice(event, is_first)
        says = made["text"] or made["finish_reason"] or made["logprobs"] or made.get("token_ids")
        return [made] if says else []


def likeliest(answers: list[Event], wanted: CompletionRequest, repeated: Callable[[Event], int]) -> list[Event]:
    """Return the n likeliest of the best_of answers to each prompt, by mean log-probability per token.

    repeated: answer -> tokens at its beginning that are its prompt's
    """
    if wanted.rows == wanted.n:
        return answers

    def mean_logprob(answer):
        own = answer.tokens[repeated(answer):]
        return sum(token.logprob for token in own) / max(1, len(own))
    found = []
    for start in range(0, len(answers), wanted.rows):
        group = sorted(answers[start:start + wanted.rows], key=mean_logprob, reverse=True)
        found += group[:wanted.n]
    return [answer._replace(index=index) for index, answer in enumerate(found)]


# --- The route ---

async def complete(request: HttpRequest) -> Response:
    """POST /v1/completions."""
    wanted = await read_object(request, CompletionRequest)
    wanted.check()
    limits = request.app.state.limits
    served, mix = await request.app.state.models.mixtures.get(wanted.model, wanted.mix, wanted.blend)
    tokenizer = served.model.tokenizer
    settings = settings_of(wanted, wanted.tokens, limits.most_tokens)
    adjustments = adjustments_of(wanted, tokenizer.vocab_size)
    prompts = wanted.prompt or [""]
    for prompt in prompts:
        if not isinstance(prompt, str):
            check_ids(prompt, "prompt", tokenizer.vocab_size)
    is_strict = limits.strict_context or not wanted.truncate_prompt
    ids = []
    if is_strict or wanted.echo or wanted.return_token_ids:
        ids = await ids_of(tokenizer, prompts)
    if is_strict:
        for own in ids:
            check_context("prompt", len(own), wanted.tokens, served.model.net.context)
    inbox, compared = Inbox(len(prompts) * wanted.rows), 0 if wanted.rows > wanted.n else None
    ticket = await submit(served, Request(
        prompts=prompts, count=wanted.rows, settings=settings, deliver=inbox.deliver, adjustments=adjustments,
        logprobs=compared if wanted.logprobs is None else wanted.logprobs, heal=wanted.healing, echo=wanted.echo,
        mix=mix))
    report, headers = report_of("cmpl", "text_completion", wanted, served, ticket)
    writer = Writer(wanted, tokenizer, ids, served.model.voices)
    if wanted.stream:
        return EventStream(chunks(inbox, report, writer), ticket, headers)
    try:
        answers = await inbox.answers()
    finally:
        ticket.cancel()
    report.completion_tokens = sum(len(answer.tokens) - writer.repeated(answer) for answer in answers)
    answers = likeliest(answers, wanted, writer.repeated)
    return Json(report.whole([writer.choice(answer) for answer in answers]), headers=headers)


async def ids_of(tokenizer: Tokenizer, prompts: list) -> list[list[int]]:
    """Return the ids of prompts that are texts or ids. Raises FolioError where a text cannot be encoded."""
    return [await aside(len(prompt), tokenizer.encode, prompt) if isinstance(prompt, str) else prompt
            for prompt in prompts]


def routes() -> list[Route]:
    """Return the routes of this module."""
    return spelled("/completions", complete, "POST")
