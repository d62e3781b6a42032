"""How much each matrix loses as each type, by which `--budget` allocates bytes. START HERE for its measurements.

The BF16 reference runs on the calibration texts once, to record what its matrices are multiplied with. Each matrix is
then rounded, with error feedback, to each of its types. For `--budget` the reference also runs once per matrix, with
that matrix alone as its smallest type, and the KL divergence is recorded. All results are kept in a folder, for the
next budget and for a run that was stopped. One run at a time may use it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..agent import atomic_writer
from ..allocate import Option
from ..errors import ConvertError, escaped
from ..progress import OnProgress
from ..quantize.error_feedback import RIDGE, ErrorFeedback, loss
from ..quantize.ggml import Floats, GgmlType, dequantized, row_bytes
from ..quantize.quantizer import processors
from ..read.tensors import TOKEN_EMBD, ModelTensor
from ..write.manifest import IMPORTANCE_FILE
from .cache import read_cached, write_cached
from .divergence import compare, predict
from .moments import input_group, read_importance, second_moments, write_importance
from .runner import Runner
from .texts import Texts, chunks

# About 12 000 tokens.
CALIBRATION_CHUNKS = 24
# Divergences are measured on a chunk that was not tuned on, if there are two. Its first part is context only.
_CONTEXT_SHARE = 0.125
# The model runs on these tokens once per matrix; twice as many chose no better types for a 0.5B.
_MEASURED_TOKENS = 128
# Limits the memory for moments; a larger model runs several times.
_MOMENTS_BYTES = 3 << 30
_SLAB_ELEMENTS = 8 << 20
# The embedding is also looked up, where all columns count alike, so each gets this share of the mean moment.
_EMBEDDING_RIDGE = 0.1
_FILE, _ENCODED = "measured.json", "encoded"

# The types that each matrix may get, by its name.
Kinds = Mapping[str, Sequence[GgmlType]]
# A number by name of the matrix, then by name of the type.
Figures = dict[str, dict[str, float]]


@dataclass(slots=True)
class Sensitivities:
    """What a folder of the cache holds: encoded matrices, and figures by matrix and type."""

    folder: Path
    losses: Figures = field(default_factory=dict)  # How much a matrix loses when it is rounded to the type.
    divergences: Figures = field(default_factory=dict)  # In nats, of the model with only that matrix rounded.
    _lock: Lock = field(default_factory=Lock)

    def load(self) -> None:
        match read_cached(self.folder / _FILE):
            case {"losses": dict(losses), "divergences": dict(divergences)}:
                self.losses, self.divergences = losses, divergences

    def add(self, figures: Figures, name: str, kind: GgmlType, number: float) -> None:
        """Notes a number in `losses` or `divergences`, and writes both to the file. Any thread may call it."""
        with self._lock:
            figures.setdefault(name, {})[kind.name] = number
            write_cached(self.folder / _FILE, {"losses": self.losses, "divergences": self.divergences})

    @property
    def importance_path(self) -> Path:
        return self.folder / IMPORTANCE_FILE

    def encoded_path(self, name: str, kind: GgmlType) -> Path:
        """The file of a matrix encoded as this type, row after row."""
        return self.folder / _ENCODED / f"{name}.{kind.name}"

    def is_encoded(self, tensor: ModelTensor, kind: GgmlType) -> bool:
        path = self.encoded_path(tensor.name, kind)
        nbytes = tensor.rows * row_bytes(kind, tensor.columns)
        return kind.name in self.losses.get(tensor.name, {}) and path.is_file() and path.stat().st_size == nbytes

    def options(self, tensor: ModelTensor, kinds: Sequence[GgmlType]) -> list[Option]:
        """The cost of each type. The divergence of the first was measured; the others are scaled by their losses, as
        both are quadratic in the error."""
        measured, losses = self.divergences[tensor.name][kinds[0].name], self.losses[tensor.name]
        smallest = losses[kinds[0].name]
        return [
            Option(
                kind=kind,
                nbytes=tensor.rows * row_bytes(kind, tensor.columns),
                divergence=measured * losses[kind.name] / smallest if smallest > 0 else 0.0,
                is_measured=kind is kinds[0],
            )
            for kind in kinds
        ]


def measure_sensitivities(
    reference: Path,
    matrices: Sequence[ModelTensor],
    kinds: Kinds,
    texts: Texts,
    progress: OnProgress,
    *,
    seed: int,
    with_divergences: bool,
) -> Sensitivities:
    """Rounds all matrices to all their types, and measures the divergence of the first type of each.

    `reference` is the BF16 model. Results in its folder for the same texts and seed are used again, even those of a run
    that was stopped. Nothing depends on the number of processors. Raises ConvertError.
    """
    name = hashlib.sha256(f"{texts.sha256}, {seed}".encode()).hexdigest()
    results = Sensitivities(reference.parent / name[:16])
    # The importance matrix must hold all matrices that need not be rounded again.
    if read_importance(results.importance_path) is not None:
        results.load()
    # They are in the order of a run, where the embedding comes last, because it is the output matrix or only looked up.
    matrices = sorted(matrices, key=lambda tensor: tensor.name == TOKEN_EMBD)
    missing = {
        tensor.name: [kind for kind in kinds[tensor.name] if not results.is_encoded(tensor, kind)]
        for tensor in matrices
    }
    unmeasured = [
        tensor
        for tensor in matrices
        if with_divergences and kinds[tensor.name][0].name not in results.divergences.get(tensor.name, {})
    ]
    to_round = [tensor for tensor in matrices if missing[tensor.name]]
    if not to_round and not unmeasured:
        return results
    progress("loading", 0.0)
    with (
        Runner(reference, is_writable=True) as runner,
        # numpy's sums would depend on the number of threads, so each thread gets whole matrices instead.
        threadpool_limits(1, "blas"),
    ):
        text_chunks = chunks(texts, runner, seed=seed, max_chunks=CALIBRATION_CHUNKS + 1)
        seen, unseen = text_chunks[:-1] or text_chunks, text_chunks[-1][:_MEASURED_TOKENS]
        if to_round:
            _round(runner, seen, list(_parts(to_round)), missing, results, dataset=texts.name, progress=progress)
        if unmeasured:
            _measure_divergences(runner, unseen, unmeasured, kinds, results, progress=progress)
    return results


def _round(
    runner: Runner,
    texts: Sequence[Sequence[int]],
    parts: Sequence[Sequence[ModelTensor]],
    kinds: Kinds,
    results: Sensitivities,
    *,
    dataset: str,
    progress: OnProgress,
) -> None:
    """Encodes the matrices as these types, and records it in `results`. `dataset` is the name of the texts."""
    (results.folder / _ENCODED).mkdir(parents=True, exist_ok=True)
    squares = read_importance(results.importance_path) or {}
    for number, part in enumerate(parts, 1):
        of_parts = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        names = [tensor.name for tensor in part if runner.is_multiplied(tensor.name)]
        moments = second_moments(runner, texts, names, progress=partial(progress, f"calibrating{of_parts}"))
        squares |= {name: np.diag(moments[input_group(name)]).copy() for name in names}
        with atomic_writer(results.importance_path) as draft:
            write_importance(Path(draft.name), squares, dataset=dataset, chunks=len(texts))
        groups: dict[str, _SharedInput] = {}
        for tensor in part:
            if (name := input_group(tensor.name)) not in groups:
                groups[name] = _SharedInput(moments.get(name), tensor)
        pool = ThreadPoolExecutor(processors())
        try:
            encoding = {
                pool.submit(_encode, runner, groups[input_group(tensor.name)], tensor, kind, results): tensor
                for tensor in sorted(part, key=lambda tensor: input_group(tensor.name))
                for kind in kinds[tensor.name]
            }
            # Freed one by one, when their last matrix is encoded.
            del moments, groups
            done, total = 0, sum(tensor.rows * tensor.columns for tensor in encoding.values())
            for encoded in as_completed(encoding):
                encoded.result()
                tensor = encoding[encoded]
                done += tensor.rows * tensor.columns
                progress(f"rounding {tensor.name}{of_parts}", done / total)
        finally:
            # A stop waits for what is being rounded and begins nothing more.
            pool.shutdown(cancel_futures=True)


class _SharedInput:
    """Matrices with the same input. Its feedback takes as much memory as the moments, and is freed with the group."""

    def __init__(self, moments: Floats | None, first: ModelTensor) -> None:
        # A matrix that is only looked up is not multiplied with anything.
        self.moments = np.eye(first.columns, dtype=np.float32) if moments is None else moments
        self._ridge = _EMBEDDING_RIDGE if first.name == TOKEN_EMBD else RIDGE
        self._lock = Lock()
        self._feedback: ErrorFeedback | None = None

    def feedback(self) -> ErrorFeedback:
        """The feedback of these inputs, made by the first thread that needs it."""
        with self._lock:
            if self._feedback is None:
                self._feedback = ErrorFeedback(self.moments, ridge=self._ridge)
            return self._feedback


def _encode(runner: Runner, group: _SharedInput, tensor: ModelTensor, kind: GgmlType, results: Sensitivities) -> None:
    feedback, stored, total = group.feedback(), runner.weights(tensor.name), 0.0
    with atomic_writer(results.encoded_path(tensor.name, kind)) as file:
        for rows in _slabs(tensor):
            weights = dequantized(GgmlType.BF16, stored[rows], tensor.columns)
            try:
                encoded, rounded = feedback.encode(weights, kind)
            except ConvertError as error:
                raise ConvertError(f"tensor {escaped(tensor.source.name)}: {error}") from None
            total += loss(group.moments, weights - rounded)
            file.write(encoded.data)
    results.add(results.losses, tensor.name, kind, total)


def _measure_divergences(
    runner: Runner,
    text: list[int],
    tensors: Sequence[ModelTensor],
    kinds: Kinds,
    results: Sensitivities,
    *,
    progress: OnProgress,
) -> None:
    """The divergence of the model with only one matrix rounded, as the first of its types, for each."""
    reference = predict(runner, [text], context_share=_CONTEXT_SHARE)
    for at, tensor in enumerate(tensors):
        progress(f"measuring {tensor.name}", at / len(tensors))
        kind = kinds[tensor.name][0]
        encoded = np.memmap(results.encoded_path(tensor.name, kind), np.uint8, "r").reshape(tensor.rows, -1)
        with runner.writable_weights(tensor.name) as bits:
            for rows in _slabs(tensor):
                bits[rows] = _to_bf16(dequantized(kind, encoded[rows], tensor.columns))
            results.add(results.divergences, tensor.name, kind, max(0.0, compare(runner, reference).mean))


def _slabs(tensor: ModelTensor) -> Iterator[slice]:
    """Its rows, in slices of about _SLAB_ELEMENTS numbers."""
    count = max(1, _SLAB_ELEMENTS // tensor.columns)
    for first in range(0, tensor.rows, count):
        yield slice(first, min(first + count, tensor.rows))


def _parts(matrices: Sequence[ModelTensor]) -> Iterator[list[ModelTensor]]:
    """Groups of matrices whose moments fit into _MOMENTS_BYTES, at least one matrix each."""
    part: list[ModelTensor] = []
    held: dict[str, int] = {}
    for tensor in matrices:
        more = {input_group(tensor.name): 4 * tensor.columns**2}
        if part and sum((held | more).values()) > _MOMENTS_BYTES:
            yield part
            part, held = [], {}
        part.append(tensor)
        held |= more
    if part:
        yield part


def _to_bf16(numbers: Floats) -> Any:
    """Rounded to the nearest, ties to even, as bits."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
