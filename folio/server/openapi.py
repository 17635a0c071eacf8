"""GET /openapi.json: the API described in OpenAPI 3.1, written from the dataclasses that read the requests."""

from functools import cache
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

import folio
from folio.server.chat import ChatRequest
from folio.server.completions import CompletionRequest
from folio.server.errors import Json
from folio.server.requests import spelled
from folio.server.shapes import schema
from folio.server.tokens import DetokenizeRequest, TokenizeRequest

STATUSES = {"400": "a field is wrong", "401": "the API key is missing or wrong", "403": "a foreign host or page",
            "404": "no such model", "408": "the body took too long", "413": "the body is too large",
            "415": "the body is not JSON", "429": "too many requests wait", "500": "a bug in Folio",
            "503": "the server is starting or ending"}


def fields(optional: tuple[str, ...] = (), **properties: dict) -> dict[str, Any]:
    """Return the schema of an object with these properties, all of them there but the optional ones."""
    return {"type": "object", "properties": properties, "required": [name for name in properties
                                                                      if name not in optional]}


def items(item: dict) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": item}


def nullable(kind: dict) -> dict[str, Any]:
    """Return the schema of a value that may be null."""
    return {"anyOf": [kind, {"type": "null"}]}


TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
OBJECT = {"type": "object"}
FINISH = {"enum": ["stop", "length", None]}
ERROR = fields(error=fields(message=TEXT, type=TEXT, param=nullable(TEXT), code=nullable(TEXT)))
USAGE = fields(prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE)
WINDOW = fields(("window_start", "turns_left_out"), window_start={
    "description": "tokens of the prompt before the model's view; of each prompt, if several",
    "anyOf": [WHOLE, items(WHOLE)]}, turns_left_out=WHOLE | {"description": "oldest turns that do not fit"})
TOKEN = fields(token=TEXT, logprob=NUMBER, bytes=items(WHOLE))
LOGPROBS = fields(tokens=items(TEXT), token_logprobs=items(nullable(NUMBER)),
                  top_logprobs=items(nullable({"type": "object", "additionalProperties": NUMBER})),
                  text_offset=items(WHOLE))
MODEL = fields(id=TEXT, object={"const": "model"}, created=WHOLE, owned_by=TEXT,
               chat={"type": "boolean", "description": "whether the model was taught to chat"})
FRAME = {"id": TEXT, "created": WHOLE, "model": TEXT, "system_fingerprint": TEXT, "usage": USAGE, "folio": WINDOW}
SCHEMAS = {
    "Error": ERROR,
    "Completion": fields(("folio",), **FRAME, object={"const": "text_completion"}, choices=items(fields(
        index=WHOLE, text=TEXT, logprobs=nullable(LOGPROBS), finish_reason=FINISH))),
    "ChatCompletion": fields(("folio",), **FRAME, object={"const": "chat.completion"}, choices=items(fields(
        index=WHOLE, message=fields(role={"const": "assistant"}, content=TEXT, refusal={"type": "null"}),
        logprobs=nullable(fields(content=items(TOKEN), refusal={"type": "null"})), finish_reason=FINISH))),
    "Tokens": fields(("count", "max_model_len", "token_strs"), tokens=items(nullable({})), count=WHOLE,
                     max_model_len=nullable(WHOLE), token_strs=items(TEXT)),
    "Text": fields(prompt=TEXT, content=TEXT),
    "TokenizerInfo": fields(tokenizer_class=TEXT, vocab_size=WHOLE, eos_token=nullable(TEXT), bos_token=nullable(TEXT),
                            chat_template=nullable(TEXT)),
    "Model": MODEL,
    "Models": fields(object={"const": "list"}, data=items(MODEL)),
}


@cache
def document(most_tokens: int = 2**31 - 1) -> dict[str, Any]:
    """Return the OpenAPI document. most_tokens: maximum length of an answer that the server allows"""
    requests = {kind.__name__: schema(kind)
                for kind in (CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest)}
    for kind in (CompletionRequest, ChatRequest):
        for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
            requests[kind.__name__]["properties"][name]["anyOf"][0]["maximum"] = most_tokens
    name = {"name": "model", "in": "path", "required": True, "schema": TEXT}
    asked = {"name": "model", "in": "query", "required": False, "schema": TEXT}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Folio", "version": folio.__version__,
                 "description": "Models of texts behind an API in OpenAI's form. Unknown fields are ignored; a known "
                 "one that Folio cannot do is an error that names it."},
        "paths": {
            "/v1/completions": _post("Continue texts or tokens", "CompletionRequest", "Completion", streams=True),
            "/v1/chat/completions": _post("Continue a conversation", "ChatRequest", "ChatCompletion", streams=True),
            "/v1/models": _get("The models", "Models"),
            "/v1/models/{model}": _get("One model", "Model", name),
            "/tokenize": _post("Split a text into tokens", "TokenizeRequest", "Tokens"),
            "/detokenize": _post("Join tokens", "DetokenizeRequest", "Text"),
            "/tokenizer_info": _get("The tokenizer of a model", "TokenizerInfo", asked),
            "/health": {"get": {"summary": "Whether requests are taken", "responses": {
                "200": {"description": "yes", "content": {"application/json": {"schema": fields(status=TEXT)}}},
                "503": {"description": "not now", "content": {"application/json": {"schema": OBJECT}}}}}},
            "/version": {"get": {"summary": "The version of Folio", "responses": {
                "200": {"description": "the version", "content": {"application/json": {
                    "schema": fields(version=TEXT)}}}, **_failures()}}},
            "/metrics": {"get": {"summary": "Numbers for Prometheus", "responses": {
                "200": {"description": "numbers", "content": {"text/plain": {"schema": TEXT}}}, **_failures()}}},
        },
        "components": {"schemas": {**requests, **SCHEMAS},
                       "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


def _failures():
    content = {"application/json": {"schema": _ref("Error")}}
    return {status: {"description": about, "content": content} for status, about in STATUSES.items()}


def _answer(name, streams=False):
    content, about = {"application/json": {"schema": _ref(name)}}, "the answer"
    if streams:
        content["text/event-stream"] = {}
        about = "the answer; with stream, events `data: {...}` that add up to it, and at the end `data: [DONE]`"
    return {"200": {"description": about, "content": content}, **_failures()}


def _get(summary, answer, *parameters):
    return {"get": {"summary": summary, "parameters": list(parameters), "responses": _answer(answer)}}


def _post(summary, request, answer, streams=False):
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    return {"post": {"summary": summary, "requestBody": body, "responses": _answer(answer, streams)}}


async def show(request: HttpRequest) -> Response:
    """GET /openapi.json."""
    return Json(document(request.app.state.limits.most_tokens))


def routes() -> list[Route]:
    """Return the routes of this module."""
    return spelled("/openapi.json", show, "GET")
