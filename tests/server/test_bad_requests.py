"""Requests that are wrong: each is refused by one sentence that names the field, and none is a failure of ours."""

import dataclasses

import pytest

from folio.server.chat import ChatRequest
from folio.server.completions import CompletionRequest
from folio.server.shapes import Unsupported, shape_of
from tiny_server import post, refused, serving

ROUTES = {"/v1/completions": (CompletionRequest, {"prompt": "a", "max_tokens": 1}),
          "/v1/chat/completions": (ChatRequest, {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1})}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("project"), most_tokens=100, body_bytes=1 << 18) as found:
        yield found


@pytest.mark.parametrize("body, param", [
    ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt"), ({"prompt": [[1], []]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"), ({"prompt": ["a", [1]]}, "prompt"), ({"prompt": [True]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"), ({"prompt": 3.5}, "prompt"), ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1e300]}, "prompt"), ({"prompt": [[1024]]}, "prompt"), ({"prompt": [[[1]]]}, "prompt"),
    ({"prompt": ["a"] * 1000, "n": 2}, "prompt"), ({"prompt": ["a"] * 1025}, "prompt"),
    ({"n": True}, "n"), ({"n": 0}, "n"), ({"n": 129}, "n"), ({"n": 1.5}, "n"), ({"n": "1"}, "n"), ({"n": [1]}, "n"),
    ({"n": 3, "best_of": 2}, "best_of"), ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
    ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 101}, "max_tokens"),
    ({"max_completion_tokens": 101}, "max_completion_tokens"), ({"max_tokens": 10**400}, "max_tokens"),
    ({"temperature": 2.1}, "temperature"), ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"), ({"temperature": 10**400}, "temperature"),
    ({"temperature": False}, "temperature"),
    ({"top_p": 0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"top_k": -2}, "top_k"), ({"min_p": 2}, "min_p"),
    ({"seed": 2**63}, "seed"), ({"seed": 0.5}, "seed"), ({"stop": ""}, "stop"), ({"stop": ["a"] * 33}, "stop"),
    ({"stop": ["a", ""]}, "stop"), ({"stop": [1]}, "stop.[0]"), ({"stop": "a" * 1001}, "stop"),
    ({"logprobs": 21}, "logprobs"), ({"logprobs": True}, "logprobs"), ({"logit_bias": {"foo": 0}}, "logit_bias"),
    ({"logit_bias": {"1024": 0}}, "logit_bias"), ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": [1]}, "logit_bias"), ({"stream": "yes"}, "stream"), ({"stream_options": {}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": 5}, "stream_options"), ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"stop_token_ids": [1024]}, "stop_token_ids"), ({"suffix": "x"}, "suffix"), ({"precision": "int4"}, "precision"),
    ({"model": 3}, "model"), ({"model": "\ud800"}, "model"), ({"presence_penalty": -2.5}, "presence_penalty"),
])
def test_a_wrong_field_is_named(server, body, param):
    error = refused(server, "/v1/completions", body)
    assert error["param"] == param and param.split(".")[0] in error["message"]
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 400


@pytest.mark.parametrize("content, code", [
    (b"", "invalid_json"), (b"{", "invalid_json"), (b"\xff\xfe", "invalid_json"), (b"[]", "invalid_type"),
    (b"null", "invalid_type"), (b"3", "invalid_type"), (b'{"temperature": NaN}', "invalid_json"),
    (b'{"temperature": -Infinity}', "invalid_json"), (b'{"temperature": 1e400}', "invalid_value"),
    (b'{"n": ' + b"9" * 5000 + b"}", "invalid_json"), (b"[" * 100_000, "invalid_json"),
    (b'{"a":' * 40_000, "invalid_json"), (b'{"n": 1, "n": 1}', "invalid_json"),
    (b'{"x": {"\\ud800": 1, "\\ud800": 2}}', "invalid_json"), (b'{"prompt": "\\ud800"}', "invalid_value"),
    (b'{"prompt": ["ok", "\\udfff"]}', "invalid_value"), (b'{"stop": "\\ud83d"}', "invalid_value"),
    (b'{"prompt": "a"} {}', "invalid_json"), (b'{"logit_bias": {"\\ud800": 1}}', "invalid_value"),
])
def test_a_body_that_is_no_request_is_refused(server, content, code):
    for path in ROUTES:
        error = refused(server, path, content)
        if path == "/v1/completions":
            assert error["code"] == code
    refused(server, "/tokenize", content)


def test_what_only_looks_odd_is_taken(server):
    headers = {"content-type": "application/json; charset=utf-8"}
    for content in (b'\xef\xbb\xbf{"prompt": "a", "max_tokens": 1.0}', b'{"max_tokens": null}', b"{}",
                    b'{"prompt": "\\ud83d\\ude00\\u0000", "max_tokens": 1}',
                    b'{"\\ud800": "\\udfff", "max_tokens": 1}', b'{"seed": -9223372036854775808, "max_tokens": 1}'):
        answer = server.client.post("/v1/completions", content=content, headers=headers)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ROUTES)
def test_a_known_setting_that_cannot_be_done_is_named_and_its_harmless_values_are_taken(server, path):
    kind, body = ROUTES[path]
    fields = [field for field in dataclasses.fields(kind) if isinstance(shape_of(field), Unsupported)]
    assert len(fields) > 20
    for field in fields:
        error = refused(server, path, body | {field.name: 7})
        assert (error["param"], error["code"]) == (field.name, "unsupported_parameter")
    harmless = {field.name: shape_of(field).harmless[-1] for field in fields if shape_of(field).harmless}
    post(server, path, **body, **harmless, user="u", metadata={}, store=True, reasoning_effort="low")


@pytest.mark.parametrize("body, param", [
    ({"messages": []}, "messages"), ({}, "messages"), ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages.[0]"), ({"messages": [{"content": "a"}]}, "messages.[0].role"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.[0].role"),
    ({"messages": [{"role": "user"}]}, "messages.[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]},
     "messages.[0].content.[1].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.[0].content.[0].text"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "messages.[0].content.[0].type"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.[0].tool_calls"),
])
def test_a_wrong_message_is_named(server, body, param):
    assert refused(server, "/v1/chat/completions", body)["param"] == param


@pytest.mark.parametrize("extra, param", [
    ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tools": [{"type": "function"}]}, "tools"), ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": "text2"}, "response_format"), ({"max_tokens": 0}, "max_tokens"),
    ({"echo": True}, "echo"), ({"logprobs": 3}, "logprobs"),
])
def test_a_wrong_field_of_a_chat_is_named(server, extra, param):
    assert refused(server, "/v1/chat/completions", ROUTES["/v1/chat/completions"][1] | extra)["param"] == param


def test_wrong_tokens_are_named(server):
    for path, body, param in (("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": "a", "content": "b"}, "content"),
                              ("/tokenize", {"prompt": 1}, "prompt"), ("/detokenize", {"tokens": [1024]}, "tokens"),
                              ("/detokenize", {"tokens": ["a"]}, "tokens.[0]"),
                              ("/detokenize", {"tokens": [-1]}, "tokens.[0]"),
                              ("/detokenize", {"tokens": 1}, "tokens")):
        assert refused(server, path, body)["param"] == param


def test_an_unknown_model_is_404_everywhere(server):
    for path, body in (("/v1/completions", {}), ("/v1/chat/completions", ROUTES["/v1/chat/completions"][1]),
                       ("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        assert refused(server, path, body | {"model": "no\x00body"}, 404)["code"] == "model_not_found"
    for path in ("/v1/models/nobody", "/tokenizer_info?model=nobody", "/v1/models/a/b%00%ff"):
        answer = server.client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
