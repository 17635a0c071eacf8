"""Model.py: its equations are Qwen3's and GPT-2's, it is causal, and its KV cache changes no result."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import Model
from folio.base.errors import FolioError
from folio.kernels import attention
from folio.kernels.cache import NO_CACHE, Span
from folio.networks.build import build_network, count_parameters, in_type, outline
from Model_Params import ModelParams

TINY = ModelParams(vocab_size=50, block_size=16, emb_len=24, num_layers=2, num_heads=4, dropout=0.0)
CLASSIC = replace(TINY, family="classic")
PARTS = {"norm": ("rms", "layer"), "positions": ("rotary", "learned"), "mlp": ("swiglu", "relu", "gelu"),
         "query_key_norm": (False, True), "biases": ("none", "lecture", "gpt2"), "tied_head": (False, True)}
COMBINATIONS = [dict(zip(PARTS, values)) for values in itertools.product(*PARTS.values())]
COMBINATIONS += [{"positions": "none"}, {"positions": "none", "norm": "layer"}, {"mlp": "relu2"},
                 {"mlp": "relu2", "biases": "gpt2"}]


def network(params, seed=0):
    """Return a network with random weights far from their start, so that every part has an effect."""
    torch.manual_seed(seed)
    net = build_network(params).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
            if parameter.ndim == 1:
                parameter += 1
    return net


def some_tokens(params, *shape, seed=0):
    return torch.randint(params.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def in_chunks(net, tokens, lengths):
    """Return the logits of continue_from, given pieces of these lengths."""
    state, logits = net.empty_state(len(tokens)), []
    for piece in tokens.split(lengths, dim=1):
        found, state = net.continue_from(state, piece)
        logits.append(found)
    return torch.cat(logits, dim=1)


# --- Size ---

@pytest.mark.parametrize("shape, parameters", [
    (dict(num_layers=6, num_heads=6, emb_len=384, block_size=256), 10_788_929),
    (dict(num_layers=4, num_heads=4, emb_len=64, block_size=32), 209_729),
])
def test_the_models_of_the_lectures_have_exactly_their_parameters(shape, parameters):
    assert count_parameters(build_network(ModelParams(vocab_size=65, family="classic", **shape))) == parameters


def test_a_tied_head_costs_no_parameters():
    tied = build_network(replace(TINY, tied_head=True))
    assert tied.head.weight is tied.embedding.weight
    assert count_parameters(build_network(TINY)) - count_parameters(tied) == TINY.vocab_size * TINY.emb_len


@pytest.mark.parametrize("params, expected", [
    (dict(biases="none", norm="layer"), set()),
    (dict(biases="lecture"), {"output", "gate", "up", "down", "head"}),
    (dict(biases="lecture", tied_head=True), {"output", "gate", "up", "down"}),
    (dict(biases="gpt2"), {"query", "key", "value", "output", "gate", "up", "down"}),
    (dict(biases="lecture", norm="layer", mlp="relu"),
     {"output", "up", "down", "head", "norm", "attention_norm", "mlp_norm", "query_norm", "key_norm"}),
], ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_the_named_biases_are_on_exactly_these_parts(params, expected):
    net = build_network(replace(TINY, **params))
    assert {name.split(".")[-2] for name, _ in net.named_parameters() if name.endswith(".bias")} == expected


# --- The equations are those of the models the families are named after ---

QWEN3_NAMES = {"embedding.": "model.embed_tokens.", "head.": "lm_head.", "norm.": "model.norm.",
               "blocks.": "model.layers.",
               ".attention.query.": ".self_attn.q_proj.", ".attention.key.": ".self_attn.k_proj.",
               ".attention.value.": ".self_attn.v_proj.",
               ".attention.output.": ".self_attn.o_proj.", ".attention.query_norm.": ".self_attn.q_norm.",
               ".attention.key_norm.": ".self_attn.k_norm.", ".attention_norm.": ".input_layernorm.",
               ".mlp_norm.": ".post_attention_layernorm.", ".mlp.gate.": ".mlp.gate_proj.", ".mlp.up.": ".mlp.up_proj.",
               ".mlp.down.": ".mlp.down_proj."}
GPT2_NAMES = {"embedding.": "transformer.wte.", "positions.table.": "transformer.wpe.", "head.": "lm_head.",
              "norm.": "transformer.ln_f.", "blocks.": "transformer.h.", ".attention.output.": ".attn.c_proj.",
              ".attention_norm.": ".ln_1.", ".mlp_norm.": ".ln_2.",
              ".mlp.up.": ".mlp.c_fc.", ".mlp.down.": ".mlp.c_proj."}


def renamed(name, names):
    """Translate a parameter's name: parts that begin with a dot anywhere, others at the beginning."""
    for ours, theirs in names.items():
        if ours[0] == ".":
            name = name.replace(ours, theirs)
        elif name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    return name


def largest_difference(net, oracle, params):
    tokens = some_tokens(params, 3, params.block_size)
    with torch.no_grad():
        ours, theirs = net(tokens), oracle(tokens).logits
    assert theirs.std() > 0.1           # an oracle that says nothing would agree with anything
    return (ours - theirs).abs().max().item()


def as_qwen3(net, **more):
    """Return the same network as Hugging Face implements it."""
    transformers = pytest.importorskip("transformers")
    params = net.params
    oracle = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(
        vocab_size=params.vocab_size, hidden_size=params.emb_len, intermediate_size=params.hidden_len,
        num_hidden_layers=params.num_layers, num_attention_heads=params.num_heads,
        num_key_value_heads=params.num_kv_heads, head_dim=params.head_len,
        max_position_embeddings=params.block_size, rms_norm_eps=params.norm_eps, tie_word_embeddings=params.tied_head,
        attention_bias=False, rope_parameters={"rope_type": "default", "rope_theta": params.rope_base},
        attn_implementation="eager", **more)).eval()
    weights = {renamed(name, QWEN3_NAMES): weight for name, weight in net.state_dict().items()}
    oracle.load_state_dict(weights, strict=True)
    return oracle


@pytest.mark.parametrize("shape", [dict(), dict(num_kv_heads=2), dict(num_kv_heads=1, head_len=10),
                                   dict(head_len=14, hidden_len=20), dict(rope_base=500.0, norm_eps=0.1)], ids=str)
@pytest.mark.parametrize("tied_head", [False, True])
def test_the_folio_family_computes_what_qwen3_computes(shape, tied_head):
    net = network(replace(TINY, tied_head=tied_head, **shape))
    assert largest_difference(net, as_qwen3(net), net.params) < 1e-4


def test_the_classic_family_with_gpt2s_biases_computes_what_gpt2_computes():
    transformers = pytest.importorskip("transformers")
    params = replace(CLASSIC, biases="gpt2", tied_head=True, mlp="gelu").resolved()
    net = network(params)
    oracle = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=params.vocab_size, n_positions=params.block_size, n_embd=params.emb_len, n_layer=params.num_layers,
        n_head=params.num_heads, activation_function="gelu_new", attn_implementation="eager")).eval()
    ours = net.state_dict()
    theirs = {}
    for name, weight in ours.items():
        if ".attention.query." in name:         # one matrix in GPT-2
            parts = [ours[name.replace("query", part)] for part in ("query", "key", "value")]
            name, weight = name.replace("attention.query", "attn.c_attn"), torch.cat(parts)
        elif ".attention.key." in name or ".attention.value." in name:
            continue
        name = renamed(name, GPT2_NAMES)
        is_matrix = name.endswith("weight") and (".attn." in name or ".mlp." in name)
        theirs[name] = weight.T if is_matrix else weight            # GPT-2 transposes its matrices
    oracle.load_state_dict(theirs, strict=True)
    assert largest_difference(net, oracle, params) < 1e-4


# --- What holds for every network ---

@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "-".join(map(str, parts.values())))
def test_a_position_never_sees_the_tokens_after_it(parts):
    net = network(replace(TINY, num_layers=1, **parts))
    tokens = some_tokens(TINY, 1, 8)
    changed = tokens.clone()
    changed[0, 5] = (tokens[0, 5] + 1) % TINY.vocab_size
    with torch.no_grad():
        before, after = net(tokens), net(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])                     # the past is untouched
    assert (before[:, 5:] - after[:, 5:]).abs().amax(-1).min() > 1e-4           # the change is seen from there on


@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "-".join(map(str, parts.values())))
def test_a_cached_past_equals_computing_it_anew(parts):
    net = network(replace(TINY, num_layers=2, num_kv_heads=2, **parts))
    tokens = some_tokens(TINY, 2, TINY.block_size)
    with torch.no_grad():
        torch.testing.assert_close(in_chunks(net, tokens, [1, 7, 1, 1, 6]), net(tokens), rtol=1e-4, atol=1e-4)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8).filter(lambda lengths: sum(lengths) <= TINY.block_size),
       st.sampled_from([TINY, CLASSIC, replace(TINY, num_kv_heads=1, head_len=10)]))
def test_the_past_may_come_in_pieces_of_any_lengths(lengths, params):
    net = network(params)
    tokens = some_tokens(params, 2, sum(lengths))
    with torch.no_grad():
        torch.testing.assert_close(in_chunks(net, tokens, lengths), net(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("params", [TINY, CLASSIC], ids=["folio", "classic"])
def test_rows_of_a_state_are_selected_and_repeated_and_the_copies_are_independent(params):
    net, tokens, rows = network(params), some_tokens(params, 3, 9), [2, 0, 2]
    with torch.no_grad():
        state = net.continue_from(net.empty_state(3), tokens[:, :4])[1]
        copies = state.select(rows)
        there = net.continue_from(copies, tokens[:, 4:])[0]                     # each copy with another row's tokens
        torch.testing.assert_close(net.continue_from(state, tokens[:, 4:])[0], net(tokens)[:, 4:], rtol=1e-4, atol=1e-4)
        expected = net(torch.cat((tokens[rows, :4], tokens[:, 4:]), 1))[:, 4:]
        torch.testing.assert_close(there, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("params", [TINY, replace(TINY, num_kv_heads=2), CLASSIC], ids=["folio", "grouped", "classic"])
def test_sequences_of_different_lengths_continue_together_by_any_number_of_tokens(params):
    net, tokens = network(params), some_tokens(params, 3, 12)
    with torch.no_grad():
        state = net.empty_state(4)
        for row, length in enumerate((2, 7, 5)):
            state.put([row], net.continue_from(net.empty_state(1), tokens[row:row + 1, :length])[1])
        state = state.resize(3)
        for seen, time in ((0, 1), (1, 3)):
            piece = torch.stack([tokens[row, length + seen:length + seen + time]
                                 for row, length in enumerate((2, 7, 5))])
            logits, state = net.continue_from(state, piece)
            for row, length in enumerate((2, 7, 5)):
                expected = net(tokens[row:row + 1, :length + seen + time])[0, -time:]
                torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)
        assert state.lengths == [6, 11, 9]


@pytest.mark.parametrize("type", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_a_state_are_moved_all_at_once(type):
    net, tokens = in_type(network(TINY), type), some_tokens(TINY, 3, 9)
    with torch.no_grad():
        state = net.continue_from(net.empty_state(3), tokens[:, :8])[1]
        expected = net.continue_from(state.select([2, 0, 2]), tokens[:, 8:])[0]
        state.move([2, 0], [0, 1])
        torch.testing.assert_close(net.continue_from(state, tokens[:, 8:])[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("params", [TINY, CLASSIC], ids=["folio", "classic"])
def test_a_state_that_is_resized_keeps_its_rows_and_its_memory(params):
    net, tokens = network(params), some_tokens(params, 3, 9)
    with torch.no_grad():
        state = net.continue_from(net.empty_state(2), tokens[:2, :8])[1]
        memory = state.caches[0].keys.data_ptr()
        state = state.resize(1).resize(2)                                       # the second row is empty now
        assert (state.lengths, state.caches[0].keys.data_ptr()) == ([8, 0], memory)
        grown = state.resize(3)
        assert grown.lengths == [8, 0, 0] and grown.caches[0].keys.data_ptr() != memory
        grown.put([1, 2], net.continue_from(net.empty_state(2), tokens[1:, :8])[1])
        torch.testing.assert_close(net.continue_from(grown, tokens[:, 8:])[0], net(tokens)[:, 8:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("params", [TINY, CLASSIC], ids=["folio", "classic"])
def test_what_embeds_tokens_is_apart_from_the_blocks(params):
    net, tokens = network(params), some_tokens(params, 2, 9)
    with torch.no_grad():
        span = Span.of(0, 9)
        x = net.run_blocks(net.embed(tokens), span, [NO_CACHE] * len(net.blocks))
        torch.testing.assert_close(net.predict(x), net(tokens), rtol=0, atol=0)
        torch.testing.assert_close(net.embed(tokens[:, 4:], slice(4, 9)), net.embed(tokens)[:, 4:], rtol=0, atol=0)


@pytest.mark.parametrize("params", [TINY, CLASSIC], ids=["folio", "classic"])
def test_a_full_context_refuses_more(params):
    net = network(params)
    with torch.no_grad():
        state = net.continue_from(net.empty_state(1), some_tokens(params, 1, params.block_size))[1]
        with pytest.raises(ValueError, match="17 tokens do not fit into a context of block_size=16"):
            net.continue_from(state, some_tokens(params, 1, 1))
        with pytest.raises(ValueError, match="17 tokens"):
            net.continue_from(net.empty_state(1), some_tokens(params, 1, 17))


@pytest.mark.parametrize("params", [TINY, replace(TINY, num_kv_heads=2), CLASSIC], ids=["folio", "grouped", "classic"])
def test_the_fused_kernel_for_long_contexts_and_without_a_gradient_computes_the_same(params, monkeypatch):
    net = network(params)
    tokens = some_tokens(params, 2, params.block_size)
    lengths = [5, 3, 1, 7]
    used, kernel = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention",
                        lambda *inputs, **options: used.append(1) or kernel(*inputs, **options))
    plain = net(tokens).detach()
    assert not used
    with torch.no_grad():
        without_gradient, plain_in_chunks = net(tokens), in_chunks(net, tokens, lengths)
        assert len(used) == params.num_layers * (1 + 1)     # the whole context, and the first piece
        used.clear()
        monkeypatch.setattr(attention, "FUSED_ATTENTION_LEN", 2)
        fused_in_chunks = in_chunks(net, tokens, lengths)
    fused = net(tokens).detach()
    assert len(used) == params.num_layers * (1 + 3)         # the whole context, and the three pieces longer than 2
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(without_gradient, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fused_in_chunks, plain_in_chunks, rtol=1e-4, atol=1e-4)


def test_positions_matter():
    for params in (TINY, CLASSIC, replace(TINY, positions="none")):
        net = network(replace(params, num_layers=2))
        with torch.no_grad():
            one_way, other_way = net(torch.tensor([[1, 2, 3, 4]]))[0, -1], net(torch.tensor([[2, 1, 3, 4]]))[0, -1]
        assert not torch.allclose(one_way, other_way, atol=1e-3)


def test_without_positions_one_layer_cannot_tell_the_order_of_what_came_before():
    # Two can: what the first makes of a token depends on those before it.
    net = network(replace(TINY, positions="none", num_layers=1))
    with torch.no_grad():
        torch.testing.assert_close(net(torch.tensor([[1, 2, 3, 4]]))[0, -1], net(torch.tensor([[2, 1, 3, 4]]))[0, -1])


def test_relu2_is_the_square_of_what_is_positive():
    mlp = Model.MLPS["relu2"](replace(TINY, mlp="relu2").resolved())
    assert mlp.up.out_features == 4 * TINY.emb_len          # as many parameters as the other MLP of two matrices
    torch.testing.assert_close(mlp.activation(torch.tensor([-2.0, 0.0, 3.0])), torch.tensor([0.0, 0.0, 9.0]))


def test_rotary_positions_know_distances_and_nothing_else():
    params = replace(TINY, block_size=64).resolved()
    positions = Model.RotaryPositions(params)
    query, key = torch.randn(2, 1, 1, 1, params.head_len, generator=torch.Generator().manual_seed(0))

    def at(place, heads):
        return positions.rotate(heads, slice(place, place + 1))
    products = [(at(start + 5, query) * at(start, key)).sum() for start in (0, 3, 50)]
    torch.testing.assert_close(products[0].expand(3), torch.stack(products), rtol=1e-4, atol=1e-4)
    assert abs(products[0] - (at(4, query) * at(0, key)).sum()) > 1e-3


# --- Training ---

@pytest.mark.parametrize("params", [
    ModelParams(vocab_size=1000), ModelParams(vocab_size=1000, family="classic"),
    ModelParams(vocab_size=1000, num_layers=12, tied_head=True)], ids=["folio", "classic", "deep-tied"])
def test_before_training_every_token_is_about_equally_likely(params):
    torch.manual_seed(1)
    net = build_network(replace(params, block_size=64, emb_len=64)).eval()
    tokens = some_tokens(params, 8, 65)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(1000)) < 0.1


def test_the_branches_start_smaller_the_deeper_the_network_is():
    for layers in (2, 8):
        torch.manual_seed(0)
        net = build_network(replace(CLASSIC, biases="gpt2", emb_len=128, num_layers=layers))
        for name, parameter in net.named_parameters():
            if parameter.ndim == 2:
                ends_branch = name.endswith(("attention.output.weight", "mlp.down.weight"))
                std = 0.02 / math.sqrt(2 * layers) if ends_branch else 0.02
                assert parameter.std().item() == pytest.approx(std, rel=0.1), name
            else:
                assert (parameter == (0 if name.endswith("bias") else 1)).all(), name


@pytest.mark.parametrize("params", [TINY, CLASSIC], ids=["folio", "classic"])
@pytest.mark.parametrize("attention_len", [512, 2], ids=["plain", "fused"])
def test_dropout_happens_in_training_alone(params, attention_len, monkeypatch):
    monkeypatch.setattr(attention, "FUSED_ATTENTION_LEN", attention_len)
    with_dropout, without = network(replace(params, dropout=0.5)), network(params)
    tokens = some_tokens(params, 1, 16)
    torch.testing.assert_close(with_dropout(tokens), without(tokens))
    with_dropout.train()
    assert not torch.allclose(with_dropout(tokens), with_dropout(tokens), atol=1e-2)


@pytest.mark.parametrize("attention_len", [512, 2], ids=["plain", "fused"])
def test_dropout_reaches_the_attention_weights(attention_len, monkeypatch):
    monkeypatch.setattr(attention, "FUSED_ATTENTION_LEN", attention_len)
    ones = torch.ones(64, 2, 8, 4)
    torch.manual_seed(0)
    mixed = attention.attend(ones, ones, ones, 0.5)             # without dropout every output is exactly 1
    assert 0.9 < mixed.mean().item() < 1.1
    # the first position has one weight: kept or not
    assert 0.4 < (mixed[:, :, 0, 0] == 0).float().mean().item() < 0.6
    torch.testing.assert_close(attention.attend(ones, ones, ones, 0.0), ones)


@pytest.mark.parametrize("params", [
    TINY, CLASSIC, replace(TINY, biases="gpt2", tied_head=True), ModelParams(family="lstm", vocab_size=50),
    ModelParams(family="lstm", vocab_size=50, tied_head=True)], ids=str)
def test_an_outline_has_the_shapes_of_the_network_and_no_numbers(params):
    built, shapes = build_network(params), outline(params)
    assert all(parameter.is_meta for parameter in shapes.parameters())
    found, expected = ([(name, part.shape) for name, part in net.state_dict().items()] for net in (shapes, built))
    assert found == expected and count_parameters(shapes) == count_parameters(built)


def test_every_parameter_learns():
    for parts in (dict(), dict(family="classic"), dict(biases="gpt2", norm="layer"),
                  dict(positions="learned", tied_head=True)):
        net = network(replace(TINY, **parts)).train()
        net(some_tokens(TINY, 2, 16)).logsumexp(-1).sum().backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name


# --- Parameters that make no network ---

def test_all_problems_of_the_parameters_are_said_together():
    with pytest.raises(FolioError) as refused:
        build_network(ModelParams(vocab_size=65, emb_len=0, num_layers=-1, norm="batch", dropout=float("nan")))
    assert len(str(refused.value).splitlines()) == 4
    for name in ("emb_len=0", "num_layers=-1", "norm='batch'", "dropout=nan"):
        assert name in str(refused.value)
    with pytest.raises(FolioError) as refused:
        build_network(ModelParams(vocab_size=65, emb_len=100, num_heads=3, num_kv_heads=2))
    assert "emb_len=100" in str(refused.value) and "num_kv_heads=2" in str(refused.value)


def test_a_network_needs_to_know_its_vocabulary():
    with pytest.raises(ValueError, match="vocab_size"):
        build_network(ModelParams())
