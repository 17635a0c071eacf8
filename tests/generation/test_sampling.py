"""From logits to text and from steps to batches: sampling, the decoder, schedules, batches, bits per byte. Each against its plain definition."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from folio.generation import decoder
from folio.networks.build import build_network
from folio.data.batches import batch_at, fitting_block_size
from folio.evaluation.bits_per_byte import Score, evaluate
from folio.generation.decoder import Decoder, generate, window_start
from folio.base.errors import FolioError
from folio.generation.numpy_decoder import in_numpy
from folio.generation.sampling import penalized, pick, probabilities
from folio.training.schedules import SCHEDULES, decay_start_for, end_in_time, seconds_needed, share_of_peak, time_to_decay, total_steps_for
from Model_Params import GenerationParams, ModelParams

TINY = ModelParams(vocab_size=40, block_size=8, emb_len=16, num_layers=2, num_heads=2)
PLAIN = dict(temperature=1.0, top_k=None, top_p=None)
GREEDY = dict(temperature=0.0, top_k=None, top_p=None, sampling_seed=0)

# Logits that differ from each other by enough for float32 to see it.
logits_lists = st.lists(st.integers(-60, 60), min_size=1, max_size=30, unique=True).map(lambda values: [value / 8 for value in values])


@pytest.fixture(scope="module", params=["folio", "classic"])
def net(request):
    """A network whose answers depend strongly on what it has read."""
    torch.manual_seed(1)
    net = build_network(replace(TINY, family=request.param)).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():      # far from its start, and no part of it without effect
            parameter.normal_(std=0.3 if parameter.ndim == 1 or "embedding" in name else 1.0)
            if parameter.ndim == 1 and "norm" in name:
                parameter += 1
    return net


# --- Probabilities ---

def full(logits, *how):
    """The probabilities of all tokens, (streams, vocabulary)."""
    likely, ids = probabilities(logits, *how)
    if ids is None:
        return likely
    everything = np.zeros(logits.shape)
    np.put_along_axis(everything, ids, likely, -1)
    return everything


def plain_probabilities(logits, temperature, top_k, top_p):
    """The definition, token by token, in Python's own numbers."""
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    kept = order[:top_k] if top_k else order
    total = sum(weights[token] for token in kept)
    if top_p is not None:
        before, fewest = 0.0, []
        for token in kept:
            if before < top_p:
                fewest.append(token)
            assume(abs(before - top_p) > 1e-4)          # where rounding decides, either is right
            before += weights[token] / total
        kept = fewest
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(logits))]


@settings(max_examples=200)
@given(logits_lists, st.floats(0.1, 5.0), st.none() | st.integers(1, 40), st.none() | st.floats(0.01, 1.0))
def test_temperature_top_k_and_top_p_follow_their_definitions(logits, temperature, top_k, top_p):
    expected = plain_probabilities(logits, temperature, top_k, top_p)
    found = full(np.float32([logits]), temperature, top_k, top_p)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    for value, wanted in zip(found.tolist(), expected):
        assert value == 0 if wanted == 0 else value > 0 or wanted < 1e-37       # left out is left out entirely, and nothing else is


@settings(max_examples=50)
@given(logits_lists, st.none() | st.integers(1, 5), st.none() | st.floats(0.01, 1.0))
def test_temperature_0_leaves_the_likeliest_token_alone(logits, top_k, top_p):
    found = full(np.float32([logits]), 0, top_k, top_p)[0]
    assert found.tolist() == [float(logit == max(logits)) for logit in logits]


def test_top_k_of_1_and_a_tiny_top_p_are_greedy_too():
    logits = np.float32([[1.0, 3.0, 2.0]])
    for found in (full(logits, 5.0, 1), full(logits, 5.0, None, 1e-9)):
        assert found.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45, 1e-50, 1e-320, 1e30, 1e300, math.inf])
def test_no_temperature_makes_the_probabilities_anything_but_probabilities(temperature):
    found = full(np.float32([[1e4, -1e4, 9e3, 0.0]]), temperature)
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1.0)
    assert found.argmax() == 0


def test_many_streams_are_treated_each_by_itself():
    logits = np.random.default_rng(0).normal(size=(6, 11)).astype(np.float32)
    together = full(logits, 0.7, 5, 0.8, 0.1)
    for row in range(6):
        np.testing.assert_allclose(together[row], full(logits[row:row + 1], 0.7, 5, 0.8, 0.1)[0])


ways = st.builds(GenerationParams, temperature=st.sampled_from([0.0, 1e-320, 1e-3]) | st.floats(0.2, 3.0), top_k=st.none() | st.integers(1, 14),
                 top_p=st.none() | st.floats(0.01, 1.0), min_p=st.none() | st.floats(0.0, 1.0), repetition_penalty=st.just(1.0) | st.floats(0.5, 3.0),
                 frequency_penalty=st.just(0.0) | st.floats(0.0, 5.0), penalty_window=st.integers(1, 25), no_repeat_ngram=st.none() | st.integers(1, 4))


@pytest.mark.filterwarnings("error")
@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), ways)
def test_an_array_and_a_tensor_pick_the_same_for_the_same_chance_and_stay_as_they_were(seed, length, how):
    random = np.random.default_rng(seed)
    logits, tokens = random.normal(size=(3, 12)).astype(np.float32) * 3, random.integers(12, size=(3, length)).tolist()
    for chances in (np.zeros(3), random.random(3), random.random(3)):         # at the other end of chance the rounding of the sum decides
        picked = []
        for rows, chance in ((logits.copy(), chances), (torch.from_numpy(logits), torch.from_numpy(chances))):
            before = rows + 0
            picked.append(pick(*probabilities(penalized(rows, tokens, how), how.temperature, how.top_k, how.top_p, how.min_p), chance).tolist())
            assert (rows == before).all()
        assert picked[0] == picked[1]


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 39))
def test_of_tokens_that_are_equally_likely_the_first_stand_first(seed, top_k):
    logits = np.random.default_rng(seed).integers(3, size=(2, 40)).astype(np.float32)
    for likely, ids in (probabilities(logits, 1.0, top_k), probabilities(logits, 1.0, top_p=0.8)):
        for row in range(2):
            assert sorted(zip(-logits[row, ids[row]], ids[row])) == list(zip(-logits[row, ids[row]], ids[row]))


def test_of_allowed_tokens_one_is_picked_and_a_stream_with_nothing_left_is_let_off():
    random, how = np.random.default_rng(0), GenerationParams(temperature=2.0, top_k=5, no_repeat_ngram=1)
    allowed = np.full(12, -np.inf, np.float32)
    allowed[[3, 7]] = random.normal(size=2)
    for logits in (allowed[None], penalized(allowed[None], [list(range(12))], how)):
        assert {pick(*probabilities(logits, 2.0, 5), random.random(1)).item() for _ in range(50)} == {3, 7}


# --- Picking ---

weights_lists = st.lists(st.integers(0, 20), min_size=1, max_size=20).filter(any)


@settings(max_examples=200)
@given(weights_lists, st.integers(0, 2**53 - 1))
def test_pick_finds_where_the_summed_probability_passes_chance(weights, chance):
    chance /= 2**53
    token = pick(np.array([weights]) / sum(weights), None, np.array([chance])).item()
    below, above = sum(weights[:token]) / sum(weights), sum(weights[:token + 1]) / sum(weights)
    assert below - 1e-6 <= chance <= above + 1e-6
    assert weights[token] > 0


@given(st.lists(st.sampled_from([0.0, 1e-30, 1e-8, 0.3, 1.0, 7.0]), min_size=1, max_size=50).filter(any))
def test_the_ends_of_chance_never_pick_what_has_no_probability(weights):
    for likely in (np.array([weights]) / sum(weights), torch.tensor([weights]).double() / sum(weights)):
        for chance in (0.0, 5e-324, 0.5, math.nextafter(1, 0)):
            chance = np.array([chance]) if isinstance(likely, np.ndarray) else torch.tensor([chance], dtype=torch.float64)
            assert likely[0, pick(likely, None, chance)] > 0


def test_a_token_is_picked_as_often_as_its_probability_says():
    likely, ids = np.array([0.5, 0.0, 0.3, 0.15, 0.05]), np.array([4, 1, 0, 2, 3])
    chances = np.random.default_rng(0).random(100_000)
    picked = pick(np.tile(likely, (len(chances), 1)), np.tile(ids, (len(chances), 1)), chances)
    counts = np.bincount(picked, minlength=5)[ids]
    assert counts[1] == 0
    np.testing.assert_allclose(counts / len(chances), likely, rtol=0, atol=0.005)       # 3 standard deviations of the largest


# --- The window ---

def looped_window_start(length, block_size):
    """The rule, played through token by token: when the window is full, its last half stays."""
    start = 0
    for seen in range(1, length + 1):
        if seen - start > block_size:
            start = seen - block_size // 2
    return start


@given(st.integers(0, 500), st.integers(2, 40))
def test_the_window_restarts_from_its_last_half_whenever_it_is_full(length, block_size):
    assert window_start(length, block_size) == looped_window_start(length, block_size)


def test_the_window_of_the_worked_example():
    assert [window_start(length, 256) for length in (256, 257, 385, 386)] == [0, 129, 129, 258]


# --- Generation ---

def uncached(net, prompt, tokens):
    """Greedy generation that remembers nothing: the whole window is computed anew for every token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            window = ids[window_start(len(ids), net.params.block_size):]
            ids.append(net(torch.tensor([window]))[0, -1].argmax().item())
    return ids[len(prompt):]


@pytest.mark.parametrize("prompt_length", [1, 5, 7, 8, 9, 20, 100])
def test_remembered_generation_equals_computing_everything_anew(net, prompt_length):
    prompt = np.random.default_rng(prompt_length).integers(40, size=prompt_length).tolist()
    expected = uncached(net, prompt, 60)                    # far beyond block_size
    assert list(generate(net, prompt, tokens=60, **GREEDY)) == expected
    assert len(set(expected)) > 3                           # a network stuck on one token would prove little


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_a_decoder_may_read_in_pieces_of_any_lengths(net, lengths, random):
    reader, seen = None, []
    for length in lengths:
        piece = [random.randrange(40) for _ in range(length)]
        seen += piece
        if reader is None:
            reader = Decoder(net, [piece])
        else:
            reader.read([piece])
        with torch.inference_mode():
            expected = net(torch.tensor([seen[window_start(len(seen), 8):]]))[0, -1]
        np.testing.assert_allclose(reader.logits[0], expected, rtol=1e-4, atol=1e-4)


def test_a_long_prompt_is_read_in_parts_where_all_at_once_would_take_much_memory(net, monkeypatch):
    prompts, lengths, compute = torch.arange(16).view(2, 8).tolist(), [], net.advance
    whole, folded = Decoder(net, prompts).logits, in_numpy(net)
    monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: folded)
    monkeypatch.setattr(decoder, "PROMPT_TOKENS", 3 * 2)
    monkeypatch.setattr(net, "advance", lambda state, tokens: lengths.append(tokens.shape[1]) or compute(state, tokens))
    np.testing.assert_allclose(Decoder(net, prompts).logits, whole, rtol=1e-4, atol=1e-4)
    assert lengths == [3, 3, 1]             # and the last token by itself


def test_the_same_seed_says_the_same_and_another_stream_something_else(net):
    def said(**how):
        return list(generate(net, [1, 2], tokens=40, **{**PLAIN, "temperature": 2.0, "sampling_seed": 1, **how}))
    assert said() == said() == said(stream=0)
    assert len({tuple(text) for text in (said(), said(stream=1), said(stream=2), said(sampling_seed=2), said(sampling_seed=2, stream=1))}) == 5


def test_a_longer_answer_begins_like_a_shorter_one(net):
    how = dict(PLAIN, temperature=2.0, sampling_seed=5)
    assert list(generate(net, [3], tokens=30, **how))[:10] == list(generate(net, [3], tokens=10, **how))


class Saying:
    """A network that says the ids 0, 1, 2... in turn, whatever it reads; each with certainty."""

    params = SimpleNamespace(block_size=4, vocab_size=30)
    context = 4

    def __init__(self, logit=50.0):
        self.said, self.logit = 0, logit

    def parameters(self):
        yield torch.zeros(1)

    def empty_state(self, batch_size):
        return None

    def advance(self, state, tokens):
        return None, None

    def continue_from(self, state, tokens):
        logits = torch.zeros(1, tokens.shape[1], 30)
        logits[0, -1, self.said] = self.logit
        self.said += 1
        return logits, None


def test_generation_ends_before_the_stop_token():
    assert list(generate(Saying(), [9], tokens=20, end=7, **PLAIN, sampling_seed=0)) == [0, 1, 2, 3, 4, 5, 6]
    assert list(generate(Saying(), [9], tokens=3, end=7, **PLAIN, sampling_seed=0)) == [0, 1, 2]
    assert list(generate(Saying(), [9], tokens=0, **PLAIN, sampling_seed=0)) == []
    assert list(generate(Saying(), [9], tokens=20, end=0, **PLAIN, sampling_seed=0)) == []


def test_tokens_come_as_they_are_made():
    saying = Saying()
    answer = generate(saying, [9], tokens=20, **PLAIN, sampling_seed=0)
    assert (next(answer), next(answer), saying.said) == (0, 1, 2)


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(logit):
    with pytest.raises(FolioError, match="not finite"):
        list(generate(Saying(logit), [9], tokens=3, **PLAIN, sampling_seed=0))


# --- The learning rate ---

def rates(total_steps, warmup_steps, decay_fraction, schedule="trapezoid"):
    decay_start = decay_start_for(total_steps, decay_fraction)
    return [share_of_peak(schedule, step, warmup_steps=warmup_steps, decay_start=decay_start, total_steps=total_steps) for step in range(total_steps)]


def test_the_rate_rises_stays_and_falls():
    found = rates(100, 10, 0.4)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[9:61] == [1.0] * 52                                    # from the last step of the rise to the first of the descent
    assert found[61:] == pytest.approx([(100 - step) / 40 for step in range(61, 100)])
    assert found[99] == pytest.approx(1 / 40)                           # the last step still moves; the one after it would be at zero


def test_without_a_warmup_the_first_step_is_at_the_top():
    assert rates(10, 0, 0.0) == [1.0] * 10
    assert rates(10, 1, 0.0) == [1.0] * 10


def test_an_undecided_descent_has_not_begun():
    assert share_of_peak("trapezoid", 10**9, warmup_steps=10, decay_start=None, total_steps=None) == 1.0
    assert share_of_peak("trapezoid", 4, warmup_steps=10, decay_start=None, total_steps=None) == 0.5


def test_the_other_schedules_fall_from_the_end_of_the_warmup_or_not_at_all():
    assert rates(110, 10, 0.4, "constant")[9:] == [1.0] * 101
    assert rates(110, 10, 0.4, "linear")[10:] == pytest.approx([1 - step / 100 for step in range(100)])
    cosine = rates(110, 10, 0.4, "cosine")
    assert cosine[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert [cosine[step] for step in (10, 35, 60, 85)] == pytest.approx([1, 0.5 + 0.5 ** 1.5, 0.5, 0.5 - 0.5 ** 1.5])
    assert 0 < cosine[-1] < 0.001


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0, 0.9), st.sampled_from(sorted(SCHEDULES)))
def test_every_step_of_every_run_has_a_rate_above_zero_that_rises_and_then_falls(total_steps, warmup_steps, decay_fraction, schedule):
    found = rates(total_steps, warmup_steps, decay_fraction, schedule)
    assert min(found) > 0 and max(found) <= 1
    top = found.index(max(found))
    assert found[:top] == sorted(found[:top]) and found[top:] == sorted(found[top:], reverse=True)


@given(st.integers(0, 10**7), st.floats(0, 0.9))
def test_where_a_run_ends_and_where_its_descent_begins_are_inverse(decay_start, decay_fraction):
    total_steps = total_steps_for(decay_start, decay_fraction)
    assert total_steps > decay_start
    if total_steps > decay_start + 1 or decay_fraction == 0:
        assert decay_start_for(total_steps, decay_fraction) in (decay_start, decay_start + (decay_fraction == 0))
    assert abs(total_steps_for(decay_start_for(total_steps, decay_fraction), decay_fraction) - total_steps) <= 1


def test_the_worked_examples_of_the_schedule():
    assert decay_start_for(1000, 0.4) == 600 and total_steps_for(600, 0.4) == 1000
    assert decay_start_for(7, 0.0) == 7 and total_steps_for(7, 0.0) == 8 and total_steps_for(0, 0.5) == 1


@pytest.mark.parametrize("seconds_left, decided", [(41, False), (40, True), (39, True), (0, True), (-5, True)])
def test_the_descent_begins_when_it_takes_just_the_time_that_is_left(seconds_left, decided):
    # After 60 steps with decay_fraction 0.4 the descent takes 40 steps more.
    assert time_to_decay(60, decay_fraction=0.4, seconds_left=seconds_left, seconds_per_step=1.0, eval_interval=20, seconds_per_evaluation=0.0) == decided


@pytest.mark.parametrize("eval_interval, evaluations", [(1000, 1), (100, 1), (50, 1), (40, 2), (30, 3), (10, 5), (7, 7)])
def test_the_descent_leaves_time_for_its_evaluations_and_the_last_one(eval_interval, evaluations):
    # After 60 steps it ends at 100: those that are multiples of the interval from 60, which is still to come, to 99, and one at the end.
    how = dict(decay_fraction=0.4, seconds_per_step=1.0, eval_interval=eval_interval, seconds_per_evaluation=3.0)
    assert time_to_decay(60, seconds_left=40 + 3 * evaluations, **how) and not time_to_decay(60, seconds_left=40 + 3 * evaluations + 1, **how)


@given(st.integers(1, 500), st.floats(-10, 500), st.floats(0.1, 10), st.integers(1, 200), st.floats(0, 20))
def test_a_run_that_ends_in_time_could_not_make_one_more_step(step, seconds_left, seconds_per_step, eval_interval, seconds_per_evaluation):
    costs = dict(seconds_per_step=seconds_per_step, eval_interval=eval_interval, seconds_per_evaluation=seconds_per_evaluation)
    end = end_in_time(step, seconds_left=seconds_left, **costs)
    assert end == step or end > step and seconds_needed(step, end, **costs) <= seconds_left
    assert seconds_needed(step, end + 1, **costs) > seconds_left


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 60)), max_size=5))
def test_the_rate_falls_without_a_jump_to_zero_wherever_the_end_is_moved(decay_start, moves):
    end, moved_ends = decay_start + 40, []
    for later, longer in moves:
        at = min((moved_ends[-1][0] if moved_ends else decay_start) + later, end - 1)
        moved_ends.append([at, at + longer])
        end = at + longer
    for number in range(len(moved_ends) + 1):               # as it was known after each decision
        known = moved_ends[:number]
        rate = [share_of_peak("trapezoid", step, warmup_steps=0, decay_start=decay_start, total_steps=decay_start + 40, moved_ends=known)
                for step in range(decay_start, (known[-1][1] if known else decay_start + 40) + 1)]
        assert rate[0] == 1 and rate[-1] == 0 and all(one > other for one, other in zip(rate, rate[1:]))
        if number:                                          # nothing of the past has changed, nor the step at which it was decided
            before = [share_of_peak("trapezoid", step, warmup_steps=0, decay_start=decay_start, total_steps=decay_start + 40,
                                    moved_ends=moved_ends[:number - 1]) for step in range(decay_start, known[-1][0] + 1)]
            assert rate[:len(before)] == pytest.approx(before, rel=1e-12)


def test_a_moved_end_bends_the_line():
    how = dict(warmup_steps=0, decay_start=60, total_steps=100, moved_ends=[[80, 160], [120, 130]])
    assert [share_of_peak("trapezoid", step, **how) for step in (59, 60, 70, 80, 120, 125, 130)] == [1, 1, 0.75, 0.5, 0.25, 0.125, 0]


@given(st.floats(0.01, 10), st.floats(0, 0.9), st.floats(20, 2000))
def test_a_run_with_steady_steps_ends_at_about_its_time(seconds_per_step, decay_fraction, seconds):
    assume(seconds > 50 * seconds_per_step and seconds < 3000 * seconds_per_step)
    step = 1
    how = dict(decay_fraction=decay_fraction, seconds_per_step=seconds_per_step, eval_interval=10**6, seconds_per_evaluation=0.0)
    while not time_to_decay(step, seconds_left=seconds - step * seconds_per_step, **how):
        step += 1
    ended = total_steps_for(step, decay_fraction) * seconds_per_step
    assert seconds - seconds_per_step <= ended <= seconds + 11 * seconds_per_step       # 1 / (1 - 0.9) steps a decision, and one


# --- Batches ---

def test_targets_are_the_inputs_one_token_later():
    tokens = np.arange(1000, 1100, dtype=np.uint16)
    batch = batch_at(tokens, 3, batch_size=5, block_size=7, seed=1)
    inputs, targets = batch.inputs, batch.targets
    assert inputs.shape == targets.shape == (5, 7) and inputs.dtype == targets.dtype == np.int64
    assert (targets == inputs + 1).all()                        # in this text the next token is the next number
    assert (np.diff(inputs, axis=1) == 1).all()


def test_a_batch_is_a_function_of_seed_and_step_alone():
    tokens = np.arange(10_000)

    def starts(seed, step):
        return batch_at(tokens, step, batch_size=16, block_size=4, seed=seed).inputs[:, 0].tolist()
    before = starts(1, 5)
    np.random.default_rng().random()
    np.random.seed(3)
    torch.manual_seed(3)
    assert starts(1, 5) == before
    assert len({tuple(starts(seed, step)) for seed in range(5) for step in range(20)}) == 100
    assert starts(2**63 - 1, 10**9)                             # the largest seed there is


def test_every_window_of_the_text_is_reached_and_no_other():
    tokens = np.arange(12)
    batches = [batch_at(tokens, step, batch_size=8, block_size=9, seed=0) for step in range(60)]
    seen = {tuple(row) for batch in batches
            for row in np.column_stack([part[:, [0, -1]] for part in (batch.inputs, batch.targets)]).tolist()}
    assert seen == {(start, start + 8, start + 1, start + 9) for start in range(3)}


def test_windows_may_come_in_other_tokens_and_keep_their_length():
    def doubled(windows, random):
        return [window.repeat(2) if window[0] % 2 else window[:3] for window in windows]
    plain = batch_at(np.arange(100), 0, batch_size=8, block_size=5, seed=0).inputs
    batch = batch_at(np.arange(100), 0, batch_size=8, block_size=5, seed=0, resegment=doubled)
    for window, before, after in zip(plain.tolist(), batch.inputs.tolist(), batch.targets.tolist()):
        longer = np.repeat(window, 2).tolist()
        assert before == (longer[:5] if window[0] % 2 else window)      # too short a window stays as it is
        assert after == (longer[1:6] if window[0] % 2 else [*window[1:], window[-1] + 1])
    assert {window[0] % 2 for window in plain.tolist()} == {0, 1}


def test_the_shortest_text_has_one_window():
    batch = batch_at(np.arange(3), 0, batch_size=2, block_size=2, seed=0)
    assert batch.inputs.tolist() == [[0, 1]] * 2 and batch.targets.tolist() == [[1, 2]] * 2


@given(st.integers(2, 4096), st.integers(3, 100_000))
def test_a_context_shrinks_until_the_text_is_long_enough_for_it(block_size, train_tokens):
    fitted = fitting_block_size(block_size, train_tokens)
    assert 2 <= fitted <= block_size and fitted < train_tokens
    if train_tokens >= 8 * block_size:
        assert fitted == block_size
    else:
        assert fitted & (fitted - 1) == 0
        assert fitted == 2 or 8 * fitted <= train_tokens < 16 * fitted      # the largest power of two there is room for


# --- Bits per byte ---

def uniform(vocab_size):
    return lambda tokens: torch.zeros(*tokens.shape, vocab_size)


class Priced:
    """A network that charges each token the same wherever it stands: for token t the t-th price. It counts what it is asked."""

    def __init__(self, vocab_size):
        self.logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(0))
        self.prices = -self.logits.log_softmax(-1).double()
        self.largest = (0, 0)

    def __call__(self, tokens):
        self.largest = tuple(map(max, zip(self.largest, tokens.shape)))
        return self.logits.expand(*tokens.shape, -1)


class Echo:
    """A network that is sure that the next token is one more than the last: its loss shows whether inputs and targets are neighbours."""

    def __call__(self, tokens):
        return 100.0 * torch.nn.functional.one_hot(tokens + 1, 64).float()


def test_a_network_that_knows_nothing_pays_ln_of_the_vocabulary_for_every_token():
    score = evaluate(uniform(65), np.zeros(101, np.uint16), 250, block_size=8, batch_size=4, device="cpu")
    assert (score.tokens, score.bytes) == (100, 250)
    assert score.nats == pytest.approx(100 * math.log(65), rel=1e-6)
    assert score.nats_per_byte == pytest.approx(100 * math.log(65) / 250, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(100 * math.log2(65) / 250, rel=1e-6)


def test_bits_are_nats_over_ln_2():
    assert Score(nats=math.log(2) * 6, tokens=5, bytes=3).bits_per_byte == pytest.approx(2)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=80), st.integers(1, 12), st.integers(1, 6))
def test_every_token_but_the_first_counts_exactly_once(tokens, block_size, batch_size):
    net = Priced(10)
    score = evaluate(net, np.array(tokens, np.uint16), 1, block_size=block_size, batch_size=batch_size, device="cpu")
    assert score.nats == pytest.approx(net.prices[tokens[1:]].sum().item(), rel=1e-5)
    assert score.tokens == len(tokens) - 1
    assert net.largest[0] <= batch_size and net.largest[1] <= block_size


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 6))
def test_a_token_is_predicted_from_the_one_before_it(length, block_size, batch_size):
    score = evaluate(Echo(), np.arange(length), 1, block_size=block_size, batch_size=batch_size, device="cpu")
    assert score.nats == pytest.approx(0, abs=1e-6)
    score = evaluate(Echo(), np.arange(length)[::-1].copy(), 1, block_size=block_size, batch_size=batch_size, device="cpu")
    assert score.nats == pytest.approx(100 * (length - 1), rel=1e-5)


def test_filling_up_the_last_window_changes_nothing(net):
    tokens = np.random.default_rng(0).integers(40, size=30)
    padded = evaluate(net, tokens, 1, block_size=8, batch_size=16, device="cpu").nats
    expected = 0.0
    with torch.inference_mode():
        for start in range(0, 29, 8):
            window = torch.from_numpy(tokens[start:start + 9])
            expected += torch.nn.functional.cross_entropy(net(window[None, :-1])[0], window[1:], reduction="sum").item()
    assert padded == pytest.approx(expected, rel=1e-5)
