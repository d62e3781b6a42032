"""Sizes and divergences beside upstream's tools: `python -m rigs.quality CHECKPOINT`.

Upstream's llama-imatrix and llama-quantize are built from the sources of the installed binding and get the same
calibration texts. All models are compared with the same BF16 model on the same evaluation texts. The first run takes
about half an hour for a 0.5B.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from convert.evaluate.comparison import compare_models
from convert.evaluate.worker import Adapted
from convert.measure.cache import write_reference
from convert.measure.runner import CHUNK_TOKENS, Runner
from convert.measure.sensitivity import CALIBRATION_CHUNKS
from convert.measure.texts import calibration_files, chunks, evaluation_files, read_texts
from convert.quantize.quantizer import processors
from convert.read.checkpoint import Checkpoint
from convert.read.model import read_model
from rigs.llama_sources import build_llama_cpp, run_program
from rigs.machine import checkpoint_path

PROGRAMS = ("llama-imatrix", "llama-quantize")
UPSTREAM = ("Q4_0", "IQ4_NL", "Q4_K_M")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.quality", description=__doc__)
    parser.add_argument("checkpoint", type=checkpoint_path)
    parser.add_argument("--budgets", nargs="+", default=["305MB", "353MB", "398MB"], metavar="SIZE")
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="default: build/quality")
    given = parser.parse_args()
    texts = read_texts(evaluation_files())
    programs = build_llama_cpp(Path("build/bench"), PROGRAMS)
    given.work.mkdir(parents=True, exist_ok=True)
    with Checkpoint(given.checkpoint) as checkpoint:
        reference = write_reference(checkpoint, read_model(checkpoint), given.work, lambda *_: None)
    print(f"{'model':22} {'bytes':>12} {'KL divergence, nats':>20} {'same first':>11} {'ppl ratio':>10} {'made in':>9}")
    for models in (_upstream(programs, reference, given.work), _own(given.checkpoint, given.budgets, given.work)):
        for name, model, seconds in models:
            print(f"evaluating {name}", file=sys.stderr)
            found = compare_models(Adapted(model), Adapted(reference), texts, work=reference.parent)
            divergence = found.divergence
            print(
                f"{name:22} {model.stat().st_size:12} {divergence.mean:11.5f} ± {divergence.error:.5f} "
                f"{100 * divergence.top1_agreement:9.1f} % {found.perplexity.ratio:10.4f} {seconds:7.0f} s",
                flush=True,
            )
    return 0


def _upstream(programs: Path, reference: Path, work: Path) -> Iterator[tuple[str, Path, float]]:
    text, imatrix = work / "calibration.txt", work / "upstream.imatrix.gguf"
    began = time.monotonic()
    if not imatrix.is_file():
        print("llama-imatrix", file=sys.stderr)
        with Runner(reference) as runner:
            tokens = chunks(read_texts(calibration_files()), runner, seed=0, most=CALIBRATION_CHUNKS)
            text.write_bytes(b"".join(runner.piece(token) for chunk in tokens for token in chunk))
        words = ["-m", str(reference), "-f", str(text), "-o", str(imatrix), "-c", str(CHUNK_TOKENS), "--parse-special"]
        run_program([str(programs / "llama-imatrix"), *words, "--no-ppl", "-t", str(processors())])
    for kind in UPSTREAM:
        model = work / f"upstream.{kind}.gguf"
        if not model.is_file():
            print(f"llama-quantize {kind}", file=sys.stderr)
            began = time.monotonic()
            words = ["--imatrix", str(imatrix), str(reference), str(model), kind]
            run_program([str(programs / "llama-quantize"), *words])
        yield f"upstream {kind}", model, time.monotonic() - began


def _own(checkpoint: Path, budgets: list[str], work: Path) -> Iterator[tuple[str, Path, float]]:
    for budget in budgets:
        print(f"edge-convert --budget {budget}", file=sys.stderr)
        began = time.monotonic()
        bundle = work / f"own-{budget}"
        words = ["--budget", budget, "--out", str(bundle), "--work", str(work), "--force", "--no-canaries"]
        run_program([sys.executable, "-m", "convert", str(checkpoint), *words])
        yield f"edge-convert {budget}", bundle / "model.gguf", time.monotonic() - began


if __name__ == "__main__":
    raise SystemExit(main())
