"""GET /v1/models: the models by name."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from folio.base.visible import on_one_line
from folio.server.errors import ApiError, Json
from folio.server.requests import spelled

LONGEST_NAME = 100              # characters of an unknown name that a message repeats


async def models(request: HttpRequest) -> Response:
    """GET /v1/models."""
    return Json({"object": "list", "data": await run_in_threadpool(request.app.state.models.names)})


async def model(request: HttpRequest) -> Response:
    """GET /v1/models/{model}."""
    name = request.path_params["model"]
    for known in await run_in_threadpool(request.app.state.models.names):
        if known["id"] == name:
            return Json(known)
    raise ApiError(404, f"There is no model {on_one_line(name[:LONGEST_NAME])}; /v1/models lists what there is.",
                   param="model", code="model_not_found")


def routes() -> list[Route]:
    """Return the routes of this module."""
    return [*spelled("/models", models, "GET"), *spelled("/models/{model:path}", model, "GET")]
