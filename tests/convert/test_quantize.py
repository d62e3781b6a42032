"""Numbers: against gguf's numpy code, for every source type, any number of threads and any size of slab."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from convert.errors import CheckpointError, ConvertError
from convert.quantize import ggml, quantizer
from convert.quantize.ggml import GgmlType
from convert.quantize.targets import _BODY, _EMBEDDING
from convert.read.safetensors import SafetensorsFile
from convert.read.tensors import ModelTensor
from tests.convert.adapters import to_f32
from tests.convert.checkpoints import Array, to_bf16, write_safetensors

RANDOM = np.random.default_rng(3)
WEIGHTS = (RANDOM.standard_normal((37, 256)) * 0.1).astype(np.float32)


def encode(tmp_path: Path, values: Array, kind: GgmlType, *, threads: int = 2, slab_f32_bytes: int = 1 << 20) -> bytes:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"w": values})
    with SafetensorsFile(path) as file:
        tensor = ModelTensor("w", values.shape, file.tensors["w"])
        return b"".join(bytes(part) for part in quantizer.encode_tensor(tensor, kind, threads, slab_f32_bytes))


def stored_as(source: str, values: Array) -> Array:
    if source == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"f16": np.float16, "f32": np.float32}[source])


def widened(values: Array) -> Array:
    return to_f32(values) if values.dtype == np.uint16 else values.astype(np.float32)


@pytest.mark.parametrize(
    "kind", [GgmlType.Q8_0, GgmlType.Q4_0, GgmlType.Q5_0, GgmlType.Q5_1, GgmlType.F16, GgmlType.BF16]
)
@pytest.mark.parametrize("source", ["bf16", "f16", "f32"])
def test_the_bytes_are_those_of_ggufs_numpy_code(tmp_path: Path, kind: GgmlType, source: str) -> None:
    values = stored_as(source, WEIGHTS)
    expected = gguf.quants.quantize(widened(values), gguf.GGMLQuantizationType(kind.value)).tobytes()
    assert encode(tmp_path, values, kind) == expected


def test_bf16_to_bf16_is_a_copy(tmp_path: Path) -> None:
    values = to_bf16(WEIGHTS)
    values[0, :4] = [0x0001, 0x8000, 0x7F7F, 0x0080]  # smallest subnormal, -0, largest, smallest normal
    assert encode(tmp_path, values, GgmlType.BF16) == values.tobytes()


def test_every_finite_bf16_number_becomes_the_f16_that_numpy_makes_of_it(tmp_path: Path) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    values = bits[np.abs(widened(bits)) < 65504]
    assert encode(tmp_path, values, GgmlType.F16) == widened(values).astype(np.float16).tobytes()


@pytest.mark.parametrize("kind", [GgmlType.IQ4_NL, GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K])
def test_the_bytes_do_not_depend_on_threads_or_slabs(tmp_path: Path, kind: GgmlType) -> None:
    one = encode(tmp_path, to_bf16(WEIGHTS), kind, threads=1)
    assert len(one) == 37 * ggml.row_bytes(kind, 256)
    for threads, slab in ((2, 1 << 20), (3, 4096), (8, 1024), (5, 1)):
        assert encode(tmp_path, to_bf16(WEIGHTS), kind, threads=threads, slab_f32_bytes=slab) == one


@pytest.mark.parametrize("source", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("kind", [GgmlType.BF16, GgmlType.F16, GgmlType.F32, GgmlType.Q8_0])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_weight_that_is_not_finite_is_refused_by_name(
    tmp_path: Path, source: str, kind: GgmlType, bad: float
) -> None:
    values = np.zeros((1024, 256), np.float32)
    values[1000, 255] = bad
    with pytest.raises(CheckpointError, match=r"m\.safetensors: tensor w holds an infinity or NaN"):
        encode(tmp_path, stored_as(source, values), kind)


def test_a_weight_too_large_for_f16_is_refused_and_bf16_named(tmp_path: Path) -> None:
    values = WEIGHTS.copy()
    values[1, 1] = 70000
    with pytest.raises(ConvertError, match="too large for F16; use bf16") as caught:
        encode(tmp_path, to_bf16(values), GgmlType.F16)
    assert not isinstance(caught.value, CheckpointError)


@pytest.mark.parametrize("kind", sorted({kind for kinds in (*_BODY.values(), _EMBEDDING) for kind in kinds}))
def test_block_types_refuse_large_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: GgmlType) -> None:
    values = WEIGHTS.copy()
    values[-1, -1] = 1e12
    with pytest.raises(ConvertError, match=f"tensor w: numbers too large for {kind.name}"):
        encode(tmp_path, values, kind)
    capfd.readouterr()  # ggml reports most of them too
