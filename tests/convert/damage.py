"""Checkpoints that are whole as files, and wrong as models."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# This is no chat form that Qwen was trained on.
PLAIN_TEMPLATE = (
    "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)
REFUSING_TEMPLATE = "{{ raise_exception('no conversations') }}"


def shuffle_weights(folder: Path, layers: int = 1) -> None:
    """The down projections of the last `layers` layers get their own numbers in another order."""
    weights = _Weights(folder)
    for layer in range(weights.layers - layers, weights.layers):
        numbers = weights[f"model.layers.{layer}.mlp.down_proj.weight"]
        numbers[:] = np.random.default_rng(layer).permutation(numbers)


class _Weights:
    """The tensors of a checkpoint as their file holds them, in 16 bits per number, to be written into."""

    def __init__(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._header: dict[str, Any] = json.loads(file.read(length))
        self._data = np.memmap(path, np.uint8, "r+", 8 + length)
        self.layers = 1 + max(int(name.split(".")[2]) for name in self._header if name.startswith("model.layers."))

    def __getitem__(self, name: str) -> np.ndarray[Any, np.dtype[np.uint16]]:
        start, end = self._header[name]["data_offsets"]
        return self._data[start:end].view(np.uint16)


def shuffle_tokens(folder: Path) -> None:
    """A tenth of the tokenizer's tokens change places."""
    _move_tokens(folder, lambda tokens: random.Random(0).sample(sorted(tokens), len(tokens) // 10))


def swap_tokens(folder: Path) -> None:
    """Two tokens that stand for one letter each change places."""
    _move_tokens(folder, lambda _: ["e", "a"])


def _move_tokens(folder: Path, choose: Callable[[dict[str, int]], list[str]]) -> None:
    """Each of the chosen tokens gets the number of the next one."""
    with _edited(folder / "tokenizer.json") as tokenizer:
        vocabulary = tokenizer["model"]["vocab"]
        chosen = choose(vocabulary)
        ids = [vocabulary[token] for token in chosen]
        vocabulary |= dict(zip(chosen, ids[1:] + ids[:1], strict=True))


def set_template(folder: Path, template: str | None) -> None:
    with _edited(folder / "tokenizer_config.json") as config:
        config["chat_template"] = template


@contextmanager
def _edited(path: Path) -> Iterator[dict[str, Any]]:
    """What a JSON file holds, written back at the end."""
    value = json.loads(path.read_text("utf-8"))
    yield value
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "shuffled weights of one layer": shuffle_weights,
    "shuffled tokens": shuffle_tokens,
    "another chat template": lambda folder: set_template(folder, PLAIN_TEMPLATE),
}


def damaged(checkpoint: Path, folder: Path, damage: Callable[[Path], object]) -> Path:
    """A copy of the checkpoint, damaged."""
    shutil.copytree(checkpoint, folder)
    damage(folder)
    return folder
