"""config.json: which models are accepted, and what is made of their numbers."""

from typing import Any

import pytest

from convert.errors import CheckpointError
from convert.read.config import Qwen2Config, parse_config
from convert.write.gguf_file import architecture_entries
from tests.convert.checkpoints import make_checkpoint

CONFIG = make_checkpoint(layers=1).config
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def keys(parsed: Qwen2Config) -> dict[str, Any]:
    return {key: value for key, _, value in architecture_entries(parsed)}


def refused(**changes: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        parse_config(CONFIG | changes)
    assert str(caught.value).startswith("config.json: ")
    return str(caught.value)


def test_the_keys_of_a_plain_model_are_those_that_upstream_writes() -> None:
    assert keys(parse_config(CONFIG)) == {
        "qwen2.block_count": 1,
        "qwen2.context_length": 512,
        "qwen2.embedding_length": 256,
        "qwen2.feed_forward_length": 512,
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.rope.freq_base": 1000000.0,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"},
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
        {"architectures": ["Qwen2ForCausalLM", "LlamaForCausalLM"]},
        {"architectures": []},
        {"model_type": "qwen2_moe"},
        {"architectures": None, "model_type": None},
    ],
)
def test_another_architecture_is_refused_by_name(changes: dict[str, Any]) -> None:
    message = refused(**changes)
    assert "only Qwen2ForCausalLM is" in message
    assert all(str(value) in message for value in changes.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 513),
        ("hidden_size", None),
        ("hidden_size", "256"),
        ("num_key_value_heads", True),
        ("vocab_size", 1 << 40),
        ("max_position_embeddings", 1.5),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", "1e-6"),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", 1e300),
        pytest.param("rope_theta", 10**400, id="rope_theta-huge"),
        pytest.param("hidden_size", 10**400, id="hidden_size-huge"),
        ("tie_word_embeddings", 1),
        ("hidden_act", "gelu"),
        ("is_causal", False),
        ("quantization_config", {"quant_method": "awq"}),
        ("rope_scaling", [4]),
        ("rope_scaling", {"full_attention": {"rope_theta": 1e6}}),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "linear"}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
        pytest.param("rope_scaling", YARN | {"beta_fast": 10**400}, id="beta_fast-huge"),
    ],
)
def test_a_bad_field_is_refused_by_name(field: str, value: Any) -> None:
    message = refused(**{field: value})
    assert field in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("scaling", "written"),
    [
        (
            YARN | {"beta_fast": 32, "beta_slow": 1, "attn_factor": 0.5, "extrapolation_factor": 1.0},
            {"type": "yarn", "factor": 4.0, "original_context_length": 32768, "yarn_ext_factor": 1.0}
            | {"yarn_attn_factor": 0.5, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0},
        ),
        # Of linear scaling, only the factor is kept.
        (
            {"rope_type": "linear", "factor": 2, "original_max_position_embeddings": 256},
            {"type": "linear", "factor": 2.0},
        ),
    ],
)
def test_scaling_is_written_as_upstream_writes_it(scaling: dict[str, Any], written: dict[str, Any]) -> None:
    found = keys(parse_config(CONFIG | {"rope_scaling": scaling}))
    assert {key: value for key, value in found.items() if "scaling" in key} == {
        f"qwen2.rope.scaling.{key}": value for key, value in written.items()
    }


def test_newer_transformers_nest_base_and_scaling_in_rope_parameters() -> None:
    nested = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": None}
    assert keys(parse_config(CONFIG | nested))["qwen2.rope.freq_base"] == 5e5
    assert keys(parse_config(CONFIG | {"rope_theta": None}))["qwen2.rope.freq_base"] == 10000.0


def test_a_stated_head_dimension_is_written() -> None:
    written = keys(parse_config(CONFIG | {"head_dim": 64}))
    assert (written["qwen2.attention.key_length"], written["qwen2.attention.value_length"]) == (64, 64)


def test_a_list_of_end_tokens_is_left_to_generation_as_upstream_does() -> None:
    assert "eos" not in parse_config(CONFIG | {"eos_token_id": [1, 2]}).special_token_ids
