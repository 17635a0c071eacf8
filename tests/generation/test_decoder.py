"""Batches of sequences: what each says is what it says alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from folio.generation import decoder
from folio.generation.beam import beam_search
from folio.generation.decoder import Decoder, Generation, Sequence, window_start
from folio.generation.healing import Cover, Healing
from folio.generation.numpy_decoder import in_numpy
from folio.networks.build import build_network
from Model_Params import GenerationParams, ModelParams

TINY = ModelParams(vocab_size=40, block_size=8, emb_len=16, num_layers=2, num_heads=2)
WILD = GenerationParams(tokens=30, temperature=2.0, sampling_seed=1).resolved()


def lively(params):
    """Return a network whose answers depend strongly on what it has read."""
    torch.manual_seed(1)
    net = build_network(params).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3 if "embedding" in name else 1.0)
    return net


@pytest.fixture(scope="module", params=["folio", "classic"])
def net(request):
    return lively(replace(TINY, family=request.param))


def beginning_with(*ids):
    """Return a Healing after which a sequence has to begin with one of these ids."""
    return Healing(b"", (Cover((), np.array(ids), np.array(ids)),))


def company():
    """Yield Sequences of all kinds: lengths, settings, seeds, ends, some alike."""
    random = np.random.default_rng(3)
    for number, length in enumerate([1, 3, 3, 8, 9, 20, 3, 1]):
        prompt = random.integers(40, size=length).tolist()
        settings = replace(WILD, sampling_seed=number // 2, tokens=int(random.integers(0, 60)),
                           temperature=[2.0, 0.0, 1.0][number % 3], top_k=[None, 5][number % 2],
                           repetition_penalty=[1.0, 1.3][number // 4])
        yield Sequence(prompt, settings, number, (int(random.integers(40)),))
        yield Sequence(prompt, WILD, number, healing=beginning_with(7, 9))


def said_by(net, sequences):
    generation, said = Generation(net, sequences), [[] for _ in sequences]
    while generation.running:
        for key, token in generation.step():
            said[key].append(token)
    return said


def test_a_sequence_says_the_same_alone_and_in_any_company(net):
    sequences = list(company())
    alone = [said_by(net, [sequence])[0] for sequence in sequences]
    assert said_by(net, sequences) == alone
    assert said_by(net, sequences[::-1]) == alone[::-1]
    assert said_by(net, sequences[3:9] * 2) == alone[3:9] * 2
    assert len({len(each) for each in alone}) > 5 and all(each[0] in (7, 9) for each in alone[1::2])


def test_where_the_device_chooses_tokens_it_chooses_the_same(net, monkeypatch):
    sequences = list(company())
    monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: None)
    expected = said_by(net, sequences)
    monkeypatch.setattr(decoder, "CHOOSES", ("cpu",))           # as CUDA does
    assert isinstance(Decoder(net, [[1]]).logits, torch.Tensor)
    assert said_by(net, sequences) == expected
    settings = replace(WILD, temperature=None, tokens=5, beams=3)
    assert beam_search(net, Sequence([3], settings, healing=beginning_with(7, 9)))[0].tokens[0] in (7, 9)


@pytest.mark.parametrize("serves", ["numpy", "torch"])
def test_sequences_are_computed_together_and_those_that_have_ended_no_more(net, serves, monkeypatch):
    steps, prompts, step, advance = [], [], Decoder._step, Decoder._advance
    serve = in_numpy(net) if serves == "numpy" else None
    monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: serve)
    monkeypatch.setattr(Decoder, "_step", lambda self, last: steps.append(len(last)) or step(self, last))

    def recorded(self, state, pieces):
        prompts.append((len(pieces), len(pieces[0])))
        return advance(self, state, pieces)
    monkeypatch.setattr(Decoder, "_advance", recorded)
    asked = [([1, 2, 3], 2), ([1, 2, 3], 4), ([5, 6, 7], 4), ([1, 2, 3], 0), ([4] * 5, 3)]
    said_by(net, [Sequence(prompt, replace(WILD, tokens=tokens), number)
                  for number, (prompt, tokens) in enumerate(asked)])
    assert prompts == [(2, 2), (1, 4)] and steps == [4, 4, 3, 2]        # a prompt that two have in common is read once


@pytest.mark.parametrize("serves", ["numpy", "torch"])
def test_whatever_lengths_they_have_sequences_are_read_as_each_alone(net, serves, monkeypatch):
    if serves == "torch":
        monkeypatch.setattr(decoder, "in_numpy", lambda net, precision: None)
    random = np.random.default_rng(0)
    together = Decoder(net, [random.integers(40, size=length).tolist() for length in (1, 5, 8, 9, 30)])
    for turn in range(60):
        if turn == 20:
            together.select([4, 1, 0])          # some leave, others take their places
        if turn == 40:
            together.select([2, 0, 0, 1, 2])
        pieces = [random.integers(40, size=random.integers(1, 3 if turn % 5 else 12)).tolist() for _ in together.tokens]
        together.read(pieces)
        for tokens, logits in zip(together.tokens, together.logits):
            with torch.inference_mode():
                expected = net(torch.tensor([tokens[window_start(len(tokens), 8):]]))[0, -1].log_softmax(-1)
            torch.testing.assert_close(torch.as_tensor(logits).log_softmax(-1), expected, rtol=0, atol=1e-4)


def test_torch_reads_a_window_that_restarts_beside_others_by_one_thread_and_all_windows_at_once_by_all(
        net, monkeypatch):
    threads, advance = [], net.advance
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.append(count))

    def recorded(state, tokens):
        if tokens.shape[1] > 1:
            threads.append("reads")
        return advance(state, tokens)
    monkeypatch.setattr(net, "advance", recorded)
    for prompts, expected in (([[1, 2], [1, 2, 3]], [1, "reads", 5] * 2), ([[1, 2, 3], [4, 5, 6]], ["reads"])):
        both = Decoder(net, prompts, precision="int8")
        threads.clear()
        for _ in range(7 if len(prompts[0]) == 2 else 6):
            both.read([[7], [8]])
        assert threads == expected


def test_a_sequence_can_be_stopped_from_outside(net):
    sequences = [Sequence([1, 2], WILD, number) for number in range(3)]
    whole, generation, said = said_by(net, sequences), Generation(net, sequences), [[], [], []]
    generation.remove(2)
    while generation.running:
        for key, token in generation.step():
            said[key].append(token)
            if key == 0 and len(said[0]) == 5:
                generation.remove(0)
    assert said == [whole[0][:5], whole[1], []]
