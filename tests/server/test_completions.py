"""POST /v1/completions: what comes back, through the openai client with strict validation and by hand."""

import asyncio
import contextlib
import threading
import time

import httpx
import openai
import pytest
import torch

from folio.generation.decoder import window_start
from tiny_server import NAME, post, refused, serving

COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("project"), most_tokens=500, rows=8) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.address + "/v1", api_key="none", max_retries=0,
                       _strict_response_validation=True) as found:
        yield found


@pytest.fixture(scope="module")
def loose(server):
    """The strict client wants a finish_reason in every chunk, and numbers for the first token; OpenAI sends null."""
    with openai.OpenAI(base_url=server.address + "/v1", api_key="none", max_retries=0) as found:
        yield found


def log_probabilities(model, ids):
    """(time, vocabulary): what the network says after each of these ids, computed by torch."""
    with torch.inference_mode():
        return model.net(torch.tensor([ids]))[0].double().log_softmax(-1)


# --- Through the client that most use ---

def test_the_client_completes_lists_and_retrieves(client):
    assert [each.id for each in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "folio"
    answer = client.completions.create(model=NAME, prompt="The sea", seed=1)
    assert answer.object == "text_completion" and answer.model == NAME and answer.id.startswith("cmpl-")
    assert answer.system_fingerprint.startswith("folio-") and answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens == 16 and answer.choices[0].finish_reason == "length"
    assert client.completions.create(model=NAME, prompt="The sea", seed=1).choices[0].text == answer.choices[0].text


def test_the_client_sends_every_parameter(client, loose):
    settings = dict(
        model=NAME, prompt=["The sea", "A king"], best_of=3, frequency_penalty=-2, logit_bias={"5": -100},
        logprobs=2, max_tokens=4, n=2, presence_penalty=2, seed=-5, stop=["\n", "q"], suffix="", temperature=0.5,
        top_p=0.9, user="somebody", extra_body={"top_k": 50, "min_p": 0.01, "repetition_penalty": 1.1,
                                                "min_tokens": 1, "nobody_knows_this": [1]})
    plain = client.completions.create(**settings)
    answer = loose.completions.create(**settings, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[:6] for choice in answer.choices] == ["The se", "The se", "A king", "A king"]
    assert answer.usage == plain.usage and answer.usage.completion_tokens > 4 * 3     # of all that were generated
    assert [choice.text[len("The sea"):] for choice in answer.choices[:2]] == [choice.text for choice in
                                                                               plain.choices[:2]]


def test_the_client_reads_a_stream_with_its_usage(loose):
    whole = loose.completions.create(model=NAME, prompt="The sea", seed=1, max_tokens=40)
    parts = list(loose.completions.create(model=NAME, prompt="The sea", seed=1, max_tokens=40, stream=True,
                                          stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in parts[:-1]) == whole.choices[0].text
    assert [part.choices[0].finish_reason for part in parts[:-1]] == [None] * (len(parts) - 2) + ["length"]
    assert parts[-1].choices == [] and parts[-1].usage == whole.usage
    assert {(part.id, part.created, part.system_fingerprint) for part in parts} == {
        (parts[0].id, parts[0].created, whole.system_fingerprint)}


def test_the_client_understands_refusals(client):
    with pytest.raises(openai.NotFoundError) as found:
        client.completions.create(model="nobody", prompt="")
    assert (found.value.code, found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as found:
        client.completions.create(model=NAME, prompt="", n=0)
    assert found.value.param == "n"


def test_many_clients_at_once_get_what_they_get_alone(server):
    async def ask_all():
        async with openai.AsyncOpenAI(base_url=server.address + "/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(client.completions.create(model=NAME, prompt="The sea", seed=seed,
                                                                    max_tokens=5 + seed) for seed in range(20)))
    for seed, answer in enumerate(asyncio.run(ask_all())):
        alone = post(server, COMPLETIONS, prompt="The sea", seed=seed, max_tokens=5 + seed)
        assert answer.choices[0].text == alone["choices"][0]["text"]


# --- Log-probabilities ---

def test_the_tokens_of_a_prompt_have_the_models_own_log_probabilities(server):
    text, model = "The sea is calm.", server.model
    ids = model.tokenizer.encode(text)
    answer = post(server, COMPLETIONS, prompt=text, echo=True, logprobs=3, max_tokens=4, temperature=0.3, seed=1,
                  repetition_penalty=3, logit_bias={"7": 50}, return_token_ids=True, healing=False)
    choice = answer["choices"][0]
    found, said = choice["logprobs"], choice["token_ids"]
    assert choice["prompt_token_ids"] == ids and choice["text"].startswith(text)
    expected = log_probabilities(model, ids + said)
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    for place, token in enumerate((ids + said)[1:], 1):
        row = expected[place - 1]
        assert found["token_logprobs"][place] == pytest.approx(row[token].item(), abs=1e-4)
        top = sorted(found["top_logprobs"][place].values(), reverse=True)
        likeliest = row.topk(3).values.tolist()
        assert top[:3] == pytest.approx(likeliest, abs=1e-4) and found["tokens"][place] in found["top_logprobs"][place]
    for token, offset in zip(found["tokens"], found["text_offset"]):
        assert choice["text"][offset:].startswith(token) or token.startswith("bytes:")


def test_scoring_generates_nothing(server):
    ids = server.model.tokenizer.encode("The sea is calm.")
    answer = post(server, COMPLETIONS, prompt=[ids, ids[:3]], echo=True, logprobs=1, max_tokens=0)
    assert [len(choice["logprobs"]["tokens"]) for choice in answer["choices"]] == [len(ids), 3]
    assert answer["choices"][0]["text"] == "The sea is calm." and answer["usage"]["completion_tokens"] == 0
    assert answer["choices"][0]["finish_reason"] == "length"
    longer = post(server, COMPLETIONS, prompt=ids, echo=True, logprobs=1, max_tokens=1, temperature=0)
    assert longer["choices"][0]["logprobs"]["token_logprobs"][:-1] == answer["choices"][0]["logprobs"]["token_logprobs"]


def test_without_alternatives_only_the_token_itself_is_listed(server):
    found = post(server, COMPLETIONS, prompt="The", logprobs=0, max_tokens=5)["choices"][0]["logprobs"]
    assert [list(each) for each in found["top_logprobs"]] == [[token] for token in found["tokens"]]


def test_no_two_tokens_have_one_spelling_where_characters_are_incomplete(server):
    token = server.model.tokenizer.token_bytes.index(b"\xe2")
    other = server.model.tokenizer.token_bytes.index(b"\xc3")
    found = post(server, COMPLETIONS, prompt=[token, other], logprobs=20, echo=True, max_tokens=1)["choices"][0]
    assert found["logprobs"]["tokens"][:2] == ["bytes:\\xe2", "bytes:\\xc3"]
    assert len(found["logprobs"]["top_logprobs"][1]) in (20, 21)


def test_of_several_answers_the_likeliest_per_token_is_returned(server):
    settings = {"prompt": "The sea", "seed": 3, "max_tokens": 12, "logprobs": 0, "temperature": 1.5}
    all_of_them = post(server, COMPLETIONS, n=6, **settings)["choices"]
    best = post(server, COMPLETIONS, n=2, best_of=6, **settings)["choices"]

    def likelihood(choice):
        return sum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["tokens"])
    ranked = sorted(all_of_them, key=likelihood, reverse=True)
    assert [choice["text"] for choice in best] == [choice["text"] for choice in ranked[:2]]
    assert len({choice["text"] for choice in all_of_them}) > 2


# --- Settings ---

def test_a_token_can_be_forced_and_banned(server):
    tokenizer = server.model.tokenizer
    token = tokenizer.encode("x")[0]
    greedy = post(server, COMPLETIONS, prompt="The", temperature=0, max_tokens=1, return_token_ids=True, healing=False)
    likeliest = greedy["choices"][0]["token_ids"][0]
    # 100 is more than 100 logits: no other bias comes near it.
    forced = post(server, COMPLETIONS, prompt="The", logit_bias={str(token): 100, str(likeliest): 99}, max_tokens=5,
                  healing=False)
    assert forced["choices"][0]["text"] == "xxxxx"
    banned = post(server, COMPLETIONS, prompt="The", temperature=0, max_tokens=1, return_token_ids=True, healing=False,
                  logit_bias={str(likeliest): -100})
    assert banned["choices"][0]["token_ids"][0] != likeliest


def test_penalties_count_the_answer_and_not_the_prompt(server):
    token = str(server.model.tokenizer.encode("x")[0])
    settings = {"prompt": "xxxx", "logit_bias": {token: 20}, "max_tokens": 8, "healing": False, "temperature": 0}
    assert post(server, COMPLETIONS, **settings)["choices"][0]["text"].startswith("xxxx")
    once = post(server, COMPLETIONS, presence_penalty=2, frequency_penalty=2, **settings)["choices"][0]["text"]
    assert once.startswith("x") and once != "x" * 8         # the prompt's do not count, the answer's add up


def test_a_stop_string_and_a_stop_token_end_an_answer(server):
    whole = post(server, COMPLETIONS, prompt="The sea", seed=2, max_tokens=60, return_token_ids=True)["choices"][0]
    stop = whole["text"][20:23]
    for stops in (stop, [stop], ["☃"] * 31 + [stop]):
        choice = post(server, COMPLETIONS, prompt="The sea", seed=2, max_tokens=60, stop=stops)["choices"][0]
        assert choice["text"] == whole["text"][:whole["text"].index(stop)] and choice["finish_reason"] == "stop"
    token = whole["token_ids"][10]
    choice = post(server, COMPLETIONS, prompt="The sea", seed=2, max_tokens=60, stop_token_ids=[token])["choices"][0]
    assert choice["finish_reason"] == "stop" and whole["text"].startswith(choice["text"])
    assert len(choice["text"]) < len(whole["text"])


def test_ids_go_on_as_they_are_and_texts_may_end_inside_a_word(server):
    ids = server.model.tokenizer.encode("The fox fi")
    same = {"temperature": 0, "max_tokens": 3}
    by_ids = post(server, COMPLETIONS, prompt=ids, **same)["choices"][0]["text"]
    assert by_ids == post(server, COMPLETIONS, prompt="The fox fi", healing=False, **same)["choices"][0]["text"]
    healed = post(server, COMPLETIONS, prompt="The fox fi", **same)["choices"][0]["text"]
    assert healed == server.model.complete("The fox fi", tokens=3, temperature=0)


def test_seeds_give_the_texts_that_the_program_writes(server):
    for seed, settings in [(1, {}), (2**63 - 1, {"top_p": 0.5}), (7, {"top_k": 5, "min_p": 0.1, "temperature": 2})]:
        answer = post(server, COMPLETIONS, prompt="The sea", seed=seed, max_tokens=30, n=3, **settings)
        expected = [server.model.complete("The sea", stream=number, tokens=30, seed=seed,
                                          **{"temperature": 1.0, **settings}) for number in range(3)]
        assert [choice["text"] for choice in answer["choices"]] == expected


def test_a_new_document_begins_from_nothing(server):
    answers = [post(server, COMPLETIONS, seed=4, max_tokens=20, **prompt)
               for prompt in ({}, {"prompt": ""}, {"prompt": None}, {"prompt": [""]})]
    assert {answer["choices"][0]["text"] for answer in answers} == {
        server.model.complete("", tokens=20, seed=4, temperature=1.0)}
    assert answers[0]["usage"]["prompt_tokens"] == 0


def test_an_over_long_prompt_goes_on_and_says_where_the_view_begins(server):
    text = "The sea is calm. " * 100
    short = post(server, COMPLETIONS, prompt="The sea", max_tokens=1)
    assert "folio" not in short
    answer = post(server, COMPLETIONS, prompt=text, max_tokens=1, seed=1)
    count = len(server.model.tokenizer.encode(text))
    assert answer["usage"]["prompt_tokens"] == count and count - 256 <= answer["folio"]["window_start"] < count - 100
    error = refused(server, COMPLETIONS, {"prompt": text, "truncate_prompt": False})
    assert error["code"] == "context_length_exceeded" and error["param"] == "prompt"
    assert error["message"].startswith("This model's maximum context length is 256 tokens. However, you requested")


def test_a_prompt_longer_than_the_context_is_scored_to_its_last_token(server):
    text = "The sea is calm and the wind is low. " * 30
    answer = post(server, COMPLETIONS, prompt=text, echo=True, logprobs=0, max_tokens=0)
    found = answer["choices"][0]["logprobs"]["token_logprobs"]
    ids = server.model.tokenizer.encode(text)
    assert len(found) == len(ids) > 400 and found[0] is None
    for place in (1, 100, 256, 257, 300, len(ids) - 1):             # each through the window that generation sees
        window = ids[window_start(place, 256):place]
        expected = log_probabilities(server.model, window)[-1, ids[place]].item()
        assert found[place] == pytest.approx(expected, abs=1e-3)


def test_a_client_that_leaves_frees_its_rows(server):
    stream = {"prompt": "The sea", "max_tokens": 500, "n": 8, "ignore_eos": True, "stream": True}
    for body in (stream, stream | {"stream": False}):
        cancelled = server.engine.stats.cancelled
        with contextlib.suppress(httpx.ReadTimeout), httpx.Client(
                base_url=server.address, timeout=httpx.Timeout(10, read=0.2)) as client:
            with client.stream("POST", COMPLETIONS, json=body) as answer:
                assert body["stream"] and next(answer.iter_lines())
        deadline = time.monotonic() + 2
        while server.engine.stats.running or server.engine.stats.waiting:
            assert time.monotonic() < deadline, server.engine.stats
            time.sleep(0.01)
        assert server.engine.stats.cancelled == cancelled + 8


@pytest.mark.parametrize("body, is_aside", [
    ({"prompt": "A"}, False), ({"prompt": "A" * 20_000}, True), ({"prompt": ["A"] * 100}, True),
    ({"prompt": "A", "n": 100}, True), ({"prompt": "A", "precision": "int8"}, True)])
def test_a_request_that_takes_long_to_prepare_does_not_stall_the_streams_of_others(server, body, is_aside, monkeypatch):
    submit, threads = server.engine.submit, []
    monkeypatch.setattr(server.engine, "submit", lambda request: threads.append(
        threading.current_thread().name) or submit(request))
    post(server, COMPLETIONS, max_tokens=1, **body)
    assert [name.startswith("AnyIO") for name in threads] == [is_aside]


def test_routes_are_there_without_v1_and_with_a_slash(server):
    for path in ("/completions", "/v1/completions/", "/completions/"):
        assert post(server, path, prompt="a", max_tokens=1)["object"] == "text_completion"
    assert server.client.get("/models/").json() == server.client.get("/v1/models").json()
