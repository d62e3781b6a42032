"""Importance matrices: how much each input of a matrix matters, in the GGUF format of `llama-imatrix`.

A file holds sums and counts, so that several are merged by adding. Source: tools/imatrix/imatrix.cpp.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

from ..errors import ConvertError, printable
from ..read.text_file import check_regular
from .runner import Floats

_SUM, _COUNT = ".in_sum2", ".counts"
_MOST_CHUNKS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Importance:
    """sums: of the squares of each matrix's inputs [columns]; counts: the number of tokens that were summed up.

    datasets: names of the texts; chunks: their number of chunks, each of `chunk_tokens`.
    """

    sums: Mapping[str, Floats]
    counts: Mapping[str, float]
    datasets: tuple[str, ...]
    chunks: int
    chunk_tokens: int

    def write(self, path: Path) -> None:
        """Writes the matrices in the order of their names."""
        writer = GGUFWriter(path, "")
        writer.kv_data[0].clear()
        writer.add_string("general.type", "imatrix")
        writer.add_array("imatrix.datasets", list(self.datasets))
        writer.add_uint32("imatrix.chunk_count", self.chunks)
        writer.add_uint32("imatrix.chunk_size", self.chunk_tokens)
        for name in sorted(self.sums):
            writer.add_tensor(name + _SUM, np.asarray(self.sums[name], np.float32)[None, :])
            writer.add_tensor(name + _COUNT, np.full((1, 1), self.counts[name], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_importance(path: Path) -> Importance:
    """Raises ConvertError if the file is not an importance matrix."""
    check_regular(path)
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: np.array(tensor.data, np.float32).reshape(-1) for tensor in reader.tensors}
        names = [name.removesuffix(_SUM) for name in tensors if name.endswith(_SUM)]
        if fields.get("general.type") != "imatrix" or not names:
            raise ValueError("it holds no importance matrix")
        found = Importance(
            sums={name: tensors[name + _SUM] for name in names},
            counts={name: float(tensors[name + _COUNT][0]) for name in names},
            datasets=tuple(map(str, fields["imatrix.datasets"])),
            chunks=int(fields["imatrix.chunk_count"]),
            chunk_tokens=int(fields["imatrix.chunk_size"]),
        )
        _check(found)
    except OSError as error:
        raise ConvertError(f"{printable(str(path))}: cannot be read: {error.strerror or error}") from None
    except KeyError as error:
        raise ConvertError(f"{printable(str(path))}: not an importance matrix: {error} is missing") from None
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise ConvertError(f"{printable(str(path))}: not an importance matrix: {printable(str(error))}") from None
    return found


def _check(found: Importance) -> None:
    """Raises ValueError for numbers that no texts produce."""
    if not (0 <= found.chunks <= _MOST_CHUNKS and 0 <= found.chunk_tokens <= _MOST_CHUNKS):
        raise ValueError(f"chunks {found.chunks} of {found.chunk_tokens} tokens, allowed is 0 to {_MOST_CHUNKS} each")
    for name, sums in found.sums.items():
        if not (np.isfinite(sums).all() and np.min(sums, initial=0.0) >= 0):
            raise ValueError(f"{printable(name)}: the sums of squares must be finite, and not negative")
        if not 0 < found.counts[name] < np.inf:
            raise ValueError(f"{printable(name)}: count {found.counts[name]}, allowed is a finite number above 0")


def merge(several: Mapping[str, Importance]) -> Importance:
    """The importance matrix of all texts together. several: by the name for error messages.

    Raises ConvertError if they are not of the same matrices.
    """
    (first_name, first), *others = several.items()
    for name, other in others:
        for matrix in sorted(first.sums.keys() | other.sums.keys()):
            columns = [0 if (sums := one.sums.get(matrix)) is None else len(sums) for one in (first, other)]
            if columns[0] != columns[1]:
                here, there = (f"{count} columns" if count else "no entry" for count in reversed(columns))
                raise ConvertError(
                    f"{printable(name)}: does not fit {printable(first_name)}: {printable(matrix)} has {here} here "
                    f"and {there} there; all must be of the same matrices"
                )
    ones = list(several.values())
    merged = Importance(
        sums={name: _sum([one.sums[name] for one in ones]) for name in first.sums},
        counts={name: sum(one.counts[name] for one in ones) for name in first.sums},
        datasets=tuple(name for one in ones for name in one.datasets),
        chunks=sum(one.chunks for one in ones),
        chunk_tokens=first.chunk_tokens,
    )
    try:
        _check(merged)
    except ValueError as error:
        raise ConvertError(f"the sum of all: {error}") from None
    return merged


def _sum(several: list[Floats]) -> Floats:
    """The sum, rounded once, so that it does not depend on the order."""
    return np.sum(several, axis=0, dtype=np.float64).astype(np.float32)
