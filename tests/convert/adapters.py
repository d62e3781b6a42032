"""Small LoRA adapters of synthetic checkpoints, as PEFT saves them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
    weights: dict[str, tuple[int, ...]],
    *,
    rank: int = 4,
    alpha: float = 8,
    modules: tuple[str, ...] = MODULES,
    strength: float = 0.05,
    ranks: dict[str, int] | None = None,
) -> AdapterFiles:
    """Random numbers, always the same. weights: name and shape of each tensor of the checkpoint.

    ranks: of modules of that name, where they have another one.
    """
    random = np.random.default_rng(3)
    files = AdapterFiles(
        {
            "peft_type": "LORA",
            "base_model_name_or_path": "",
            "bias": "none",
            "lora_alpha": alpha,
            "r": rank,
            "rank_pattern": ranks or {},
            "target_modules": list(modules),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        }
    )
    for name, shape in weights.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] not in modules or len(shape) != 2:
            continue
        own = (ranks or {}).get(module.rpartition(".")[2], rank)
        for side, size in (("A", (own, shape[1])), ("B", (shape[0], own))):
            numbers = random.standard_normal(size, np.float32) * np.float32(strength)
            files.tensors[f"{PREFIX}{module}.lora_{side}.weight"] = to_bf16(numbers)
    return files
