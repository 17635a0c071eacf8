"""Several streams at once, what may not be repeated, beams, and texts at which to stop: each against its plain definition or another library."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import as_qwen3
from test_sampling import full

import folio
from folio.generation import decoder, sampling
from folio.networks.build import build_network
from folio.generation.beam import beam_search, length_penalty
from folio.generation.decoder import Decoder, Generation, Sequence, generate, window_start
from folio.base.errors import FolioError
from folio.generation.healing import Cover, Healing
from folio.generation.numpy_decoder import in_numpy
from folio.generation.stop_strings import StopFilter
from Model_Params import GenerationParams, ModelParams

TINY = ModelParams(vocab_size=40, block_size=8, emb_len=16, num_layers=2, num_heads=2)
WILD = GenerationParams(tokens=30, temperature=2.0, sampling_seed=1).resolved()


def lively(params):
    """A network whose answers depend strongly on what it has read."""
    torch.manual_seed(1)
    net = build_network(params).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3 if "embedding" in name else 1.0)
    return net


@pytest.fixture(scope="module", params=["folio", "classic"])
def net(request):
    return lively(replace(TINY, family=request.param))


@pytest.fixture(scope="module")
def model():
    return folio.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")


# --- What has been said before ---

logits_rows = st.integers(0, 2**31).map(lambda seed: torch.randn(3, 12, generator=torch.Generator().manual_seed(seed)) * 3)
token_rows = st.integers(1, 20).flatmap(lambda length: st.lists(st.lists(st.integers(0, 11), min_size=length, max_size=length), min_size=3, max_size=3))


@settings(max_examples=50)
@given(logits_rows, token_rows.map(torch.tensor), st.floats(0.5, 3.0), st.integers(1, 4))
def test_penalties_are_those_of_hugging_face(logits, tokens, penalty, length):
    processors = pytest.importorskip("transformers").generation.logits_process
    ours = torch.stack([sampling.repetition_penalty(row, ids, penalty) for row, ids in zip(logits, tokens.tolist())])
    torch.testing.assert_close(ours, processors.RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits.clone()))
    theirs = processors.NoRepeatNGramLogitsProcessor(length)(tokens, logits.clone())
    ours = torch.stack([sampling.no_repeat_ngram(row, ids, length) for row, ids in zip(logits, tokens.tolist())])
    let_off = theirs.isneginf().all(-1)
    torch.testing.assert_close(ours[~let_off], theirs[~let_off])
    torch.testing.assert_close(ours[let_off], logits[let_off])


@settings(max_examples=100)
@given(logits_rows, st.floats(0.2, 3.0), st.none() | st.integers(1, 12), st.none() | st.floats(0.05, 0.999), st.none() | st.floats(0.0, 1.0))
def test_the_order_of_application_is_that_of_hugging_face(logits, temperature, top_k, top_p, min_p):
    warpers = pytest.importorskip("transformers").generation.logits_process
    scores = warpers.TemperatureLogitsWarper(temperature)(None, logits.double())
    for warper, value in ((warpers.TopKLogitsWarper, top_k), (warpers.TopPLogitsWarper, top_p), (warpers.MinPLogitsWarper, min_p)):
        scores = scores if value is None else warper(value)(None, scores)
    np.testing.assert_allclose(full(logits.numpy(), temperature, top_k, top_p, min_p), scores.softmax(-1), rtol=1e-5, atol=1e-7)


@settings(max_examples=100)
@given(logits_rows, token_rows, st.floats(0.0, 5.0), st.floats(0.5, 3.0), st.integers(1, 25))
def test_a_token_pays_once_for_each_time_it_came_within_the_window(logits, tokens, frequency, repetition, window):
    found = sampling.penalized(logits, tokens, replace(WILD, frequency_penalty=frequency, repetition_penalty=repetition, penalty_window=window))
    for row, token in itertools.product(range(3), range(12)):
        times = tokens[row][-window:].count(token)
        logit = logits[row, token].item()
        logit = logit if not times else logit * repetition if logit < 0 else logit / repetition
        assert found[row, token].item() == pytest.approx(logit - times * frequency, rel=1e-4, abs=1e-5)


def test_no_sequence_comes_twice_and_a_stream_that_has_nothing_left_to_say_is_let_off(net):
    said = [5, *generate(net, [5], **{**vars(WILD), "no_repeat_ngram": 2, "tokens": 200, "top_k": 4})]
    pairs = list(zip(said, said[1:]))
    assert len(set(pairs)) == len(pairs) == 200
    assert len(list(generate(net, [5], **{**vars(WILD), "no_repeat_ngram": 1, "tokens": 100}))) == 100       # of 40 tokens


@pytest.mark.parametrize("how", [dict(no_repeat_ngram=1), dict(repetition_penalty=100.0), dict(frequency_penalty=100.0)], ids=str)
def test_what_stands_before_a_text_has_not_been_said(net, how):
    ends = copy.deepcopy(net)
    with torch.no_grad():
        hidden = ends.norm(ends.advance(ends.empty_state(1), torch.tensor([[9]]))[0])[0, 0]
        ends.head.weight[9] = hidden / hidden.square().sum() * ((ends.head.weight @ hidden).max() + 1)         # so that the end is likeliest after itself
    for params in (replace(WILD, temperature=0.0, **how), replace(WILD, temperature=None, beams=1, tokens=5, **how)):
        opened, said = Sequence([9], params, end=9, unsaid=1), Sequence([9], params, end=9)
        answers = [beam_search(ends, each)[0].tokens if params.beams else said_by(ends, [each])[0] for each in (opened, said)]
        assert answers[0] == [] != answers[1]


def test_an_empty_prompt_stands_after_what_is_not_said(model):
    assert [model._after(prompt, WILD).unsaid for prompt in ("", "h", "The sea is")] == [len(model.opening), len(model.opening), 0]


# --- Several streams at once ---

def beginning_with(*ids):
    """A Healing after which a stream has to begin with one of these ids."""
    return Healing(b"", (Cover((), np.array(ids), np.array(ids)),))


def company():
    """Streams of all kinds: lengths, settings, seeds, ends, some alike."""
    random = np.random.default_rng(3)
    for number, length in enumerate([1, 3, 3, 8, 9, 20, 3, 1]):
        prompt = random.integers(40, size=length).tolist()
        how = replace(WILD, sampling_seed=number // 2, tokens=int(random.integers(0, 60)), temperature=[2.0, 0.0, 1.0][number % 3], top_k=[None, 5][number % 2],
                      repetition_penalty=[1.0, 1.3][number // 4])
        yield Sequence(prompt, how, number, int(random.integers(40)))
        yield Sequence(prompt, WILD, number, healing=beginning_with(7, 9))


def said_by(net, streams):
    generation, said = Generation(net, streams), [[] for _ in streams]
    while generation.running:
        for which, token in generation.step():
            said[which].append(token)
    return said


def test_a_stream_says_the_same_alone_and_in_any_company(net):
    streams = list(company())
    alone = [said_by(net, [stream])[0] for stream in streams]
    assert said_by(net, streams) == alone
    assert said_by(net, streams[::-1]) == alone[::-1]
    assert said_by(net, streams[3:9] * 2) == alone[3:9] * 2
    assert len({len(each) for each in alone}) > 5 and all(each[0] in (7, 9) for each in alone[1::2])


def test_where_the_device_chooses_tokens_it_chooses_the_same(net, monkeypatch):
    streams = list(company())
    monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: None)
    expected = said_by(net, streams)
    monkeypatch.setattr(decoder, "CHOOSES", ("cpu",))           # as CUDA does
    assert isinstance(Decoder(net, [[1]]).logits, torch.Tensor)
    assert said_by(net, streams) == expected
    how = replace(WILD, temperature=None, tokens=5, beams=3)
    assert beam_search(net, Sequence([3], how, healing=beginning_with(7, 9)))[0].tokens[0] in (7, 9)


@pytest.mark.parametrize("serves", ["numpy", "torch"])
def test_streams_are_computed_together_and_those_that_have_ended_no_more(net, serves, monkeypatch):
    steps, prompts, step, advance = [], [], Decoder._step, net.advance
    serve = in_numpy(net) if serves == "numpy" else None
    monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: serve)
    monkeypatch.setattr(Decoder, "_step", lambda self, last: steps.append(len(last)) or step(self, last))
    monkeypatch.setattr(net, "advance", lambda state, tokens: tokens.shape[1] > 1 and prompts.append(tuple(tokens.shape)) or advance(state, tokens))
    streams = [Sequence(prompt, replace(WILD, tokens=tokens), number)
               for number, (prompt, tokens) in enumerate([([1, 2, 3], 2), ([1, 2, 3], 4), ([5, 6, 7], 4), ([1, 2, 3], 0), ([4] * 5, 3)])]
    said_by(net, streams)
    assert prompts == [(2, 2), (1, 4)] and steps == [4, 4, 3, 2]            # a prompt that two have in common is read once


@pytest.mark.parametrize("serves", ["numpy", "torch"])
def test_whatever_lengths_they_have_streams_are_read_as_each_alone(net, serves, monkeypatch):
    if serves == "torch":
        monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: None)
    random = np.random.default_rng(0)
    together, rows = Decoder(net, [random.integers(40, size=length).tolist() for length in (1, 5, 8, 9, 30)]), list(range(5))
    for turn in range(60):
        if turn == 20:
            rows = [4, 1, 0]                    # some go, others take their places
            together.select(rows)
        if turn == 40:
            together.select([2, 0, 0, 1, 2])
        pieces = [random.integers(40, size=random.integers(1, 3 if turn % 5 else 12)).tolist() for _ in together.tokens]
        together.read(pieces)
        for tokens, logits in zip(together.tokens, together.logits):
            with torch.inference_mode():
                expected = net(torch.tensor([tokens[window_start(len(tokens), 8):]]))[0, -1].log_softmax(-1)
            torch.testing.assert_close(torch.as_tensor(logits).log_softmax(-1), expected, rtol=0, atol=1e-4)


def test_a_window_that_restarts_beside_others_is_read_by_one_thread_and_all_windows_at_once_by_all(net, monkeypatch):
    threads, advance = [], net.advance
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.append(count))
    monkeypatch.setattr(net, "advance", lambda state, tokens: tokens.shape[1] > 1 and threads.append("reads") or advance(state, tokens))
    for prompts, expected in (([[1, 2], [1, 2, 3]], [1, "reads", 5] * 2), ([[1, 2, 3], [4, 5, 6]], ["reads"])):
        both = Decoder(net, prompts)
        threads.clear()
        for _ in range(7 if len(prompts[0]) == 2 else 6):
            both.read([[7], [8]])
        assert threads == expected


def test_a_stream_can_be_stopped_from_outside(net):
    streams = [Sequence([1, 2], WILD, number) for number in range(3)]
    whole, generation, said = said_by(net, streams), Generation(net, streams), [[], [], []]
    generation.remove(2)
    while generation.running:
        for which, token in generation.step():
            said[which].append(token)
            if which == 0 and len(said[0]) == 5:
                generation.remove(0)
    assert said == [whole[0][:5], whole[1], []]


# --- Beams ---

def log_probabilities(net, ids):
    with torch.inference_mode():
        return net(torch.tensor([ids[window_start(len(ids), net.params.block_size):]]))[0, -1].double().log_softmax(-1).tolist()


def all_continuations(net, prompt, length, end):
    """[(score parts)] of everything that can be said in so many tokens: (ids without the end, log-probability, length with it)"""
    going_on = [([], 0.0)]
    for place in range(1, length + 1):
        longer = [(ids + [token], total + cost) for ids, total in going_on for token, cost in enumerate(log_probabilities(net, prompt + ids))]
        yield from ((ids[:-1], total, place) for ids, total in longer if ids[-1] == end)
        going_on = [(ids, total) for ids, total in longer if ids[-1] != end]
    yield from ((ids, total, length) for ids, total in going_on)


@pytest.mark.parametrize("strength", [0.0, 0.6, 3.0])
def test_with_enough_beams_the_best_of_all_continuations_are_found(strength):
    net = lively(replace(TINY, vocab_size=4, block_size=6))
    with torch.no_grad():
        net.head.weight *= 0.3                                      # so that several are worth comparing
    prompt, how = [1, 2, 3], replace(WILD, tokens=4, beams=200, length_penalty=strength)
    expected = sorted(((total / length_penalty(length, strength), ids) for ids, total, length in all_continuations(net, prompt, 4, end=0)), reverse=True)
    found = beam_search(net, Sequence(prompt, how, end=0))
    assert [each.tokens for each in found[:20]] == [ids for _, ids in expected[:20]]
    assert [each.score for each in found[:20]] == pytest.approx([score for score, _ in expected[:20]], abs=1e-4)
    lengths = {len(each.tokens) for each in found[:20]}
    assert lengths == {4} if strength == 3 else len(lengths) > 1                # what the penalty is for


def plain_beam_search(net, prompt, tokens, beams, strength, end=None, ends=lambda ids: False):
    """The definition, which computes everything anew and never ends before its time. -> [(score, ids)]"""
    going_on, ended = [(0.0, [])], []
    for length in range(1, tokens + 1):
        longer = sorted(((total + cost, ids + [token]) for total, ids in going_on for token, cost in enumerate(log_probabilities(net, prompt + ids))),
                        reverse=True)
        going_on = [(total, ids) for total, ids in longer if ids[-1] != end and not ends(ids)][:beams]
        ended += [(total / length_penalty(length, strength), ids[:-1] if ids[-1] == end else ids) for total, ids in longer
                  if (ids[-1] == end or ends(ids)) and (total, ids) > going_on[-1]]
    return sorted(ended + [(total / length_penalty(tokens, strength), ids) for total, ids in going_on], reverse=True)[:beams]


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("strength", [0.0, 0.6, 3.0])
def test_few_beams_find_what_the_definition_finds_and_end_no_sooner_than_nothing_better_can_come(beams, strength):
    net = lively(replace(TINY, vocab_size=4, block_size=6))
    with torch.no_grad():
        net.head.weight *= 0.3
    for end in range(4):
        found = beam_search(net, Sequence([1, 2, 3], replace(WILD, tokens=8, beams=beams, length_penalty=strength), end=end))
        expected = plain_beam_search(net, [1, 2, 3], 8, beams, strength, end)
        assert [each.tokens for each in found] == [ids for _, ids in expected]
        assert [each.score for each in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_as_many_beams_go_on_where_most_tokens_end_a_text():
    net = lively(replace(TINY, vocab_size=24, block_size=8))
    with torch.no_grad():
        net.head.weight *= 0.1                                          # so that those that do not are not among the likeliest
    how = replace(WILD, tokens=4, beams=4, length_penalty=10.0)         # the longest win

    def ends(ids):
        return ids[-1] >= 4
    found = beam_search(net, Sequence([1, 2, 3], how), ends)
    expected = plain_beam_search(net, [1, 2, 3], 4, 4, 10.0, ends=ends)
    assert [each.tokens for each in found] == [ids for _, ids in expected] and {len(ids) for _, ids in expected} == {4}


def test_one_beam_takes_the_likeliest_token_each_time_also_past_the_context(net):
    greedy = list(generate(net, [3, 4], tokens=40, temperature=0, sampling_seed=0))
    assert beam_search(net, Sequence([3, 4], replace(WILD, tokens=40, beams=1)))[0].tokens == greedy


@pytest.mark.parametrize("tokens", [6, 30])
def test_the_score_of_a_beam_is_its_summed_log_probability(net, tokens):
    found = beam_search(net, Sequence([3, 4], replace(WILD, tokens=tokens, beams=5, length_penalty=0.0), end=9))
    for each in found:
        ids = each.tokens + [9] * (len(each.tokens) < tokens)
        total = sum(log_probabilities(net, [3, 4] + ids[:place])[token] for place, token in enumerate(ids))
        assert each.score == each.log_probability == pytest.approx(total, abs=1e-3)
    assert len({tuple(each.tokens) for each in found}) == 5


def test_beams_find_what_those_of_hugging_face_find():
    net = lively(replace(TINY, block_size=64))
    oracle = as_qwen3(net, bos_token_id=None, eos_token_id=9, pad_token_id=0)
    prompt = [3, 4, 5]
    for how in (dict(), dict(no_repeat_ngram=2), dict(repetition_penalty=1.5)):
        theirs = oracle.generate(torch.tensor([prompt]), max_new_tokens=12, num_beams=4, num_return_sequences=3, do_sample=False, length_penalty=0.0,
                                 early_stopping=False, no_repeat_ngram_size=how.get("no_repeat_ngram"), repetition_penalty=how.get("repetition_penalty"))
        ours = beam_search(net, Sequence(prompt, replace(WILD, tokens=12, beams=4, length_penalty=0.0, penalty_window=99, **how), end=9))
        assert [each.tokens for each in ours[:3]] == [[token for token in row[3:].tolist() if token not in (9, 0)] for row in theirs]


def test_an_impossible_continuation_is_none(net):
    assert [each.tokens for each in beam_search(net, Sequence([3], replace(WILD, tokens=1, beams=50), healing=beginning_with(7)))] == [[7]]
    found = beam_search(net, Sequence([3], replace(WILD, tokens=3, beams=50), healing=beginning_with(7)))
    assert len(found) == 50 and all(each.tokens[0] == 7 and math.isfinite(each.score) for each in found)


# --- Texts at which to stop ---

def first_stop(text, stops):
    """The text before the stop that is complete first, looked for character by character."""
    for end in range(len(text) + 1):
        if whole := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[:end - max(map(len, whole))]
    return text


@settings(max_examples=300)
@given(st.text("ab\n", max_size=20), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.randoms(use_true_random=False))
def test_text_ends_before_the_first_stop_in_whatever_pieces_it_comes(text, stops, random):
    cuts = sorted(random.choices(range(len(text) + 1), k=5))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    upto, shown = StopFilter(stops), ""
    for piece in pieces:
        shown += upto.add(piece)
        assert first_stop(text, stops).startswith(shown)            # never a part of a stop
    assert shown + upto.end() == first_stop(text, stops)
    assert upto.ended == any(stop in text for stop in stops)


@pytest.mark.parametrize("how", [dict(seed=1), dict(beams=1, length_penalty=0.0)], ids=["sampling", "beams"])
def test_an_answer_ends_before_a_stop_text_that_crosses_tokens_and_one_that_never_comes_changes_nothing(model, how, monkeypatch):
    whole = model.complete("MERRAN:\n", tokens=60, **how)
    assert model.complete("MERRAN:\n", tokens=60, stop=["no such text", "☃"], **how) == whole
    steps, read = [], Decoder.read
    monkeypatch.setattr(Decoder, "read", lambda self, tokens: steps.append(1) or read(self, tokens))
    for stops in ([whole[20:33]], [whole[40:45], whole[20:33]], [whole[:1]]):
        steps.clear()
        assert model.complete("MERRAN:\n", tokens=60, stop=stops, **how) == first_stop(whole, stops)
        assert len(steps) < 40                      # nothing is computed beyond it


def test_beams_go_by_what_a_text_is_worth_up_to_its_stop(model):
    stopped = model.complete_each(["MERRAN:\n"] * 4, tokens=40, beams=4, stop=":\n")
    assert len(set(stopped)) == 4 and not any(":\n" in text for text in stopped)


# --- The Python interface ---

def test_several_prompts_with_settings_of_their_own_are_answered_as_each_alone(model):
    prompts = ["MERRAN:\n", {"prompt": "The sea", "temperature": 0.0, "tokens": 5}, {"prompt": "I have the key", "stop": "."},
               {"beams": 2, "temperature": None, "stream": 1}, "", "MERRAN:\n"]
    found = model.complete_each(prompts, tokens=25, seed=4, temperature=0.9)
    for place, (prompt, answer) in enumerate(zip(prompts, found)):
        own = {"tokens": 25, "seed": 4, "temperature": 0.9, "stream": place} | ({"prompt": prompt} if isinstance(prompt, str) else prompt)
        assert answer == model.complete(**own)
    assert found[0] != found[5]
    streamed = [""] * len(prompts)
    for place, text in model.stream_each(prompts, tokens=25, seed=4, temperature=0.9):
        assert text
        streamed[place] += text
    assert streamed == found
    assert model.complete_each([]) == []


def test_without_a_seed_answers_are_new_each_time(model):
    assert len(set(model.complete_each(["MERRAN:\n"] * 3, tokens=30) + model.complete_each(["MERRAN:\n"] * 3, tokens=30, seed=None))) == 6


def test_a_prompt_that_ends_within_a_token_is_gone_on_with_as_if_it_had_ended_before_it(model):
    tokenizer = model.tokenizer
    assert tokenizer.encode("MERRAN:\n")[:-1] == tokenizer.encode("MERRAN:")[:-1] and len(tokenizer.encode(":\n")) == 1
    answers = model.complete_each(["MERRAN:"] * 20, tokens=8, seed=1)
    assert all(answer.startswith("\n") and not answer.startswith("\n\n") for answer in answers)
    assert model.complete("MERRAN:", tokens=1, temperature=0.0) == "\n"                      # of a token, what the prompt has not
    healed = model.complete("The harb", tokens=6, temperature=0.0)
    ids = tokenizer.encode("The harb")
    likely = model.next_token_probabilities("The har")               # the tokens before the last, as it happens
    assert tokenizer.decode(ids[:-1]) == "The har" and ids[-1] == ord("b")
    first = next(piece for piece, _ in likely if piece.startswith("b"))
    assert healed.startswith(first[1:]) and healed == model.complete("The har" + first, tokens=6, temperature=0.0).join([first[1:], ""])[:len(healed)]


def test_a_prompt_of_one_token_may_be_the_beginning_of_another_too(model):
    assert len(model.tokenizer.encode("h")) == 1
    likely = model.next_token_probabilities("")                     # what stands before a text is all there is to go by
    first = next(piece for piece, _ in likely if piece.startswith("h"))
    assert model.complete("h", tokens=6, temperature=0.0).startswith(first[1:]) and len(first) > 1


def test_beams_tell_apart_prompts_that_differ_in_the_beginning_of_their_next_token_alone(model):
    prompts = ["The harb", "The hart"]
    assert len({tuple(model.tokenizer.encode(prompt)[:-1]) for prompt in prompts}) == 1
    asked = [{"prompt": prompt, "stream": 0} for prompt in prompts]
    assert model.complete_each(asked, beams=2, tokens=6) == [model.complete(prompt, beams=2, tokens=6) for prompt in prompts]


def test_the_answer_to_a_character_that_is_cut_in_two_tokens_has_whole_characters(model):
    for prompt in ("Grüße 🎭", "世界", "é"):
        for answer in model.complete_each([prompt] * 5, tokens=5, seed=2, temperature=0.3):
            assert "\ufffd" not in answer[:1]


@pytest.mark.parametrize("wrong, words", [
    (dict(beams=3, temperature=0.5, top_k=4), ["beams=3", "temperature and top_k"]), (dict(beams=0), ["beams=0"]), (dict(length_penalty=1.0), ["length_penalty=1.0", "beams"]),
    (dict(stop=["a", ""]), ["stop", "empty"]), (dict(stop="\udcff"), ["stop", "surrogate"]), (dict(stop=[1]), ["stop=1", "str"]), (dict(min_p=1.5), ["min_p=1.5"]), (dict(min_p=math.nan), ["min_p=nan"]),
    (dict(repetition_penalty=0.0), ["repetition_penalty=0.0"]), (dict(repetition_penalty=1e-45), ["repetition_penalty=1e-45", "0.01"]),
    (dict(tokens=10**40, beams=2, length_penalty=10.0), ["tokens=1000", "largest"]), (dict(frequency_penalty=-1.0), ["frequency_penalty=-1.0"]),
    (dict(penalty_window=0), ["penalty_window=0"]), (dict(no_repeat_ngram=0), ["no_repeat_ngram=0"]), (dict(beams=2, stream=2), ["beams=2", "number 3"]),
    (dict(stream=-1), ["stream=-1"]), (dict(beams=2, stream=-1), ["stream=-1"])])
def test_settings_that_cannot_work_are_refused_in_one_sentence(model, wrong, words):
    with pytest.raises(FolioError) as refused:
        model.stream("x", **wrong)          # before any text is asked for
    assert len(str(refused.value).splitlines()) == 1 and all(word in str(refused.value) for word in words)


def test_a_precision_that_is_not_for_this_network_is_refused_before_any_text_is_asked_for(model):
    lstm = build_network(ModelParams(family="lstm", vocab_size=model.tokenizer.vocab_size, emb_len=16)).eval()
    with pytest.raises(FolioError, match="precision=int8 is for transformers in float32 on the CPU, with Model.py as it came: leave it out"):
        replace(model, net=lstm).stream("x", precision="int8")
