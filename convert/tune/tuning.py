"""Types of matrices, rounded with error feedback, and what each costs. START HERE for `--type auto`.

The reference is the checkpoint as BF16. It runs on the calibration texts once, to see what its matrices are multiplied
with; then each matrix is replaced by its smallest candidate, alone, and the model's divergence from itself is measured.
What was measured is kept in a folder, so that another budget costs seconds.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..kept import new_file
from ..measure.divergence import compare, predict
from ..measure.importance import Importance
from ..measure.moments import input_of, second_moments
from ..measure.runner import Floats, Runner
from ..measure.texts import CHUNK_TOKENS, Texts, chunks
from ..progress import Progress
from ..read.tensors import TOKEN_EMBD, ModelTensor
from ..weights.feedback import Feedback, loss
from ..weights.ggml import Ggml, GgmlType
from ..write.manifest import sha256_of
from .tuned import Figures, Tuned

# About 12 000 tokens.
CALIBRATION_CHUNKS = 24
# A matrix's divergence is measured on a text that was not tuned on, where it has read a little.
_READ_SHARE = 0.125
# The model runs on it once per matrix; twice as many chose no better types for a 0.5B.
_MEASURED_TOKENS = 128
# Moments of so many matrices are held at once; a model with more is run several times.
_MOMENTS_BYTES = 3 << 30
_SLAB_ELEMENTS = 8 << 20
# The embedding is looked up too, where every column counts as much; as a share of the mean moment.
_EMBEDDING_RIDGE = 0.1
# Of the time, where divergences are measured too.
_ROUNDING_SHARE = 0.6

# Types of each matrix, by its name.
Kinds = Mapping[str, Sequence[GgmlType]]


@dataclass(frozen=True, slots=True)
class Tuning:
    """reference: gives the model as BF16, if it is needed; matrices: those that get a type; kinds: which each may get.

    threads: they change nothing but the time.
    """

    reference: Callable[[], Path]
    matrices: Sequence[ModelTensor]
    kinds: Kinds
    texts: Texts
    seed: int
    ggml: Ggml
    threads: int

    def run(self, folder: Path, progress: Progress, *, has_divergences: bool = True) -> Tuned:
        """All matrices as all their types, and the divergence of the first type of each.

        What `folder`, which is this reference's own, holds of it is not done again. Raises ConvertError.
        """
        name = hashlib.sha256(f"{self.texts.sha256}, {self.seed}".encode()).hexdigest()
        tuned = Tuned.read(folder / name[:16])
        unmeasured = [
            tensor
            for tensor in self.matrices
            if has_divergences and self.kinds[tensor.name][0] not in tuned.divergences.get(tensor.name, {})
        ]
        if unmeasured:
            # These are read below.
            tuned.drop_damaged({tensor.name: self.kinds[tensor.name][0] for tensor in unmeasured})
        unrounded = {
            tensor.name: [kind for kind in self.kinds[tensor.name] if not tuned.has_encoded(tensor, kind)]
            for tensor in self.matrices
        }
        is_unrounded = any(unrounded.values()) or not tuned.importance.is_file()
        if not is_unrounded and not unmeasured:
            return tuned
        progress("loading", 0.0)
        with (
            Runner(self.reference(), chunk_tokens=CHUNK_TOKENS, threads=self.threads, is_writable=True) as runner,
            # For numpy's products: work is shared out by whole matrices, or the sums, and so the bytes, would depend
            # on how many threads there are, and on when each of them comes.
            threadpool_limits(1, "blas"),
        ):
            *seen, unseen = chunks(self.texts, runner, seed=self.seed, most=CALIBRATION_CHUNKS + 1)
            if is_unrounded:
                share = _ROUNDING_SHARE if unmeasured else 1.0
                self._round(runner, seen or [unseen], unrounded, tuned, lambda what, at: progress(what, share * at))
                tuned.write()
            if unmeasured:
                self._measure(runner, unseen[:_MEASURED_TOKENS], unmeasured, tuned, progress)
                tuned.write()
        return tuned

    def _round(
        self,
        runner: Runner,
        texts: Sequence[Sequence[int]],
        kinds: Kinds,
        tuned: Tuned,
        progress: Progress,
    ) -> None:
        # The first run sees the inputs of all matrices, be there something to round or not.
        is_first = not tuned.importance.is_file()
        parts = list(_parts([tensor for tensor in self.matrices if is_first or kinds[tensor.name]]))
        squares: dict[str, Floats] = {}
        done, steps = 0, len(parts) * len(texts) + sum(map(len, parts))

        def step(what: str) -> None:
            nonlocal done
            done += 1
            progress(what, done / steps)

        for part in parts:
            names = [tensor.name for tensor in part]
            moments = second_moments(
                runner, texts, names, threads=self.threads, progress=lambda: step("calibrating")
            )  # fmt: skip
            squares |= {name: np.diag(moments[same]).copy() for name in names if (same := input_of(name)) in moments}
            sharing: dict[str, list[ModelTensor]] = {}
            for tensor in part:
                sharing.setdefault(input_of(tensor.name), []).append(tensor)

            def work(item: tuple[str, list[ModelTensor]], moments: dict[str, Floats] = moments) -> Figures:
                return self._encode(runner, item[1], moments.get(item[0]), kinds, tuned)

            with ThreadPoolExecutor(self.threads, thread_name_prefix="tune") as pool:
                for found in pool.map(work, sharing.items()):
                    for name, losses in found.items():
                        tuned.losses.setdefault(name, {}).update(losses)
                        step(f"rounding {name}")
        if is_first:
            with new_file(tuned.importance) as draft:
                Importance(
                    sums=squares,
                    counts=dict.fromkeys(squares, float(len(texts) * CHUNK_TOKENS)),
                    datasets=(self.texts.name,),
                    chunks=len(texts),
                    chunk_tokens=CHUNK_TOKENS,
                ).write(draft)
            tuned.sha256[tuned.importance.name] = sha256_of(tuned.importance)

    def _encode(
        self,
        runner: Runner,
        tensors: Sequence[ModelTensor],
        moments: Floats | None,
        kinds: Kinds,
        tuned: Tuned,
    ) -> Figures:
        """Matrices with the same input, as all their types; gives the losses."""
        columns = tensors[0].columns
        # A matrix that is only looked up in is multiplied with nothing.
        known = np.eye(columns, dtype=np.float32) if moments is None else moments
        is_embedding = tensors[0].name == TOKEN_EMBD
        feedback = Feedback(known, ridge=_EMBEDDING_RIDGE) if is_embedding else Feedback(known)
        losses: Figures = {tensor.name: {} for tensor in tensors}
        rows_per_slab = max(1, _SLAB_ELEMENTS // columns)
        for tensor in tensors:
            for kind in kinds[tensor.name]:
                total, digest = 0.0, hashlib.sha256()
                path = tuned.encoded(tensor.name, kind)
                with new_file(path) as draft, draft.open("wb") as file:
                    for first in range(0, tensor.rows, rows_per_slab):
                        weights = _numbers(runner, tensor.name, self.ggml, first, rows_per_slab)
                        encoded, decoded = feedback.encode(self.ggml, weights, kind)
                        total += loss(known, weights - decoded)
                        file.write(encoded.data)
                        digest.update(encoded.data)
                losses[tensor.name][kind] = total
                tuned.sha256[path.name] = digest.hexdigest()
        return losses

    def _measure(
        self,
        runner: Runner,
        text: list[int],
        tensors: Sequence[ModelTensor],
        tuned: Tuned,
        progress: Progress,
    ) -> None:
        """The divergence of the model with one matrix as the first of its types, for each."""
        reference = predict(runner, [text], read_share=_READ_SHARE)
        for at, tensor in enumerate(tensors):
            progress(f"measuring {tensor.name}", _ROUNDING_SHARE + (1 - _ROUNDING_SHARE) * at / len(tensors))
            bits = runner.weights(tensor.name)
            before = bits.copy()
            kind = self.kinds[tensor.name][0]
            encoded = np.fromfile(tuned.encoded(tensor.name, kind), np.uint8)
            decoded = np.empty(bits.shape, np.float32)
            self.ggml.dequantize(kind, encoded.ctypes.data, decoded.ctypes.data, decoded.size)
            bits[:] = _to_bf16(decoded)
            tuned.divergences.setdefault(tensor.name, {})[kind] = max(0.0, compare(runner, reference).mean)
            bits[:] = before


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
