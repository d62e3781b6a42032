"""What a low-rank repair regains: `python -m rigs.quality.repair CHECKPOINT [--budget SIZE] [--repair SIZE…]`.

For the model of a budget, what its matrices lost is approximated by products of low rank (see low_rank.py), which
llama.cpp adds as an adapter. Beside it stands what the same bytes gain where they are given to the budget, and what a
token takes with and without. All is judged on texts that nothing was tuned on; differences are of the same positions.
What was measured is kept in --work.

A repair.gguf would be applied, but the converter writes none, for it did not earn its bytes. Of a Qwen2.5-Coder 0.5B at
305 MB, 8 MB of it in 94 matrices gained 0.0008 nats of 0.0220; 48 MB of budget gain 0.0091, twice as much per byte. The
first 4 MB gained less than is told from none, and a token took 7 % more processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from convert.automatic import Choice, Wish, choose
from convert.commands.arguments import size
from convert.conversion import Options, processors, write_bundle
from convert.evaluation import EVALUATION_CHUNKS
from convert.measure.divergence import Divergence, Predictions, compare, predict
from convert.measure.moments import input_of, second_moments
from convert.measure.runner import Floats, Runner
from convert.measure.texts import CHUNK_TOKENS, calibration_files, chunks, evaluation_files, read_texts
from convert.read.checkpoint import Checkpoint
from convert.read.tensors import OUTPUT, TOKEN_EMBD
from convert.tune.candidates import Target
from convert.tune.tuning import CALIBRATION_CHUNKS
from convert.weights import ggml
from convert.weights.low_rank import LowRank
from convert.weights.recipe import Quantization
from convert.write.adapter import write_adapter
from convert.write.manifest import MODEL_FILE, REPAIR_FILE
from edge_agent.engine.llama import ContextSizes, Llama, Piece
from rigs.machine import checkpoint_path
from rigs.quality.low_rank import Components, components, predicted_gain, share_out

_MOST_RANK = 64
_ROUNDS = 9
_TOKENS = 24


@dataclass(frozen=True)
class Repair:
    """gain: of the mean divergence, nats, and its standard error; predicted: if all matrices' own gains added up."""

    path: Path
    matrices: int
    most_rank: int
    predicted: float
    gain: float
    error: float

    @property
    def megabytes(self) -> float:
        return self.path.stat().st_size / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.quality.repair", description=__doc__)
    parser.add_argument("checkpoint", type=checkpoint_path)
    parser.add_argument("--budget", type=size, default=305_000_000, help="bytes of the model (default: 305MB)")
    parser.add_argument("--repair", type=size, nargs="+", default=[10**6, 4 * 10**6, 8 * 10**6], metavar="SIZE")
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="default: build/quality")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    with Checkpoint(given.checkpoint) as checkpoint:
        choice, model = _model(checkpoint, given.budget, given.work)
        reference = _predictions(choice.reference.model)
        before = _divergence(model, reference)
        print(f"model of {model.stat().st_size} bytes: {before.mean:.5f} nats", flush=True)
        found = _components(choice, given.work / "moments.npz")
        for nbytes in given.repair:
            repair = _repair(choice, found, nbytes, model, before, reference, given.work)
            print(
                f"repair of {repair.megabytes:.2f} MB in {repair.matrices} matrices, rank {repair.most_rank} at most: "
                f"gains {repair.gain:.5f} ± {repair.error:.5f} nats ({repair.predicted:.5f} predicted), "
                f"{repair.gain / repair.megabytes:.6f} per MB",
                flush=True,
            )
            _, larger = _model(checkpoint, given.budget + nbytes, given.work)
            more = (larger.stat().st_size - model.stat().st_size) / 1e6
            gain, error = _gain(before, _divergence(larger, reference))
            print(f"  {more:.2f} MB more of budget: gains {gain:.5f} ± {error:.5f} nats, {gain / more:.6f} per MB")
            without, with_it = _times_ms(model, repair.path)
            share = 100 * (with_it / without - 1)
            print(f"  a token takes {without:.2f} ms without, {with_it:.2f} ms with it ({share:+.1f} %)", flush=True)
    return 0


def _model(checkpoint: Checkpoint, budget: int, work: Path) -> tuple[Choice, Path]:
    wish = Wish(
        budget=budget,
        target=Target.ANY,
        calibration=read_texts(calibration_files()),
        evaluation=read_texts(evaluation_files()),
        seed=0,
        work=work,
    )
    choice = choose(checkpoint, Options(Quantization.AUTO), wish, lambda _what, _share: None)
    bundle = work / f"repaired-{budget}"
    write_bundle(checkpoint, choice.plan, bundle, replace=True, encoded=choice.tuned.encoded)
    return choice, bundle / MODEL_FILE


def _predictions(reference: Path) -> list[Predictions]:
    with Runner(reference, chunk_tokens=CHUNK_TOKENS, threads=processors()) as runner:
        return predict(runner, chunks(read_texts(evaluation_files()), runner, seed=0, most=EVALUATION_CHUNKS))


def _divergence(model: Path, reference: Sequence[Predictions], adapters: Sequence[Path] = ()) -> Divergence:
    with Runner(model, chunk_tokens=CHUNK_TOKENS, threads=processors(), adapters=adapters) as runner:
        return compare(runner, reference)


def _gain(before: Divergence, after: Divergence) -> tuple[float, float]:
    """Of the mean, and its standard error."""
    change = before.divergence - after.divergence
    return float(change.mean()), float(change.std() / len(change) ** 0.5)


def _components(choice: Choice, kept: Path) -> dict[str, Components]:
    """Of the matrices of the layers: llama.cpp adapts no embedding that is the output matrix too."""
    library = ggml.load()
    names = [name for name in choice.chosen if name not in {TOKEN_EMBD, OUTPUT}]
    with Runner(choice.reference.model, chunk_tokens=CHUNK_TOKENS, threads=processors(), is_writable=True) as runner:
        moments = _moments(runner, names, kept)
        found = {}
        for name in names:
            kind, bits = choice.chosen[name].kind, runner.weights(name)
            weights, decoded = np.empty(bits.shape, np.float32), np.empty(bits.shape, np.float32)
            library.bf16_to_f32(bits.ctypes.data, weights.ctypes.data, weights.size)
            encoded = np.fromfile(choice.tuned.encoded(name, kind), np.uint8)
            library.dequantize(kind, encoded.ctypes.data, decoded.ctypes.data, decoded.size)
            found[name] = components(weights - decoded, moments[input_of(name)], _MOST_RANK)
    return found


def _moments(runner: Runner, names: Sequence[str], kept: Path) -> Mapping[str, Floats]:
    if not kept.is_file():
        texts = chunks(read_texts(calibration_files()), runner, seed=0, most=CALIBRATION_CHUNKS)
        np.savez(kept, allow_pickle=False, **second_moments(runner, texts, names, threads=processors()))
    loaded: Mapping[str, Floats] = np.load(kept, allow_pickle=False)
    return loaded


def _repair(
    choice: Choice,
    found: Mapping[str, Components],
    nbytes: int,
    model: Path,
    before: Divergence,
    reference: Sequence[Predictions],
    work: Path,
) -> Repair:
    divergences = {name: option.divergence for name, option in choice.chosen.items()}
    ranks = share_out(found, divergences, nbytes)

    def parts() -> Iterator[LowRank]:
        for name, rank in ranks.items():
            a, b = found[name].a[:rank], found[name].b[:, :rank]
            yield LowRank(name, len(b), a.shape[1], rank, partial(np.asarray, a), partial(np.asarray, b))

    path = work / f"{nbytes}.{REPAIR_FILE}"
    write_adapter(path, "repair", list(parts()))
    gain, error = _gain(before, _divergence(model, reference, [path]))
    predicted = predicted_gain(found, divergences, ranks)
    return Repair(path, len(ranks), max(ranks.values()), predicted, gain, error)


def _times_ms(model: Path, repair: Path) -> tuple[float, float]:
    """Processor time of a token of one answer on one thread, without and with it: medians of rounds in turns."""
    sizes = ContextSizes(context_tokens=256, batch_tokens=32, sequences=1, outputs=1)
    engines = [Llama(str(model), sizes, adapters) for adapters in ((), (str(repair),))]
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for engine, times in zip(engines, taken, strict=True):
            engine.forget(0)
            engine.decode([Piece(0, 0, [1, 2, 3, 4], [])], threads=1)
            for at in range(4, 4 + _TOKENS):
                began = time.process_time()
                engine.decode([Piece(0, at, [at], [0])], threads=1)
                times.append(1000 * (time.process_time() - began))
    for engine in engines:
        engine.close()
    return statistics.median(taken[0]), statistics.median(taken[1])


if __name__ == "__main__":
    raise SystemExit(main())
