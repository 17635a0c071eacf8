"""POST /tokenize and /detokenize, in vLLM's and llama.cpp's forms, and GET /tokenizer_info."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from folio.base.fields import option
from folio.chat.template import JINJA
from folio.server.conversations import CHATML, MESSAGES, TEXT, check_contents, reading_of
from folio.server.errors import Json
from folio.server.logprobs import token_text
from folio.server.requests import aside, check_ids, read_object, spelled
from folio.server.shapes import Items, Scalar, invalid, shaped
from tokenizer import Tokenizer

MOST_IDS = 1 << 20              # a body is smaller


@dataclass(frozen=True)
class TokenizeRequest:
    """A text to split: prompt or messages in vLLM's form, content in llama.cpp's."""
    model: str | None = option(None, "name of the model; default: the one that the server began with")
    prompt: str | None = option(None, "the text, in vLLM's form")
    messages: tuple | None = shaped(None, "a conversation, in vLLM's form", MESSAGES)
    content: str | None = option(None, "the text, in llama.cpp's form")
    add_special_tokens: bool = option(True, "accepted; there are none to add")
    add_special: bool = option(False, "accepted; there are none to add")
    add_generation_prompt: bool = option(True, "with messages: begin the assistant's; of a base model: on a new line")
    continue_final_message: bool = option(False, "with messages: continue the last message where it ends")
    chat_template: str | None = option(None, "with messages: chatml or text, as for /v1/chat/completions",
                                       choices=(CHATML, TEXT, ""))
    parse_special: bool = option(False, "read spelled-out special tokens as such; otherwise they are ordinary text")
    return_token_strs: bool = option(False, "with prompt: add the tokens as texts")
    with_pieces: bool = option(False, "with content: give each token with its text")


@dataclass(frozen=True)
class DetokenizeRequest:
    """Token ids to join."""
    model: str | None = option(None, "name of the model; default: the one that the server began with")
    tokens: tuple = shaped((), "token ids", Items(Scalar(int, low=0, high=2**63 - 1), MOST_IDS))


async def tokenize(request: HttpRequest) -> Response:
    """POST /tokenize."""
    wanted = await read_object(request, TokenizeRequest)
    given = [name for name in ("prompt", "messages", "content") if getattr(wanted, name) is not None]
    if len(given) != 1:
        raise invalid(given[-1] if given else "prompt", "One of prompt, messages and content is wanted, and "
                      f"{' and '.join(given) + ' are' if given else 'none is'} there.")
    served = await request.app.state.models.get(wanted.model)
    tokenizer, text = served.model.tokenizer, wanted.prompt if wanted.content is None else wanted.content
    if wanted.messages is not None:
        check_contents(wanted.messages)
        goes_on = wanted.continue_final_message or wanted.messages[-1].role == "assistant"
        length = sum(len(message.content or "") for message in wanted.messages)
        reading = await aside(length, reading_of, served.model, wanted.messages, goes_on, wanted.add_generation_prompt,
                              None, wanted.chat_template)
        ids = reading.ids
    else:
        # vLLM reads the name of a special token as this token; clients ask so for its id. Inside a text it stays text.
        is_name = wanted.prompt is not None and text == _token(tokenizer, tokenizer.end_of_text)
        ids = await aside(len(text), tokenizer.encode, text, wanted.parse_special or is_name)
    if wanted.content is not None:
        return Json({"tokens": [_with_piece(token, tokenizer) for token in ids] if wanted.with_pieces else ids})
    made = {"tokens": ids, "count": len(ids), "max_model_len": served.model.net.context}
    if wanted.return_token_strs:
        made["token_strs"] = [token_text(tokenizer.token_bytes[token]) for token in ids]
    return Json(made)


def _with_piece(token: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a token in llama.cpp's form: its piece is a text, or a list of bytes that are no whole characters."""
    content = tokenizer.token_bytes[token]
    try:
        return {"id": token, "piece": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(content)}


async def detokenize(request: HttpRequest) -> Response:
    """POST /detokenize: the text by both names, prompt and content."""
    wanted = await read_object(request, DetokenizeRequest)
    served = await request.app.state.models.get(wanted.model)
    check_ids(wanted.tokens, "tokens", served.model.tokenizer.vocab_size)
    text = await aside(len(wanted.tokens), served.model.tokenizer.decode, wanted.tokens)
    return Json({"prompt": text, "content": text})


async def tokenizer_info(request: HttpRequest) -> Response:
    """GET /tokenizer_info: what clients that count tokens by themselves want to know.

    bos_token is what the model sees before the first token of a text; nothing adds it to a prompt that is not empty.
    """
    served = await request.app.state.models.get(request.query_params.get("model"))
    tokenizer = served.model.tokenizer
    end, beginning = tokenizer.end_of_text, next(reversed(served.model.opening), None)
    return Json({"tokenizer_class": type(tokenizer).__name__, "vocab_size": tokenizer.vocab_size,
                 "model_max_length": served.model.net.context, "bos_token": _token(tokenizer, beginning),
                 "eos_token": _token(tokenizer, end), "eos_token_id": end, "pad_token": None,
                 "chat_template": None if served.model.chat is None else JINJA})


def _token(tokenizer: Tokenizer, token: int | None) -> str | None:
    """Return the text of a token."""
    return None if token is None else token_text(tokenizer.token_bytes[token])


def routes() -> list[Route]:
    """Return the routes of this module."""
    return [*spelled("/tokenize", tokenize, "POST"), *spelled("/detokenize", detokenize, "POST"),
            *spelled("/tokenizer_info", tokenizer_info, "GET")]
