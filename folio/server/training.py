"""What the page's training view shows: the runs of a home, and their logs while they grow.

    GET /folio/runs                     {runs: [...]}: fields of folio.formats.run_list.Run, without paths
    GET /folio/runs/NAME/log?after=STEP the reports of a run after a step, as JSON lines (folio.formats.run_log)

Of a long log only some reports without an evaluation are sent. Where a run was resumed from an earlier step than
`after`, the whole log is.
"""

import json
import math
from dataclasses import asdict

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from folio.data.token_files import names_of_texts
from folio.formats import run_list, run_log
from folio.server.errors import ApiError

SHOWN = ("name", "state", "go_on", "started_from", "differs", "text", "nats_per_byte", "bits_per_byte", "steps",
         "planned_steps", "minutes", "tokens_per_second", "parameters", "changed", "problems")
MOST_REPORTS = 2000         # without an evaluation: more cannot be told apart in a picture
EVALUATED = {"val_nats_per_byte", "val_nats_per_pair", "sample"}     # fields of reports with an evaluation
NOT_STORED = {"Cache-Control": "no-store"}


def routes():
    """Return the routes of the training view."""
    return [Route("/folio/runs", runs), Route("/folio/runs/{name}/log", log)]


async def runs(request):
    """Return all runs, the one that was written last first."""
    home = request.app.state.models.home
    return JSONResponse({"runs": await run_in_threadpool(_described, home)}, headers=NOT_STORED)


def _described(home):
    described = []
    for run in run_list.list_runs(home, text_names=names_of_texts(home)):
        values = asdict(run)
        described.append({name: _plain(values[name]) for name in SHOWN} | {"has_log": "log" in run.files})
    return described


async def log(request):
    """Return the reports of a run after a step, one line each."""
    home, name = request.app.state.models.home, request.path_params["name"]
    after = request.query_params.get("after", "-1")
    if not after.removeprefix("-").isdecimal() or len(after) > 18:
        raise ApiError(400, f"after={after[:40]} is not a number of steps.", param="after")
    if name not in await run_in_threadpool(run_list.names_of_runs, home):
        raise ApiError(404, f"There is no run {name[:100]}.", param="name", code="not_found")
    lines = await run_in_threadpool(_lines, home.log(name), int(after))
    return Response("".join(lines), media_type="application/x-ndjson", headers=NOT_STORED)


def _lines(path, after):
    """Return the lines of a log after a step."""
    try:
        reports = run_log.read(path)
    except OSError as error:
        raise ApiError(404, f"{path.name} cannot be read: {error.strerror}.", code="not_found") from None
    if reports and reports[-1]["step"] < after:         # cut back since: what was sent may be of another sitting
        after = -1
    return [json.dumps(_plain(report)) + "\n" for report in thinned([each for each in reports if each["step"] > after])]


def thinned(reports, most=MOST_REPORTS):
    """Return reports without some that have no evaluation, if there are too many; the first and last stay.
    >>> [report["step"] for report in thinned([{"step": step} for step in range(7)], most=3)]
    [0, 3, 6]
    """
    every = max(1, math.ceil(len(reports) / most))
    return [report for number, report in enumerate(reports)
            if number % every == 0 or number == len(reports) - 1 or not EVALUATED.isdisjoint(report)]


def _plain(value):
    """Return a value of JSON without numbers that are not finite: JSON has none."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
