"""Failures as HTTP responses: every one has the body {"error": {"message", "type", "param", "code"}}."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from folio.base.errors import FolioError
from folio.generation.engine import Closed, Full
from folio.server.mixtures import CannotMix
from folio.server.models import ModelUnavailable, UnknownModel

INVALID, BUSY, OURS = "invalid_request_error", "rate_limit_exceeded", "server_error"      # OpenAI's words for `type`
CLOSED_RETRY = 1        # seconds: by then the engine that replaces a closed one takes requests


class ApiError(Exception):
    """A failure with all that a client is told.

    param: the request's field at fault; code: a word for programs; headers: of the response
    """

    def __init__(self, status: int, message: str, type: str = INVALID, param: str | None = None,
                 code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})


class Json(JSONResponse):
    """A response in JSON, in ASCII: a lone surrogate in a text has no UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the body. Raises ValueError for NaN and infinity, which JSON does not have."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def explain(error: BaseException) -> ApiError:
    """Return what a client is told about an exception; of one that is a bug in Folio no more than that."""
    match error:
        case ApiError():
            return error
        case UnknownModel():
            return ApiError(404, str(error), param="model", code="model_not_found")
        case ModelUnavailable():
            return ApiError(503, str(error), OURS, "model", "model_unavailable", {"x-should-retry": "false"})
        case Full():
            seconds = max(1, round(error.retry_after))
            return ApiError(429, "The queue is full: more requests wait than this server takes. Try again in "
                            f"{seconds} s.", BUSY, code=BUSY, headers={"retry-after": str(seconds)})
        case Closed():
            return ApiError(503, str(error), OURS, code="shutting_down",
                            headers={"retry-after": str(CLOSED_RETRY)})
        case CannotMix():
            return ApiError(400, str(error), param="mix", code="invalid_value")
        case FolioError():
            return ApiError(400, str(error), code="invalid_value")
        case HTTPException():
            return _of_router(error)
    return ApiError(500, "The server failed at this request; its log says where. This is a bug in Folio.", OURS,
                    headers={"x-should-retry": "false"})


def _of_router(error):
    """Return the ApiError for an HTTPException, as Starlette's router raises it."""
    if error.status_code == 404:
        return ApiError(404, "There is nothing at this path. /openapi.json lists what there is.", code="not_found")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return ApiError(405, f"This path takes {allowed or 'another method'}.", code="method_not_allowed",
                        headers=error.headers)
    kind = OURS if error.status_code >= 500 else INVALID
    return ApiError(error.status_code, str(error.detail), kind, headers=error.headers)


def body(error: ApiError) -> dict[str, Any]:
    """Return the JSON value that says what failed: the body of a response, or an event of a stream."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def response(error: BaseException) -> Json:
    """Return the response for an exception."""
    told = explain(error)
    return Json(body(told), told.status, told.headers)


async def handle(request: Any, error: Exception) -> Json:
    """Return the response for an exception, as Starlette calls its handlers."""
    return response(error)
