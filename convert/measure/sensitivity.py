"""How much each matrix loses as each type: what `--budget` allocates by. START HERE for rounding with error feedback.

The BF16 reference runs on the calibration texts once, to record what its matrices are multiplied with. Each matrix is
then rounded, with error feedback, to each of its types. For `--budget` the reference also runs
with this one matrix as its smallest type: its predictions then diverge. All results are kept in a folder, so that the
next budget takes seconds.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..allocate import Option
from ..progress import OnProgress, part_of
from ..quantize import ggml
from ..quantize.feedback import Feedback, loss
from ..quantize.ggml import Floats, GgmlType, row_bytes
from ..quantize.quantizer import processors
from ..read.tensors import TOKEN_EMBD, ModelTensor
from ..write.manifest import IMPORTANCE_FILE
from .cache import read_cached, replaced_file, write_cached
from .divergence import compare, predict
from .moments import input_group, second_moments, write_importance
from .runner import Runner
from .texts import Texts, chunks

# About 12 000 tokens.
CALIBRATION_CHUNKS = 24
# Divergences are measured on a text that was not tuned on. Its first part is context only.
_CONTEXT_SHARE = 0.125
# The model runs on these tokens once per matrix; twice as many chose no better types for a 0.5B.
_MEASURED_TOKENS = 128
# Limits the memory for moments; a larger model runs several times.
_MOMENTS_BYTES = 3 << 30
_SLAB_ELEMENTS = 8 << 20
# The embedding is also looked up, where all columns count alike: a share of the mean moment for each.
_EMBEDDING_RIDGE = 0.1
# Weights of the progress, from a 0.5B on two cores: rounding's share of the time, where divergences are measured too;
# the time of running the texts, where that of encoding is 1.
_ROUNDING_SHARE, _CALIBRATING = 0.65, 0.8
_FILE, _ENCODED = "measured.json", "encoded"

# The types that each matrix may get, by its name.
Kinds = Mapping[str, Sequence[GgmlType]]
# Name of a matrix → name of a type → a number.
Figures = dict[str, dict[str, float]]


@dataclass(slots=True)
class Sensitivities:
    """What a folder of the cache holds: encoded matrices, and figures by matrix and type.

    losses: of the matrix rounded to the type; divergences: of the model with only that matrix rounded, in nats.
    """

    folder: Path
    losses: Figures = field(default_factory=dict)
    divergences: Figures = field(default_factory=dict)

    def load(self) -> None:
        """Takes what the folder holds."""
        if (value := read_cached(self.folder / _FILE)) is not None:
            self.losses, self.divergences = value["losses"], value["divergences"]

    def save(self) -> None:
        write_cached(self.folder / _FILE, {"losses": self.losses, "divergences": self.divergences})

    @property
    def importance(self) -> Path:
        """The importance matrix, in llama.cpp's format."""
        return self.folder / IMPORTANCE_FILE

    def encoded(self, name: str, kind: GgmlType) -> Path:
        """The file of a matrix encoded as this type, row after row."""
        return self.folder / _ENCODED / f"{name}.{kind.name}"

    def is_encoded(self, tensor: ModelTensor, kind: GgmlType) -> bool:
        """Whether the matrix was rounded to this type, and its file is there."""
        path = self.encoded(tensor.name, kind)
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
    has_divergences: bool,
) -> Sensitivities:
    """Rounds all matrices to all their types, and measures the divergence of the first type of each.

    reference: the BF16 model; results in its folder for the same texts and seed are used again. A run that is stopped
    leaves there all rounded matrices or none, and each measured divergence. Nothing depends on the number of
    processors. Raises ConvertError.
    """
    name = hashlib.sha256(f"{texts.sha256}, {seed}".encode()).hexdigest()
    found = Sensitivities(reference.parent / name[:16])
    if found.importance.is_file():
        found.load()
    missing = {
        tensor.name: [kind for kind in kinds[tensor.name] if not found.is_encoded(tensor, kind)] for tensor in matrices
    }
    unmeasured = [
        tensor
        for tensor in matrices
        if has_divergences and kinds[tensor.name][0].name not in found.divergences.get(tensor.name, {})
    ]
    to_round = [tensor for tensor in matrices if missing[tensor.name]]
    if not to_round and not unmeasured:
        return found
    progress("loading", 0.0)
    with (
        Runner(reference, is_writable=True) as runner,
        # numpy's sums would depend on the number of threads: instead, each thread gets whole matrices.
        threadpool_limits(1, "blas"),
    ):
        *seen, unseen = chunks(texts, runner, seed=seed, most=CALIBRATION_CHUNKS + 1)
        if to_round:
            part = part_of(progress, 0.0, _ROUNDING_SHARE if unmeasured else 1.0)
            squares = _round(runner, seen or [unseen], to_round, missing, found, progress=part)
            if not found.importance.is_file():
                with replaced_file(found.importance) as draft:
                    write_importance(draft, squares, dataset=texts.name, chunks=len(seen) or 1)
            found.save()
        if unmeasured:
            part = part_of(progress, _ROUNDING_SHARE if to_round else 0.0, 1.0)
            _measure_divergences(runner, unseen[:_MEASURED_TOKENS], unmeasured, kinds, found, progress=part)
    return found


def _round(
    runner: Runner,
    texts: Sequence[Sequence[int]],
    matrices: Sequence[ModelTensor],
    kinds: Kinds,
    found: Sensitivities,
    *,
    progress: OnProgress,
) -> dict[str, Floats]:
    """Encodes the matrices as these types; returns the summed squares of their inputs."""
    squares: dict[str, Floats] = {}
    weights = {tensor.name: tensor.rows * tensor.columns * len(kinds[tensor.name]) for tensor in matrices}
    done, total = 0.0, (1 + _CALIBRATING) * sum(weights.values())

    def step(what: str, weight: float) -> None:
        nonlocal done
        done += weight
        progress(what, done / total)

    for part in _parts(matrices):
        names = [tensor.name for tensor in part]
        text_weight = _CALIBRATING * sum(weights[name] for name in names) / len(texts)
        moments = second_moments(runner, texts, names, progress=partial(step, "calibrating", text_weight))
        squares |= {name: np.diag(moments[same]).copy() for name in names if (same := input_group(name)) in moments}
        groups: dict[str, list[ModelTensor]] = {}
        for tensor in part:
            groups.setdefault(input_group(tensor.name), []).append(tensor)

        pool = ThreadPoolExecutor(processors())
        try:
            encoding = {
                pool.submit(_encode, runner, group, moments.get(same), kinds, found): group
                for same, group in groups.items()
            }
            for done_group in as_completed(encoding):
                done_group.result()
                for tensor in encoding[done_group]:
                    step(f"rounding {tensor.name}", weights[tensor.name])
        finally:
            # A stop waits for what is being rounded and begins nothing more.
            pool.shutdown(cancel_futures=True)
    return squares


def _encode(
    runner: Runner, tensors: Sequence[ModelTensor], moments: Floats | None, kinds: Kinds, found: Sensitivities
) -> None:
    """Encodes matrices with the same input as all their types."""
    columns = tensors[0].columns
    # A matrix that is only looked up is not multiplied with anything.
    known = np.eye(columns, dtype=np.float32) if moments is None else moments
    feedback = Feedback(known, ridge=_EMBEDDING_RIDGE) if tensors[0].name == TOKEN_EMBD else Feedback(known)
    rows_per_slab = max(1, _SLAB_ELEMENTS // columns)
    for tensor in tensors:
        losses = found.losses.setdefault(tensor.name, {})
        for kind in kinds[tensor.name]:
            total = 0.0
            with replaced_file(found.encoded(tensor.name, kind)) as draft, draft.open("wb") as file:
                for first in range(0, tensor.rows, rows_per_slab):
                    bits = runner.weights(tensor.name)[first : first + rows_per_slab]
                    weights = np.empty(bits.shape, np.float32)
                    ggml.dequantize(GgmlType.BF16, bits, weights)
                    encoded, decoded = feedback.encode(weights, kind)
                    total += loss(known, weights - decoded)
                    file.write(encoded.data)
            losses[kind.name] = total


def _measure_divergences(
    runner: Runner,
    text: list[int],
    tensors: Sequence[ModelTensor],
    kinds: Kinds,
    found: Sensitivities,
    *,
    progress: OnProgress,
) -> None:
    """The divergence of the model with only one matrix rounded, as the first of its types, for each."""
    reference = predict(runner, [text], context_share=_CONTEXT_SHARE)
    for at, tensor in enumerate(tensors):
        progress(f"measuring {tensor.name}", at / len(tensors))
        bits = runner.weights(tensor.name)
        before, kind = bits.copy(), kinds[tensor.name][0]
        encoded = np.fromfile(found.encoded(tensor.name, kind), np.uint8)
        decoded = np.empty(bits.shape, np.float32)
        ggml.dequantize(kind, encoded, decoded)
        bits[:] = _to_bf16(decoded)
        found.divergences.setdefault(tensor.name, {})[kind.name] = max(0.0, compare(runner, reference).mean)
        bits[:] = before
        found.save()


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
