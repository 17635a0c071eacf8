"""A server of the shipped model in a project of its own, and clients for it."""

import json
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import httpx

from conftest import ROOT
from folio.base.home import Home
from folio.server.models import Models
from folio.server.security import Limits
from running import running

NAME = "pretrained"


@contextmanager
def serving(folder, **limits):
    """Serve the shipped model; yield its address, a client, the model and its engine. limits: fields of Limits"""
    home = Home(folder)
    path = home.saved_weights / f"weights-{NAME}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "Saved_Weights" / path.name, path)
    bounds = Limits(**limits)
    models = Models(home, path, rows=bounds.rows, queue=bounds.queue)
    try:
        with running(models, bounds) as server:
            address = f"http://127.0.0.1:{server.port}"
            with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
                served = models.get_now()
                yield SimpleNamespace(address=address, client=client, models=models, model=served.model,
                                      engine=served.engine, app=server.app)
    finally:
        models.close()


def post(server, path, **body):
    """What the server answers to a request that it takes."""
    answer = server.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(server, path, body, status=400):
    """The error with which the server refuses a request; body: a value, or bytes that are sent as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode("ascii")
    answer = server.client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert all(value is None or isinstance(value, str) for value in error.values())
    return error
