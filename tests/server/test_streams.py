"""Streams: their text is the unstreamed one; their form; what happens where the engine fails."""

import asyncio
import dataclasses
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.generation.engine import Event, TokenEvent
from folio.server import streams
from folio.server.errors import ApiError
from folio.server.streams import DONE, PING, Inbox, merged
from tiny_server import post, serving

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("project")) as found:
        yield found


def stream(server, path, **body):
    """The response to a request for a stream, and its events as values."""
    with server.client.stream("POST", path, json=body | {"stream": True}) as answer:
        content = b"".join(answer.iter_bytes())
    assert answer.status_code == 200, content
    assert content.endswith(DONE)
    return answer, [json.loads(event.removeprefix(b"data: ")) for event in content.removesuffix(DONE).split(b"\n\n")
                    if event.startswith(b"data: ")]


def joined(chunks, n):
    """The choices that the chunks of /v1/completions amount to."""
    choices = [{"index": index, "text": "", "logprobs": None, "finish_reason": None} for index in range(n)]
    for chunk in chunks:
        for part in chunk["choices"]:
            whole = choices[part["index"]]
            assert whole["finish_reason"] is None           # nothing comes after it
            whole["text"] += part["text"]
            whole["finish_reason"] = part["finish_reason"]
            if part["logprobs"] is not None:
                whole["logprobs"] = whole["logprobs"] or {name: [] for name in part["logprobs"]}
                for name, values in part["logprobs"].items():
                    whole["logprobs"][name] += values
    return choices


@settings(max_examples=25)
@given(prompt=st.one_of(st.text(max_size=20), st.just("The sea is calm. " * 40),
                        st.lists(st.integers(0, 1023), min_size=1, max_size=8)),
       n=st.integers(1, 3), max_tokens=st.integers(1, 40), temperature=st.sampled_from([0, 0.7, 2]),
       seed=st.integers(-2**63, 2**63 - 1), echo=st.booleans(), logprobs=st.sampled_from([None, 0, 3]),
       stop=st.lists(st.sampled_from(["e", "th", "\n", " the", "ab", "\ufffd"]), max_size=3), healing=st.booleans(),
       logit_bias=st.dictionaries(st.sampled_from(["226", "130", "195", "1023"]), st.integers(0, 12), max_size=3),
       presence_penalty=st.sampled_from([-2, 0, 2]))
def test_a_stream_adds_up_to_the_unstreamed_answer(server, n, **body):
    whole = post(server, COMPLETIONS, n=n, **body)
    _, chunks = stream(server, COMPLETIONS, n=n, stream_options={"include_usage": True}, **body)
    assert joined(chunks, n) == whole["choices"]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1].get("folio") == whole.get("folio")


def test_the_form_of_a_stream(server):
    answer, chunks = stream(server, COMPLETIONS, prompt="The sea", max_tokens=300, ignore_eos=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert "content-length" not in answer.headers
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert 2 <= len(chunks) < 150           # several tokens in one event, and not all in one
    _, chunks = stream(server, COMPLETIONS, prompt="The sea", max_tokens=50, ignore_eos=True, stream_options={
        "include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts) and counts[-1] == 50
    answer, chunks = stream(server, CHAT, messages=[{"role": "user", "content": "The sea is calm. " * 50}],
                            max_tokens=2)
    assert chunks[-1]["folio"]["window_start"] == int(answer.headers["folio-window-start"]) > 0


def test_scoring_can_be_streamed(server):
    body = {"prompt": ["The sea", "A"], "echo": True, "logprobs": 1, "max_tokens": 0}
    assert joined(stream(server, COMPLETIONS, **body)[1], 2) == post(server, COMPLETIONS, **body)["choices"]


class Failing:
    """An engine whose answers end in the middle."""
    def __init__(self, engine, events):
        self._engine, self._events = engine, events

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def submit(self, request):
        ticket = self._engine.submit(dataclasses.replace(request, deliver=lambda events: None))
        ticket.cancel()
        request.deliver(self._events)
        return ticket


@pytest.mark.parametrize("finish, status", [("failed", 500), ("cancelled", 503)])
def test_an_answer_that_cannot_be_finished_is_an_error_in_both_forms(server, monkeypatch, finish, status):
    from folio.server.models import Models
    served = server.models.get_now()
    events = [Event(0, "The", (), None, None), Event(0, "", (), finish, "The model broke.")]
    broken = dataclasses.replace(served, engine=Failing(served.engine, events))

    async def get(self, name=None):
        return broken
    monkeypatch.setattr(Models, "get", get)
    answer = server.client.post(COMPLETIONS, json={"prompt": "a"})
    assert answer.status_code == status and answer.json()["error"]["message"] == "The model broke."
    _, chunks = stream(server, COMPLETIONS, prompt="a")
    assert chunks[-1]["error"] == answer.json()["error"]


def test_silence_is_a_comment_and_events_are_merged_in_order(monkeypatch):
    monkeypatch.setattr(streams, "PING_SECONDS", 0.02)

    async def run():
        inbox, found = Inbox(2), []

        async def deliver():
            await asyncio.sleep(0.05)
            inbox.deliver([Event(1, "a", (), None, None), Event(0, "b", (), "stop", None)])
            inbox.deliver([Event(1, "c", (), "length", None)])
        task = asyncio.ensure_future(deliver())
        async for events in inbox.batches():
            found.append([(event.index, event.text, event.finish) for event in events])
        await task
        return found
    found = asyncio.run(run())
    assert found[0] == [] and [batch for batch in found if batch] == [[(1, "ac", "length"), (0, "b", "stop")]]
    assert PING.startswith(b":") and PING.endswith(b"\n\n")


def test_events_of_a_moment_go_out_together_and_the_first_and_last_at_once():
    async def run():
        inbox, begun, found = Inbox(1), time.monotonic(), []

        async def deliver():
            for number in range(30):
                inbox.deliver([Event(0, "a", (), "stop" if number == 29 else None, None)])
                await asyncio.sleep(0.01)
        task = asyncio.ensure_future(deliver())
        async for events in inbox.batches(pause=lambda: 5.0):
            found += [event.text for event in events]
        await task
        return found, time.monotonic() - begun
    found, elapsed = asyncio.run(run())
    assert found == ["a", "a" * 29] and elapsed < 4


def test_an_inbox_of_a_closed_loop_takes_events_in_silence():
    async def make():
        return Inbox(1)
    asyncio.run(make()).deliver([Event(0, "a", (), "stop", None)])


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=3)), max_size=20))
def test_merged_events_lose_nothing(parts):
    events = [Event(index, text, (TokenEvent(place, b"", -1.0, (), 0),), None, None)
              for place, (index, text) in enumerate(parts)]
    for event in merged(events):
        own = [each for each in events if each.index == event.index]
        assert event.text == "".join(each.text for each in own)
        assert [token.id for token in event.tokens] == [each.tokens[0].id for each in own]


def test_a_failure_of_the_engine_is_no_bug_of_the_request():
    async def run():
        inbox = Inbox(1)
        inbox.deliver([Event(0, "", (), "failed", None)])
        return await inbox.answers()
    with pytest.raises(ApiError) as found:
        asyncio.run(run())
    assert found.value.status == 500 and found.value.message
