"""Small LoRA adapters of synthetic checkpoints, as PEFT saves them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.read.safetensors import SafetensorsFile
from tests.convert.checkpoints import Array, to_bf16, write_safetensors

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "base_model.model."


@dataclass
class AdapterFiles:
    """An adapter in memory, to be changed by a test before it is written."""

    config: dict[str, Any]
    tensors: dict[str, Array] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config), "utf-8")
        write_safetensors(folder / "adapter_model.safetensors", self.tensors)
        return folder


def make_adapter(
    weights: Mapping[str, Array],
    *,
    rank: int = 4,
    alpha: float = 8,
    modules: tuple[str, ...] = MODULES,
    strength: float = 0.05,
    seed: int = 3,
) -> AdapterFiles:
    """Random numbers, always the same. Of `weights`, which are the checkpoint's, only the shapes count."""
    random = np.random.default_rng(seed)
    files = AdapterFiles(
        {
            "peft_type": "LORA",
            "base_model_name_or_path": "",
            "bias": "none",
            "lora_alpha": alpha,
            "r": rank,
            "rank_pattern": {},
            "target_modules": list(modules),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        }
    )
    for name, values in weights.items():
        shape = values.shape
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] not in modules or len(shape) != 2:
            continue
        for side, size in (("A", (rank, shape[1])), ("B", (shape[0], rank))):
            numbers = random.standard_normal(size, np.float32) * np.float32(strength)
            files.tensors[f"{PREFIX}{module}.lora_{side}.weight"] = to_bf16(numbers)
    return files


def read_tensors(checkpoint: Path) -> dict[str, Array]:
    """The tensors of a checkpoint in one BF16 file, as F32."""
    with SafetensorsFile(checkpoint / "model.safetensors") as file:
        found = {}
        for name, stored in file.tensors.items():
            raw = np.empty(stored.nbytes, np.uint8)
            stored.read_into(raw.data, 0)
            found[name] = to_f32(raw.view(np.uint16)).reshape(stored.shape)
        return found


def to_f32(bits: Array) -> Array:
    """The numbers of BF16 patterns."""
    return np.asarray((bits.astype(np.uint32) << 16).view(np.float32))


def write_merged(checkpoint: Path, adapters: list[AdapterFiles], folder: Path) -> Path:
    """The checkpoint with the adapters' products added to its weights, in F32."""
    tensors = read_tensors(checkpoint)
    for adapter in adapters:
        scale = adapter.config["lora_alpha"] / adapter.config["r"]
        for name, bits in adapter.tensors.items():
            if ".lora_A." in name:
                b = to_f32(adapter.tensors[name.replace("lora_A", "lora_B")])
                base = name.removeprefix(PREFIX).replace(".lora_A", "")
                tensors[base] = (tensors[base] + scale * (b @ to_f32(bits))).astype(np.float32)
    shutil.copytree(checkpoint, folder)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder
