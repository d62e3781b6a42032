"""Adapters of a bundle: a user's own, made of a PEFT folder, and those that lie beside a model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .conversion import read_tensors
from .read.checkpoint import Checkpoint
from .read.lora import Lora
from .write.adapter import write_adapter
from .write.manifest import ADAPTER_FILE, REPAIR_FILE, sha256_of


@contextmanager
def open_lora(folder: Path | None, checkpoint: Checkpoint) -> Iterator[Lora | None]:
    """Checked against the checkpoint; None = there is none. Raises CheckpointError."""
    if folder is None:
        yield None
        return
    config, tensors = read_tensors(checkpoint)
    with Lora(folder, tensors, [config.origin, checkpoint.folder.resolve().name]) as lora:
        yield lora


@dataclass(frozen=True, slots=True)
class Adapted:
    """A GGUF model with the adapters that are applied to it."""

    model: Path
    adapters: Sequence[Path] = ()

    @property
    def key(self) -> str:
        """Of the adapters, for the name of what is kept; empty for none."""
        return "".join(f"{sha256_of(path)[:16]}-" for path in self.adapters)


def adapters_beside(model: Path) -> list[Path]:
    """The files of a bundle that are applied together with its model."""
    return [path for name in (ADAPTER_FILE, REPAIR_FILE) if (path := model.with_name(name)).is_file()]


def adapters_of_reference(model: Path) -> list[Path]:
    """What an unquantized model needs to be compared with this one: the user's adapter, and no repair."""
    return [path for path in adapters_beside(model) if path.name == ADAPTER_FILE]


def add_lora(folder: Path, lora: Lora | None, name: str) -> None:
    """Write it into the folder of a bundle."""
    if lora is not None:
        write_adapter(folder / ADAPTER_FILE, name, lora.updates, alpha=lora.alpha)
