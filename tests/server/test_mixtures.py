"""The API with several models that write one text."""

import json

import httpx
import pytest

from folio.base.home import Home
from folio.generation.voices import Mix
from folio.server.models import Models
from folio.server.security import Limits
from running import running
from tiny_models import write_weights
from tiny_server import post, refused

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
HOW = {"prompt": "ab cd", "max_tokens": 30, "temperature": 1, "seed": 7, "model": "night"}


class Server:
    def __init__(self, home, models, client):
        self.home, self.models, self.client = home, models, client
        self.night, self.letters = (models.get_now(name).model for name in ("night", "letters"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("project"))
    for seed, name in enumerate(("night", "letters")):
        path = write_weights(home, name, seed, written_at=1_700_000_000)
    models = Models(home, path)
    try:
        with running(models, Limits(most_tokens=400)) as served, \
                httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=60, trust_env=False) as client:
            yield Server(home, models, client)
    finally:
        models.close()


def text_of(server, **more):
    return post(server, TEXT, **HOW | more)["choices"][0]["text"]


def test_a_mixture_is_the_one_of_python_and_at_0_and_1_it_is_one_model(server):
    mixed = server.night.mixed_with({"letters": server.letters})
    night, letters = text_of(server), text_of(server, model="letters")
    assert text_of(server, mix={"letters": 0}) == text_of(server, mix={}) == night != letters
    assert text_of(server, mix={"letters": 1}) == letters
    for share, blend in ((0.3, "probabilities"), (0.5, "probabilities"), (0.5, "logits")):
        expected = mixed.with_shares({"letters": share}, blend).complete("ab cd", tokens=30, temperature=1, seed=7)
        assert text_of(server, mix={"letters": share}, blend=blend) == expected
    assert server.models.mixtures._made.keys() == {("night", "letters")}        # one engine for all of these


def test_each_token_has_the_name_of_the_model_that_shaped_it_most(server):
    answer = post(server, TEXT, **HOW, mix={"letters": 0.5}, logprobs=0)
    voices = answer["choices"][0]["logprobs"]["voices"]
    assert set(voices) == {"night", "letters"} and len(voices) == len(answer["choices"][0]["logprobs"]["tokens"])
    assert answer["model"] == "night + letters"
    assert set(post(server, TEXT, **HOW, mix={"letters": 1}, logprobs=0)["choices"][0]["logprobs"]["voices"]) \
        == {"letters"}
    assert "voices" not in post(server, TEXT, **HOW, logprobs=0)["choices"][0]["logprobs"]
    answer = post(server, CHAT, messages=[{"role": "user", "content": "ab"}], model="night", mix={"letters": 0.5},
                  logprobs=True, max_tokens=20, seed=1)
    assert {entry["voice"] for entry in answer["choices"][0]["logprobs"]["content"]} == {"night", "letters"}


@pytest.mark.parametrize("mix, sentence", [
    ({"letters": 1.5}, "1.5"), ({"letters": -0.1}, "-0.1"), ({"night": 0.5}, "night is the model that the others"),
    ({"letters": "much"}, "should be a number"), ([0.3], "an object of models and their shares")])
def test_a_mix_that_cannot_be_is_refused(server, mix, sentence):
    error = refused(server, TEXT, HOW | {"mix": mix})
    assert sentence in error["message"] and error["param"].startswith("mix")


def test_an_unknown_model_of_a_mix_is_named(server):
    error = refused(server, TEXT, HOW | {"mix": {"leters": 0.5}}, 404)
    assert "There is no model leters; did you mean letters?" in error["message"]


def test_a_model_that_was_loaded_again_is_mixed_as_it_is_now(server):
    before = text_of(server, mix={"letters": 0.5})
    old = server.models._loaded["letters"].served
    write_weights(server.home, "letters", 5)
    served, stamp = server.models._read("letters", server.home.weights("letters"))
    server.models._loaded["letters"].served, server.models._loaded["letters"].stamp = served, stamp
    mixed = server.night.mixed_with({"letters": served.model})
    expected = mixed.with_shares({"letters": 0.5}).complete("ab cd", tokens=30, temperature=1, seed=7)
    assert text_of(server, mix={"letters": 0.5}) == expected != before
    assert mixed.with_shares({"letters": 0.5}).net.mix == Mix((0.5, 0.5))
    old.engine.close()


def test_more_models_than_fit_into_memory_are_mixed_without_loading_them_again(server):
    models = server.models
    for seed, name in ((11, "sea"), (12, "fog")):
        write_weights(server.home, name, seed, written_at=1_700_000_000)
    assert refused(server, TEXT, HOW | {"mix": {"sea": 0.2, "letters": 0.2, "none": 0.2}}, 404)
    assert models.limit == 2
    mix = {"sea": 0.2, "letters": 0.2, "fog": 0.2}
    text = text_of(server, mix=mix)
    parts, served = models.mixtures._made["night", "fog", "letters", "sea"]
    assert text_of(server, mix=mix) == text
    assert models.mixtures._made["night", "fog", "letters", "sea"][1] is served
    assert models.limit == 4 and all(part.engine.stats for part in parts)
    assert 'folio_running{model="night + fog + letters + sea"} 0.0' in server.client.get("/metrics").text
    for name in ("sea", "fog"):
        server.home.weights(name).unlink()


# --- The page ---

def test_the_page_has_a_share_for_each_other_model_of_the_tokenizer(server):
    settings = server.client.get("/folio/describe?model=night").json()["settings"]
    assert [field["name"] for field in settings if field["name"].startswith("mix ")] == ["mix letters"]


def page_answer(server, **shares):
    settings = {"tokens": 30, "sampling_seed": 7, "temperature": 1.0} | shares
    response = server.client.post("/folio/generate", json={"model": "night", "prompt": "ab cd", "settings": settings})
    assert response.status_code == 200, response.text
    [line] = [line for line in response.text.splitlines() if '"result"' in line]
    return json.loads(line.removeprefix("data: "))["result"][0]["text"]


def test_the_page_s_answers_are_those_of_the_api(server):
    assert page_answer(server, **{"mix letters": 0.4}) == text_of(server, mix={"letters": 0.4})
    assert page_answer(server, **{"mix letters": 0.0}) == text_of(server)
    response = server.client.post("/folio/generate", json={"model": "night", "prompt": "a",
                                                           "settings": {"mix letters": 2}})
    assert response.status_code == 400 and "2" in response.json()["error"]["message"]


def test_the_page_learns_who_shaped_each_piece_of_a_text(server):
    text = "ab cd, abba; the cab is back."
    body = {"model": "night", "text": text, "settings": {"mix letters": 0.5}}
    pieces = server.client.post("/folio/voices", json=body).json()["pieces"]
    assert "".join(piece for piece, _ in pieces) == text and {name for _, name in pieces} == {"night", "letters"}
    letters = server.models.get_now("letters").model
    costs = [[bits for _, bits in model.surprise(text)] for model in (server.night, letters)]
    expected, joined = ["night" if one <= other else "letters" for one, other in zip(*costs)], []
    for (piece, _), name in zip(letters.surprise(text), expected):
        joined += [name] * len(piece)
    assert joined == [name for piece, name in pieces for _ in piece]
    body["settings"] = {"mix letters": 0}
    assert server.client.post("/folio/voices", json=body).json()["pieces"] == [[text, "night"]]
