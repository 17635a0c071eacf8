"""The two figures that teach: merges and attention, step by step; and the curve that follows a run."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folio.networks.attention_weights import attention_steps, attention_weights
from folio.networks.build import build_network
from Model_Params import ModelParams
from tokenizer import BPETokenizer

pytest.importorskip("matplotlib")
from folio.pictures.attention_steps import attention_steps_figure, softmax_of_the_past  # noqa: E402
from folio.pictures.merges import merge_steps, merges_figure  # noqa: E402

TEXT = "the thin thing that the other brother gathers, then rather these\n" * 20


@given(st.text("thenogar ", max_size=20))
@settings(max_examples=60, deadline=None)
def test_the_steps_end_with_the_tokenizers_own_tokens_and_never_change_the_text(text):
    bpe, content = BPETokenizer.train([TEXT], 300), text.encode()
    steps = merge_steps(bpe.merges, content)
    assert all(b"".join(pieces) == content for pieces, _ in steps)
    assert [bpe.token_bytes[token] for token in bpe.encode_pretoken(content)] == steps[-1][0]
    assert [merge for _, merge in steps[:-1]] == sorted({merge for _, merge in steps[:-1]}) and steps[-1][1] is None


def test_the_figure_of_merges_names_each_merge():
    bpe = BPETokenizer.train([TEXT], 280)
    texts = [text.get_text() for text in merges_figure("tiny", bpe.merges, b" thing").texts]
    steps = merge_steps(bpe.merges, b" thing")
    assert [text for text in texts if text.startswith("merge ")] == [
        f"merge {merge + 1} of {len(bpe.merges)}" for _, merge in steps[:-1]]
    assert len(steps) > 2


@pytest.mark.parametrize("parts", [{}, {"num_kv_heads": 1}, {"family": "classic"}])
def test_the_steps_of_a_head_are_those_of_the_network(parts):
    torch.manual_seed(0)
    params = ModelParams(vocab_size=30, emb_len=16, num_layers=2, num_heads=2, block_size=8, **parts)
    net = build_network(params.resolved())
    tokens = torch.arange(7)
    weights, captured = attention_weights(net.eval(), tokens), {}
    hook = net.blocks[1].attention.output.register_forward_pre_hook(lambda module, inputs: captured.update(x=inputs[0]))
    net(tokens[None])
    hook.remove()
    for head in range(2):
        scores, values = attention_steps(net, tokens, 1, head)
        own = softmax_of_the_past(scores)
        np.testing.assert_allclose(own, weights[1, head], atol=1e-6)
        expected = captured["x"][0].detach().unflatten(-1, (2, -1))[:, head].numpy()        # what the head hands on
        np.testing.assert_allclose(own @ values, expected, atol=1e-5)
    figure = attention_steps_figure("tiny", list("abcdefg"), scores, values)
    assert [axis.get_label() for axis in figure.axes] == ["scores", "masked", "weights", "values", "mixture"]


def test_the_curve_follows_the_reports_of_a_run(monkeypatch):
    pytest.importorskip("IPython")
    from folio.pictures.live import LiveCurve
    shown = []

    class Handle:
        def update(self, content):
            shown.append(content)
    monkeypatch.setattr("IPython.display.display", lambda content, display_id: Handle())
    curve = LiveCurve("a < b", minutes=1.0)
    report = {"step": 1, "seconds": 15.0, "tokens": 64, "train_loss": 3.0, "train_nats_per_byte": 2.0,
              "learning_rate": 0.1}
    curve.append(report)
    assert curve.share == 0.25 and "a &lt; b: step 1, 15 s" in shown[-1].data and 'value="0.250"' in shown[-1].data
    curve.append(report | {"step": 2, "total_steps": 4, "val_nats_per_byte": 2.5, "val_bpb": 3.6})
    assert curve.share == 0.5
    curve.close()
    assert shown[-1].data.startswith(b"\x89PNG")
    unknown = LiveCurve("endless")
    unknown.replace([report])
    assert unknown.share is None
