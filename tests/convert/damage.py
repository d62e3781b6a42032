"""Checkpoints that are whole as files, and wrong as models."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# No chat form that Qwen was trained on.
PLAIN_TEMPLATE = (
    "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)
REFUSING_TEMPLATE = "{{ raise_exception('no conversations') }}"


def shuffle_weights(folder: Path, layers: int = 1) -> None:
    """The projections down of so many layers, the last ones, get their own numbers in another order."""
    path = folder / "model.safetensors"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    last = max(int(name.split(".")[2]) for name in header if name.startswith("model.layers."))
    data = np.memmap(path, np.uint8, "r+", 8 + length)
    for layer in range(last + 1 - layers, last + 1):
        start, end = header[f"model.layers.{layer}.mlp.down_proj.weight"]["data_offsets"]
        weights = data[start:end].view(np.uint16)
        weights[:] = np.random.default_rng(layer).permutation(weights)
    data.flush()


def shuffle_tokens(folder: Path) -> None:
    """A tenth of the tokenizer's tokens change places."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    chosen = random.Random(0).sample(sorted(vocabulary), len(vocabulary) // 10)
    ids = [vocabulary[token] for token in chosen]
    vocabulary |= dict(zip(chosen, ids[1:] + ids[:1], strict=True))
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")


def set_template(folder: Path, template: str | None) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["chat_template"] = template
    path.write_text(json.dumps(config), "utf-8")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "shuffled weights of one layer": shuffle_weights,
    "shuffled weights of two layers": lambda folder: shuffle_weights(folder, 2),
    "shuffled tokens": shuffle_tokens,
    "another chat template": lambda folder: set_template(folder, PLAIN_TEMPLATE),
}


def damaged(checkpoint: Path, folder: Path, damage: Callable[[Path], object]) -> Path:
    """A copy of the checkpoint, damaged."""
    shutil.copytree(checkpoint, folder)
    damage(folder)
    return folder
