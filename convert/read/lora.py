"""A LoRA adapter as PEFT saves it, checked against the checkpoint that it is for.

Source: peft's `LoraConfig`, and `LoraLayer.update_layer` for the scale: alpha / rank, with `use_rslora` alpha / √rank.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isclose
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, printable
from .lora_config import FILE as CONFIG_FILE
from .lora_config import LoraConfig, parse_lora_config
from .safetensors import Dtype, SafetensorsFile, StoredTensor
from .strict_json import parse_object, read_small_file
from .tensors import ModelTensor

FILE = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_F16_MIN, _F16_MAX = float(np.finfo(np.float16).smallest_subnormal), float(np.finfo(np.float16).max)
_EMBEDDING, _OUTPUT = "model.embed_tokens", "lm_head"
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LowRank:
    """scale · B·A, added to the matrix of this GGUF name [rows, columns]; the scale is the adapter's alpha / rank.

    a, b: return A [rank, columns] and B [rows, rank], which are read only then.
    """

    name: str
    rows: int
    columns: int
    rank: int
    a: Callable[[], Floats]
    b: Callable[[], Floats]


class Lora:
    """An open adapter. updates: in the order of the model's tensors; sources: SHA-256 (hex) of its files.

    alpha: one for all updates; other alphas of patterns are multiplied into the numbers.
    Raises CheckpointError if it is damaged, of another kind than plain LoRA, or of another model.
    """

    def __init__(self, folder: Path, tensors: Sequence[ModelTensor], origins: Sequence[str | None]) -> None:
        """origins: the names of the base model."""
        if not folder.is_dir():
            raise CheckpointError(f"{printable(str(folder))}: no such adapter folder")
        data = read_small_file(folder / CONFIG_FILE)
        if data is None:
            raise CheckpointError(f"{CONFIG_FILE}: missing in {printable(str(folder))}, which is not a PEFT adapter")
        config = parse_lora_config(parse_object(data, CONFIG_FILE))
        if not (folder / FILE).exists() and (folder / _PICKLE).exists():
            raise CheckpointError(f"{_PICKLE}: not supported, because reading it runs its code; save it as {FILE}")
        self._file = SafetensorsFile(folder / FILE)
        try:
            self.alpha = config.file_alpha
            self.updates = _updates(self._file, config, tensors)
            # Checks the numbers now, not after the model is written.
            for update in self.updates:
                update.a()
                update.b()
            weights = self._file.sha256()
        except BaseException:
            self._file.close()
            raise
        self.sources = {CONFIG_FILE: hashlib.sha256(data).hexdigest(), FILE: weights}
        self.warnings = [warning] if (warning := _other_base(config, origins)) is not None else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _updates(file: SafetensorsFile, config: LoraConfig, tensors: Sequence[ModelTensor]) -> list[LowRank]:
    matrices = {tensor.source.name.removesuffix(".weight"): tensor for tensor in tensors if tensor.is_quantizable}
    matrices.pop(_EMBEDDING, None)
    found: dict[str, dict[str, StoredTensor]] = {}
    for name, stored in file.tensors.items():
        match = _NAME.fullmatch(name.removeprefix(_PREFIX))
        if match is None or match["module"] not in matrices:
            why = _why_not(name.removeprefix(_PREFIX), is_pair=match is not None, is_tied=_OUTPUT not in matrices)
            raise CheckpointError(f"{FILE}: tensor {printable(name)}: {why}")
        sides = found.setdefault(match["module"], {})
        if match["side"] in sides:
            raise CheckpointError(f"{FILE}: tensor {printable(name)}: appears twice, with and without a prefix")
        sides[match["side"]] = stored
    if not found:
        raise CheckpointError(f"{FILE}: holds no tensors")
    _check_targets(config, found, matrices)
    return [_update(module, found[module], config, tensor) for module, tensor in matrices.items() if module in found]


def _why_not(name: str, *, is_pair: bool, is_tied: bool) -> str:
    if name.startswith(_EMBEDDING):
        return "an adapter of the embedding is not supported, allowed are those of q_proj, k_proj … and lm_head"
    if name.startswith(_OUTPUT) and is_tied:
        return "the output matrix is the embedding (tie_word_embeddings is true), of which no adapter is supported"
    if is_pair:
        return "the base model has no such matrix; is it of another model?"
    return (
        "allowed are NAME.lora_A.weight and NAME.lora_B.weight of the model's matrices: no biases, no magnitudes "
        "(DoRA) and no modules saved whole"
    )


def _check_targets(config: LoraConfig, found: Mapping[str, object], matrices: Mapping[str, ModelTensor]) -> None:
    """Raises CheckpointError unless the file holds exactly the modules that were trained."""
    if config.targets is None:
        return
    for module in found:
        if not any(_is_named(module, target) for target in config.targets):
            listed = ", ".join(config.targets)
            raise CheckpointError(f"{FILE}: holds {module}, {CONFIG_FILE}: target_modules has {printable(listed)} only")
    for target in config.targets:
        if any(_is_named(module, target) for module in matrices) and not any(
            _is_named(module, target) for module in found
        ):
            raise CheckpointError(f"{FILE}: holds nothing of {target}, which {CONFIG_FILE}: target_modules has")


def _update(module: str, sides: Mapping[str, StoredTensor], config: LoraConfig, tensor: ModelTensor) -> LowRank:
    if missing := {"A", "B"} - sides.keys():
        raise CheckpointError(f"{FILE}: {module}: lora_{missing.pop()}.weight is missing")
    rank = config.rank_of(module)
    for side, shape in (("A", (rank, tensor.columns)), ("B", (tensor.rows, rank))):
        if sides[side].shape != shape:
            raise CheckpointError(
                f"{FILE}: tensor {printable(sides[side].name)} has shape {printable(str(list(sides[side].shape)))}, "
                f"allowed is {list(shape)}: rank {rank} by {CONFIG_FILE}, {tensor.rows} × {tensor.columns} in the base "
                "model; is it of another model?"
            )
    # llama.cpp has one alpha for all, and divides it by the rank of each.
    factor = config.scale_of(module) * rank / config.file_alpha
    a, b = partial(_numbers, sides["A"]), partial(_numbers, sides["B"], 1.0 if isclose(factor, 1) else factor)
    return LowRank(tensor.name, tensor.rows, tensor.columns, rank, a, b)


def _is_named(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _other_base(config: LoraConfig, origins: Sequence[str | None]) -> str | None:
    known = [origin for origin in origins if origin]
    base = (config.base or "").rstrip("/").rpartition("/")[2]
    if not base or not known or base in known:
        return None
    return (
        f"{CONFIG_FILE}: base_model_name_or_path is {printable(config.base or '')}, the checkpoint is called "
        f"{' or '.join(map(printable, dict.fromkeys(known)))}; its shapes fit"
    )


def _numbers(stored: StoredTensor, factor: float = 1.0) -> Floats:
    """The numbers times `factor`. Raises CheckpointError for one that is not finite or too large for F16, or if all
    become 0 in F16."""
    raw = np.empty(stored.nbytes, np.uint8)
    stored.read_into(raw.data, 0)
    match stored.dtype:
        case Dtype.BF16:
            numbers = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        case Dtype.F16:
            numbers = raw.view(np.float16).astype(np.float32)
        case Dtype.F32:
            numbers = raw.view(np.float32)
    if not np.isfinite(numbers).all():
        row, column = divmod(int(np.argmin(np.isfinite(numbers))), stored.shape[-1])
        raise CheckpointError(
            f"{FILE}: tensor {printable(stored.name)} holds an infinity or NaN in row {row}, column {column}; only "
            "finite numbers are allowed"
        )
    with np.errstate(over="ignore"):
        numbers = numbers * np.float32(factor)
    if (most := float(np.abs(numbers).max())) > _F16_MAX:
        raise CheckpointError(
            f"{FILE}: tensor {printable(stored.name)} holds {most:g}, allowed is what F16 holds, {_F16_MAX:g}"
        )
    if 0 < most < _F16_MIN:
        raise CheckpointError(
            f"{FILE}: tensor {printable(stored.name)} holds nothing above {most:g}, allowed is what F16 holds, from "
            f"{_F16_MIN:g}"
        )
    return numbers.reshape(stored.shape)
