"""Every candidate type of every matrix, rounded with error feedback, and what each costs. START HERE for `--type auto`.

The reference is the checkpoint as BF16. It runs on the calibration texts once, to see what its matrices are multiplied
with; then each matrix is replaced by its smallest candidate, alone, and the model's divergence from itself is measured.
The other candidates of a matrix diverge less by as much as their loss is smaller: both are quadratic in the error.
What was measured is kept in a folder, so that another budget costs seconds.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..measure.divergence import compare, predict
from ..measure.importance import Importance
from ..measure.moments import input_of, second_moments
from ..measure.runner import Floats, Runner
from ..measure.texts import CHUNK_TOKENS, Texts, chunks
from ..read.tensors import TOKEN_EMBD, ModelTensor
from ..weights.feedback import Feedback, loss
from ..weights.ggml import Ggml, GgmlType, row_bytes
from ..write.manifest import IMPORTANCE_FILE
from .allocation import Option
from .candidates import Target, candidates

# About 12 000 tokens.
CALIBRATION_CHUNKS = 24
# A matrix's divergence is measured on a text that was not tuned on, where it has read a little.
_READ_SHARE = 0.125
# The model runs on it once per matrix.
_MEASURED_TOKENS = 256
# Moments of so many matrices are held at once; a model with more is run several times.
_MOMENTS_BYTES = 3 << 30
_SLAB_ELEMENTS = 8 << 20
# The embedding is looked up too, where every column counts as much; as a share of the mean moment.
_EMBEDDING_RIDGE = 0.1
_FILE, _ENCODED = "measured.json", "encoded"

# Hears what is done, and which share of all.
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Tuned:
    """options: for each matrix, what each type costs; folder: where the encoded matrices are."""

    options: dict[str, list[Option]]
    folder: Path

    def encoded(self, name: str, kind: GgmlType) -> Path:
        """The matrix's bytes as this type, row after row."""
        return self.folder / _ENCODED / f"{name}.{kind.name}"

    @property
    def importance(self) -> Path:
        """The importance matrix, as upstream's tools read it."""
        return self.folder / IMPORTANCE_FILE


@dataclass(frozen=True, slots=True)
class Tuning:
    """reference: the model as BF16; matrices: those that get a type.

    threads: they change nothing but the time.
    """

    reference: Path
    matrices: Sequence[ModelTensor]
    target: Target
    texts: Texts
    seed: int
    threads: int

    def run(self, folder: Path, ggml: Ggml, progress: Progress) -> Tuned:
        """Measures, or finds what was measured in `folder`, which is this reference's own. Raises ConvertError."""
        name = hashlib.sha256(f"{self.target.value}, {self.texts.sha256}, {self.seed}".encode()).hexdigest()
        home = folder / name[:16]
        if (options := _read(home / _FILE)) is not None:
            return Tuned(options, home)
        (home / _ENCODED).mkdir(parents=True, exist_ok=True)
        tuned = Tuned({}, home)
        progress("loading", 0.0)
        with Runner(self.reference, chunk_tokens=CHUNK_TOKENS, threads=self.threads, is_writable=True) as runner:
            most = CALIBRATION_CHUNKS + 1
            *seen, unseen = chunks(self.texts, runner, seed=self.seed, most=most)
            seen = seen or [unseen]
            losses = self._encode_all(runner, seen, tuned, ggml, progress)
            divergences = self._measure_all(runner, unseen[:_MEASURED_TOKENS], tuned, ggml, progress)
        for tensor in self.matrices:
            kinds = candidates(self.target, tensor)
            tuned.options[tensor.name] = [
                Option(
                    kind,
                    tensor.rows * row_bytes(kind, tensor.columns),
                    _scaled(divergences[tensor.name], losses[tensor.name, kind], losses[tensor.name, kinds[0]]),
                )
                for kind in kinds
            ]
        _write(home / _FILE, tuned.options)
        return tuned

    def _encode_all(
        self, runner: Runner, texts: Sequence[Sequence[int]], tuned: Tuned, ggml: Ggml, progress: Progress
    ) -> dict[tuple[str, GgmlType], float]:
        losses: dict[tuple[str, GgmlType], float] = {}
        squares: dict[str, Floats] = {}
        parts = list(_parts(self.matrices))
        done, steps = 0, len(parts) * len(texts) + len(self.matrices)

        def step(what: str) -> None:
            nonlocal done
            done += 1
            progress(what, 0.6 * done / steps)

        for part in parts:
            names = [tensor.name for tensor in part]
            moments = second_moments(
                runner, texts, names, threads=self.threads, progress=lambda: step("calibrating")
            )  # fmt: skip
            squares |= {name: np.diag(moments[same]).copy() for name in names if (same := input_of(name)) in moments}
            sharing: dict[str, list[ModelTensor]] = {}
            for tensor in part:
                sharing.setdefault(input_of(tensor.name), []).append(tensor)

            def work(
                item: tuple[str, list[ModelTensor]], moments: dict[str, Floats] = moments
            ) -> dict[tuple[str, GgmlType], float]:
                return self._encode(runner, item[1], moments.get(item[0]), tuned, ggml)

            with ThreadPoolExecutor(self.threads, thread_name_prefix="tune") as pool:
                for found in pool.map(work, sharing.items()):
                    losses |= found
                    for name in {name for name, _ in found}:
                        step(f"rounding {name}")
        Importance(
            sums=squares,
            counts=dict.fromkeys(squares, float(len(texts) * CHUNK_TOKENS)),
            datasets=(self.texts.name,),
            chunks=len(texts),
            chunk_tokens=CHUNK_TOKENS,
        ).write(tuned.importance)
        return losses

    def _encode(
        self, runner: Runner, tensors: Sequence[ModelTensor], moments: Floats | None, tuned: Tuned, ggml: Ggml
    ) -> dict[tuple[str, GgmlType], float]:
        """Matrices with the same input, as every candidate type; gives the losses."""
        columns = tensors[0].columns
        # A matrix that is only looked up in is multiplied with nothing.
        known = np.eye(columns, dtype=np.float32) if moments is None else moments
        is_embedding = tensors[0].name == TOKEN_EMBD
        feedback = Feedback(known, ridge=_EMBEDDING_RIDGE) if is_embedding else Feedback(known)
        losses: dict[tuple[str, GgmlType], float] = {}
        rows_per_slab = max(1, _SLAB_ELEMENTS // columns)
        for tensor in tensors:
            for kind in candidates(self.target, tensor):
                total = 0.0
                with tuned.encoded(tensor.name, kind).open("wb") as file:
                    for first in range(0, tensor.rows, rows_per_slab):
                        weights = _numbers(runner, tensor.name, ggml, first, rows_per_slab)
                        encoded, decoded = feedback.encode(ggml, weights, kind)
                        total += loss(known, weights - decoded)
                        file.write(encoded.data)
                losses[tensor.name, kind] = total
        return losses

    def _measure_all(
        self, runner: Runner, text: list[int], tuned: Tuned, ggml: Ggml, progress: Progress
    ) -> dict[str, float]:
        """The divergence of the model with one matrix as its smallest candidate, for each."""
        reference = predict(runner, [text], read_share=_READ_SHARE)
        found: dict[str, float] = {}
        for at, tensor in enumerate(self.matrices):
            progress(f"measuring {tensor.name}", 0.6 + 0.4 * at / len(self.matrices))
            bits = runner.weights(tensor.name)
            before = bits.copy()
            kind = candidates(self.target, tensor)[0]
            encoded = np.fromfile(tuned.encoded(tensor.name, kind), np.uint8)
            decoded = np.empty(bits.shape, np.float32)
            ggml.dequantize(kind, encoded.ctypes.data, decoded.ctypes.data, decoded.size)
            bits[:] = _to_bf16(decoded)
            found[tensor.name] = max(0.0, compare(runner, reference).mean)
            bits[:] = before
        return found


def _parts(matrices: Sequence[ModelTensor]) -> Iterator[list[ModelTensor]]:
    """Matrices whose moments fit into _MOMENTS_BYTES together, or a single one's."""
    part: list[ModelTensor] = []
    held: dict[str, int] = {}
    for tensor in matrices:
        more = {input_of(tensor.name): 4 * tensor.columns**2}
        if part and sum((held | more).values()) > _MOMENTS_BYTES:
            yield part
            part, held = [], {}
        part.append(tensor)
        held |= more
    if part:
        yield part


def _scaled(divergence: float, own_loss: float, measured_loss: float) -> float:
    return divergence * own_loss / measured_loss if measured_loss > 0 else 0.0


def _numbers(runner: Runner, name: str, ggml: Ggml, first: int, rows: int) -> Floats:
    """Rows of a matrix of the reference."""
    bits = runner.weights(name)[first : first + rows]
    numbers = np.empty(bits.shape, np.float32)
    ggml.bf16_to_f32(bits.ctypes.data, numbers.ctypes.data, numbers.size)
    return numbers


def _to_bf16(numbers: Floats) -> Any:
    """Rounded to nearest even, as bits."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _write(path: Path, options: dict[str, list[Option]]) -> None:
    value = {
        name: [{"type": one.kind.name, "bytes": one.nbytes, "divergence": one.divergence} for one in several]
        for name, several in options.items()
    }
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _read(path: Path) -> dict[str, list[Option]] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: [Option(GgmlType[one["type"]], int(one["bytes"]), float(one["divergence"])) for one in several]
            for name, several in value.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
