"""POST /v1/chat/completions: a model of texts continues a conversation.

A base model has never seen the roles of a conversation, so its text has none: it is the contents of the messages, each
begun on a line of its own, whatever their roles. The answer begins on a new line, unless the last message is the
assistant's (or continue_final_message is true): that one is continued where it ends.
"""

from dataclasses import MISSING, dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from folio.base.fields import option
from folio.generation.engine import Event, Request
from folio.server.errors import Json
from folio.server.logprobs import for_chat
from folio.server.requests import (
    DEFAULT_TOKENS,
    MOST_LOGPROBS,
    GenerationRequest,
    adjustments_of,
    aside,
    check_context,
    read_object,
    settings_of,
    spelled,
    submit,
)
from folio.server.shapes import Anything, Items, Record, Scalar, invalid, shaped, shown, unsupported, whole_text
from folio.server.streams import EventStream, Inbox, chunks, report_of
from tokenizer import Tokenizer

ROLES = ("system", "developer", "user", "assistant")
MOST_MESSAGES = 10_000
MOST_PARTS = 1000
MOST_TOOLS = 128               # OpenAI's


class Content:
    """A text, or a list of parts of the type text."""

    def read(self, value: Any, param: str) -> str:
        """Return the text. Raises ApiError."""
        if not isinstance(value, list):
            return whole_text(value, param)
        texts = []
        for place, part in enumerate(value[:MOST_PARTS + 1]):
            kind = part.get("type") if isinstance(part, dict) else part
            if kind != "text":
                raise invalid(f"{param}.[{place}].type", f"{param}.[{place}] should have the type text, and it has "
                              f"{shown(kind)}; this model reads nothing else.")
            texts.append(whole_text(part.get("text"), f"{param}.[{place}].text"))
        if len(texts) > MOST_PARTS:
            raise invalid(param, f"{param} has more than {MOST_PARTS} parts.")
        return "".join(texts)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        part = {"type": "object", "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
                "required": ["type", "text"]}
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": part, "maxItems": MOST_PARTS}]}


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of a conversation."""
    role: str = shaped(MISSING, "who wrote it; the model does not see that", Scalar(str, choices=ROLES))
    content: str | None = shaped(None, "its text; null only for the assistant", Content())
    tool_calls: list | None = unsupported("tools", [])
    function_call: dict | None = unsupported("tools")


class ResponseFormat:
    """The format of the answer: text, and no other."""

    def read(self, value: Any, param: str) -> None:
        """Return None for text. Raises ApiError for any other format."""
        kind = value.get("type") if isinstance(value, dict) else value
        if kind != "text":
            raise invalid(param, f"{param}={shown(kind)} is not supported: answers are text; leave {param} out.",
                          "unsupported_parameter")

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "object", "properties": {"type": {"enum": ["text"]}}, "required": ["type"]}


@dataclass(frozen=True, kw_only=True)
class ChatRequest(GenerationRequest):
    """A request for the next message of a conversation."""
    messages: tuple[Message, ...] = shaped(MISSING, "the conversation so far", Items(Record(Message), MOST_MESSAGES, 1))
    logprobs: bool = option(False, "add the log-probability of each token")
    top_logprobs: int | None = option(None, "with logprobs: and of this many likeliest ones", low=0, high=MOST_LOGPROBS)
    add_generation_prompt: bool = option(True, "begin the answer on a new line")
    continue_final_message: bool = option(False, "continue the last message where it ends")
    response_format: dict | None = shaped(None, "answers are text", ResponseFormat())
    tools: tuple | None = shaped(None, "not supported, but for an empty list, or with tool_choice none",
                                 Items(Anything(), MOST_TOOLS))
    tool_choice: str | None = option(None, "no tool is ever called", choices=("none", "auto"))
    functions: list | None = unsupported("tools", [])
    function_call: str | None = unsupported("tools", "none", "auto")
    audio: dict | None = unsupported("audio")
    web_search_options: dict | None = unsupported("searching the web")
    best_of: int | None = unsupported("it is for /v1/completions", 0, 1)
    echo: bool | None = unsupported("it is for /v1/completions", False)
    chat_template: str | None = unsupported("the text is made of the messages as it is", "")
    chat_template_kwargs: dict | None = unsupported("there is no template", {})

    def check(self) -> None:
        """Raise ApiError where fields contradict each other."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "top_logprobs is for logprobs=true; leave it out.")
        for place, message in enumerate(self.messages):
            if message.content is None and message.role != "assistant":
                param = f"messages.[{place}].content"
                raise invalid(param, f"{param} is missing; only the assistant's may be null.")
        if self.tools and self.tool_choice != "none":
            raise invalid("tools", "tools are not supported; leave tools out.", "unsupported_parameter")
        if self.most_tokens == 0:
            raise invalid("max_tokens", "max_tokens=0 asks for nothing.")


def text_of(messages: tuple[Message, ...], goes_on: bool, begins_line: bool = True) -> str:
    r"""Return the text that a model continues for a conversation.

    goes_on: continue the last message; begins_line: else begin the answer on a new line

    >>> text_of((Message(role="user", content="One?"), Message(role="assistant", content="Yes, o")), goes_on=True)
    'One?\nYes, o'
    """
    text = ""
    for message in messages:
        text += _line_break_after(text) + (message.content or "")
    return text if goes_on or not begins_line else text + _line_break_after(text)


def _line_break_after(text):
    return "\n" if text and not text.endswith("\n") else ""


class Writer:
    """Put the answers to one request into the form of this route."""

    def __init__(self, wanted: ChatRequest, tokenizer: Tokenizer):
        self.wanted, self.tokenizer = wanted, tokenizer

    def repeated(self, event: Event) -> int:
        """Return 0: no answer begins with its prompt."""
        return 0

    def choice(self, event: Event) -> dict[str, Any]:
        """Return a whole answer as a choice."""
        return {"index": event.index, "message": {"role": "assistant", "content": event.text, "refusal": None},
                **self._rest(event)}

    def choices(self, event: Event, is_first: bool) -> list[dict[str, Any]]:
        """Return the choices that an event of a stream becomes, one chunk each."""
        made, rest = [], self._rest(event)
        finish = rest.pop("finish_reason")
        if is_first:
            made.append({"index": event.index, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                         "finish_reason": None})
        if event.text or rest["logprobs"] or rest.get("token_ids"):
            made.append({"index": event.index, "delta": {"content": event.text}, **rest, "finish_reason": None})
        if finish:
            made.append({"index": event.index, "delta": {}, "logprobs": None, "finish_reason": finish})
        return made

    def _rest(self, event):
        rest = {"logprobs": None, "finish_reason": event.finish}
        if self.wanted.logprobs:
            rest["logprobs"] = for_chat(event.tokens, self.wanted.top_logprobs or 0, self.tokenizer)
        if self.wanted.return_token_ids:
            rest["token_ids"] = [token.id for token in event.tokens]
        return rest


# --- The route ---

async def chat(request: HttpRequest) -> Response:
    """POST /v1/chat/completions."""
    wanted = await read_object(request, ChatRequest)
    wanted.check()
    limits, served = request.app.state.limits, await request.app.state.models.get(wanted.model)
    tokenizer, context = served.model.tokenizer, served.model.net.context
    goes_on = wanted.continue_final_message or wanted.messages[-1].role == "assistant"
    text = text_of(wanted.messages, goes_on, wanted.add_generation_prompt)
    prompt_ids = await aside(len(text), tokenizer.encode, text)
    tokens = wanted.most_tokens
    if tokens is None:          # what the context has left
        left = limits.most_tokens if context is None else max(DEFAULT_TOKENS, context - len(prompt_ids))
        tokens = min(left, limits.most_tokens)
    if limits.strict_context or not wanted.truncate_prompt:
        check_context("messages", len(prompt_ids), tokens, context)
    settings = settings_of(wanted, tokens, limits.most_tokens)
    inbox = Inbox(wanted.n)
    ticket = await submit(served, Request(
        prompts=[text], count=wanted.n, settings=settings, deliver=inbox.deliver, heal=wanted.healing,
        adjustments=adjustments_of(wanted, tokenizer.vocab_size),
        logprobs=(wanted.top_logprobs or 0) if wanted.logprobs else None))
    object = "chat.completion.chunk" if wanted.stream else "chat.completion"
    report, headers = report_of("chatcmpl", object, wanted, served, ticket)
    if wanted.return_token_ids:
        report.extra["prompt_token_ids"] = prompt_ids
    writer = Writer(wanted, tokenizer)
    if wanted.stream:
        return EventStream(chunks(inbox, report, writer), ticket, headers)
    try:
        answers = await inbox.answers()
    finally:
        ticket.cancel()
    report.completion_tokens = sum(len(answer.tokens) for answer in answers)
    return Json(report.whole([writer.choice(answer) for answer in answers]), headers=headers)


def routes() -> list[Route]:
    """Return the routes of this module."""
    return spelled("/chat/completions", chat, "POST")
