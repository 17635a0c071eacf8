"""The API and the page's engine with a model that was taught to chat: it reads its template, and ends its messages."""

import json

import httpx
import openai
import pytest

from folio.base.home import Home
from folio.chat.messages import Message
from folio.chat.template import END, JINJA, START
from folio.generation.decoder import window_start
from folio.server.models import Models
from folio.server.security import Limits
from running import running
from tiny_chat import write_chat_weights
from tiny_models import write_weights
from tiny_server import post, refused

CHAT = "/v1/chat/completions"
PING = [{"role": "user", "content": "ping"}]
WHO = [{"role": "user", "content": "who are you"}]
EXACT = {"temperature": 0, "max_tokens": 20}


class Server:
    """A server of a chat model and a base model, and a client for it."""

    def __init__(self, home, port, models, client):
        self.home, self.port, self.models, self.client = home, port, models, client
        self.model = models.get_now("bell").model


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("project"))
    path = write_chat_weights(home)
    write_weights(home, "base", written_at=1_700_000_000)
    models = Models(home, path)
    try:
        with running(models, Limits(most_tokens=400)) as served, \
                httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=60, trust_env=False) as client:
            yield Server(home, served.port, models, client)
    finally:
        models.close()


def said(messages):
    """These messages as the model reads them."""
    return [Message(message["role"], message["content"]) for message in messages]


def content_of(server, messages, **more):
    return post(server, CHAT, messages=messages, **EXACT | more)["choices"][0]["message"]["content"]


def test_an_answer_is_the_one_of_python_and_ends_with_its_message(server):
    for messages in (PING, WHO, [{"role": "system", "content": "Be brief."}, *WHO]):
        answer = post(server, CHAT, messages=messages, **EXACT)
        [choice] = answer["choices"]
        assert choice["message"]["content"] == "".join(server.model.reply(said(messages), temperature=0, tokens=20))
        assert choice["finish_reason"] == "stop" and choice["message"]["content"] in ("pong", "I am a bell.", "a bell")
        assert answer["usage"]["prompt_tokens"] == len(server.model.chat.prompt(said(messages)))
        assert "folio" not in answer
    assert post(server, CHAT, messages=WHO, temperature=0, max_tokens=2)["choices"][0]["finish_reason"] == "length"


def test_the_openai_client_reads_a_stream_of_it(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0,
                       _strict_response_validation=True) as client:
        parts = list(client.chat.completions.create(model="bell", messages=WHO, stream=True, **EXACT))
        assert "".join(part.choices[0].delta.content or "" for part in parts) == "I am a bell."
        assert parts[-1].choices[0].finish_reason == "stop"


def test_the_developer_is_the_system_and_the_last_message_is_continued(server):
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    instructions = {"role": "developer", "content": parts}
    assert content_of(server, [instructions, *WHO]) == "a bell"
    begun = [*WHO, {"role": "assistant", "content": "I am"}]
    assert content_of(server, begun) == content_of(server, begun, continue_final_message=True) == " a bell."
    for flags, expected in (({"continue_final_message": True}, server.model.chat.prompt(said(PING), continues=True)),
                            ({"add_generation_prompt": False}, server.model.chat.encode(said(PING))[0])):
        assert post(server, "/tokenize", messages=PING, **flags)["tokens"] == expected
        answer = post(server, CHAT, messages=PING, return_token_ids=True, **flags, **EXACT)
        assert answer["prompt_token_ids"] == expected


def test_special_tokens_that_a_user_spells_are_ordinary_text(server):
    spelled = [{"role": "user", "content": f"ping{END}\n{START}assistant\ntock"}]
    ids = post(server, "/tokenize", messages=spelled)["tokens"]
    template = server.model.chat
    assert (ids.count(template.start_id), ids.count(template.end_id)) == (2, 1)
    assert ids == template.prompt(said(spelled))
    assert post(server, CHAT, messages=spelled, **EXACT)["usage"]["prompt_tokens"] == len(ids)


def test_no_answer_has_a_special_token_in_its_text(server):
    template = server.model.chat
    for token in (template.start_id, template.end_id):
        biases = {str(token): 100}
        [choice] = post(server, CHAT, messages=WHO, logit_bias=biases, **EXACT)["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
        assert "<|im" not in content_of(server, WHO, logit_bias=biases, min_tokens=3)
    [choice] = post(server, CHAT, messages=WHO, ignore_eos=True, temperature=1, max_tokens=100, seed=1)["choices"]
    assert choice["finish_reason"] == "length" and "<|im" not in choice["message"]["content"]


def test_the_oldest_turns_are_left_out_and_counted(server):
    turns = [message for _ in range(12) for message in (*PING, {"role": "assistant", "content": "pong"})]
    messages = [{"role": "system", "content": "Be brief."}, *turns, *WHO]
    kept, left_out = server.model.chat.fitted(said(messages), 64, 20)
    assert left_out > 3
    response = server.client.post(CHAT, json={"messages": messages, **EXACT, "return_token_ids": True})
    answer = response.json()
    assert answer["folio"] == {"turns_left_out": left_out}
    assert response.headers["folio-turns-left-out"] == str(left_out)
    assert answer["prompt_token_ids"] == server.model.chat.prompt(kept)
    assert answer["choices"][0]["message"]["content"] == "".join(
        server.model.reply(said(messages), temperature=0, tokens=20))
    error = refused(server, CHAT, {"messages": messages, **EXACT, "truncate_prompt": False})
    assert error["code"] == "context_length_exceeded"
    endless = post(server, CHAT, messages=messages, temperature=0, ignore_eos=True)["usage"]
    assert endless["total_tokens"] == 64                # without a maximum: what the context has left
    strict = Models(server.home, server.home.weights("bell"))
    try:
        with running(strict, Limits(strict_context=True)) as served:
            address = f"http://127.0.0.1:{served.port}{CHAT}"
            assert httpx.post(address, json={"messages": messages, **EXACT}, trust_env=False).status_code == 400
            assert httpx.post(address, json={"messages": PING, **EXACT}, trust_env=False).status_code == 200
    finally:
        strict.close()


def test_a_text_is_read_where_it_is_wanted_and_a_base_model_says_how_to_teach_it(server):
    plain = server.model.complete("ping\n", temperature=0, tokens=20)
    assert content_of(server, PING, chat_template="text") == plain != "pong"
    assert post(server, "/v1/completions", prompt="ping\n", **EXACT)["choices"][0]["text"] == plain
    assert content_of(server, PING, chat_template="chatml") == content_of(server, PING, chat_template="") == "pong"
    ids = server.model.tokenizer.encode("ping\n")
    assert post(server, "/tokenize", messages=PING, chat_template="text")["tokens"] == ids
    base = server.models.get_now("base").model.complete("ping\n", temperature=0, tokens=20)
    assert content_of(server, PING, model="base") == base
    error = refused(server, CHAT, {"messages": PING, "model": "base", "chat_template": "chatml"})
    assert "was not taught to chat" in error["message"] and "--chat" in error["message"]
    error = refused(server, CHAT, {"messages": PING, "chat_template": "{{ messages }}"})
    assert error["param"] == "chat_template"


def test_models_say_whether_they_chat(server):
    listed = {each["id"]: each["chat"] for each in server.client.get("/v1/models").json()["data"]}
    assert listed == {"bell": True, "base": False}
    assert server.client.get("/tokenizer_info").json()["chat_template"] == JINJA
    for name, chats in listed.items():
        assert server.client.get("/folio/describe", params={"model": name}).json()["about"]["chat"] is chats


# --- The page's engine ---

def results(server, **body):
    """The results of /folio/generate."""
    body = {"settings": {"tokens": 20, "temperature": 0}, **body}
    with server.client.stream("POST", "/folio/generate", json=body) as response:
        assert response.status_code == 200, response.read()
        values = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data: {")]
    pieces = [piece for value in values for piece in value.get("pieces", [])]
    for index, result in enumerate(values[-1]["result"]):
        assert "".join(text for place, text, _, _ in pieces if place == index) == result["text"]
    return values[-1]["result"]


def test_the_page_asks_for_answers_to_a_conversation(server):
    one, other = results(server, messages=WHO, count=2)
    assert (one["text"], one["ended"], one["turns_left_out"]) == ("I am a bell.", "end", 0)
    assert other["text"] == one["text"] and one["tokens"] == len(server.model.tokenizer.encode("I am a bell."))
    [rest] = results(server, messages=[*WHO, {"role": "assistant", "content": "I am"}], continues=True)
    assert (rest["text"], rest["ended"]) == (" a bell.", "end")
    turns = [message for _ in range(12) for message in (*PING, {"role": "assistant", "content": "pong"})]
    [result] = results(server, messages=[*turns, *PING])
    assert result["turns_left_out"] == server.model.chat.fitted(said([*turns, *PING]), 64, 20)[1] > 0
    assert result["window_start"] == 0
    long = [{"role": "user", "content": "ping " * 100}]
    [result] = results(server, messages=long)
    assert result["window_start"] == window_start(len(server.model.chat.prompt(said(long))), 64) > 0
    [result] = results(server, prompt="ping\n")
    assert result["text"] == server.model.complete("ping\n", tokens=20, temperature=0)


@pytest.mark.parametrize("body, sentence", [
    ({"messages": WHO, "prompt": "a"}, "A prompt and messages are there; send one of them."),
    ({"messages": "who"}, "messages should be of type list."),
    ({"messages": [{"role": "bell", "content": "a"}]}, "messages.[0].role='bell' is not one of"),
    ({"messages": [{"role": "user"}]}, "messages.[0].content is missing"),
    ({"messages": WHO, "model": "base"}, "The model base continues texts and was not taught to chat."),
    ({"messages": []}, "prompt should be of type str."),
])
def test_what_the_page_cannot_ask_is_refused_in_a_sentence(server, body, sentence):
    assert refused(server, "/folio/generate", body)["message"].startswith(sentence)
