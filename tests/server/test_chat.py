"""POST /v1/chat/completions, /tokenize and /detokenize, through the strict openai client and by hand."""

import openai
import pytest

from tiny_server import NAME, post, refused, serving

CHAT = "/v1/chat/completions"
CONVERSATION = [{"role": "system", "content": "A play."}, {"role": "user", "content": "MERRAN:\n"},
                {"role": "assistant", "content": "The sea is calm."}, {"role": "user", "content": "BRACK:"}]
TEXT = "A play.\nMERRAN:\nThe sea is calm.\nBRACK:"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("project"), most_tokens=200) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.address + "/v1", api_key="none", max_retries=0,
                       _strict_response_validation=True) as found:
        yield found


def test_the_client_talks(client, server):
    answer = client.chat.completions.create(
        model=NAME, messages=CONVERSATION, max_completion_tokens=20, max_tokens=3, n=2, seed=1, logprobs=True,
        top_logprobs=2, temperature=0.5, response_format={"type": "text"}, tools=[], parallel_tool_calls=False,
        stop=["☃"], user="u", reasoning_effort="low", extra_body={"top_k": 40})
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.usage.completion_tokens == 40 and answer.choices[1].finish_reason == "length"
    for number, choice in enumerate(answer.choices):
        expected = server.model.complete(TEXT + "\n", stream=number, tokens=20, seed=1, temperature=0.5, top_k=40)
        assert (choice.index, choice.message.role, choice.message.content) == (number, "assistant", expected)
        assert choice.message.content.startswith(choice.logprobs.content[0].token)
        for token in choice.logprobs.content:
            assert bytes(token.bytes).decode("utf-8") == token.token and token.logprob <= 0
            assert len(token.top_logprobs) == 2


def test_the_client_reads_a_stream(client):
    settings = {"model": NAME, "messages": CONVERSATION, "max_tokens": 30, "n": 2, "seed": 1}
    whole = client.chat.completions.create(**settings)
    parts = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    assert parts[-1].choices == [] and parts[-1].usage == whole.usage
    for choice in whole.choices:
        own = [part.choices[0] for part in parts[:-1] if part.choices[0].index == choice.index]
        assert (own[0].delta.role, own[0].delta.content) == ("assistant", "")
        assert "".join(part.delta.content or "" for part in own) == choice.message.content
        assert [part.finish_reason for part in own] == [None] * (len(own) - 1) + ["length"]
    assert {part.object for part in parts} == {"chat.completion.chunk"}


@pytest.mark.parametrize("messages, extra, text", [
    (CONVERSATION, {}, TEXT + "\n"),
    (CONVERSATION, {"continue_final_message": True}, TEXT),
    (CONVERSATION, {"add_generation_prompt": False}, TEXT),
    (CONVERSATION[:3], {}, TEXT.rpartition("\n")[0]),           # the assistant's last message is continued
    ([{"role": "user", "content": "One\n"}], {}, "One\n"),
    ([{"role": "developer", "content": [{"type": "text", "text": "O"}, {"type": "text", "text": "ne"}]}], {}, "One\n"),
    ([{"role": "assistant", "content": None}], {}, ""),
    ([{"role": "user", "content": ""}], {}, ""),
])
def test_the_text_of_a_conversation_is_its_contents_line_by_line(server, messages, extra, text):
    answer = post(server, CHAT, messages=messages, seed=5, max_tokens=8, **extra)
    assert answer["choices"][0]["message"]["content"] == server.model.complete(text, seed=5, tokens=8, temperature=1.0)
    ids = server.model.tokenizer.encode(text)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert post(server, "/tokenize", messages=messages, **extra) == {"tokens": ids, "count": len(ids),
                                                                     "max_model_len": 256}


def test_an_answer_is_as_long_as_the_context_and_the_server_allow(server):
    answer = post(server, CHAT, messages=[{"role": "user", "content": "a"}], ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 200
    text = "The sea is calm. " * 20
    answer = post(server, CHAT, messages=[{"role": "user", "content": text}], ignore_eos=True)
    assert answer["usage"]["total_tokens"] == 256
    answer = post(server, CHAT, messages=[{"role": "user", "content": text * 10}], ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 16 and answer["folio"]["window_start"] > 0
    error = refused(server, CHAT, {"messages": [{"role": "user", "content": text * 10}], "truncate_prompt": False})
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
    assert "maximum context length is 256 tokens" in error["message"]


@pytest.mark.parametrize("text", ["", "The sea", "é\n中 \U0001f469\u200d\U0001f4bb\0", "a<|endoftext|>", " " * 50])
def test_tokens_and_texts_in_both_forms(server, text):
    tokenizer = server.model.tokenizer
    ids = tokenizer.encode(text)
    answer = post(server, "/tokenize", prompt=text, add_special_tokens=True, return_token_strs=True)
    assert (answer["tokens"], answer["count"], answer["max_model_len"]) == (ids, len(ids), 256)
    assert len(answer["token_strs"]) == len(ids)
    assert post(server, "/v1/tokenize", content=text, add_special=True) == {"tokens": ids}
    pieces = post(server, "/tokenize", content=text, with_pieces=True)["tokens"]
    assert [piece["id"] for piece in pieces] == ids
    assert b"".join(piece["piece"].encode("utf-8") if isinstance(piece["piece"], str) else bytes(piece["piece"])
                    for piece in pieces) == text.encode("utf-8")
    assert post(server, "/detokenize", tokens=ids) == {"prompt": text, "content": text}


def test_special_tokens_are_read_only_where_they_are_wanted(server):
    end = server.model.tokenizer.end_of_text
    assert post(server, "/tokenize", content="<|endoftext|>", parse_special=True) == {"tokens": [end]}
    assert len(post(server, "/tokenize", content="<|endoftext|>")["tokens"]) > 1


def test_the_tokenizer_describes_itself(server):
    found = server.client.get("/tokenizer_info").json()
    assert found["eos_token"] == "<|endoftext|>" and found["chat_template"] is None
    assert (found["vocab_size"], found["eos_token_id"]) == (1024, server.model.tokenizer.end_of_text)
    assert (found["bos_token"], post(server, "/tokenize", prompt="\n")["tokens"]) == ("\n", server.model.opening[-1:])


def test_the_name_of_a_special_token_alone_is_this_token_and_inside_a_text_it_is_text(server):
    end = server.model.tokenizer.end_of_text
    assert post(server, "/tokenize", prompt="<|endoftext|>")["tokens"] == [end]
    for body in ({"prompt": "a<|endoftext|>"}, {"content": "<|endoftext|>"}):
        assert end not in post(server, "/tokenize", **body)["tokens"]
