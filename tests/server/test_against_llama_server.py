"""The same requests to llama.cpp's server with the same model, as a GGUF file: the answers say the same."""

import codecs

import pytest

from folio.formats import gguf, trained_model
from llama_server import serving as llama_serving
from tiny_server import post, serving

PROMPTS = ("\nI have the key", "\nMEDLEY.\n", "\nWhat are you", "The sea", "No one in the house knows")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("project")) as found:
        yield found


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "shipped.gguf"
    gguf.write(trained_model.load(ours.models.first), path)
    with llama_serving(path) as found:
        yield found


def both(ours, theirs, **body):
    """The answers of both to a request to /v1/completions."""
    return post(ours, "/v1/completions", **body), theirs.ask("/v1/completions", **body)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_texts_usage_and_ends_are_the_same(ours, theirs, prompt):
    ids = ours.model.tokenizer.encode(prompt)
    found, expected = both(ours, theirs, prompt=ids, max_tokens=60, temperature=0)
    assert found["choices"][0]["text"] == expected["choices"][0]["text"]
    assert found["choices"][0]["finish_reason"] == expected["choices"][0]["finish_reason"]
    assert found["object"] == expected["object"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert found["usage"][name] == expected["usage"][name]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_texts_end_at_the_same_stop_string(ours, theirs, prompt):
    ids = ours.model.tokenizer.encode(prompt)
    whole = post(ours, "/v1/completions", prompt=ids, max_tokens=60, temperature=0)["choices"][0]["text"]
    for stop in (whole[7:10], whole[20:21], whole[15:22]):
        found, expected = both(ours, theirs, prompt=ids, max_tokens=60, temperature=0, stop=[stop, "no such text"])
        assert found["choices"][0]["text"] == expected["choices"][0]["text"] == whole[:whole.index(stop)]
        assert found["choices"][0]["finish_reason"] == expected["choices"][0]["finish_reason"] == "stop"
        assert found["usage"] == {name: expected["usage"][name] for name in found["usage"]}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_log_probabilities_are_the_same(ours, theirs, prompt):
    """llama.cpp has the form of chats in this route, and its tokens' ids beside them."""
    ids = ours.model.tokenizer.encode(prompt)
    found, expected = both(ours, theirs, prompt=ids, max_tokens=40, temperature=0, logprobs=5, return_token_ids=True)
    mine, places = found["choices"][0], expected["choices"][0]["logprobs"]["content"]
    whole = whole_characters(ours.model.tokenizer, mine["token_ids"])
    assert [place["id"] for place in places] == [mine["token_ids"][number] for number in whole] and len(whole) > 20
    for number, place in zip(whole, places):
        assert mine["logprobs"]["token_logprobs"][number] == pytest.approx(place["logprob"], abs=1e-4)
        top = sorted(mine["logprobs"]["top_logprobs"][number].values(), reverse=True)[:5]
        assert top == pytest.approx([each["logprob"] for each in place["top_logprobs"][:5]], abs=1e-4)


def whole_characters(tokenizer, ids):
    """The places at which no character is incomplete: of the others llama.cpp says nothing."""
    decoder, found = codecs.getincrementaldecoder("utf-8")(errors="replace"), []
    for place, token in enumerate(ids):
        decoder.decode(tokenizer.token_bytes[token])
        if not decoder.getstate()[0]:
            found.append(place)
    return found


@pytest.mark.parametrize("text", ["", "The sea", "é\n中 \U0001f469", "  two  spaces\n\n\n"])
def test_texts_and_tokens_are_the_same(ours, theirs, text):
    for body in ({"content": text}, {"content": text, "with_pieces": True}):
        found, expected = post(ours, "/tokenize", **body), theirs.ask("/tokenize", **body)
        assert found == expected
    ids = post(ours, "/tokenize", content=text)["tokens"]
    assert post(ours, "/detokenize", tokens=ids)["content"] == theirs.ask("/detokenize", tokens=ids)["content"] == text


def test_answers_have_no_names_that_others_do_not_have(ours, theirs):
    found, expected = both(ours, theirs, prompt="\nMEDLEY.\n", max_tokens=5, temperature=0)
    assert set(found) <= set(expected)
    assert set(found["choices"][0]) <= set(expected["choices"][0])
