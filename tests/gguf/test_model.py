"""What a model's header must say, because llama.cpp would otherwise end the process, or compute something else."""

from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pytest

from edge_agent.gguf.model import ALL_TOKENS_KEY, ModelFacts, read_model_facts
from tests.helpers.ggufs import ARRAY, BOOL, F32, I32, MODEL_SHAPES, STRING, U32, changed_model, gguf, refused, written

Q8_0, F16 = 8, 1
NAN = float("nan")
Q, T = "qwen2.", "tokenizer.ggml."
Value = tuple[int, Any] | None


def facts(tmp_path: Path, data: bytes) -> ModelFacts:
    return read_model_facts(written(tmp_path, data))


refusal = partial(refused, read_model_facts)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("general.type", (STRING, "adapter"), 'should be "model" (got "adapter")'),
        ("general.file_type", (STRING, "7"), 'as U32 (got "7" as STRING)'),
        ("split.count", (2, 2), "should be 1, the whole model in one file (got 2)"),
        (Q + "block_count", (U32, 0), "should be an integer from 1 to 512 as U32 (got 0)"),
        (Q + "block_count", (I32, 1), "(got 1 as I32)"),
        (Q + "context_length", None, "should be an integer from 1 to 2147483647 as U32 (got null)"),
        (Q + "embedding_length", (U32, 30), "leaves heads of an even length (got 2)"),
        (Q + "embedding_length_out", (U32, 16), "should be 32 as U32 (got 16)"),
        (Q + "feed_forward_length", (ARRAY, (U32, [64])), "(got an array of 1 U32)"),
        (Q + "attention.head_count", (U32, 3), "a divisor of the embedding's 32"),
        (Q + "attention.head_count", (U32, 32), "heads of an even length (got 32)"),
        (Q + "attention.head_count_kv", (U32, 3), "should be a divisor of the 2 heads (got 3)"),
        (Q + "attention.key_length", (U32, 33), "should be 16 as U32 (got 33)"),
        (Q + "attention.value_length", (U32, 8), "should be 16 as U32 (got 8)"),
        (Q + "attention.causal", (BOOL, 0), "should be true"),
        (Q + "attention.layer_norm_rms_epsilon", (F32, -1.0), "from 1e-30 to 1e+30 as F32 (got -1.0)"),
        (Q + "attention.layer_norm_rms_epsilon", (F32, NAN), "(got NaN)"),
        (Q + "attention.layer_norm_rms_epsilon", (12, 1e-6), "(got 1e-06 as F64)"),
        (Q + "rope.dimension_count", (U32, 15), "should be 16 as U32 (got 15)"),
        (Q + "rope.freq_base", (F32, 0.0), "from 2 to 1e+30 as F32 (got 0.0)"),
        (Q + "rope.scaling.type", (STRING, "su"), '"none" or "linear" or "yarn" or "longrope" (got "su")'),
        (Q + "rope.scaling.factor", (F32, NAN), "(got NaN)"),
        (Q + "rope.scaling.original_context_length", (U32, 2**32 - 1), "(got 4294967295)"),
        (Q + "expert_count", (U32, 8), "should be 0 as U32 (got 8)"),
        (Q + "nextn_predict_layers", (U32, 1), "(got 1)"),
        (T + "model", (STRING, "llama"), 'should be "gpt2" (got "llama")'),
        (T + "pre", (STRING, "gemma4"), 'should be of a vocabulary of bytes, as qwen2 is (got "gemma4")'),
        (T + "tokens", (U32, 2), "should be an array of STRING (got 2 as U32)"),
        (
            T + "tokens",
            (ARRAY, (STRING, ["a", "a"])),
            'should have every token once, of at most 1000 bytes and without a zero byte (got "a" as 1)',
        ),
        (
            T + "tokens",
            (ARRAY, (STRING, ["[EMPTY_1]", ""])),
            'should have every token once, of at most 1000 bytes and without a zero byte (got "[EMPTY_1]" as 1)',
        ),
        (T + "tokens", (ARRAY, (STRING, ["a", "a\0"])), "without a zero byte"),
        (T + "tokens", (ARRAY, (STRING, ["a", "b" * 1001])), "of at most 1000 bytes"),
        (T + "merges", None, "should be an array of STRING (got null)"),
        (T + "token_type", (ARRAY, (I32, [1] * 3)), "(got an array of 3 I32)"),
        (T + "token_type", (ARRAY, (U32, [1, 3])), "(got an array of 2 U32)"),
        (T + "eos_token_id", None, "should be an integer from 0 to 1 as U32 (got null)"),
        (T + "eos_token_id", (U32, 2), "(got 2)"),
        (T + "padding_token_id", (U32, 2**32 - 1), "(got 4294967295)"),
        ("tokenizer.chat_template", (U32, 7), "should be a text (got 7 as U32)"),
    ],
)
def test_a_value_that_llama_cpp_must_not_see_is_told(tmp_path: Path, key: str, value: Value, told: str) -> None:
    found = refusal(tmp_path, changed_model({key: value}))
    assert found.startswith(f"{key}: should ") or key == Q + "embedding_length"
    assert told in found


def test_another_architecture_is_refused_with_those_that_are_supported(tmp_path: Path) -> None:
    found = refusal(tmp_path, changed_model({"general.architecture": (STRING, "llama")}))
    supported = "only qwen2 is (Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen)"
    assert found == f'general.architecture: "llama" is not supported, {supported}'


def test_a_model_that_adds_a_first_token_names_it(tmp_path: Path) -> None:
    adds: Mapping[str, Value] = {T + "add_bos_token": (BOOL, 1)}
    assert refusal(tmp_path, changed_model(adds)).startswith(T + "bos_token_id: should be")
    facts(tmp_path, changed_model({**adds, T + "bos_token_id": (U32, 0)}))


def test_norms_and_biases_are_of_f32(tmp_path: Path) -> None:
    for name, shape in MODEL_SHAPES.items():
        model = changed_model(types={name: F16})
        if len(shape) == 2:
            facts(tmp_path, model)
        else:
            assert refusal(tmp_path, model) == f'tensor "{name}": should be F32 (got F16)'


@pytest.mark.parametrize(
    "data",
    [
        changed_model({Q + "attention.key_length": (U32, 16), Q + "attention.value_length": (U32, 16)}),
        changed_model({Q + "rope.dimension_count": (U32, 16), Q + "rope.freq_base": (F32, 1e6)}),
        changed_model(
            {Q + "attention.head_count_kv": None},
            {"blk.0.attn_k.weight": (32, 32), "blk.0.attn_k.bias": (32,)}
            | {"blk.0.attn_v.weight": (32, 32), "blk.0.attn_v.bias": (32,)},
        ),
        changed_model({Q + "rope.scaling.type": (STRING, "yarn"), Q + "rope.scaling.factor": (F32, 4.0)}),
        changed_model({Q + "expert_count": (U32, 0), Q + "attention.causal": (BOOL, 1), "split.count": (2, 1)}),
        changed_model({"qwen2.vocab_size": (U32, 2), "anything.else": (ARRAY, (F32, [NAN]))}),
        changed_model({T + "pre": None}),
        changed_model({T + "tokens": (ARRAY, (STRING, ["a", ""]))}),
        changed_model(shapes={"output.weight": (32, 2)}),
        changed_model(shapes={"output.weight": (32, 2), "output.bias": (2,)}),
        changed_model(shapes={f"blk.0.attn_{part}.bias": None for part in "qkv"}),
    ],
)
def test_what_llama_cpp_runs_well_is_taken(tmp_path: Path, data: bytes) -> None:
    assert facts(tmp_path, data).tokens == 2


@pytest.mark.parametrize(
    ("data", "quantization"),
    [
        (gguf(), "Q8_0"),
        (changed_model({"general.file_type": (U32, 15)}), "Q4_K_M"),
        (changed_model({"general.file_type": (U32, 1024)}), "F32"),
        (changed_model({"general.file_type": None}), "F32"),
        (changed_model({"general.file_type": None}, types={"blk.0.ffn_up.weight": Q8_0}), "F32"),
        (
            changed_model(
                {"general.file_type": None}, types={name: 2 for name, shape in MODEL_SHAPES.items() if len(shape) == 2}
            ),
            "Q4_0",
        ),
    ],
)
def test_a_model_tells_its_quantization_and_context(tmp_path: Path, data: bytes, quantization: str) -> None:
    found = facts(tmp_path, data)
    assert (found.quantization, found.context_length, found.tokens) == (quantization, 2048, 2)
    assert (found.chat_template_sha256, found.all_tokens) == (None, 2)


def test_a_model_tells_the_bytes_of_a_token_and_of_what_its_vocabulary_is_a_part(tmp_path: Path) -> None:
    matrices = sum(prod(shape) for shape in MODEL_SHAPES.values() if len(shape) == 2)
    assert facts(tmp_path, gguf()).bytes_per_token == 4 * matrices
    # A step reads one row of an embedding that is no output matrix.
    assert facts(tmp_path, changed_model(shapes={"output.weight": (32, 2)})).bytes_per_token == 4 * matrices
    assert facts(tmp_path, changed_model({ALL_TOKENS_KEY: (U32, 5)})).all_tokens == 5
    assert "should be an integer from 2 to" in refusal(tmp_path, changed_model({ALL_TOKENS_KEY: (U32, 1)}))
