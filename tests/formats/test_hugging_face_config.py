"""The config.json of models as their makers published them, and of no model at all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.formats.hugging_face import counterparts
from folio.formats.hugging_face_config import ARCHITECTURES, Problem, architecture_of, notes_on, params_of

GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
    "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama",
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True,
    "vocab_size": 49152}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936}
LLAMA3 = SMOLLM2 | {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "rope_theta": 500000.0, "vocab_size": 128256,
    "max_position_embeddings": 131072, "mlp_bias": False, "eos_token_id": [128001, 128009],
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"}}


@pytest.mark.parametrize("config, architecture, parameters, base", [
    (GPT2, "gpt2", 124_439_808, None), (SMOLLM2, "llama", 134_515_008, 100_000.0),
    (QWEN3, "qwen3", 596_049_920, 1_000_000.0),
    (LLAMA3 | {"rope_scaling": None}, "llama", 1_235_814_400, 500_000.0),
], ids=["GPT-2", "SmolLM2-135M", "Qwen3-0.6B", "Llama 3 without its scaling"])
def test_published_models_have_the_parameters_that_their_makers_count(config, architecture, parameters, base):
    assert architecture_of(config) == architecture
    params = params_of(config, architecture)
    assert sum(math.prod(part.shape) for part in counterparts(architecture, params).values()) == parameters
    assert params.rope_base == base and list(params.problems()) == []
    cut = ["Its context of 131,072 tokens is cut to 65,536."] if config["vocab_size"] == 128256 else []
    assert list(notes_on(config, architecture)) == cut


def test_the_scaling_of_llama_3s_positions_is_refused_by_its_name():
    with pytest.raises(Problem, match="rope_scaling=.*, which Folio does not compute"):
        params_of(LLAMA3, "llama")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([1 << 39, 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["rope_type", "type", "rope_theta", "partial_rotary_factor", "x"]), inner, max_size=3))
names = st.sampled_from(sorted({*GPT2, *QWEN3, *SMOLLM2, "rope_parameters", "layer_types",
                                *(name for known in ARCHITECTURES.values() for name in known.allowed)}))


@given(st.sampled_from([GPT2, SMOLLM2, QWEN3]), st.dictionaries(names, anything, min_size=1, max_size=3))
def test_any_values_make_parameters_or_one_short_sentence(config, changes):
    config = config | changes
    try:
        architecture = architecture_of(config)
        params = params_of(config, architecture)
        assert all(len(note) < 1000 for note in notes_on(config, architecture))
    except Problem as problem:
        assert len(str(problem)) < 500 and "\n" not in str(problem)
        return
    assert list(params.problems()) == []
