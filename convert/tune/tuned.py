"""What was measured of a model's matrices, kept in a folder: the next budget, or a type by name, finds it there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..kept import figure, read_json, write_json
from ..read.tensors import ModelTensor
from ..weights.ggml import GgmlType, row_bytes
from ..write.manifest import IMPORTANCE_FILE, sha256_of
from .allocation import Option

_FILE, _ENCODED = "measured.json", "encoded"
# Name of a matrix → type → figure.
Figures = dict[str, dict[GgmlType, float]]


@dataclass(slots=True)
class Tuned:
    """losses: of each matrix rounded to each type; divergences: of the model with that matrix alone rounded so, nats.

    What has a loss has been encoded. sha256: hex, of the files, by their names.
    """

    folder: Path
    losses: Figures = field(default_factory=dict)
    divergences: Figures = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Tuned":
        """What the folder holds; nothing if it holds nothing that can be read."""
        value = read_json(folder / _FILE)
        try:
            return cls(folder, _figures(value["losses"]), _figures(value["divergences"]), dict(value["sha256"]))
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
            return cls(folder)

    def write(self) -> None:
        parts = {"losses": self.losses, "divergences": self.divergences}
        value = {
            part: {name: {kind.name: one for kind, one in found.items()} for name, found in figures.items()}
            for part, figures in parts.items()
        }
        write_json(self.folder / _FILE, value | {"sha256": self.sha256})

    def encoded(self, name: str, kind: GgmlType) -> Path:
        """The matrix's bytes as this type, row after row."""
        return self.folder / _ENCODED / f"{name}.{kind.name}"

    def has_encoded(self, tensor: ModelTensor, kind: GgmlType) -> bool:
        """Whether its bytes as this type are there, all of them; not whether they are still what was written."""
        path = self.encoded(tensor.name, kind)
        return (
            kind in self.losses.get(tensor.name, {})
            and path.name in self.sha256
            and path.is_file()
            and path.stat().st_size == tensor.rows * row_bytes(kind, tensor.columns)
        )

    def drop_damaged(self, kinds: Mapping[str, GgmlType]) -> bool:
        """Reads these matrices and the importance matrix, and forgets what is not as it was written: it is made anew.

        Whether there was such a one.
        """
        damaged = [(name, kind) for name, kind in kinds.items() if self._is_damaged(self.encoded(name, kind))]
        for name, kind in damaged:
            self.losses.get(name, {}).pop(kind, None)
        if is_importance_damaged := self._is_damaged(self.importance):
            self.importance.unlink(missing_ok=True)
        if damaged:
            self.write()
        return is_importance_damaged or bool(damaged)

    def _is_damaged(self, path: Path) -> bool:
        try:
            return path.name in self.sha256 and sha256_of(path) != self.sha256[path.name]
        except OSError:
            return True

    @property
    def importance(self) -> Path:
        """The importance matrix, as upstream's tools read it."""
        return self.folder / IMPORTANCE_FILE

    def options(self, tensor: ModelTensor, kinds: Sequence[GgmlType]) -> list[Option]:
        """What each type costs. Measured is the first; the others diverge less by as much as their loss is smaller:
        both are quadratic in the error."""
        measured, losses = self.divergences[tensor.name][kinds[0]], self.losses[tensor.name]
        return [
            Option(
                kind=kind,
                nbytes=tensor.rows * row_bytes(kind, tensor.columns),
                divergence=_scaled(measured, losses[kind], losses[kinds[0]]),
                is_measured=kind is kinds[0],
            )
            for kind in kinds
        ]


def _scaled(divergence: float, own_loss: float, measured_loss: float) -> float:
    return divergence * own_loss / measured_loss if measured_loss > 0 else 0.0


def _figures(value: Any) -> Figures:
    return {name: {GgmlType[kind]: figure(one) for kind, one in found.items()} for name, found in value.items()}
