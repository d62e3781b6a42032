"""config.json: which models are accepted, and what is made of their numbers."""

from typing import Any

import pytest

from convert.errors import CheckpointError
from convert.read.config import ModelConfig, parse_config
from convert.write.gguf_file import architecture_entries
from tests.convert.checkpoints import make_checkpoint


def config(**changes: Any) -> dict[str, Any]:
    return make_checkpoint(layers=1).config | changes


def keys(parsed: ModelConfig) -> dict[str, Any]:
    return {entry.key: entry.value for entry in architecture_entries(parsed)}


def refused(**changes: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        parse_config(config(**changes))
    assert str(caught.value).startswith("config.json: ")
    return str(caught.value)


def test_the_keys_of_a_plain_model_are_those_that_upstream_writes() -> None:
    assert keys(parse_config(config())) == {
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
    ("architecture", "model_type"),
    [
        ("Qwen2VLForConditionalGeneration", "qwen2_vl"),
        ("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl"),
        ("Qwen2MoeForCausalLM", "qwen2_moe"),
        ("Qwen3ForCausalLM", "qwen3"),
        ("Qwen2Model", "qwen2"),
        ("Qwen2ForSequenceClassification", "qwen2"),
        ("LlamaForCausalLM", "llama"),
    ],
)
def test_another_architecture_is_refused_by_name(architecture: str, model_type: str) -> None:
    message = refused(architectures=[architecture], model_type=model_type)
    assert architecture in message
    assert "Qwen2ForCausalLM" in message


@pytest.mark.parametrize("model_type", ["qwen3", "qwen2_vl", 2])
def test_another_model_type_is_refused_by_name(model_type: Any) -> None:
    assert str(model_type) in refused(model_type=model_type)


@pytest.mark.parametrize("names", [[], "Qwen2ForCausalLM", ["Qwen2ForCausalLM", "LlamaForCausalLM"]])
def test_an_architecture_list_that_is_not_exactly_ours_is_refused(names: Any) -> None:
    assert "only Qwen2ForCausalLM is" in refused(architectures=names)


def test_a_config_that_names_no_architecture_is_refused() -> None:
    assert "neither architectures nor model_type" in refused(architectures=None, model_type=None)


@pytest.mark.parametrize("field", ["quantization_config", "vision_config", "text_config", "audio_config"])
def test_quantized_and_multimodal_checkpoints_are_refused(field: str) -> None:
    assert field in refused(**{field: {"quant_method": "awq"}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 513),
        ("hidden_size", None),
        ("hidden_size", "256"),
        ("hidden_size", 250),
        ("intermediate_size", -5),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 3),
        ("num_key_value_heads", True),
        ("vocab_size", 1 << 40),
        ("max_position_embeddings", 1.5),
        ("head_dim", 32),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", "1e-6"),
        ("rope_theta", -1),
        ("rope_theta", 1e300),
        pytest.param("rope_theta", 10**400, id="rope_theta-huge"),
        pytest.param("rms_norm_eps", 10**400, id="rms_norm_eps-huge"),
        ("rms_norm_eps", float("inf")),
        ("rms_norm_eps", float("nan")),
        pytest.param("hidden_size", 10**400, id="hidden_size-huge"),
        ("tie_word_embeddings", 1),
        ("hidden_act", "gelu"),
        ("is_causal", False),
        ("rope_scaling", [4]),
        ("rope_parameters", {"full_attention": {"rope_theta": 1e6}}),
    ],
)
def test_a_bad_number_is_refused_with_field_and_what_is_allowed(field: str, value: Any) -> None:
    message = refused(**{field: value})
    assert field in message
    assert "allowed is" in message


def test_yarn_is_written_as_upstream_writes_it() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    more = {"beta_fast": 32, "beta_slow": 1, "attn_factor": 0.5, "extrapolation_factor": 1.0}
    written = keys(parse_config(config(rope_scaling=scaling | more)))
    assert {key.removeprefix("qwen2.rope.scaling."): value for key, value in written.items() if "scaling" in key} == {
        "type": "yarn",
        "factor": 4.0,
        "original_context_length": 32768,
        "yarn_ext_factor": 1.0,
        "yarn_attn_factor": 0.5,
        "yarn_beta_fast": 32.0,
        "yarn_beta_slow": 1.0,
    }


@pytest.mark.parametrize(
    "field",
    [
        *("factor", "original_max_position_embeddings", "extrapolation_factor"),
        *("attention_factor", "attn_factor", "beta_fast", "beta_slow"),
    ],
)
@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["huge", "hugely negative"])
def test_a_huge_integer_in_the_rope_scaling_is_refused_by_name(field: str, value: int) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert f"rope_scaling.{field} is " in refused(rope_scaling=scaling | {field: value})


def test_linear_scaling_is_written_with_its_factor() -> None:
    written = keys(parse_config(config(rope_scaling={"rope_type": "linear", "factor": 2})))
    assert (written["qwen2.rope.scaling.type"], written["qwen2.rope.scaling.factor"]) == ("linear", 2.0)


def test_newer_transformers_nest_base_and_scaling_in_rope_parameters() -> None:
    nested = config(rope_parameters={"rope_type": "default", "rope_theta": 5e5}, rope_theta=None)
    assert keys(parse_config(nested))["qwen2.rope.freq_base"] == 5e5
    assert not any("scaling" in key for key in keys(parse_config(nested)))


def test_a_missing_rope_base_is_that_of_transformers() -> None:
    plain = config()
    del plain["rope_theta"]
    assert keys(parse_config(plain))["qwen2.rope.freq_base"] == 10000.0


@pytest.mark.parametrize("kind", ["dynamic", "llama3", "longrope", 3])
def test_another_kind_of_rope_scaling_is_refused_by_name(kind: Any) -> None:
    assert repr(kind) in refused(rope_scaling={"rope_type": kind, "factor": 2.0})


def test_yarn_without_the_original_length_is_refused() -> None:
    assert "original_max_position_embeddings" in refused(rope_scaling={"rope_type": "yarn", "factor": 2.0})


def test_a_stated_head_dimension_is_written() -> None:
    written = keys(parse_config(config(head_dim=64)))
    assert (written["qwen2.attention.key_length"], written["qwen2.attention.value_length"]) == (64, 64)


def test_a_list_of_end_tokens_is_left_to_generation_as_upstream_does() -> None:
    assert "eos" not in parse_config(config(eos_token_id=[1, 2])).special_token_ids


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B"),
        ("/a/b/", "b"),
        ("C:\\models\\x", "x"),
        ("", None),
        ("..", None),
        ("a\x1b[2J", None),
        ("a" * 129, None),
        (3, None),
    ],
)
def test_the_default_name_is_the_last_part_of_where_the_model_came_from(stated: Any, expected: str | None) -> None:
    assert parse_config(config(_name_or_path=stated)).origin == expected
