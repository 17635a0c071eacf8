"""Token healing: a prompt may end anywhere; the next piece is drawn from the model's distribution after its bytes."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import folio
from conftest import ROOT
from folio.generation.decoder import Decoder, Generation
from folio.generation.healing import MOST_TAKEN_BACK, Healer, continuations
from folio.generation.language_model import LanguageModel
from folio.kernels.splitting import SPLIT_PATTERNS
from folio.networks.build import build_network
from Model_Params import GenerationParams, ModelParams
from tokenizer import BPETokenizer, CharTokenizer

# with tokens of white space that begin with a newline
TEXT = ("The fox finds the owl's finding. It's   all\n\n  \n    well: they'll  find -- what?!\n\n\n'Fine,' he said..."
        "\t\t42 times 123, 1234 or 12345\r\n\r\nÉté é世界世界 🎭 fi fin find a  b   c    d \n e  \n\n f"
        + 9 * "a\n \nb\n  \n") * 5
TOKENIZERS = {pattern: BPETokenizer.train([TEXT], 400, pattern) for pattern in SPLIT_PATTERNS}
PIECES = [" ", "  ", "\n", "\r\n", "\t", "'", "s", "ll", "é", "世", "🎭", "!", "--", "1", "234", "fi", " find", " The",
          "nding", "\u3000"]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@pytest.fixture(scope="module")
def model():
    return folio.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")


# --- What is taken back ---

def begins_with(ids, cover):
    """Return whether ids begin with a cover's path and one of the tokens that cross the end."""
    length = len(cover.path)
    return tuple(ids[:length]) == cover.path and (cover.tokens is None or ids[length] in cover.tokens)


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
@settings(max_examples=1500)
@given(texts, texts.filter(bool))
def test_the_tokens_of_every_longer_text_can_come(pattern, prompt, more):
    tokenizer = TOKENIZERS[pattern]
    ids, expected = tokenizer.encode(prompt), tokenizer.encode(prompt + more)
    kept, healing = Healer(tokenizer).take_back(prompt, ids)
    assert expected[:len(kept)] == kept
    if healing is None:
        assert kept == ids
        return
    assert tokenizer.decode_bytes(kept) + healing.taken == prompt.encode()
    after = expected[len(kept):]
    matching = [cover for cover in healing.covers if begins_with(after, cover)
                and len(tokenizer.decode_bytes(after[:len(cover.path) + 1])) > len(healing.taken)]
    assert len(matching) == 1                       # and each in one way


@pytest.mark.parametrize("more", ["\n", "x", " x", "\n\n"])
def test_white_space_at_the_end_is_taken_back_as_far_as_it_may_be_one_piece(more):
    tokenizer = TOKENIZERS["qwen2"]
    prompt, expected = "a\n ", tokenizer.encode("a\n " + more)
    assert any(content.startswith(b"\n ") for content in tokenizer.token_bytes)
    kept, healing = Healer(tokenizer).take_back(prompt, tokenizer.encode(prompt))
    assert (tokenizer.decode(kept), healing.taken) == ("a", b"\n ") and expected[:1] == kept
    assert any(begins_with(expected[1:], cover) for cover in healing.covers)


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
@settings(max_examples=300)
@given(texts)
def test_what_comes_adds_to_the_prompt_what_it_is_said_to_add(pattern, prompt):
    tokenizer = TOKENIZERS[pattern]
    _, healing = Healer(tokenizer).take_back(prompt, tokenizer.encode(prompt))
    pieces = [*tokenizer.token_bytes, *(healing.others if healing else ())]
    assert len(set(pieces)) == len(pieces)
    for cover in healing.covers if healing else ():
        for token, number in zip(*((cover.tokens, cover.continuations) if cover.tokens is not None else ([], []))):
            assert tokenizer.decode_bytes([*cover.path, token]) == healing.taken + pieces[number] != healing.taken
            assert token != tokenizer.end_of_text


def test_characters_are_never_taken_back_nor_what_no_token_can_go_on_from():
    tokenizer = CharTokenizer.train([TEXT])
    assert Healer(tokenizer).take_back("The fi", tokenizer.encode("The fi")) == (tokenizer.encode("The fi"), None)
    tokenizer = TOKENIZERS["qwen2"]
    for prompt in ("", "The ☃", "Q"):
        assert Healer(tokenizer).take_back(prompt, tokenizer.encode(prompt)) == (tokenizer.encode(prompt), None)


@pytest.mark.parametrize("prompt", ["find" * 25_000, " " * 100_000, "世界" * 50_000, "-" * 100_000, " \n" * 50_000,
                                    "find " * 20_000])
def test_of_a_long_word_no_more_is_taken_back_than_tokens_can_be_long(prompt, monkeypatch):
    tokenizer, merged = TOKENIZERS["qwen2"], []
    healer, ids, encode = Healer(tokenizer), tokenizer.encode(prompt), tokenizer.encode_pretoken
    monkeypatch.setattr(tokenizer, "encode_pretoken", lambda content: merged.append(len(content)) or encode(content))
    kept, healing = healer.take_back(prompt, ids)
    assert max(merged) <= MOST_TAKEN_BACK and len(merged) <= 2 * MOST_TAKEN_BACK * (MOST_TAKEN_BACK + 1)
    assert tokenizer.decode_bytes(kept) + (healing.taken if healing else b"") == prompt.encode()


# --- What is expected ---

def lively_model(seed=0, **parts):
    """Return a LanguageModel of a few tokens with flat distributions."""
    tokenizer = BPETokenizer.train([TEXT], 300)
    torch.manual_seed(seed)
    parts |= {} if parts.get("family") == "lstm" else {"num_heads": 2}
    params = ModelParams(vocab_size=300, block_size=32, emb_len=16, num_layers=2, **parts)
    net = build_network(params).eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.3 if "embedding" in name else 0.6)
    return LanguageModel("lively", net, tokenizer, [tokenizer.end_of_text], 0, None)


def by_definition(model, prompt):
    """Return {bytes that come next: probability}.

    For each place in the bytes taken back: all tokens that begin with the rest of them and are longer.
    """
    tokenizer = model.tokenizer
    kept, healing = model._healer.take_back(prompt, tokenizer.encode(prompt))
    taken, found = healing.taken if healing else b"", {}
    for place in range(len(taken) + 1):
        paths = {tuple(tokenizer.encode_pretoken(taken[:place]))}
        if taken.isascii():
            paths.add(tuple(tokenizer.encode_bytes(taken[:place])))
        if taken.isspace() and place == len(taken):             # the last blank may belong to a word
            paths.add((*tokenizer.encode_bytes(taken[:-1]), taken[-1]))
        for path in paths:
            if tokenizer.decode_bytes(path) != taken[:place]:
                continue
            ids = [*(kept or model.opening), *path]
            likely = model.net(torch.tensor([ids]))[0].double().softmax(-1)
            before = np.prod([likely[len(ids) - len(path) - 1 + step, token].item() for step, token in enumerate(path)])
            for token, content in enumerate(tokenizer.token_bytes):
                rest, is_end = taken[place:], token == tokenizer.end_of_text
                if content.startswith(rest) and content != rest and not (rest and is_end):
                    added = content[len(taken) - place:]
                    found[added] = found.get(added, 0) + before * likely[-1, token].item()
    total = sum(found.values())
    return {added: probability / total for added, probability in found.items()}


PROMPTS = ["The fox fi", "The fox find", "The fo", "f", "The fox ", "The fox", "a  ", "well:\n", "x\n  ", "t", "It's",
           "It'", "é", "12", "世"]


@pytest.mark.parametrize("family", ["folio", "classic", "lstm"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_listed_probabilities_are_those_of_the_definition(prompt, family):
    model = lively_model(family=family)
    expected, found = by_definition(model, prompt), {}
    for piece, probability in model.next_token_probabilities(prompt):
        found[piece] = found.get(piece, 0) + probability
    assert sum(found.values()) == pytest.approx(1)
    read = {}
    for content, probability in expected.items():
        piece = content.decode("utf-8", errors="replace")
        read[piece] = read.get(piece, 0) + probability
    assert {piece for piece, probability in found.items() if probability} == set(read)
    assert all(found[piece] == pytest.approx(probability, rel=2e-3, abs=1e-7) for piece, probability in read.items())


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_first_piece_is_drawn_from_the_listed_probabilities(prompt, monkeypatch):
    model, chances = lively_model(), np.linspace(0, 1, 400, endpoint=False) + 1 / 800
    draws = iter(chances.tolist())
    listed = model.next_token_probabilities(prompt)
    params = GenerationParams(tokens=1, temperature=1.0, sampling_seed=1).resolved()
    asked = [model.after(prompt, params, number) for number in range(400)]
    generation = Generation(model.net, asked)
    for row in generation._joining:
        row.random = SimpleNamespace(random=draws.__next__)
    said = [[] for _ in asked]
    for key, token in generation.step():
        said[key].append(token)
    known = len(asked[0].healing.taken) if asked[0].healing else 0
    drawn = [model.tokenizer.decode_bytes(tokens)[known:].decode("utf-8", errors="replace") or "<|endoftext|>"
             for tokens in said]
    for piece in {piece for piece, _ in listed}:
        probabilities = [probability for other, probability in listed if other == piece]
        # as near as 400 even draws can be
        assert abs(drawn.count(piece) / 400 - sum(probabilities)) <= len(probabilities) / 400 + 1e-9


def test_the_likeliest_first_piece_begins_what_temperature_0_and_one_beam_say():
    model = lively_model(3)
    for prompt in PROMPTS:
        piece = model.next_token_probabilities(prompt)[0][0]
        for how in (dict(temperature=0.0), dict(beams=1)):
            said = model.complete(prompt, tokens=1, **how)
            assert said.rstrip("\ufffd") == piece.rstrip("\ufffd") or piece == "<|endoftext|>" and said == ""


def test_beams_score_a_first_piece_as_it_is_listed():
    model = lively_model(5)
    listed = model.next_token_probabilities("The fox fi")
    said = model.complete_each(["The fox fi"] * 5, tokens=1, beams=5)
    # half a character is nothing
    assert [text.rstrip("\ufffd") for text in said] == [piece.rstrip("\ufffd") for piece, _ in listed[:5]]


@pytest.mark.parametrize("serves", ["numpy", "torch"])
def test_prompts_of_all_kinds_are_healed_together_as_each_alone(serves, monkeypatch):
    model = lively_model(1)
    if serves == "torch":
        monkeypatch.setattr("folio.generation.decoder.in_numpy", lambda net, precision: None)
    asked = [{"prompt": prompt, "stream": number, "tokens": number % 4, "repetition_penalty": [1.0, 1.2][number % 2]}
             for number, prompt in enumerate(PROMPTS * 2)]
    assert model.complete_each(asked, sampling_seed=1) == [model.complete(**prompt, sampling_seed=1)
                                                           for prompt in asked]


def test_only_new_text_counts_as_tokens():
    model = lively_model(2)
    for prompt, count in itertools.product(PROMPTS, (0, 1, 2, 5)):
        sequence = model.after(prompt, GenerationParams(tokens=count, temperature=1.0, sampling_seed=count).resolved())
        said, generation = [], Generation(model.net, [replace(sequence, ends=())])
        while generation.running:
            said += [token for _, token in generation.step()]
        known = len(sequence.healing.taken) if sequence.healing else 0
        new = [end for end in np.cumsum([len(model.tokenizer.token_bytes[token]) for token in said]) if end > known]
        assert len(new) == count


def test_a_stop_text_counts_from_the_end_of_the_prompt_on(model):
    for prompt, how in itertools.product(("MERRAN:\nI hav", "Take you"), (dict(sampling_seed=1), dict(beams=2))):
        whole = model.complete(prompt, tokens=20, **how)
        stop = prompt[-1] + whole[:1]                   # half of it in the prompt: is none
        if stop not in whole:
            assert model.complete(prompt, tokens=20, stop=stop, **how) == whole
        assert model.complete(prompt, tokens=20, stop=whole[:2], **how) == ""


def test_penalties_do_not_reach_the_tokens_of_the_prompt_and_rule_out_no_whole_continuation():
    model = lively_model(4)
    sequence = model.after("find fi", GenerationParams(no_repeat_ngram=1, sampling_seed=1).resolved())
    found = continuations(Decoder(model.net, [sequence.prompt]), 0, sequence.healing, sequence.settings)
    assert np.exp(found.logits).sum() == pytest.approx(1)
    said = {number: found.tokens(number) for number in np.flatnonzero(np.isfinite(found.logits))}
    assert said and all(tokens[-1] not in [*sequence.prompt, *tokens[:-1]] for tokens in said.values())
    every = np.arange(300)
    all_said = [*every.tolist(), *model.tokenizer.encode(" fin")]
    decoder = Decoder(model.net, [all_said])
    let_off = continuations(decoder, 0, sequence.healing, sequence.settings)
    assert np.isfinite(let_off.logits).any() and np.exp(let_off.logits).sum() == pytest.approx(1)


def test_a_decoder_stays_as_it_is_when_it_has_branched():
    model = lively_model()
    decoder, alone = Decoder(model.net, [[1, 2, 3], [4, 5]]), Decoder(model.net, [[1, 2, 3], [4, 5]])
    branch = decoder.branch([1, 1, 0])
    branch.read([[7], [8, 9], [10]])
    np.testing.assert_allclose(branch.logits[1], Decoder(model.net, [[4, 5, 8, 9]]).logits[0], atol=1e-5)
    assert decoder.tokens == [[1, 2, 3], [4, 5]]
    np.testing.assert_array_equal(decoder.read([[6], [6]]), alone.read([[6], [6]]))


# --- What it is for ---

def learned(texts, steps=300):
    """Return a LanguageModel that has memorized the texts, in the tokens that the tokenizer gives them."""
    tokenizer = BPETokenizer.train(texts * 50, 320)
    torch.manual_seed(0)
    net = build_network(ModelParams(vocab_size=tokenizer.vocab_size, block_size=32, emb_len=48, num_layers=2,
                                    num_heads=2, dropout=0.0))
    end = tokenizer.end_of_text
    sequences = [torch.tensor([end, *tokenizer.encode(text), end]) for text in texts]
    batch = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=-1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(steps):
        logits = net(batch[:, :-1].clamp(min=0)).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LanguageModel("learned", net.eval().requires_grad_(False), tokenizer, [tokenizer.end_of_text], steps, None)


def test_every_prefix_of_a_text_that_was_learned_goes_on_with_its_rest():
    texts = ["The fox finds an owl.", "My owl sleeps under  a tree.\n\n  Then it wakes.",
             "Ein Fuchs überquert die Straße.", "Nobody's cow meets the yak!", "It counts 12 34."]
    model = learned(texts)
    lost = [(text[:place], said) for text in texts for place in range(4, len(text))
            for settings in (dict(temperature=0.0), dict(beams=2))
            if not (said := model.complete(text[:place], tokens=40, **settings)).startswith(text[place:])]
    assert lost == []
