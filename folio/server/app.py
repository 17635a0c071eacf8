"""The application: what every request passes through, and the routes of all modules."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import folio
from folio.base.errors import FolioError
from folio.generation.engine import Full
from folio.server import chat, completions, listing, openapi, page, tokens
from folio.server.errors import OURS, ApiError, Json, body, handle
from folio.server.metrics import CONTENT_TYPE, Activity, Metrics, Recorded
from folio.server.models import Models
from folio.server.security import Access, Guard, Limits

MODULES = (listing, completions, chat, tokens, openapi, page)


def create_app(models: Models, limits: Limits | None = None, access: Access | None = None) -> Starlette:
    """Return the application that serves these models.

    Its state has models, limits, metrics and activity. Nothing ends the models' engines but Models.close.
    """
    limits, access, metrics, activity = limits or Limits(), access or Access(), Metrics(), Activity()
    own = [Route("/health", health), Route("/metrics", show_metrics), Route("/version", version)]
    app = Starlette(
        routes=[*own, *(route for module in MODULES for route in module.routes())],
        middleware=[Middleware(Recorded, metrics=metrics, activity=activity),
                    Middleware(Guard, access=access, limits=limits)],
        exception_handlers={kind: handle for kind in (ApiError, FolioError, Full, HTTPException)})
    app.router.redirect_slashes = False
    app.state.models, app.state.limits, app.state.metrics, app.state.activity = models, limits, metrics, activity
    models.wrap = metrics.wrap
    metrics.watch(models)
    return app


async def health(request: Request) -> Response:
    """GET /health: whether requests are taken."""
    if request.app.state.activity.is_draining:
        error = ApiError(503, "The server is ending and takes no more requests.", OURS, code="shutting_down")
        return Json({"status": "draining", **body(error)}, 503, {"retry-after": "5"})
    return Json({"status": "ok"})


async def show_metrics(request: Request) -> Response:
    """GET /metrics: numbers for Prometheus."""
    return Response(request.app.state.metrics.text(), headers={"content-type": CONTENT_TYPE})


async def version(request: Request) -> Response:
    """GET /version: of this Folio."""
    return Json({"version": folio.__version__})
