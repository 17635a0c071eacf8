"""Mixtures of models: the distribution against its definition, one model at its extremes, batches, ways to write."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.base.errors import FolioError
from folio.chat.messages import USER, Message
from folio.chat.template import ChatTemplate, taught
from folio.generation import decoder
from folio.generation.beam import beam_search
from folio.generation.decoder import Generation, Sequence, decoder_of, window_start
from folio.generation.engine import Engine, Request
from folio.generation.language_model import LanguageModel
from folio.generation.sampling import log_softmax
from folio.generation.voices import BLENDS, LOGITS, Mix, Voices
from folio.networks.build import build_network
from Model_Params import GenerationParams, ModelParams
from test_decoder import TINY, WILD, company, lively, said_by
from test_engine import Asked
from test_healing import TOKENIZERS
from tokenizer import CharTokenizer


def several():
    """Three networks of different shapes, families and contexts: 8, 20 and without end."""
    shapes = TINY, replace(TINY, family="classic", block_size=20), ModelParams(family="lstm", vocab_size=40, emb_len=16)
    return [lively(params).requires_grad_(False) for params in shapes]


NETS = several()
NAMES = "night", "letters", "sea"


def mixture(*shares, blend=BLENDS[0]):
    return Voices(NETS[:len(shares)], NAMES[:len(shares)], Mix(shares, blend))


def by_definition(nets, mix, ids):
    """Log-probabilities of the token after some ids, and log(share * probability) of each model, computed in float64.

    Each network reads the ids anew, through the window of its own context.
    """
    weighted, logits = [], torch.zeros((), dtype=torch.float64)
    for net, share in zip(nets, mix.shares):
        with torch.inference_mode():
            own = net(torch.tensor([ids[window_start(len(ids), net.context):]]))[0, -1].double()
        weighted.append(own.log_softmax(-1) + (math.log(share) if share else -math.inf))
        logits = logits + share * own
    weighted = torch.stack(weighted)
    mixed = weighted.logsumexp(0) if mix.blend != LOGITS else logits.log_softmax(-1)
    return mixed.numpy(), weighted.numpy()


@st.composite
def mixes(draw):
    first, second = sorted(draw(st.tuples(*[st.sampled_from([0.0, 1e-6, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1)] * 2)))
    return Mix((first, second - first, 1 - second), draw(st.sampled_from(BLENDS)))


@settings(max_examples=60)
@given(mixes(), st.lists(st.integers(0, 39), min_size=1, max_size=30), st.sampled_from(["numpy", "torch"]))
def test_the_distribution_is_that_of_the_definition_at_any_shares(mix, ids, path):
    with pytest.MonkeyPatch.context() as patched:
        if path == "torch":
            patched.setattr(decoder, "in_numpy", lambda net, precision: None)
            patched.setattr(decoder, "CHOOSES", ("cpu",))
        reader = decoder_of(Voices(NETS, NAMES, mix), [ids[:1]])
        for token in ids[1:]:
            reader.read([[token]])
        expected, weighted = by_definition(NETS, mix, ids)
        np.testing.assert_allclose(log_softmax(np.asarray(reader.logits))[0], expected, atol=2e-4)
        token = int(expected.argmax())
        scores = weighted[:, token]
        assert scores[reader.voice(0, [token])] == pytest.approx(scores.max(), abs=1e-3)


def test_several_tokens_are_whose_product_of_probabilities_is_largest():
    voices, ids, seen = mixture(0.5, 0.3, 0.2), [3, 1, 4], set()
    reader = decoder_of(voices, [ids])
    for piece in np.random.default_rng(0).integers(40, size=(40, 3)).tolist():
        expected = np.log(voices.mix.shares)
        for place, token in enumerate(piece):
            expected = expected + by_definition(NETS, voices.mix, ids + piece[:place])[1][:, token] \
                - np.log(voices.mix.shares)
        assert reader.voice(0, piece) == expected.argmax()
        seen.add(int(expected.argmax()))
    assert len(seen) > 1


class Untouchable(torch.nn.Module):
    """A network that nobody may compute."""
    context = 5

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, *arguments):
        raise AssertionError("computed")
    empty_state = continue_from = advance = forward


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("net", NETS, ids=["folio", "classic", "lstm"])
def test_a_model_with_all_of_it_says_what_it_says_alone_and_the_other_is_not_computed(net, blend):
    sequences, other = list(company()), Untouchable()
    alone = said_by(net, sequences)
    assert said_by(Voices([net, other], NAMES[:2], Mix((1.0, 0.0), blend)), sequences) == alone
    assert said_by(Voices([other, net], NAMES[:2], Mix((0.0, 1.0), blend)), sequences) == alone
    beams = Sequence([1, 2, 3], replace(WILD, temperature=None, tokens=6, beams=3))
    assert beam_search(Voices([other, net], NAMES[:2], Mix((0.0, 1.0), blend)), beams) == beam_search(net, beams)


def test_twice_the_same_model_is_that_model():
    """Penalties too: they act on logits, which have the level of the models' own."""
    sequences = list(company())
    for blend in BLENDS:
        twice = Voices([NETS[0], NETS[0]], NAMES[:2], Mix((0.3, 0.7), blend))
        assert said_by(twice, sequences) == said_by(NETS[0], sequences)


@pytest.mark.parametrize("path", ["numpy", "torch"])
def test_a_mixed_sequence_says_the_same_alone_and_in_any_company(path, monkeypatch):
    if path == "torch":
        monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: None)
    sequences = list(company())
    voices = mixture(0.4, 0.35, 0.25)
    alone = [said_by(voices, [sequence])[0] for sequence in sequences]
    assert said_by(voices, sequences) == alone
    generation, keys, said = Generation(voices), {}, {name: [] for name in range(len(sequences))}
    for step in range(150):                                 # they join one by one, and leave in another order
        if step < len(sequences):
            keys[generation.add(sequences[step])] = step
        for key, token in generation.step():
            said[keys[key]].append(token)
    assert list(said.values()) == alone and not generation.running
    assert alone != [said_by(net, [sequence])[0] for net in NETS[:1] for sequence in sequences]


def test_beams_find_the_likeliest_text_of_the_mixture():
    voices = mixture(0.5, 0.5)
    settings = replace(WILD, temperature=None, tokens=2, beams=40, length_penalty=0.0)
    [best, *_] = beam_search(voices, Sequence([1, 2], settings))
    scores = {}
    first, _ = by_definition(NETS[:2], voices.mix, [1, 2])
    for token in range(40):
        second, _ = by_definition(NETS[:2], voices.mix, [1, 2, token])
        scores |= {(token, other): first[token] + second[other] for other in range(40)}
    likeliest = max(scores, key=scores.get)
    assert tuple(best.tokens) == likeliest and best.log_probability == pytest.approx(scores[likeliest], abs=1e-3)


def test_a_network_of_networks_measures_as_each_part_of_a_text_was_written():
    voices, ids = mixture(0.6, 0.4), [1, 5, 2, 8, 3, 3]
    with torch.inference_mode():
        found = voices(torch.tensor([ids]))[0].log_softmax(-1)
        state = voices.advance(voices.empty_state(1), torch.tensor([ids[:4]]))[1]
        rest, _ = voices.continue_from(state, torch.tensor([ids[4:]]))
    for place in range(len(ids)):
        expected, _ = by_definition(NETS[:2], voices.mix, ids[:place + 1])
        np.testing.assert_allclose(found[place].numpy(), expected, atol=2e-4)
    torch.testing.assert_close(rest[0].log_softmax(-1), found[4:], atol=1e-4, rtol=0)


# --- Models ---

TOKENIZER = TOKENIZERS["folio"] if "folio" in TOKENIZERS else next(iter(TOKENIZERS.values()))


def model(seed, name, tokenizer=TOKENIZER, **changes):
    torch.manual_seed(seed)
    params = ModelParams(vocab_size=tokenizer.vocab_size, block_size=32, emb_len=16, num_layers=1, num_heads=2)
    net = build_network(replace(params, **changes)).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.normal_(std=0.5)
    opening = [tokenizer.end_of_text] if tokenizer.end_of_text is not None else [0]
    return LanguageModel(name, net, tokenizer, opening, 0, None)


@pytest.fixture(scope="module")
def night():
    return model(1, "night")


@pytest.fixture(scope="module")
def letters():
    return model(2, "letters", block_size=48)


SETTINGS = [dict(sampling_seed=1), dict(sampling_seed=2, temperature=0.0, stop=["e", "zz"]), dict(beams=2),
            dict(sampling_seed=3, repetition_penalty=1.3, top_k=20), dict(sampling_seed=1, precision="int8")]


@pytest.mark.parametrize("how", SETTINGS, ids=lambda how: "-".join(how))
@pytest.mark.parametrize("prompt", ["The fox fi", "", "it's  "])
def test_with_all_or_nothing_of_another_model_the_text_is_one_model_s(night, letters, how, prompt):
    mixed = night.mixed_with({"letters": letters})
    assert mixed.complete(prompt, tokens=40, **how) == night.complete(prompt, tokens=40, **how)
    other = mixed.with_shares({"letters": 1})
    assert other.complete(prompt, tokens=40, **how) == letters.complete(prompt, tokens=40, **how)
    assert {name for *_, name in other.voiced_each([prompt], tokens=40, **how)} <= {"letters"}


@pytest.mark.parametrize("how", SETTINGS, ids=lambda how: "-".join(how))
@pytest.mark.parametrize("blend", BLENDS)
def test_voices_are_told_of_the_same_text(night, letters, how, blend):
    mixed = night.mixed_with({"letters": letters}, {"letters": 0.5}, blend)
    parts = list(mixed.voiced_each(["The fox fi"], tokens=40, **how))
    assert "".join(text for _, text, _ in parts) == mixed.complete("The fox fi", tokens=40, **how)
    assert {name for *_, name in parts} <= {"night", "letters"} == set(mixed.voices)
    if not how.keys() & {"stop", "beams"}:
        assert {name for *_, name in parts} == {"night", "letters"}
    assert {name for *_, name in night.voiced_each(["The fox fi"], tokens=5, **how)} <= {None}


def test_shares_change_the_text_and_what_is_measured(night, letters):
    mixed = night.mixed_with({"letters": letters}, {"letters": 0.5})
    texts = [mixed.with_shares({"letters": share}).complete("The", tokens=30, seed=1) for share in (0, 0.5, 1)]
    assert len(set(texts)) == 3
    found = mixed.bits_per_byte("The fox finds")
    single = [night.bits_per_byte("The fox finds"), letters.bits_per_byte("The fox finds")]
    assert found < max(single) and found <= min(single) + 8 / 13 + 0.1     # halving costs a bit per token at most
    listed = mixed.next_token_probabilities("The fox")
    assert math.fsum(probability for _, probability in listed) == pytest.approx(1, abs=1e-6)


def test_chat_models_answer_together(night, letters):
    tokenizer = taught(TOKENIZER)
    chats = [replace(model(seed, name, tokenizer), chat=ChatTemplate(tokenizer))
             for seed, name in ((1, "night"), (2, "letters"))]
    mixed = chats[0].mixed_with({"letters": chats[1]}, {"letters": 0.4})
    question = [Message(USER, "The fox?")]
    assert "".join(mixed.reply(question, tokens=10, seed=1))
    assert "".join(mixed.with_shares({}).reply(question, tokens=10, seed=1)) == \
        "".join(chats[0].reply(question, tokens=10, seed=1))
    same_tokenizer = replace(chats[1], chat=None)
    with pytest.raises(FolioError, match="one was taught to chat and the other not"):
        chats[0].mixed_with({"letters": same_tokenizer})


def test_what_cannot_be_mixed_is_refused_in_a_sentence(night, letters):
    other = CharTokenizer("abc")
    for others, shares, sentence in [
            ({"letters": letters}, {"letters": 1.2}, "The share of letters is 1.2, and shares are numbers from 0 to 1"),
            ({"letters": letters}, {"letters": -1}, "from 0 to 1"),
            ({"letters": letters}, {"letters": float("nan")}, "from 0 to 1"),
            ({"letters": letters, "sea": model(3, "sea")}, {"letters": 0.7, "sea": 0.6}, "sum to 1.3, above 1"),
            ({"letters": letters}, {"leters": 0.3}, "no leters in this mixture.*letters"),
            ({"letters": letters}, {"night": 0.3}, "night is the model that the others are mixed into"),
            ({"letters": model(3, "x", other)}, {"letters": 0.3}, "night and letters have different tokenizers"),
            ({"night": letters}, {}, "night would be mixed with itself"),
            ({"copy": night}, {}, "copy would be mixed with itself"),
            ({"letters": letters.mixed_with({"night": night})}, {}, "A mixture cannot be mixed again")]:
        with pytest.raises(FolioError, match=sentence):
            night.mixed_with(others, shares)
    with pytest.raises(FolioError, match="blend=words is not one of probabilities, logits"):
        night.mixed_with({"letters": letters}, {}, "words")
    with pytest.raises(FolioError, match="night is a single model"):
        night.with_shares({"letters": 0.1})
    assert Mix.of(NAMES, {"letters": 0.7, "sea": 0.3}).shares == (0.0, 0.7, 0.3)


# --- The engine ---

@pytest.fixture
def engine(night, letters):
    made = Engine(night.mixed_with({"letters": letters}, {"letters": 0.5}))
    yield made
    made.close()


def test_requests_with_mixes_of_their_own_are_written_in_one_batch(engine, night, letters):
    params = GenerationParams(tokens=60, temperature=1.0, sampling_seed=4)          # windows restart
    mixes = [None, Mix((0.9, 0.1)), Mix((0.1, 0.9), LOGITS), Mix((1.0, 0.0)), Mix((0.0, 1.0))]
    alone = [Asked(engine, ("The fox fi",), params, mix=mix, logprobs=2).wait() for mix in mixes]
    together = [Asked(engine, ("The fox fi",), params, mix=mix, logprobs=2) for mix in mixes]
    assert [asked.texts for asked in together] == [asked.texts for asked in alone]
    assert [asked.tokens for asked in together] == [asked.tokens for asked in alone]
    for asked, single in ((alone[3], night), (alone[4], letters)):
        other = Engine(single)
        assert asked.texts == Asked(other, ("The fox fi",), params).texts
        other.close()
    voices = [{token.voice for token in asked.tokens[0]} for asked in alone]
    assert voices[0] == {0, 1} and voices[3] == {0} and voices[4] == {1}
    assert max(engine.stats.rows[2:]) > 0


def test_a_repeated_prompt_is_scored_by_the_request_s_mix(engine, night, letters):
    asked = Asked(engine, ([5, 6, 7],), GenerationParams(tokens=0), echo=True, logprobs=0, mix=Mix((0.2, 0.8)))
    expected, _ = by_definition([night.net, letters.net], Mix((0.2, 0.8)), [5, 6])
    assert asked.tokens[0][2].logprob == pytest.approx(expected[7], abs=1e-4)


def test_a_mix_without_a_mixture_or_of_another_size_is_refused(engine, night):
    with pytest.raises(FolioError, match="The mix has 3 shares, and this model has 2 parts"):
        engine.submit(Request(prompts=["a"], deliver=print, mix=Mix((0.5, 0.3, 0.2))))
    single = Engine(night)
    with pytest.raises(FolioError, match="The mix has 2 shares, and this model has 1 part"):
        single.submit(Request(prompts=["a"], deliver=print, mix=Mix((0.5, 0.5))))
    single.close()
