"""Tensor types and bytes, against `llama_model_quantize` on small models of telling shapes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from convert.quantize.recipe import Quantization
from tests.convert.checkpoints import CheckpointFiles, make_checkpoint
from tests.convert.conversions import NAMED, convert
from tests.convert.gguf_reading import Gguf, read_gguf
from tests.convert.native_quantizer import quantize_natively

QUANTIZED = [kind for kind in NAMED if kind not in (Quantization.BF16, Quantization.F16)]
SHAPES: dict[str, dict[str, Any]] = {
    "tied with columns of whole 256s": {"layers": 8, "hidden": 256, "feed_forward": 256},
    "untied": {"layers": 9, "hidden": 256, "feed_forward": 256, "tied": False},
    "columns that only 32 divides": {"layers": 16, "hidden": 96, "feed_forward": 256, "heads": 3, "heads_kv": 3},
    "columns that 32 does not divide": {"layers": 8, "hidden": 80, "feed_forward": 144, "heads": 5, "heads_kv": 1},
    "many query heads per key": {"layers": 8, "hidden": 256, "feed_forward": 256, "heads": 8, "heads_kv": 1},
}


def converted(checkpoint: Path, bundle: Path, quantization: Quantization) -> Gguf:
    convert(checkpoint, bundle, quantization)
    return read_gguf(bundle / "model.gguf")


def compare_with_upstream(folder: Path, checkpoint: CheckpointFiles, kinds: Sequence[Quantization]) -> None:
    checkpoint.write(folder / "checkpoint")
    convert(folder / "checkpoint", folder / "source", Quantization.BF16)
    for quantization in kinds:
        ours = converted(folder / "checkpoint", folder / quantization.value, quantization)
        quantize_natively(folder / "source" / "model.gguf", folder / "native.gguf", quantization.file_type)
        theirs = read_gguf(folder / "native.gguf")
        assert ours.types() == theirs.types(), quantization
        assert {name for name, tensor in ours.tensors.items() if tensor.data != theirs.tensors[name].data} == set()
        assert ours.keys == theirs.keys


@pytest.mark.parametrize("shape", SHAPES)
def test_every_type_gives_the_types_and_bytes_of_upstreams_quantizer(tmp_path: Path, shape: str) -> None:
    compare_with_upstream(tmp_path, make_checkpoint(**SHAPES[shape]), QUANTIZED)


def test_80_layers_get_more_bits_because_upstream_takes_them_for_a_70b(tmp_path: Path) -> None:
    large = make_checkpoint(layers=80, hidden=256, feed_forward=32, heads_kv=1)
    compare_with_upstream(tmp_path, large, [Quantization.Q4_K_M])


def test_explicit_types_for_every_tensor_give_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tied=False).write(tmp_path / "checkpoint")
    convert(checkpoint, tmp_path / "source", Quantization.BF16)
    ours = converted(checkpoint, tmp_path / "ours", Quantization.Q4_K_M)
    overrides = {name: tensor.type for name, tensor in ours.tensors.items() if tensor.type != "F32"}
    source, target = tmp_path / "source" / "model.gguf", tmp_path / "native.gguf"
    quantize_natively(source, target, Quantization.Q4_K_M.file_type, overrides)
    theirs = read_gguf(target)
    assert all(tensor.data == theirs.tensors[name].data for name, tensor in ours.tensors.items())


def test_norms_and_biases_are_always_f32(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(layers=1).write(tmp_path / "checkpoint")
    for quantization in NAMED:
        types = converted(checkpoint, tmp_path / quantization.value, quantization).types()
        plain = {name for name, kind in types.items() if kind == "F32"}
        assert plain == {name for name in types if name.endswith((".bias", "_norm.weight"))}
