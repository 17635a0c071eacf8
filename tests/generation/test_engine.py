"""The engine: many requests at once, each of which is answered as it is alone."""

import gc
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import folio
from conftest import ROOT
from folio.base.errors import FolioError
from folio.generation import batch as batches
from folio.generation import decoder
from folio.generation import engine as engines
from folio.generation.decoder import Decoder
from folio.generation.engine import Adjustments, Closed, Engine, Full, Request
from folio.generation.language_model import LanguageModel
from folio.generation.sampling import log_softmax
from Model_Params import GenerationParams
from test_decoder import TINY, lively
from tokenizer import END_OF_TEXT, CharTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz .,;:!?-'\n012"
SHORT = GenerationParams(tokens=12, temperature=1.0, sampling_seed=1)


def tiny_model(**changes):
    """Return a LanguageModel of 39 characters and an end of the text, whose window restarts every few tokens."""
    tokenizer = CharTokenizer(LETTERS, [END_OF_TEXT])
    net = lively(replace(TINY, vocab_size=tokenizer.vocab_size, **changes)).requires_grad_(False)
    return LanguageModel("tiny", net, tokenizer, [tokenizer.end_of_text], 0, None)


@pytest.fixture(scope="module")
def tiny():
    return tiny_model()


@pytest.fixture(scope="module")
def shipped():
    return folio.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")


@pytest.fixture
def started():
    """A function that starts an Engine; all are closed after the test."""
    engines = []

    def start(model, **options):
        engines.append(Engine(model, **options))
        return engines[-1]
    yield start
    for engine in engines:
        engine.close()


class Asked:
    """A request and what has come of it."""

    def __init__(self, engine, prompts=("a",), settings=SHORT, **options):
        self.events, self.ended = {}, threading.Event()
        self.left = len(prompts) * options.get("count", 1)
        self.ticket = engine.submit(Request(prompts=prompts, settings=settings, deliver=self.deliver, **options))

    def deliver(self, events):
        for event in events:
            assert self.left, "an event after the end"
            self.events.setdefault(event.index, []).append(event)
            self.left -= event.finish is not None
        if not self.left:
            self.ended.set()

    def wait(self):
        assert self.ended.wait(30), "no end"
        return self

    @property
    def texts(self):
        """The texts of all answers, by their index."""
        return ["".join(event.text for event in events) for _, events in sorted(self.wait().events.items())]

    @property
    def finishes(self):
        for events in self.wait().events.values():
            assert all(event.finish is None for event in events[:-1])
        return [events[-1].finish for _, events in sorted(self.events.items())]

    @property
    def tokens(self):
        return [[token for event in events for token in event.tokens]
                for _, events in sorted(self.wait().events.items())]


def until(condition):
    """Wait until a condition holds."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("never so")


def paused(engine):
    """Stop the engine's thread between two steps. -> an Event that lets it go on"""
    at_rest, go_on = threading.Event(), threading.Event()
    engine.call(lambda: (at_rest.set(), go_on.wait(30)))
    assert at_rest.wait(30)
    return go_on


def mixed(count, random, tokens=24):
    """Return requests of all sizes, as arguments of Asked."""
    found = []
    for number in range(count):
        length = int(random.choice([0, 1, 3, 9, 40]))
        prompts = ["".join(random.choice(list(LETTERS), length)) for _ in range(random.integers(1, 3))]
        settings = GenerationParams(
            tokens=int(random.integers(1, tokens)), sampling_seed=number, temperature=float(random.choice([0, 1, 2])),
            top_k=[None, 5][number % 2], repetition_penalty=[1.0, 1.3][number // 2 % 2],
            stop=[(), ("e", "ab")][number // 4 % 2])
        adjustments = [Adjustments(), Adjustments(logit_bias={3: 2.0}, frequency_penalty=-0.5, min_tokens=3)]
        options = {"count": int(random.integers(1, 4)), "logprobs": [None, 2][number % 5 == 0]}
        found.append((prompts, settings, options | {"adjustments": adjustments[number % 3 == 0]}))
    return found


# --- Company ---

@pytest.mark.parametrize("family", ["folio", "classic"])
def test_200_requests_of_mixed_sizes_say_in_random_company_what_they_say_alone(started, family):
    model, random = tiny_model(family=family), np.random.default_rng(0)
    alone, crowd, asked = started(model, rows=1), started(model, rows=8, apart_rows=8), []
    requests = mixed(200, random, tokens=16)
    for prompts, settings, options in requests:
        asked.append(Asked(crowd, prompts, settings, **options))
        if random.random() < 0.3:
            time.sleep(random.random() * 0.002)
    for request, (prompts, settings, options) in zip(asked, requests):
        own = Asked(alone, prompts, settings, **options)
        assert request.texts == own.texts
        assert request.finishes == own.finishes
        assert request.tokens == own.tokens             # with log-probabilities to the last bit
    assert sum(crowd.stats.rows[5:]) > 100, "there was no company"
    assert len({text for request in asked for text in request.texts}) > 200


@pytest.mark.parametrize("family", ["folio", "lstm"])
def test_answers_are_those_of_the_model_in_python(started, family):
    model = tiny_model(family=family, num_heads=None if family == "lstm" else 2)
    engine = started(model)
    settings = dict(tokens=30, temperature=1.0, seed=4)
    params = GenerationParams(tokens=30, temperature=1.0, sampling_seed=4)
    texts = Asked(engine, ["ab", "", "the window is short."], params, count=2).texts
    assert texts == [model.complete(prompt, stream=stream, **settings)
                     for prompt, stream in [("ab", 0), ("ab", 1), ("", 2), ("", 3), ("the window is short.", 4),
                                            ("the window is short.", 5)]]


def test_healed_prompts_long_ones_and_int8_say_in_company_what_they_say_alone(started, shipped):
    prompts = ["The fox fi", "MERRAN:\nWhat sh", "x", "", "It was a long way home. " * 30, "Nob"]
    settings = [GenerationParams(tokens=30, sampling_seed=7, weight_precision=precision)
                for precision in ("float32", "int8")]
    engine = started(shipped, rows=8, apart_rows=8)
    held = paused(engine)
    company = [Asked(engine, [prompt], own, count=2) for own in settings for prompt in prompts]
    held.set()
    texts = [request.texts for request in company]
    alone = started(shipped, rows=1)
    assert texts == [Asked(alone, [prompt], own, count=2).texts for own in settings for prompt in prompts]
    assert texts[0] == [shipped.complete("The fox fi", stream=stream, tokens=30, seed=7) for stream in range(2)]


def test_a_tenth_is_cancelled_and_the_others_are_whole_and_all_rows_are_free(started, tiny):
    random = np.random.default_rng(1)
    requests, engine, alone = mixed(80, random, tokens=40), started(tiny, rows=8, apart_rows=8), started(tiny, rows=1)
    asked = [Asked(engine, prompts, settings, **options) for prompts, settings, options in requests]
    cancelled = set(random.choice(80, 8, replace=False).tolist())
    for number in cancelled:
        asked[number].ticket.cancel()
        time.sleep(0.005)
    for number, (request, (prompts, settings, options)) in enumerate(zip(asked, requests)):
        if number in cancelled:
            assert {"cancelled", *request.finishes} <= {"cancelled", "stop", "length"}
        else:
            assert request.texts == Asked(alone, prompts, settings, **options).texts
    assert "cancelled" in {finish for number in cancelled for finish in asked[number].finishes}
    until(lambda: (engine.stats.running, engine.stats.waiting) == (0, 0))
    assert engine.stats.cancelled > 0


def test_a_cancelled_request_frees_its_rows_at_once(started, tiny):
    engine = started(tiny, rows=2)
    endless = Asked(engine, ["a", "b"], replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))
    waits = Asked(engine)
    until(lambda: len(endless.events) == 2)
    assert not waits.events
    endless.ticket.cancel()
    assert endless.finishes == ["cancelled", "cancelled"]
    assert waits.finishes[0] in ("stop", "length")


# --- The queue ---

def test_first_come_first_served_also_beside_a_request_with_more_answers_than_rows(started, tiny):
    engine, order = started(tiny, rows=4), []
    held = paused(engine)
    settings = replace(SHORT, tokens=6)
    asked = [Asked(engine, ["ab"], replace(settings, sampling_seed=seed), count=count,
                   adjustments=Adjustments(ignore_end=True)) for seed, count in enumerate([2, 11, 1, 1, 3, 1])]
    for number, request in enumerate(asked):
        request.ticket._deliver = lambda events, request=request, number=number: (
            order.extend([number] * (number not in order)), request.deliver(events))
    held.set()
    assert [len(request.texts) for request in asked] == [2, 11, 1, 1, 3, 1]
    assert order == [0, 1, 2, 3, 4, 5]
    assert max(rows for rows, steps in enumerate(engine.stats.rows) if steps) == 4


def test_a_full_queue_refuses_and_says_when_to_come_back(started, tiny):
    engine = started(tiny, rows=1, queue=2)
    endless = Asked(engine, settings=replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))
    until(lambda: endless.events)
    waiting = [Asked(engine), Asked(engine)]
    with pytest.raises(Full, match="Too many requests are waiting") as caught:
        Asked(engine)
    assert 1 <= caught.value.retry_after <= 60
    assert engine.stats.waiting == 2
    waiting[0].ticket.cancel()
    assert waiting[0].finishes == ["cancelled"]
    third = Asked(engine)
    endless.ticket.cancel()
    assert [len(request.texts) for request in (waiting[1], third)] == [1, 1]


def test_a_prompt_is_read_once_for_all_its_answers_and_in_parts_between_the_steps_of_others(started, monkeypatch):
    monkeypatch.setattr(batches, "PART_PRODUCTS", 0)                    # parts of 8 tokens
    monkeypatch.setattr(engines, "STALL_SECONDS", 0.0)                  # one for each step
    model = tiny_model(block_size=4096)
    parts, advance = [], Decoder._advance
    monkeypatch.setattr(Decoder, "_advance", lambda self, state, pieces: parts.append(len(pieces[0])) or advance(
        self, state, pieces))
    engine = started(model, rows=8)
    endless = Asked(engine, settings=replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))
    until(lambda: endless.events)
    before = engine.stats.tokens
    held = paused(engine)
    parts.clear()
    request = Asked(engine, ["a" * 201], count=4)
    start = len(endless.events[0])
    request.ticket._deliver = lambda events: (request.deliver(events), steps.append(len(endless.events[0])))
    steps = []
    held.set()
    request.wait()
    assert parts[:26] == [8] * 25 + parts[25:26] and sum(parts[:25]) == 200        # once, not four times
    assert steps[0] - start >= 24, "others had to wait"
    assert engine.stats.tokens > before
    endless.ticket.cancel()


# --- Endings, adjustments, log-probabilities ---

def test_logprobs_are_the_models_own_whatever_the_settings(started, tiny):
    settings = GenerationParams(tokens=20, temperature=2.0, top_k=3, repetition_penalty=1.5, sampling_seed=3)
    request = Asked(started(tiny), ["hello"], settings, logprobs=4, adjustments=Adjustments(
        logit_bias={5: 3.0}, ignore_end=True))
    ids = tiny.tokenizer.encode("hello")
    assert len(request.tokens[0]) == 20
    for token in request.tokens[0]:
        start = decoder.window_start(len(ids), TINY.block_size)
        expected = log_softmax(tiny.net(torch.tensor([ids[start:]]))[0, -1].numpy())
        assert token.logprob == pytest.approx(expected[token.id], abs=1e-4)
        assert [own for own, _ in token.top] == (-expected).argsort()[:4].tolist()
        assert [logprob for _, logprob in token.top] == pytest.approx(sorted(expected)[:-5:-1], abs=1e-4)
        ids.append(token.id)


def test_an_echo_repeats_the_prompt_with_its_logprobs_and_offsets_follow_the_text(started, shipped):
    engine, prompt = started(shipped), "Kings é ☃ sh"
    ids = shipped.tokenizer.encode(prompt)
    for given, heal in ((prompt, True), (prompt, False), (ids, True)):
        request = Asked(engine, [given], replace(SHORT, tokens=5), logprobs=1, echo=True, heal=heal)
        text, tokens = request.texts[0], request.tokens[0]
        assert text.startswith(prompt) and len(text) > len(prompt)
        assert [token.id for token in tokens[:len(ids)]] == ids
        assert b"".join(token.bytes for token in tokens) == text.encode("utf-8")
        scores = engine.score(ids, 1).result(10)
        assert [(token.logprob, token.top) for token in tokens[:len(ids)]] == scores
        assert scores[0] == (None, ())
        for token, following in zip(tokens, tokens[1:]):
            content = token.bytes.decode("utf-8", errors="ignore")
            assert text[token.text_offset:].startswith(content)
            assert following.text_offset >= token.text_offset
        assert request.ticket.prompt_tokens == len(ids)
    nothing = Asked(engine, [prompt], replace(SHORT, tokens=0), echo=True)
    assert (nothing.texts, nothing.finishes, len(nothing.tokens[0])) == ([prompt], ["length"], len(ids))


def test_scores_of_a_text_longer_than_the_window_are_those_of_the_window_that_generation_sees(started, tiny):
    ids = tiny.tokenizer.encode("the window is short, and this is long." * 2)
    scores = started(tiny).score(ids, 2).result(10)
    assert len(scores) == len(ids)
    for place in range(1, len(ids)):
        start = decoder.window_start(place, TINY.block_size)
        expected = log_softmax(tiny.net(torch.tensor([ids[start:place]]))[0, -1].numpy())
        assert scores[place][0] == pytest.approx(expected[ids[place]], abs=1e-4)
        assert scores[place][1][0][0] == expected.argmax()


def test_adjustments_change_what_is_chosen_and_where_it_ends(started, tiny):
    engine, end = started(tiny), tiny.tokenizer.end_of_text

    def ids(tokens=20, **adjustments):
        return [token.id for token in Asked(engine, ["ab"], replace(SHORT, tokens=tokens, temperature=0.0),
                                            adjustments=Adjustments(**adjustments)).tokens[0]]
    plain = ids(ignore_end=True)
    assert ids(logit_bias={7: 100.0}) == [7] * 20
    assert plain[0] not in ids(logit_bias={plain[0]: -1000.0})
    assert len(set(ids(presence_penalty=1000.0, ignore_end=True))) == 20            # each token once
    assert set(ids(frequency_penalty=-1000.0, ignore_end=True)) == {plain[0]}       # the first one again and again
    assert ids(logit_bias={end: 1000.0}) == [end]
    assert ids(logit_bias={end: 1000.0}, min_tokens=4)[4:] == [end]
    assert end not in ids(logit_bias={end: 1000.0}, ignore_end=True)
    assert ids(stop_ids=(plain[2],), ignore_end=True) == plain[:plain.index(plain[2]) + 1]


def test_an_answer_says_how_it_ended_and_shows_no_part_of_a_stop_string(started, tiny):
    engine = started(tiny)
    whole = Asked(engine, ["ab"], replace(SHORT, tokens=40), adjustments=Adjustments(ignore_end=True))
    stop = whole.texts[0][10:13]
    cut = Asked(engine, ["ab"], replace(SHORT, tokens=40, stop=(stop,)), adjustments=Adjustments(ignore_end=True))
    assert (whole.finishes, cut.finishes) == (["length"], ["stop"])
    assert cut.texts == [whole.texts[0][:whole.texts[0].find(stop)]]
    assert not any(stop[0] == event.text[-1:] for event in cut.events[0][-3:-1])
    by_id = Asked(engine, ["ab"], replace(SHORT, tokens=40), adjustments=Adjustments(
        stop_ids=(whole.tokens[0][5].id,), ignore_end=True))
    assert by_id.finishes == ["stop"] and by_id.tokens[0][-1].bytes == b""


@pytest.mark.parametrize("options, sentence", [
    (dict(prompts=[]), "There is no prompt"),
    (dict(prompts=[[1, 99]]), "prompt has the id 99, and the tokenizer's are 0 to 39"),
    (dict(count=0), "count=0 is below 1"),
    (dict(logprobs=-1), "logprobs=-1 is below 0"),
    (dict(settings=GenerationParams(top_p=7)), "top_p=7"),
    (dict(settings=GenerationParams(beams=2)), "Beam search is not computed in company"),
    (dict(adjustments=Adjustments(logit_bias={99: 1.0})), "logit_bias has the id 99"),
    (dict(adjustments=Adjustments(presence_penalty=float("nan"))), "not a finite number")])
def test_what_is_wrong_is_refused_at_once(started, tiny, options, sentence):
    with pytest.raises(FolioError, match=sentence):
        Asked(started(tiny), **options)


# --- Failures and the end ---

def test_a_deliver_that_fails_ends_its_request_alone(started, tiny, caplog):
    engine = started(tiny)
    held = paused(engine)
    failing = Asked(engine, settings=replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))
    good = Asked(engine)
    failing.ticket._deliver = lambda events: 1 / 0
    held.set()
    assert good.finishes[0] in ("stop", "length")
    until(lambda: engine.stats.running == 0)
    assert engine.stats.cancelled == 1 and "cancelled, because its events could not be taken" in caplog.text


def test_a_step_that_fails_ends_what_runs_with_a_sentence_and_the_engine_goes_on(started, monkeypatch, caplog):
    engine = started(tiny_model())
    expected = Asked(engine).texts
    running = Asked(engine, ["a", "b"], replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))
    until(lambda: len(running.events) == 2)
    read = decoder.Decoder.read
    monkeypatch.setattr(decoder.Decoder, "read", lambda self, pieces: 1 / 0)
    assert running.finishes == ["failed", "failed"]
    assert "failed at this answer (ZeroDivisionError)" in running.events[0][-1].error
    monkeypatch.setattr(decoder.Decoder, "read", read)
    assert Asked(engine).texts == expected


def test_a_step_that_fails_while_a_prompt_is_read_forgets_none_of_its_answers(started, monkeypatch):
    monkeypatch.setattr(batches, "PART_PRODUCTS", 0)            # parts of 8 tokens
    monkeypatch.setattr(engines, "STALL_SECONDS", 0.0)          # one for each step
    engine, write = started(tiny_model(block_size=64), rows=3), batches.Batch.write
    running = Asked(engine, settings=replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))
    until(lambda: running.events)
    monkeypatch.setattr(batches.Batch, "write", lambda self: 1 / 0 if self.readings else write(self))
    more = Asked(engine, ["z" * 40], count=5)                   # than there are rows left
    assert more.finishes == ["failed"] * 5 and running.finishes == ["failed"]
    monkeypatch.setattr(batches.Batch, "write", write)
    assert Asked(engine, ["a"], count=2).finishes[0] in ("stop", "length")


def test_a_prompt_that_fails_ends_its_own_answers_alone(started, monkeypatch):
    model = tiny_model()
    engine, advance = started(model, rows=3), Decoder._advance
    [z] = model.tokenizer.encode("z")
    never_z = Adjustments(ignore_end=True, logit_bias={z: -1e9})       # a window that restarts is read anew
    running = Asked(engine, ["a"], replace(SHORT, tokens=10**9), adjustments=never_z)
    until(lambda: running.events)

    def failing(self, state, pieces):
        if z in pieces[0]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return advance(self, state, pieces)
    monkeypatch.setattr(Decoder, "_advance", failing)
    failed = Asked(engine, ["zzz"], count=5)            # more than there are rows
    assert failed.finishes == ["failed"] * 5
    assert failed.events[4][-1].error == "There was not enough memory for this answer."
    assert Asked(engine, ["abc"], adjustments=never_z).finishes[0] in ("stop", "length")
    running.ticket.cancel()
    assert running.finishes == ["cancelled"]


def test_close_lets_what_runs_end_within_its_grace_and_cancels_the_rest(tiny):
    engine = Engine(tiny, rows=2)
    ends = [Asked(engine, ["ab"], count=3), Asked(engine)]
    assert engine.close(grace=30)
    assert [len(request.texts) for request in ends] == [3, 1] and "cancelled" not in ends[0].finishes
    with pytest.raises(Closed, match="engine is closed"):
        Asked(engine)
    engine = Engine(tiny, rows=1)
    endless = Asked(engine, settings=replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))
    waits, until_then = Asked(engine), time.perf_counter()
    assert not engine.close(grace=0.2)
    assert 0.2 <= time.perf_counter() - until_then < 5
    assert (endless.finishes, waits.finishes) == (["cancelled"], ["cancelled"])


def test_what_comes_to_an_engine_that_is_closing_is_told_so_and_no_call_is_forgotten(tiny):
    engine = Engine(tiny, rows=1)
    endless = Asked(engine, settings=replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))

    def forever():
        while True:
            yield
    calls = [engine.call(forever), engine.call(forever)]
    closing = threading.Thread(target=engine.close, args=(60,))
    closing.start()
    until(lambda: engine._is_closing)
    for ask in (lambda: Asked(engine), lambda: engine.call(print), lambda: engine.score([1])):
        with pytest.raises(Closed, match="closing and takes no more requests"):
            ask()
    endless.ticket.cancel()
    assert endless.finishes == ["cancelled"]
    engine.close()
    closing.join()
    for call in calls:
        with pytest.raises(Closed, match="engine is closed"):
            call.result(0)


def test_functions_are_called_between_steps_and_generators_once_per_step(started, tiny):
    engine = started(tiny)
    running = Asked(engine, settings=replace(SHORT, tokens=10**9), adjustments=Adjustments(ignore_end=True))

    def slowly():
        for _ in range(5):
            found.append(engine.stats.tokens)
            yield
        return threading.current_thread()
    found = []
    until(lambda: running.events)
    assert engine.call(slowly).result(10) is engine.call(threading.current_thread).result(10)
    assert len(found) == 5 and found[-1] - found[0] >= 2            # its window restarts now and then
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result(10)
    running.ticket.cancel()


def test_memory_is_flat_over_a_thousand_requests(started, tiny):
    engine, settings = started(tiny, rows=16, queue=2000), replace(SHORT, tokens=2)

    def many():
        asked = [Asked(engine, ["abc"], replace(settings, sampling_seed=seed)) for seed in range(500)]
        assert all(len(request.texts) == 1 for request in asked)
        del asked
        gc.collect()
        slots = [len(batch._decoder.state.caches[0]._slots[0]) for batch in engine._batches.values()]
        return len(gc.get_objects()), slots
    (first, slots), (second, more_slots) = many(), many()
    assert second - first < 250                 # a request holds a hundred
    assert slots == more_slots and slots[0] <= 32           # 16, grown by half
