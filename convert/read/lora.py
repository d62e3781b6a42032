"""A LoRA adapter as PEFT saves it, checked against the checkpoint that it is for.

Source: peft's `LoraConfig`, and `LoraLayer.update_layer` for the scale: alpha / rank, with `use_rslora` alpha / √rank.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..agent import first_fault
from ..errors import CheckpointError, escaped
from .files import parse_object, read_small_file
from .safetensors import Dtype, SafetensorsFile, StoredTensor
from .tensors import ModelTensor

Halves = npt.NDArray[np.float16]

FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
# With any of these set, the adapter does not make W + alpha / rank · B·A of the base model's W.
_MUST_BE_OFF = (
    *("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "modules_to_save", "layer_replication"),
    *("trainable_token_indices", "target_parameters", "alora_invocation_tokens", "rank_pattern", "alpha_pattern"),
)


class LoraConfig(BaseModel):
    """adapter_config.json."""

    model_config = ConfigDict(extra="ignore", strict=True)

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=1 << 14)
    lora_alpha: float = Field(ge=1e-6, le=1e6)  # llama.cpp reads 0 as "no scale"
    bias: Literal["none"] = "none"
    use_rslora: bool = False
    # The others (PiSSA, OLoRA, LoftQ, CorDA) change the base model's weights when training begins.
    init_lora_weights: Literal[True, False, "gaussian", "orthogonal", "eva"] | None = True


@dataclass(frozen=True, slots=True)
class LowRank:
    """alpha / rank · B·A, added to the matrix of this GGUF name."""

    name: str
    a: Halves  # A [rank, columns].
    b: Halves  # B [rows, rank].


@dataclass(frozen=True, slots=True)
class Lora:
    alpha: float  # The value for llama.cpp, whose scale is always alpha / rank.
    updates: list[LowRank]  # In the order of the model's tensors.
    sources: dict[str, str]  # SHA-256 of its files, in hex.


def read_lora(folder: Path, tensors: Sequence[ModelTensor]) -> Lora:
    """Raises CheckpointError for an adapter that is damaged, no plain LoRA, or of another model."""
    data = read_small_file(folder / CONFIG_FILE)
    if data is None:
        raise CheckpointError(f"{CONFIG_FILE}: missing in {escaped(str(folder))}, which is not a PEFT adapter")
    config = parse_lora_config(parse_object(data, CONFIG_FILE))
    alpha = config.lora_alpha * sqrt(config.r) if config.use_rslora else config.lora_alpha
    with SafetensorsFile(folder / FILE) as file:
        sources = {CONFIG_FILE: hashlib.sha256(data).hexdigest(), FILE: file.sha256()}
        return Lora(alpha, _updates(file, config.r, tensors), sources)


def parse_lora_config(raw: dict[str, Any]) -> LoraConfig:
    """Raises CheckpointError, which names the field, its value and what is allowed."""
    for name in _MUST_BE_OFF:
        if raw.get(name):
            value = escaped(repr(raw[name]))
            raise CheckpointError(f"{CONFIG_FILE}: {name} is {value}; only plain LoRA of matrices is supported")
    try:
        return LoraConfig.model_validate(raw)
    except ValidationError as error:
        raise CheckpointError(f"{CONFIG_FILE}: {first_fault(error)}") from None


def _updates(file: SafetensorsFile, rank: int, tensors: Sequence[ModelTensor]) -> list[LowRank]:
    matrices = {tensor.source.name.removesuffix(".weight"): tensor for tensor in tensors if tensor.is_quantizable}
    matrices.pop("model.embed_tokens", None)
    sides: dict[str, dict[str, StoredTensor]] = {}
    for name, stored in file.tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or match["module"] not in matrices:
            raise CheckpointError(
                f"{FILE}: tensor {escaped(name)}: allowed are NAME.lora_A.weight and NAME.lora_B.weight of this "
                "model's matrices but the embedding: no biases, no magnitudes (DoRA), no modules saved whole"
            )
        sides.setdefault(match["module"], {})[match["side"]] = stored
    if not sides:
        raise CheckpointError(f"{FILE}: holds no tensors")
    return [_update(module, sides[module], rank, tensor) for module, tensor in matrices.items() if module in sides]


def _update(module: str, sides: dict[str, StoredTensor], rank: int, tensor: ModelTensor) -> LowRank:
    if missing := {"A", "B"} - sides.keys():
        raise CheckpointError(f"{FILE}: {module}: lora_{missing.pop()}.weight is missing")
    for side, shape in (("A", (rank, tensor.columns)), ("B", (tensor.rows, rank))):
        if sides[side].shape != shape:
            raise CheckpointError(
                f"{FILE}: tensor {escaped(sides[side].name)} has shape {escaped(str(list(sides[side].shape)))}, "
                f"allowed is {list(shape)}: rank {rank} by {CONFIG_FILE}, {tensor.rows} × {tensor.columns} in the base "
                "model; is the adapter for another model?"
            )
    return LowRank(tensor.name, a=_numbers(sides["A"]), b=_numbers(sides["B"]))


def _numbers(stored: StoredTensor) -> Halves:
    """Raises CheckpointError for a number that F16 cannot hold."""
    raw = np.empty(stored.nbytes, np.uint8)
    stored.read_into(raw.data, 0)
    numbers: npt.NDArray[Any] = raw.view(np.float16 if stored.dtype is Dtype.F16 else np.float32)
    if stored.dtype is Dtype.BF16:
        numbers = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        halves = numbers.astype(np.float16)
    if not np.isfinite(halves).all():
        raise CheckpointError(f"{FILE}: tensor {escaped(stored.name)} holds an infinity, NaN or more than F16 can hold")
    return halves.reshape(stored.shape)
