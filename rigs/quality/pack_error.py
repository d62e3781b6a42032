"""What compact packs cost in exactness: `python -m rigs.quality.pack_error REFERENCE.gguf MODEL.gguf…`.

Compares the mean KL divergence of `edge-convert evaluate`, which uses a part of the vocabulary, with all of it
at the same positions. Exit code 1 unless the means are within LIMIT_ERROR of each other, and a pack of an evaluation's
positions is smaller than LIMIT_BYTES.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.evaluate.comparison import EVALUATION_CHUNKS
from convert.measure.divergence import CONTEXT_SHARE, DRAWN, TOP, compare, predict, save
from convert.measure.runner import CHUNK_TOKENS, Floats, Runner
from convert.measure.texts import chunks, evaluation_files, read_texts
from convert.write.manifest import MODEL_FILE
from rigs.machine import model_path

LIMIT_ERROR = 0.02
LIMIT_BYTES = 100_000_000
Numbers = npt.NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.quality.pack_error", description=__doc__)
    parser.add_argument("reference", type=model_path)
    parser.add_argument("models", type=model_path, nargs="+")
    parser.add_argument("--eval", type=Path, help="texts (default: the included ones)")
    parser.add_argument("--chunks", type=int, default=4)
    given = parser.parse_args()
    texts = read_texts([given.eval] if given.eval else evaluation_files())
    with Runner(given.reference) as reference:
        tokens = chunks(texts, reference, seed=0, most=given.chunks)
        packs = predict(reference, tokens)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "pack", packs)
        nbytes = (Path(folder) / "pack").stat().st_size * EVALUATION_CHUNKS // len(packs)
    print(f"top {TOP} and {DRAWN} drawn, {EVALUATION_CHUNKS} texts of {CHUNK_TOKENS} tokens: {nbytes / 1e6:.1f} MB")
    print(f"{'model':32} {'positions':>9} {'pack':>9} {'all':>9} {'error of the mean':>18} {'of p99':>8}")
    worst = 0.0
    for model in given.models:
        with Runner(model) as runner:
            compact = compare(runner, packs).divergence
            with Runner(given.reference) as reference:
                full = np.concatenate([_full(reference, runner, text) for text in tokens])
        error = float(compact.mean() / full.mean()) - 1
        tail = float(np.percentile(compact, 99) / np.percentile(full, 99)) - 1
        worst = max(worst, abs(error))
        name = model.parent.name if model.name == MODEL_FILE else model.name
        means = f"{compact.mean():9.5f} {full.mean():9.5f}"
        print(f"{name:32} {len(full):9} {means} {100 * error:16.2f} % {100 * tail:6.2f} %", flush=True)
    return 0 if worst < LIMIT_ERROR and nbytes < LIMIT_BYTES else 1


def _full(reference: Runner, model: Runner, tokens: list[int]) -> Numbers:
    """KL divergence over the whole vocabulary after each token that is compared."""
    first = int(len(tokens) * CONTEXT_SHARE)
    pairs = zip(reference.logits(tokens, first)[:-1], model.logits(tokens, first)[:-1], strict=True)
    return np.array([_divergence(_log_shares(known), _log_shares(own)) for known, own in pairs])


def _log_shares(logits: Floats) -> Numbers:
    shifted = logits.astype(np.float64) - np.max(logits)
    found: Numbers = shifted - np.log(np.exp(shifted).sum())
    return found


def _divergence(known: Numbers, own: Numbers) -> float:
    return float((np.exp(known) * (known - own)).sum())


if __name__ == "__main__":
    raise SystemExit(main())
