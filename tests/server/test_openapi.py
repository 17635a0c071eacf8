"""GET /openapi.json: the description is valid, says what the dataclasses say, and the server keeps to it."""

import dataclasses
import importlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from folio.server import app, openapi
from folio.server.chat import ChatRequest
from folio.server.completions import CompletionRequest
from folio.server.shapes import parse, schema, shape_of
from tiny_server import post, serving

schemathesis = pytest.importorskip("schemathesis")
jsonschema = pytest.importorskip("jsonschema_rs")       # comes with it
conformance = importlib.import_module("schemathesis.specs.openapi.checks")
CHECKED = [schemathesis.checks.not_a_server_error, conformance.status_code_conformance,
           conformance.content_type_conformance, conformance.response_schema_conformance]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # Whatever is generated stays short, so that the time goes into many requests.
    with serving(tmp_path_factory.mktemp("project"), most_tokens=16) as found:
        yield found


@pytest.fixture(scope="module")
def described(server):
    return schemathesis.openapi.from_url(server.address + "/openapi.json")


OPERATIONS = [f"{method.upper()} {path}" for path, item in openapi.document()["paths"].items() for method in item]


def consistent(body):
    """A request with what no description of single fields can say: which fields go together, ids of this vocabulary."""
    body = {name: value for name, value in body.items() if name != "model" and value is not None}
    if not body.get("stream"):
        body.pop("stream_options", None)
    if body.get("max_completion_tokens", body.get("max_tokens")) == 0:
        body.pop("max_completion_tokens", None)
        body.pop("max_tokens", None)
    body.pop("min_tokens", None)
    body["n"] = min(3, body.get("n") or 1)
    if "best_of" in body and "messages" not in body:
        body["best_of"] = 0 if body.get("stream") else max(body["n"], min(4, body["best_of"]))
    if "top_logprobs" in body:
        body["logprobs"] = True
    for name in ("prompt", "tokens", "stop_token_ids"):
        if name in body:
            body[name] = in_vocabulary(body[name])
    if "logit_bias" in body:
        body["logit_bias"] = {str(int(token) % 1024): bias for token, bias in body["logit_bias"].items()}
    for message in body.get("messages", []):
        message["content"] = message.get("content") or "a"
    texts = [name for name in ("prompt", "messages", "content") if name in body]
    for name in texts[1:]:
        del body[name]
    if not texts:
        body["prompt"] = "a"
    return body


def in_vocabulary(value):
    if isinstance(value, list):
        return [in_vocabulary(each) for each in value]
    return value if isinstance(value, str) else int(value) % 1024


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
@pytest.mark.parametrize("name", OPERATIONS)
def test_generated_requests_get_documented_answers(server, described, name, mode):
    """Requests that fit the description, and requests that do not: no failure of ours, and answers as described."""
    method, path = name.split()

    @settings(max_examples=15 if method == "POST" else 3, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))
    @given(described[path][method].as_strategy(generation_mode=mode))
    def ask(case):
        if case.headers:
            case.headers.pop("Host", None)              # the server's own name is another test's
        if mode == schemathesis.GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body = consistent(case.body)
        case.validate_response(case.call(timeout=20), checks=CHECKED)
    try:
        ask()
    except Unsatisfiable:
        assert mode == schemathesis.GenerationMode.NEGATIVE     # nothing can be wrong with it


def test_every_field_is_described_once_and_for_all():
    for kind in (CompletionRequest, ChatRequest):
        properties = openapi.document()["components"]["schemas"][kind.__name__]["properties"]
        assert list(properties) == [field.name for field in dataclasses.fields(kind)]
        for name, each in properties.items():
            assert each["description"], name
    assert properties["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert properties["temperature"]["default"] == 1.0 and properties["top_p"]["anyOf"][0]["exclusiveMinimum"] == 0


def test_every_route_of_the_api_is_described(server):
    described = openapi.document()["paths"]
    found = {(route.path.replace(":path", ""), method) for route in server.app.routes for method in route.methods
             if hasattr(route, "methods") and not route.path.startswith(("/folio", "/v1/tok", "/v1/detok", "/v1/open"))
             and route.path not in ("/", "/openapi.json", "/favicon.ico") and method != "HEAD"}
    missing = {(path, method) for path, method in found
               if method.lower() not in described.get(path, described.get("/v1" + path, {}))}
    assert not missing


@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
@settings(max_examples=100)
@given(st.data())
def test_a_value_fits_its_schema_just_where_it_is_read(kind, data):
    """For fields of numbers, texts and truth values: what JSON Schema takes is what `parse` takes."""
    fields = [field for field in dataclasses.fields(kind) if type(shape_of(field)).__name__ == "Scalar"]
    field = data.draw(st.sampled_from(fields))
    value = data.draw(st.one_of(st.none(), st.booleans(), st.integers(-3, 200), st.floats(-3, 200), st.text(max_size=3),
                                st.sampled_from([2**31 - 1, 2**31, 2**63, -2**63, 1e300, "int8", 0.5, 1.0, 2.0])))
    own = schema(kind)["properties"][field.name]
    fits = jsonschema.Draft202012Validator(own).is_valid(value)
    try:
        parse(kind, {"messages": [{"role": "user", "content": "a"}], field.name: value})
        is_read = True
    except app.ApiError:
        is_read = False
    assert fits == is_read


def test_the_document_is_plain_json_in_both_places(server):
    document = server.client.get("/openapi.json").json()
    assert document == server.client.get("/v1/openapi.json").json() == json.loads(json.dumps(openapi.document(16)))
    body = {"prompt": "a", "max_tokens": 2, "logprobs": 1, "n": 2, "echo": True}
    whole = {"$ref": "#/components/schemas/Completion", "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(post(server, "/v1/completions", **body))
