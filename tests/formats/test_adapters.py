"""Adapters as files: beside their base they are models like others; bad ones are refused in a sentence."""

import asyncio
from dataclasses import asdict, replace

import pytest
import torch

import folio
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.chat.template import ChatTemplate, taught
from folio.formats import adapters, checkpoint, run_list, trained_model
from folio.formats.find_weights import find_weights
from folio.networks import lora
from folio.networks.build import build_network
from folio.server.models import Models
from Model_Params import ModelParams
from tokenizer import BPETokenizer

PLAIN = BPETokenizer([], "qwen2", ["<|endoftext|>"])
TAUGHT = taught(PLAIN)
TINY = ModelParams(vocab_size=257, block_size=16, emb_len=8, num_layers=2, num_heads=2)
TOKENS = torch.tensor([[72, 258, 104, 257, 5, 256]])


def values_of(name, params, **others):
    return {"name": name, "params": asdict(params), "opening": [256], "text": {}, "training": {}, "step": 3,
            "started_from": None, "seconds": 1.0, "torch": str(torch.__version__), "learned_from": None,
            "val_bpb": 1.5, "val_nats_per_byte": 1.0, **others}


def save_base(folder, name="base", seed=0, params=TINY):
    torch.manual_seed(seed)
    net = build_network(params).requires_grad_(False).eval()
    path = folder / f"weights-{name}.pth"
    checkpoint.save(path, values_of(name, net.params, tokenizer=PLAIN.to_dict(), weights=net.state_dict()))
    return net, path


def wider(net, vocab_size):
    """The network with more rows in embedding and head: the mean of those there."""
    result = build_network(replace(net.params, vocab_size=vocab_size)).requires_grad_(False)
    count = vocab_size - net.params.vocab_size
    weights = {name: torch.cat((tensor, tensor.mean(0, keepdim=True).expand(count, -1)))
               if name in ("embedding.weight", "head.weight") else tensor for name, tensor in net.state_dict().items()}
    result.load_state_dict(weights)
    return result


def save_adapter(folder, base, name="tuned", base_name="base", seed=1, own_adapter=None, taught_now=True):
    """Save an adapter on `base` whose numbers are random. -> (adapted network, path)"""
    net = wider(base, TAUGHT.vocab_size) if taught_now else base
    rows = (257, 258) if taught_now else ()
    net = lora.adapted(net, net.params, lora.Adapters(2, 4.0, rows)).eval()
    torch.manual_seed(seed)
    for tensor in lora.trained_weights(net).values():
        tensor.copy_((0.1 * torch.randn(tensor.shape)).half())
    named = {"name": base_name, "fingerprint": adapters.fingerprint(base.state_dict(), own_adapter)}
    entry = adapters.entry(net, TAUGHT.special_tokens[1:] if taught_now else [], named)
    path = folder / f"weights-{name}.pth"
    checkpoint.save(path, values_of(name, net.params, adapter=entry, chat=ChatTemplate(TAUGHT).to_dict()))
    return net, path


def changed(path, change):
    """The adapter's file with its `adapter` changed, and a right checksum."""
    contents = checkpoint.load(path)
    change(contents["adapter"])
    checkpoint.save(path, contents)
    return path


def refusal(path):
    with pytest.raises(FolioError) as error:
        trained_model.load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("params", [TINY, replace(TINY, tied_head=True),
                                    replace(TINY, family="classic", biases="gpt2")], ids=["folio", "tied", "classic"])
def test_an_adapter_beside_its_base_is_a_model_with_the_merged_weights(tmp_path, params):
    base, _ = save_base(tmp_path, params=params)
    net, path = save_adapter(tmp_path, base)
    model = trained_model.load(path)
    torch.testing.assert_close(model.net(TOKENS), net(TOKENS), atol=1e-6, rtol=1e-5)
    assert model.tokenizer.to_dict() == TAUGHT.to_dict() and model.chat.end_id == 258
    assert folio.load(path).complete("a", tokens=3, temperature=0) is not None


def test_several_adapters_on_one_base_are_told_apart_by_name(tmp_path):
    home = Home(tmp_path)
    home.saved_weights.mkdir(parents=True)
    base, _ = save_base(home.saved_weights)
    for seed, name in enumerate(("poet", "clerk"), 1):
        save_adapter(home.saved_weights, base, name, seed=seed)
    poet, clerk = (folio.load(find_weights(home, name)) for name in ("poet", "clerk"))
    assert (poet.net(TOKENS) - clerk.net(TOKENS)).abs().max() > 0.01
    models = Models(home, limit=3)
    served = {name: asyncio.run(models.get(name)).model for name in ("base", "poet", "clerk")}
    models.close()
    assert {model["id"] for model in models.names()} == served.keys()
    assert torch.equal(served["clerk"].net(TOKENS), clerk.net(TOKENS))
    runs = {run.name: run for run in run_list.list_runs(home)}
    assert runs.keys() == {"base", "poet", "clerk"} and not runs["poet"].problems
    assert runs["poet"].parameters < runs["base"].parameters


def test_an_adapter_on_an_adapter_merges_both(tmp_path):
    base, _ = save_base(tmp_path)
    _, first = save_adapter(tmp_path, base, "first")
    merged = trained_model.load(first).net
    net, second = save_adapter(tmp_path, merged, "second", "first", seed=7,
                               own_adapter=checkpoint.load(first)["adapter"], taught_now=False)
    torch.testing.assert_close(trained_model.load(second).net(TOKENS), net(TOKENS), atol=1e-6, rtol=1e-5)


def test_adapters_that_are_each_others_base_are_refused(tmp_path):
    base, _ = save_base(tmp_path)
    _, path = save_adapter(tmp_path, base)
    changed(path, lambda adapter: adapter["base"].update(name="tuned"))
    assert "based on each other too often: tuned, tuned" in refusal(path)


def test_a_base_that_is_gone_or_another_is_named(tmp_path):
    base, base_path = save_base(tmp_path)
    _, path = save_adapter(tmp_path, base)
    save_base(tmp_path, seed=5)
    message = refusal(path)
    assert adapters.fingerprint(base.state_dict()) in message and "another model" in message
    base_path.unlink()
    assert "its base, weights-base.pth" in refusal(path) and "Put that file beside it" in refusal(path)


def truncate(adapter):
    adapter["weights"]["blocks.0.mlp.up.a"] = adapter["weights"]["blocks.0.mlp.up.a"][:, :3]


@pytest.mark.parametrize("change, phrase", [
    (truncate, "blocks.0.mlp.up.a has shape (2, 3) where its model has (2, 8)"),
    (lambda adapter: adapter["weights"].pop("blocks.1.attention.key.b"), "no blocks.1.attention.key.b"),
    (lambda adapter: adapter["weights"].update(other=torch.zeros(2)), "its other has shape (2,)"),
    (lambda adapter: adapter["weights"].pop("head.rows"), "no head.rows"),
    (lambda adapter: adapter.update(rows=[0, 1]), "no row for its token 257"),
    (lambda adapter: adapter.update(rows=[257, 10**6]), "rows are no tokens"),
    (lambda adapter: adapter.update(rank=0), "rank 0"),
    (lambda adapter: adapter.update(alpha=float("nan")), "alpha nan"),
    (lambda adapter: adapter.update(special_tokens=[]), "259 tokens, its tokenizer 257"),
    (lambda adapter: adapter.update(base={"name": "../base", "fingerprint": "0" * 16}), "does not name its base"),
    (lambda adapter: adapter.pop("base"), "KeyError at 'base'"),
    (lambda adapter: adapter.pop("weights"), "KeyError at 'weights'")])
def test_an_adapter_that_does_not_fit_is_refused_with_what_is_wrong(tmp_path, change, phrase):
    base, _ = save_base(tmp_path)
    _, path = save_adapter(tmp_path, base)
    assert phrase in refusal(changed(path, change))


def test_an_adapter_of_a_model_of_another_shape_is_refused(tmp_path):
    base, _ = save_base(tmp_path)
    _, path = save_adapter(tmp_path, base)
    contents = checkpoint.load(path)
    contents["params"]["hidden_len"] = 64
    checkpoint.save(path, contents)
    assert "its hidden_len is 64, its base's 32" in refusal(path)


def test_a_base_that_an_older_version_wrote_lacks_newer_fields(tmp_path):
    base, base_path = save_base(tmp_path)
    _, path = save_adapter(tmp_path, base)
    contents = checkpoint.load(base_path)
    for name in ("norm_eps", "rope_base"):
        del contents["params"][name]
    checkpoint.save(base_path, contents)
    assert trained_model.load(path).net.params.norm_eps == base.params.norm_eps


def test_matrices_without_an_adapter_stay_the_bases(tmp_path):
    base, _ = save_base(tmp_path)
    _, path = save_adapter(tmp_path, base)
    changed(path, lambda adapter: [adapter["weights"].pop(f"blocks.0.mlp.up.{half}") for half in "ab"])
    net = trained_model.load(path).net
    assert torch.equal(net.blocks[0].mlp.up.weight, base.blocks[0].mlp.up.weight)
    assert not torch.equal(net.blocks[1].mlp.up.weight, base.blocks[1].mlp.up.weight)


def test_numbers_beyond_float16_stay_in_float32(tmp_path):
    base, _ = save_base(tmp_path)
    net = lora.adapted(base, base.params, lora.Adapters(2, 4.0))
    lora.trained_weights(net)["blocks.0.mlp.up.b"].fill_(1e6)
    weights = adapters.entry(net, [], {})["weights"]
    assert weights["blocks.0.mlp.up.b"].dtype == torch.float32 and weights["blocks.0.mlp.up.a"].dtype == torch.float16
