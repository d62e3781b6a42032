"""Tensor types and bytes, against `llama_model_quantize` on small models of telling shapes."""

from pathlib import Path
from typing import Any, cast

import pytest

from convert.quantize.ggml import GgmlType
from convert.quantize.recipe import Quantization, tensor_types
from convert.read.config import parse_config
from convert.read.safetensors import Dtype, SafetensorsFile, StoredTensor
from convert.read.tensors import ModelTensor
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import NAMED, convert
from tests.convert.gguf_reading import Gguf, read_gguf
from tests.convert.native_quantizer import quantize_natively

QUANTIZED = [kind for kind in NAMED if kind not in (Quantization.BF16, Quantization.F16)]
SHAPES: dict[str, dict[str, Any]] = {
    "untied, many query heads per key": {"layers": 9, "feed_forward": 256, "heads": 8, "heads_kv": 1, "tied": False},
    "columns that only 32 divides": {"layers": 8, "hidden": 96, "feed_forward": 256, "heads": 3, "heads_kv": 3},
    "columns that 32 does not divide": {"layers": 8, "hidden": 80, "feed_forward": 144, "heads": 5, "heads_kv": 1},
}


def converted(checkpoint: Path, bundle: Path, quantization: Quantization) -> Gguf:
    convert(checkpoint, bundle, quantization)
    return read_gguf(bundle / "model.gguf")


@pytest.mark.parametrize("shape", SHAPES)
def test_every_type_gives_the_types_and_bytes_of_upstreams_quantizer(tmp_path: Path, shape: str) -> None:
    make_checkpoint(**SHAPES[shape]).write(tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "source", Quantization.BF16)
    for quantization in QUANTIZED:
        ours = converted(tmp_path / "checkpoint", tmp_path / quantization.value, quantization)
        quantize_natively(tmp_path / "source" / "model.gguf", tmp_path / "native.gguf", quantization.file_type)
        theirs = read_gguf(tmp_path / "native.gguf")
        assert ours.types() == theirs.types(), quantization
        assert {name for name, tensor in ours.tensors.items() if tensor.data != theirs.tensors[name].data} == set()
        assert ours.keys == theirs.keys


def test_80_layers_get_more_bits_because_upstream_takes_them_for_a_70b() -> None:
    config = parse_config(make_checkpoint(layers=1).config | {"num_hidden_layers": 80})
    source = StoredTensor("", Dtype.BF16, (128, 256), 0, 65536, cast("SafetensorsFile", None))
    tensor = ModelTensor("blk.11.attn_v.weight", (128, 256), source)
    assert tensor_types(Quantization.Q4_K_M, config, [tensor]) == {tensor.name: GgmlType.Q5_K}


def test_norms_and_biases_are_always_f32(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(layers=1, hidden=64, feed_forward=96).write(tmp_path / "checkpoint")
    for quantization in NAMED:
        types = converted(checkpoint, tmp_path / quantization.value, quantization).types()
        plain = {name for name, kind in types.items() if kind == "F32"}
        assert plain == {name for name in types if name.endswith((".bias", "_norm.weight"))}
