"""An adapter file: low-rank updates that llama.cpp adds to a model's own matrices.

Source: src/llama-adapter.cpp and convert_lora_to_gguf.py of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from gguf import GGUFValueType

from ..quantize.ggml import GgmlType
from ..read.lora import LowRank
from .gguf_file import Entry, TensorInfo, write_gguf

_BYTES = 2


def write_adapter(path: Path, name: str, updates: Sequence[LowRank], *, alpha: float | None = None) -> None:
    """Writes F16 numbers. alpha: llama.cpp multiplies B·A by alpha / rank; None = by 1."""
    entries: list[Entry] = [
        ("general.type", GGUFValueType.STRING, "adapter"),
        ("general.name", GGUFValueType.STRING, name),
        ("adapter.type", GGUFValueType.STRING, "lora"),
    ]
    if alpha is not None:
        entries.append(("adapter.lora.alpha", GGUFValueType.FLOAT32, alpha))
    infos: list[TensorInfo] = []
    for update in updates:
        for side, shape in (("a", (update.rank, update.columns)), ("b", (update.rows, update.rank))):
            nbytes = _BYTES * shape[0] * shape[1]
            infos.append(TensorInfo(f"{update.name}.lora_{side}", GgmlType.F16, shape, nbytes))
    write_gguf(path, entries, infos, _data(updates))


def _data(updates: Sequence[LowRank]) -> Iterator[Iterator[memoryview]]:
    for update in updates:
        for numbers in (update.a, update.b):
            yield iter([numbers().data.cast("B")])
