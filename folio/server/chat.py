"""POST /v1/chat/completions: the next message of a conversation (folio.server.conversations).

The assistant's last message, or any with continue_final_message, is continued where it ends.
"""

from dataclasses import MISSING, dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from folio.base.fields import option
from folio.generation.engine import Event, Request
from folio.server.conversations import CHATML, MESSAGES, TEXT, Message, check_contents, reading_of
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
from folio.server.shapes import Anything, Items, invalid, shaped, shown, unsupported
from folio.server.streams import EventStream, Inbox, chunks, report_of
from tokenizer import Tokenizer

MOST_TOOLS = 128               # OpenAI's


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
    messages: tuple[Message, ...] = shaped(MISSING, "the conversation so far", MESSAGES)
    logprobs: bool = option(False, "add the log-probability of each token")
    top_logprobs: int | None = option(None, "with logprobs: and of this many likeliest ones", low=0, high=MOST_LOGPROBS)
    add_generation_prompt: bool = option(True, "begin the assistant's message; of a base model: on a new line")
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
    chat_template: str | None = option(None, "what the model reads: chatml, or text, which is the contents "
                                       "line by line; default: what it was taught", choices=(CHATML, TEXT, ""))
    chat_template_kwargs: dict | None = unsupported("no template has any", {})

    def check(self) -> None:
        """Raise ApiError where fields contradict each other."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "top_logprobs is for logprobs=true; leave it out.")
        check_contents(self.messages)
        if self.tools and self.tool_choice != "none":
            raise invalid("tools", "tools are not supported; leave tools out.", "unsupported_parameter")
        if self.most_tokens == 0:
            raise invalid("max_tokens", "max_tokens=0 asks for nothing.")


class Writer:
    """Put the answers to one request into the form of this route."""

    def __init__(self, wanted: ChatRequest, tokenizer: Tokenizer, voices: tuple[str, ...] = ()):
        """voices: names of a mixture's models"""
        self.wanted, self.tokenizer, self.voices = wanted, tokenizer, voices

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
            rest["logprobs"] = for_chat(event.tokens, self.wanted.top_logprobs or 0, self.tokenizer,
                                        self.voices)
        if self.wanted.return_token_ids:
            rest["token_ids"] = [token.id for token in event.tokens]
        return rest


# --- The route ---

async def chat(request: HttpRequest) -> Response:
    """POST /v1/chat/completions."""
    wanted = await read_object(request, ChatRequest)
    wanted.check()
    limits = request.app.state.limits
    served, mix = await request.app.state.models.mixtures.get(wanted.model, wanted.mix, wanted.blend)
    model = served.model
    goes_on = wanted.continue_final_message or wanted.messages[-1].role == "assistant"
    is_strict = limits.strict_context or not wanted.truncate_prompt
    most = limits.most_tokens if wanted.most_tokens is None else wanted.most_tokens
    reading = await aside(sum(len(message.content or "") for message in wanted.messages), reading_of, model,
                          wanted.messages, goes_on, wanted.add_generation_prompt, None if is_strict else most,
                          wanted.chat_template)
    tokens, context = wanted.most_tokens, model.net.context
    if tokens is None:          # what the context has left
        left = limits.most_tokens if context is None else max(DEFAULT_TOKENS, context - len(reading.ids))
        tokens = min(left, limits.most_tokens)
    if is_strict:
        check_context("messages", len(reading.ids), tokens, context)
    settings = settings_of(wanted, tokens, limits.most_tokens)
    inbox = Inbox(wanted.n)
    ticket = await submit(served, Request(
        prompts=[reading.prompt], count=wanted.n, settings=settings, deliver=inbox.deliver, heal=wanted.healing,
        ends=reading.ends, adjustments=adjustments_of(wanted, model.tokenizer.vocab_size),
        logprobs=(wanted.top_logprobs or 0) if wanted.logprobs else None, mix=mix))
    object = "chat.completion.chunk" if wanted.stream else "chat.completion"
    report, headers = report_of("chatcmpl", object, wanted, served, ticket, reading.turns_left_out)
    if wanted.return_token_ids:
        report.extra["prompt_token_ids"] = reading.ids
    writer = Writer(wanted, model.tokenizer, model.voices)
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
