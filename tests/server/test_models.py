"""Models of a project by name: loaded at first use, few at a time, reloaded when their files change, never lost."""

import asyncio
import logging
import shutil
import threading
import time

import pytest

from folio.base.home import Home
from folio.generation import engine
from folio.generation.engine import Event, Stats
from folio.server import models as models_module
from folio.server.models import Models, ModelUnavailable, UnknownModel
from running import within
from tiny_models import write_weights


class FakeEngine:
    """An engine without a thread: a test says how many requests it has."""
    made = []

    def __init__(self, model, *, rows, queue):
        self.model, self.rows, self.queue = model, rows, queue
        self.stats, self.closed = Stats(), None
        self.made.append(self)

    def submit(self, request):
        self.warmed = [*request.prompts]
        request.deliver([Event(0, "", (), "length", None)])

    def close(self, grace):
        self.closed = grace


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(engine, "Engine", FakeEngine)
    monkeypatch.setattr(FakeEngine, "made", [])
    monkeypatch.setattr(models_module, "CHECKED", 0.0)
    monkeypatch.setattr(models_module, "UNUSED", 0.1)
    monkeypatch.setattr(models_module, "POLLED", 0.01)


@pytest.fixture
def project(tmp_path):
    home = Home(tmp_path)
    for seed, name in enumerate(["first", "second", "third"]):
        write_weights(home, name, seed, 1_700_000_000 - seed)
    return home


@pytest.fixture
def models(project):
    made = Models(project, limit=2, rows=3, queue=4)
    yield made
    made.close()


def get(models, name=None):
    return asyncio.run(models.get(name))


def weights_of(served):
    return served.model.net.state_dict()


def same(one, other):
    return all((weights_of(one)[name] == weights_of(other)[name]).all() for name in weights_of(one))


def test_models_are_listed_by_the_names_of_their_runs(models, project):
    assert models.names()[0] == {"id": "first", "object": "model", "created": 1_700_000_000, "owned_by": "folio",
                                 "max_model_len": 32, "root": "first", "parent": None, "chat": False}
    assert [each["id"] for each in models.names()] == ["first", "second", "third"]
    project.weights("second").write_bytes(b"no weights")
    write_weights(project, "newer")
    assert [each["id"] for each in models.names()] == ["first", "newer", "third"]
    assert FakeEngine.made == []


def test_a_request_without_a_model_gets_the_first(models):
    served = get(models)
    assert served is get(models, "first") is models.get_now() and served.name == "first"
    assert (served.engine.rows, served.engine.queue, served.created) == (3, 4, 1_700_000_000)
    assert served.engine.warmed == ["<|endoftext|>"]
    assert get(models, "second").fingerprint != served.fingerprint
    assert served.fingerprint.startswith("folio-") and len(FakeEngine.made) == 2


def test_the_first_may_lie_outside_the_project(project, tmp_path):
    path = shutil.copy(project.weights("third"), tmp_path / "gift.pth")
    models = Models(project, first=path)
    assert models.names()[0]["id"] == "gift" and get(models).name == "gift"
    models.close()


@pytest.mark.parametrize("name", ["unknown", "first.pth", "fi*", "../Saved_Weights/weights-first.pth", "\x1b[2J"])
def test_only_names_are_taken(models, name):
    with pytest.raises(UnknownModel, match="This server has first, second, third") as problem:
        get(models, name)
    assert "\x1b" not in str(problem.value)


def test_a_near_miss_is_named(models):
    with pytest.raises(UnknownModel, match="did you mean second?"):
        get(models, "secnod")


def test_the_one_unused_for_longest_makes_room_and_ends_its_requests(models):
    second, first = get(models, "second"), get(models, "first")
    first.engine.stats.running = 1
    get(models, "second")
    get(models, "third")
    assert [served.name for served in models.loaded()] == ["second", "third"]
    time.sleep(0.3)
    assert first.engine.closed is None              # it has a request yet
    first.engine.stats.running = 0
    within(3, lambda: first.engine.closed is not None)
    assert second.engine.closed is None
    assert get(models, "first") is not first        # loaded again


def test_no_more_are_in_memory_than_twice_the_limit(models):
    for name in ("first", "second"):
        get(models, name).engine.stats.waiting = 1
    loading = threading.Thread(target=lambda: [models.get_now(name) for name in ("third", "first", "second")])
    loading.start()
    within(3, lambda: len(FakeEngine.made) == 4)
    time.sleep(0.2)
    assert len(FakeEngine.made) == 4                # the fifth waits for a replaced one to end
    FakeEngine.made[0].stats.waiting = 0
    loading.join(3)
    assert len(FakeEngine.made) == 5


def test_an_unknown_model_is_named_at_once_also_while_others_wait_for_room(project):
    models = Models(project, limit=1)
    get(models, "first").engine.stats.running = 1
    get(models, "second")                           # the first is replaced, and has a request yet
    refused = []

    def ask():
        try:
            models.get_now("nothing")
        except UnknownModel as error:
            refused.append(error)
    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(3)
    assert refused
    models.close()


def test_requests_at_the_same_time_load_a_model_once_without_blocking_the_loop(models, monkeypatch):
    original, ticks = Models._read, []

    def slow(self, name, path):
        time.sleep(0.3)
        return original(self, name, path)
    monkeypatch.setattr(Models, "_read", slow)

    async def both():
        async def tick():
            while True:
                ticks.append(None)
                await asyncio.sleep(0.01)
        ticking = asyncio.ensure_future(tick())
        found = await asyncio.gather(*(models.get("first") for _ in range(20)))
        ticking.cancel()
        return found
    assert len(set(map(id, asyncio.run(both())))) == 1 == len(FakeEngine.made)
    assert len(ticks) > 10


def test_newer_weights_are_taken_and_requests_in_flight_end_on_the_old_ones(models, project, caplog):
    caplog.set_level(logging.INFO, "folio.serve")
    old = get(models)
    old.engine.stats.running = 1
    write_weights(project, "first", seed=9)
    assert get(models) is old                       # until the new ones are there
    within(3, lambda: get(models) is not old)
    new = get(models)
    assert not same(old, new) and new.fingerprint != old.fingerprint and old.engine.closed is None
    old.engine.stats.running = 0
    within(3, lambda: old.engine.closed is not None)
    assert [served.name for served in models.loaded()] == ["first"] and len(FakeEngine.made) == 2


def test_damaged_weights_are_named_once_and_the_old_ones_stay(models, project, caplog):
    old, content = get(models), project.weights("first").read_bytes()
    project.weights("first").write_bytes(content[:-500])
    get(models)
    within(3, lambda: "The new weights of first cannot be loaded" in caplog.text)
    for _ in range(5):
        assert get(models) is old
        time.sleep(0.02)
    assert caplog.text.count("cannot be loaded") == 1
    project.weights("first").unlink()
    assert get(models) is old and old.engine.closed is None
    time.sleep(0.1)
    assert caplog.text.count("cannot be loaded") == 1       # a file that is being replaced is gone for a moment
    write_weights(project, "first", seed=5)
    within(3, lambda: get(models) is not old)


def test_damaged_weights_that_are_not_loaded_are_unavailable_and_the_client_learns_no_path(models, project, caplog):
    project.weights("second").write_bytes(b"no weights")
    with pytest.raises(ModelUnavailable, match="The weights of the model second cannot be read") as problem:
        get(models, "second")
    assert str(project.folder) not in str(problem.value) and str(project.folder) in caplog.text
    write_weights(project, "second")
    assert get(models, "second").name == "second"


def test_a_file_is_looked_at_no_more_than_once_in_a_while(models, monkeypatch):
    get(models)
    monkeypatch.setattr(models_module, "CHECKED", 60.0)
    looked, original = [], models_module._stamp
    monkeypatch.setattr(models_module, "_stamp", lambda path: looked.append(path) or original(path))
    for _ in range(100):
        get(models)
    assert looked == []


def test_closing_ends_all_engines(models):
    first, second = get(models, "first"), get(models, "second")
    get(models, "third")
    models.close(3.0)
    assert first.engine.closed is not None and second.engine.closed == 3.0 and models.loaded() == []
    models.close()
