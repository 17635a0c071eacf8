"""Answers of a model that was taught to chat: how they end, and what the model makes of a conversation."""

import math

import pytest
import torch

from conftest import ROOT
from folio.base.errors import FolioError
from folio.chat.messages import Message
from folio.generation import beam, decoder
from folio.generation.language_model import load
from small_chat import ANSWERS, save_small_chat, small_chat


def answered(model, requests, **settings):
    """Return [text] and how each ended."""
    texts, stream = [""] * len(requests), model.stream_each(requests, temperature=0, **settings)
    while True:
        try:
            place, text = next(stream)
        except StopIteration as end:
            return texts, end.value
        texts[place] += text


def test_an_answer_ends_with_its_turn_or_at_its_length(tmp_path):
    save_small_chat(tmp_path / "weights-small.pth")
    model = load(tmp_path / "weights-small.pth")
    requests = [{"messages": [Message("user", question)]} for question in ANSWERS]
    assert answered(model, requests) == (list(ANSWERS.values()), ["stop"] * 4)
    texts, finishes = answered(model, requests[:3], tokens=2)
    assert finishes == ["length"] * 3 and all(answer.startswith(text)
                                              for answer, text in zip(ANSWERS.values(), texts))
    assert answered(model, requests, tokens=0) == ([""] * 4, ["length"] * 4)


@pytest.mark.parametrize("settings", [dict(), dict(beams=1)])
def test_how_a_text_ended_also_with_stop_strings_and_beams(settings):
    model, counting = small_chat(), [{"messages": [Message("user", "Count!")]}]
    sampling = {} if settings else {"temperature": 0}

    def ending(**more):
        stream = model.stream_each(counting, **settings, **sampling, **more)
        text = ""
        while True:
            try:
                text += next(stream)[1]
            except StopIteration as end:
                return text, end.value
    assert ending() == (ANSWERS["Count!"], ["stop"])
    assert ending(stop="3") == ("1 2 ", ["stop"])
    assert ending(tokens=1)[1] == ["length"]


def test_the_surprise_of_a_conversation_is_that_of_the_ids_the_model_reads():
    model = small_chat()
    messages = [Message("system", "Be brief."), Message("user", "How many?"), Message("assistant", "Three."),
                Message("user", "é中")]
    ids, _ = model.chat.encode(messages)
    costs = torch.log_softmax(model.net(torch.tensor([ids[:-1]]))[0].float(), -1)
    bits = [0.0, *(-costs[place, token].item() / math.log(2) for place, token in enumerate(ids[1:]))]
    found = model.surprise_each(messages)
    assert ["".join(piece for piece, _ in pieces) for pieces in found] == ["Be brief.", "How many?",
                                                                           "Three.<|im_end|>", "é中"]
    place = 0
    for message, pieces in zip(messages, found):
        head, content, tail = model.chat.parts(message)
        start = place + len(head)
        end = start + len(content) + (message.role == "assistant")
        assert sum(cost for _, cost in pieces) == pytest.approx(sum(bits[start:end]), rel=1e-4)
        place += len(head) + len(content) + len(tail)
    assert model.surprise_each([]) == []


def test_the_next_token_of_a_conversation_begins_the_answer_or_continues_it():
    model, asked = small_chat(), [Message("user", "How many?")]
    begun = model.next_token_probabilities(asked)
    assert ANSWERS["How many?"].startswith(begun[0][0]) and begun[0][1] > 0.8
    ended = model.next_token_probabilities([*asked, Message("assistant", "Three.")])
    assert ended[0][0] == "<|im_end|>" and ended[0][1] > 0.8


def test_a_model_that_was_not_taught_to_chat_says_how_to_teach_it():
    model = load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    asked = [Message("user", "How many?")]
    for ask in (model.surprise_each, model.next_token_probabilities, lambda messages: list(model.reply(messages))):
        with pytest.raises(FolioError, match="--start-from pretrained --chat FILE"):
            ask(asked)


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"beams": 1}])
def test_no_answer_has_a_special_token_in_its_text(monkeypatch, sampling):
    model = small_chat()
    assert {*model.chat.ends} == {model.chat.start_id, model.chat.end_id, model.tokenizer.end_of_text}
    answer = [Message("user", next(iter(ANSWERS)))]
    for token in model.chat.ends:
        monkeypatch.setattr(decoder, "penalized", lambda logits, said, settings, token=token: likely(logits, token))
        monkeypatch.setattr(beam, "penalized", lambda logits, said, settings, token=token: likely(logits, token))
        stream = model.stream_each([{"messages": answer}], tokens=5, **sampling)
        assert list(stream) == []


def likely(logits, token):
    """These logits, with a token that is far the likeliest."""
    logits = logits.copy()
    logits[:, token] = 1e4
    return logits
