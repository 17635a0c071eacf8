"""The Python interface: several prompts with their settings, stop strings, refusals."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import folio
from conftest import ROOT
from folio.base.errors import FolioError
from folio.generation.decoder import Decoder
from folio.generation.stop_strings import StopFilter
from folio.networks.build import build_network
from Model_Params import ModelParams
from test_decoder import WILD
from tokenizer import CharTokenizer


@pytest.fixture(scope="module")
def model():
    return folio.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")


def first_stop(text, stops):
    """Return the text before the stop string that is complete first, searched character by character."""
    for end in range(len(text) + 1):
        if whole := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[:end - max(map(len, whole))]
    return text


@settings(max_examples=300)
@given(st.text("ab\n", max_size=20), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
       st.randoms(use_true_random=False))
def test_text_ends_before_the_first_stop_in_whatever_pieces_it_comes(text, stops, random):
    cuts = sorted(random.choices(range(len(text) + 1), k=5))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    filtered, shown = StopFilter(stops), ""
    for piece in pieces:
        shown += filtered.add(piece)
        assert first_stop(text, stops).startswith(shown)            # never a part of a stop
    assert shown + filtered.end() == first_stop(text, stops)
    assert filtered.ended == any(stop in text for stop in stops)


@pytest.mark.parametrize("settings", [dict(sampling_seed=1), dict(beams=1, length_penalty=0.0)],
                         ids=["sampling", "beams"])
def test_an_answer_ends_before_a_stop_string_that_crosses_tokens_and_one_that_never_comes_changes_nothing(
        model, settings, monkeypatch):
    whole = model.complete("MERRAN:\n", tokens=60, **settings)
    assert model.complete("MERRAN:\n", tokens=60, stop=["no such text", "☃"], **settings) == whole
    steps, read = [], Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda self, tokens: steps.append(1) or read(self, tokens))
    for stops in ([whole[20:33]], [whole[40:45], whole[20:33]], [whole[:1]]):
        steps.clear()
        assert model.complete("MERRAN:\n", tokens=60, stop=stops, **settings) == first_stop(whole, stops)
        assert len(steps) < 40                      # nothing is computed beyond it


def test_beams_go_by_what_a_text_is_worth_up_to_its_stop(model):
    stopped = model.complete_each(["MERRAN:\n"] * 4, tokens=40, beams=4, stop=":\n")
    assert len(set(stopped)) == 4 and not any(":\n" in text for text in stopped)


# --- The Python interface ---

def test_an_empty_prompt_stands_after_an_opening_that_penalties_skip(model):
    unsaid = [model.after(prompt, WILD).unsaid for prompt in ("", "h", "The sea is")]
    assert unsaid == [len(model.opening), len(model.opening), 0]


def test_several_prompts_with_settings_of_their_own_are_answered_as_each_alone(model):
    prompts = ["MERRAN:\n", {"prompt": "The sea", "temperature": 0.0, "tokens": 5},
               {"prompt": "I have the key", "stop": "."}, {"beams": 2, "temperature": None, "stream": 1}, "",
               "MERRAN:\n"]
    found = model.complete_each(prompts, tokens=25, sampling_seed=4, temperature=0.9)
    for place, (prompt, answer) in enumerate(zip(prompts, found)):
        own = {"prompt": prompt} if isinstance(prompt, str) else prompt
        assert answer == model.complete(**{"tokens": 25, "sampling_seed": 4, "temperature": 0.9, "stream": place} | own)
    assert found[0] != found[5]
    streamed = [""] * len(prompts)
    for place, text in model.stream_each(prompts, tokens=25, sampling_seed=4, temperature=0.9):
        assert text
        streamed[place] += text
    assert streamed == found
    assert model.complete_each([]) == []


def test_without_a_seed_answers_are_new_each_time(model):
    prompts = ["MERRAN:\n"] * 3
    assert len({*model.complete_each(prompts, tokens=30),
                *model.complete_each(prompts, tokens=30, sampling_seed=None)}) == 6


def test_a_prompt_that_ends_within_a_token_is_gone_on_with_as_if_it_had_ended_before_it(model):
    tokenizer = model.tokenizer
    assert tokenizer.encode("MERRAN:\n")[:-1] == tokenizer.encode("MERRAN:")[:-1] and len(tokenizer.encode(":\n")) == 1
    answers = model.complete_each(["MERRAN:"] * 20, tokens=8, sampling_seed=1)
    assert all(answer.startswith("\n") and not answer.startswith("\n\n") for answer in answers)
    # of a token, what the prompt has not
    assert model.complete("MERRAN:", tokens=1, temperature=0.0) == "\n"
    healed = model.complete("The harb", tokens=6, temperature=0.0)
    ids = tokenizer.encode("The harb")
    likely = model.next_token_probabilities("The har")               # the tokens before the last, as it happens
    assert tokenizer.decode(ids[:-1]) == "The har" and ids[-1] == ord("b")
    first = next(piece for piece, _ in likely if piece.startswith("b"))
    continued = first[1:] + model.complete("The har" + first, tokens=6, temperature=0.0)
    assert healed.startswith(first[1:]) and continued.startswith(healed)


def test_a_prompt_of_one_token_may_be_the_beginning_of_another_too(model):
    assert len(model.tokenizer.encode("h")) == 1
    likely = model.next_token_probabilities("")                     # what stands before a text is all there is to go by
    first = next(piece for piece, _ in likely if piece.startswith("h"))
    assert model.complete("h", tokens=6, temperature=0.0).startswith(first[1:]) and len(first) > 1


def test_beams_tell_apart_prompts_that_differ_in_the_beginning_of_their_next_token_alone(model):
    prompts = ["The harb", "The hart"]
    assert len({tuple(model.tokenizer.encode(prompt)[:-1]) for prompt in prompts}) == 1
    asked = [{"prompt": prompt, "stream": 0} for prompt in prompts]
    alone = [model.complete(prompt, beams=2, tokens=6) for prompt in prompts]
    assert model.complete_each(asked, beams=2, tokens=6) == alone


def test_the_answer_to_a_character_that_is_cut_in_two_tokens_has_whole_characters(model):
    for prompt in ("Grüße 🎭", "世界", "é"):
        for answer in model.complete_each([prompt] * 5, tokens=5, sampling_seed=2, temperature=0.3):
            assert "\ufffd" not in answer[:1]


@pytest.mark.parametrize("wrong, words", [
    (dict(beams=3, temperature=0.5, top_k=4), ["beams=3", "temperature and top_k"]),
    (dict(beams=0), ["beams=0"]),
    (dict(length_penalty=1.0), ["length_penalty=1.0", "beams"]),
    (dict(stop=["a", ""]), ["stop", "empty"]),
    (dict(stop="\udcff"), ["stop", "surrogate"]),
    (dict(stop=[1]), ["stop=1", "str"]),
    (dict(min_p=1.5), ["min_p=1.5"]),
    (dict(min_p=math.nan), ["min_p=nan"]),
    (dict(repetition_penalty=0.0), ["repetition_penalty=0.0"]),
    (dict(repetition_penalty=1e-45), ["repetition_penalty=1e-45", "0.01"]),
    (dict(tokens=10**40, beams=2, length_penalty=10.0), ["tokens=1000", "largest"]),
    (dict(frequency_penalty=-1.0), ["frequency_penalty=-1.0"]),
    (dict(penalty_window=0), ["penalty_window=0"]),
    (dict(no_repeat_ngram=0), ["no_repeat_ngram=0"]),
    (dict(beams=2, stream=2), ["beams=2", "number 3"]),
    (dict(stream=-1), ["stream=-1"]), (dict(beams=2, stream=-1), ["stream=-1"])])
def test_settings_that_cannot_work_are_refused_in_one_sentence(model, wrong, words):
    with pytest.raises(FolioError) as refused:
        model.stream("x", **wrong)          # before any text is asked for
    assert len(str(refused.value).splitlines()) == 1 and all(word in str(refused.value) for word in words)


def test_a_precision_that_is_not_for_this_network_is_refused_before_any_text_is_asked_for(model):
    lstm = build_network(ModelParams(family="lstm", vocab_size=model.tokenizer.vocab_size, emb_len=16)).eval()
    with pytest.raises(FolioError, match="precision=int8 is for transformers in float32 on the CPU, with Model.py "
                                         "as it came: leave it out"):
        replace(model, net=lstm).stream("x", weight_precision="int8")


def test_beams_tell_apart_a_prompt_and_the_opening_that_has_the_same_tokens(model):
    """Penalties count the tokens of a prompt, and not those of the opening before an empty one."""
    tokenizer = CharTokenizer("abcde\n")
    torch.manual_seed(0)
    params = ModelParams(vocab_size=tokenizer.vocab_size, emb_len=32, num_layers=1, num_heads=2, block_size=32)
    net = build_network(params.resolved()).eval()
    with torch.no_grad():
        net.head.weight *= 50
    small = replace(model, net=net, tokenizer=tokenizer, opening=tokenizer.encode("\n"))
    settings = dict(beams=2, tokens=8, repetition_penalty=100)
    alone = [small.complete(prompt, **settings) for prompt in ("", "\n")]
    assert alone[0] != alone[1]
    assert [small.complete_each(["", "\n"], **settings, stream=0)[place] for place in (0, 1)] == alone
