"""POST /v1/completions: continue texts or tokens."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from folio.base.fields import option
from folio.generation.engine import Event, Request, TokenEvent
from folio.server.errors import Json
from folio.server.logprobs import for_completions, of_prompt
from folio.server.requests import (DEFAULT_TOKENS, MOST_LOGPROBS, MOST_PROMPTS, MOST_ROWS, GenerationRequest,
                                   adjustments_of, aside, check_context, check_ids, read_object, settings_of, spelled,
                                   submit)
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

@dataclass
class Echo:
    """What the answers to one prompt begin with: its text and, where wanted, its tokens."""
    text: str = ""
    tokens: list[TokenEvent] = field(default_factory=list)


class Writer:
    """Put the answers to one request into the form of this route."""

    def __init__(self, wanted: CompletionRequest, tokenizer: Tokenizer, echoes: list[Echo], ids: list[list[int]]):
        """echoes: of each prompt; ids: of each prompt, empty unless return_token_ids."""
        self.wanted, self.tokenizer, self.echoes, self.ids = wanted, tokenizer, echoes, ids

    def choice(self, event: Event, is_first: bool = True) -> dict[str, Any]:
        """Return a whole answer, or the part of one that an event has, as a choice."""
        prompt = event.index // self.wanted.n
        before = self.echoes[prompt]
        echo = before if is_first else Echo()
        made = {"index": event.index, "text": echo.text + event.text, "logprobs": None, "finish_reason": event.finish}
        if self.wanted.logprobs is not None:
            made["logprobs"] = for_completions(echo.tokens, self.wanted.logprobs, 0, self.tokenizer)
            own = for_completions(event.tokens, self.wanted.logprobs, len(before.text), self.tokenizer)
            for name, values in own.items():
                made["logprobs"][name] += values
        if self.wanted.return_token_ids:
            made["token_ids"] = [token.id for token in event.tokens]
            made["prompt_token_ids"] = self.ids[prompt] if is_first else None
        return made

    def choices(self, event: Event, is_first: bool) -> list[dict[str, Any]]:
        """Return the choices that an event of a stream becomes, one chunk each; none where it says nothing."""
        made = self.choice(event, is_first)
        says = made["text"] or made["finish_reason"] or made["logprobs"] or made.get("token_ids")
        return [made] if says else []


def likeliest(answers: list[Event], wanted: CompletionRequest) -> list[Event]:
    """Return the n likeliest of the best_of answers to each prompt, by mean log-probability per token."""
    if wanted.rows == wanted.n:
        return answers
    found = []
    for start in range(0, len(answers), wanted.rows):
        group = sorted(answers[start:start + wanted.rows], key=_mean_logprob, reverse=True)
        found += group[:wanted.n]
    return [replace(answer, index=index) for index, answer in enumerate(found)]


def _mean_logprob(answer):
    return sum(token.logprob for token in answer.tokens) / max(1, len(answer.tokens))


async def echoes_of(served: Any, wanted: CompletionRequest, prompts: list, ids: list[list[int]]) -> list[Echo]:
    """Return what the answers to each prompt begin with. ids: of each prompt"""
    if not wanted.echo:
        return [Echo()] * len(prompts)
    tokenizer, found = served.model.tokenizer, []
    for prompt, own in zip(prompts, ids):
        echo = Echo(prompt if isinstance(prompt, str) else tokenizer.decode(own))
        if wanted.logprobs is not None and own:
            scores = await asyncio.wrap_future(served.engine.score(own, wanted.logprobs))
            echo.tokens = of_prompt(own, scores, tokenizer)
        found.append(echo)
    return found


# --- The route ---

async def complete(request: HttpRequest) -> Response:
    """POST /v1/completions."""
    wanted = await read_object(request, CompletionRequest)
    wanted.check()
    limits, served = request.app.state.limits, await request.app.state.models.get(wanted.model)
    tokenizer = served.model.tokenizer
    settings = settings_of(wanted, wanted.tokens, limits.most_tokens)
    adjustments = adjustments_of(wanted, tokenizer.vocab_size)
    prompts = wanted.prompt or [""]
    for prompt in prompts:
        if not isinstance(prompt, str):
            check_ids(prompt, "prompt", tokenizer.vocab_size)
    scores_prompts = wanted.echo and wanted.logprobs is not None
    is_strict = limits.strict_context or not wanted.truncate_prompt
    ids = prompts
    if is_strict or scores_prompts or wanted.return_token_ids or not isinstance(prompts[0], str):
        ids = await ids_of(tokenizer, prompts)
    if is_strict:
        for own in ids:
            check_context("prompt", len(own), wanted.tokens, served.model.net.context)
    echoes = await echoes_of(served, wanted, prompts, ids)
    if scores_prompts:          # tokens that are listed are the ones that are read: no healing
        prompts = [own or prompt for own, prompt in zip(ids, prompts)]

    inbox = Inbox(len(prompts) * wanted.rows)
    compared = 0 if wanted.rows > wanted.n else None
    ticket = await submit(served, Request(
        prompts, count=wanted.rows, settings=settings, deliver=inbox.deliver, adjustments=adjustments,
        logprobs=compared if wanted.logprobs is None else wanted.logprobs, heal=wanted.healing))
    report, headers = report_of("cmpl", "text_completion", wanted, served, ticket)
    writer = Writer(wanted, tokenizer, echoes, ids)
    if wanted.stream:
        return EventStream(chunks(inbox, report, writer.choices), ticket, headers)
    try:
        answers = await inbox.answers()
    finally:
        ticket.cancel()
    report.count(answers)
    return Json(report.whole([writer.choice(answer) for answer in likeliest(answers, wanted)]), headers=headers)


async def ids_of(tokenizer: Tokenizer, prompts: list) -> list[list[int]]:
    """Return the ids of prompts that are texts or ids. Raises FolioError where a text cannot be encoded."""
    return [await aside(len(prompt), tokenizer.encode, prompt) if isinstance(prompt, str) else prompt
            for prompt in prompts]


def routes() -> list[Route]:
    """Return the routes of this module."""
    return spelled("/completions", complete, "POST")
