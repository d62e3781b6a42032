"""Sizes and divergences beside upstream's tools: `python -m rigs.quality CHECKPOINT [--eval FILE] [--json]`.

Upstream's llama-imatrix and llama-quantize are built from the sources of the installed binding and get the same
calibration texts. All models are compared with the same BF16 model on the same evaluation texts. The first run takes
about half an hour for a 0.5B.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from convert.evaluate.comparison import compare_models
from convert.evaluate.worker import Adapted
from convert.measure.importance import merge, read_importance
from convert.measure.moments import second_moments
from convert.measure.reference import write_reference
from convert.measure.runner import CHUNK_TOKENS, Floats, Runner
from convert.measure.sensitivity import CALIBRATION_CHUNKS
from convert.measure.texts import Texts, calibration_files, chunks, evaluation_files, read_texts
from convert.quantize.quantizer import processors
from convert.read.checkpoint import Checkpoint
from convert.read.model import read_model
from rigs.machine import checkpoint_path
from tests.helpers.llama_sources import build_llama_cpp, run_program

PROGRAMS = ("llama-imatrix", "llama-quantize")
UPSTREAM = ("Q4_0", "IQ4_NL", "Q4_K_M")
# Some texts of CHUNK_TOKENS.
_AGREEMENT_CHARACTERS = 12_000


@dataclass(frozen=True)
class Row:
    """divergence: mean and its standard error, nats."""

    name: str
    nbytes: int
    divergence: float
    error: float
    top1: float
    ratio: float
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.quality", description=__doc__)
    parser.add_argument("checkpoint", type=checkpoint_path)
    parser.add_argument("--eval", type=Path, help="texts to compare on (default: the included ones)")
    parser.add_argument("--budgets", nargs="+", default=["305MB", "353MB", "398MB"], metavar="SIZE")
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="default: build/quality")
    parser.add_argument("--programs", type=Path, default=Path("build/bench"), help="where llama.cpp is built")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    texts = read_texts([given.eval] if given.eval else evaluation_files())
    programs = build_llama_cpp(given.programs, PROGRAMS)
    given.work.mkdir(parents=True, exist_ok=True)
    with Checkpoint(given.checkpoint) as checkpoint:
        reference = write_reference(checkpoint, read_model(checkpoint), given.work, lambda *_: None)
    home = reference.parent
    rows = [
        _judge(name, model, seconds, reference, texts, home)
        for name, model, seconds in (
            *_upstream(programs, reference, given.work),
            *_own(given.checkpoint, given.budgets, given.work),
        )
    ]
    agreement = _agreement(programs, reference, given.work)
    is_merged_alike = _is_merged_alike(programs, reference, given.work)
    if given.json:
        facts = {"imatrix_difference": agreement, "is_merged_alike": is_merged_alike}
        print(json.dumps({"models": [asdict(row) for row in rows]} | facts))
        return 0
    print(f"{'model':22} {'bytes':>12} {'KL divergence':>20} {'same first':>11} {'ppl ratio':>10} {'made in':>9}")
    for row in rows:
        print(
            f"{row.name:22} {row.nbytes:12} {row.divergence:11.5f} ± {row.error:.5f} {100 * row.top1:9.1f} % "
            f"{row.ratio:10.4f} {row.seconds:7.0f} s"
        )
    print(f"importance matrix: the means differ by {100 * agreement:.2f} % of upstream's at most")
    print(f"merged importance matrices are {'the same' if is_merged_alike else 'OTHERS'} as upstream's")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _upstream(programs: Path, reference: Path, work: Path) -> Iterator[tuple[str, Path, float]]:
    text, imatrix = work / "calibration.txt", work / "upstream.imatrix.gguf"
    began = time.monotonic()
    if not imatrix.is_file():
        _say("llama-imatrix")
        with Runner(reference) as runner:
            tokens = chunks(read_texts(calibration_files()), runner, seed=0, most=CALIBRATION_CHUNKS)
            text.write_bytes(b"".join(runner.piece(token) for chunk in tokens for token in chunk))
        _imatrix(programs, reference, text, imatrix)
    for kind in UPSTREAM:
        model = work / f"upstream.{kind}.gguf"
        if not model.is_file():
            _say(f"llama-quantize {kind}")
            began = time.monotonic()
            words = ["--imatrix", str(imatrix), str(reference), str(model), kind]
            run_program([str(programs / "llama-quantize"), *words])
        yield f"upstream {kind}", model, time.monotonic() - began


def _imatrix(programs: Path, reference: Path, text: Path, target: Path) -> None:
    words = ["-m", str(reference), "-f", str(text), "-o", str(target), "-c", str(CHUNK_TOKENS), "--parse-special"]
    run_program([str(programs / "llama-imatrix"), *words, "--no-ppl", "-t", str(processors())])


def _own(checkpoint: Path, budgets: list[str], work: Path) -> Iterator[tuple[str, Path, float]]:
    for budget in budgets:
        _say(f"edge-convert --budget {budget}")
        began = time.monotonic()
        bundle = work / f"own-{budget}"
        words = ["--budget", budget, "--out", str(bundle), "--work", str(work), "--force", "--no-canaries"]
        run_program([sys.executable, "-m", "convert", str(checkpoint), *words])
        yield f"edge-convert {budget}", bundle / "model.gguf", time.monotonic() - began


def _judge(name: str, model: Path, seconds: float, reference: Path, texts: Texts, work: Path) -> Row:
    _say(f"evaluating {name}")
    quality = compare_models(
        Adapted(model), Adapted(reference), "BF16", texts, work=work, progress=lambda _what, _share: None
    )
    _say(f"{name}: {quality.divergence.mean:.5f} nats")
    return Row(
        name=name,
        nbytes=model.stat().st_size,
        divergence=quality.divergence.mean,
        error=quality.divergence.error,
        top1=quality.divergence.top1_agreement,
        ratio=quality.perplexity.ratio,
        seconds=seconds,
    )


def _agreement(programs: Path, reference: Path, work: Path) -> float:
    """The largest difference of a matrix's mean importance on one text, as a share of upstream's."""
    text, target = work / "agreement.txt", work / "agreement.imatrix.gguf"
    plain = [document.text for document in read_texts(evaluation_files()).documents if document.text]
    text.write_text("\n\n".join(plain)[:_AGREEMENT_CHARACTERS], encoding="utf-8")
    _imatrix(programs, reference, text, target)
    theirs = read_importance(target)
    with Runner(reference) as runner:
        texts = chunks(read_texts([text]), runner, seed=0, most=theirs.chunks)
        names = [name for name in theirs.sums if name.startswith("blk.")]
        own = second_moments(runner, texts, names)
    tokens = float(len(texts) * CHUNK_TOKENS)
    return max(
        _difference(np.asarray(np.diag(moments), np.float32) / tokens, theirs.sums[name] / theirs.counts[name])
        for name, moments in own.items()
    )


def _is_merged_alike(programs: Path, reference: Path, work: Path) -> bool:
    """Whether two files of upstream's, merged by us and by llama-imatrix, have the same sums and counts."""
    files = [work / "upstream.imatrix.gguf", work / "agreement.imatrix.gguf"]
    target = work / "merged.imatrix.gguf"
    inputs = [word for file in files for word in ("--in-file", str(file))]
    run_program([str(programs / "llama-imatrix"), "-m", str(reference), *inputs, "-o", str(target)])
    theirs, own = read_importance(target), merge({str(file): read_importance(file) for file in files})
    return (
        theirs.counts == own.counts
        and theirs.sums.keys() == own.sums.keys()
        and all(np.array_equal(sums, own.sums[name]) for name, sums in theirs.sums.items())
    )


def _difference(own: Floats, theirs: Floats) -> float:
    return float(np.sum(np.abs(own - theirs))) / float(np.sum(np.abs(theirs)))


if __name__ == "__main__":
    raise SystemExit(main())
