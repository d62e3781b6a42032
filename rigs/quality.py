"""Sizes and divergences, compared with upstream's tools: `python -m rigs.quality CHECKPOINT`.

Upstream's llama-imatrix and llama-quantize are built from the sources of the installed binding and get the same
calibration texts. All models are compared with the same BF16 model on the same evaluation texts. The first run takes
about half an hour for a 0.5B.

--vocabulary FILE… also measures the budgets with fewer tokens, compared with the BF16 model of these tokens. It prints
the probability that the whole BF16 model gives the removed ones, and how often one of them is the most probable.
--recover also measures the budgets with weights that are trained after rounding.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from convert.evaluate.comparison import EVALUATION_CHUNKS, compare_models
from convert.evaluate.worker import AdaptedModel
from convert.measure.cache import write_reference
from convert.measure.runner import CHUNK_TOKENS, Runner
from convert.measure.sensitivity import CALIBRATION_CHUNKS
from convert.measure.texts import Texts, calibration_files, chunks, evaluation_files, read_texts
from convert.measure.vocabulary import WantedVocabulary, fit_vocabulary
from convert.quantize.quantizer import processors
from convert.read.checkpoint import Checkpoint
from convert.read.model import read_model
from convert.read.vocabulary import DEFAULT_TOKENS
from rigs.llama_sources import build_llama_cpp, run_program
from rigs.machine import checkpoint_path, parser_of

PROGRAMS = ("llama-imatrix", "llama-quantize")
UPSTREAM = ("Q4_0", "IQ4_NL", "Q4_K_M")


def main() -> int:
    parser = parser_of("rigs.quality", __doc__)
    parser.add_argument("checkpoint", type=checkpoint_path)
    parser.add_argument("--budgets", nargs="+", default=["305MB", "353MB", "398MB"], metavar="SIZE")
    parser.add_argument("--work", type=Path, default=Path("build/quality"), help="default: build/quality")
    parser.add_argument("--vocabulary", type=Path, nargs="+", default=[], metavar="FILE", help="as of edge-convert")
    parser.add_argument("--recover", action="store_true", help="as of edge-convert")
    given = parser.parse_args()
    texts = read_texts(evaluation_files())
    programs = build_llama_cpp(Path("build/bench"), PROGRAMS)
    given.work.mkdir(parents=True, exist_ok=True)
    with Checkpoint(given.checkpoint) as checkpoint:
        model = read_model(checkpoint)
        whole = write_reference(checkpoint, model, given.work, lambda *_: None)
        kept, cut = list[int](), whole
        if given.vocabulary:
            used = read_texts([*given.vocabulary, *calibration_files()])
            fitted, kept = fit_vocabulary(model, WantedVocabulary(used, DEFAULT_TOKENS, texts))
            cut = write_reference(checkpoint, fitted, given.work, lambda *_: None)
    print(f"{'model':30} {'bytes':>12} {'KL divergence, nats':>20} {'same first':>11} {'ppl ratio':>10}")
    variants = [("", list[str](), whole)]
    if given.recover:
        variants.append((", recovered", ["--recover"], whole))
    if given.vocabulary:
        variants.append((", cut", ["--vocabulary", *map(str, given.vocabulary)], cut))
    own = [
        (_own(given.checkpoint, given.budgets, given.work, title, words), reference)
        for title, words, reference in variants
    ]
    for models, reference in ((_upstream(programs, whole, given.work), whole), *own):
        for name, path in models:
            print(f"evaluating {name}", file=sys.stderr)
            found = compare_models(AdaptedModel(path), AdaptedModel(reference), texts, work=reference.parent)
            divergence = found.divergence
            print(
                f"{name:30} {path.stat().st_size:12} {divergence.mean:11.5f} ± {divergence.error:.5f} "
                f"{100 * divergence.top1_agreement:9.1f} % {found.perplexity.ratio:10.4f}",
                flush=True,
            )
    if given.vocabulary:
        probability, first = _removed_token_shares(whole, kept, texts)
        print(
            f"of the removed tokens: probability {probability:.3%}, the most probable one at {first:.2%} of positions"
        )
    return 0


def _removed_token_shares(reference: Path, kept: Sequence[int], texts: Texts) -> tuple[float, float]:
    """The mean probability of the other tokens, and the share of positions where one of them is the most probable."""
    probabilities, are_first = [], []
    with Runner(reference) as runner:
        is_removed = np.ones(runner.token_count, bool)
        is_removed[list(kept)] = False
        for tokens in chunks(texts, runner, seed=0, max_chunks=EVALUATION_CHUNKS):
            for logits in runner.logits(tokens, len(tokens) // 2)[:-1]:
                shares = np.exp(logits - logits.max())
                probabilities.append(float(shares[is_removed].sum() / shares.sum()))
                are_first.append(bool(is_removed[logits.argmax()]))
    return mean(probabilities), mean(are_first)


def _upstream(programs: Path, reference: Path, work: Path) -> Iterator[tuple[str, Path]]:
    text, imatrix = work / "calibration.txt", work / "upstream.imatrix.gguf"
    if not imatrix.is_file():
        print("llama-imatrix", file=sys.stderr)
        with Runner(reference) as runner:
            tokens = chunks(read_texts(calibration_files()), runner, seed=0, max_chunks=CALIBRATION_CHUNKS)
            text.write_bytes(b"".join(runner.piece(token) for chunk in tokens for token in chunk))
        words = ["-m", str(reference), "-f", str(text), "-o", str(imatrix), "-c", str(CHUNK_TOKENS), "--parse-special"]
        run_program([str(programs / "llama-imatrix"), *words, "--no-ppl", "-t", str(processors())])
    for kind in UPSTREAM:
        model = work / f"upstream.{kind}.gguf"
        if not model.is_file():
            print(f"llama-quantize {kind}", file=sys.stderr)
            words = ["--imatrix", str(imatrix), str(reference), str(model), kind]
            run_program([str(programs / "llama-quantize"), *words])
        yield f"upstream {kind}", model


def _own(
    checkpoint: Path, budgets: list[str], work: Path, title: str, more: Sequence[str]
) -> Iterator[tuple[str, Path]]:
    for budget in budgets:
        name = f"edge-convert {budget}{title}"
        print(name, file=sys.stderr)
        bundle = work / name.replace(" ", "-")
        words = ["--budget", budget, "--out", str(bundle), "--work", str(work), "--force", "--no-canaries"]
        run_program([sys.executable, "-m", "convert", str(checkpoint), *words, *more])
        yield name, bundle / "model.gguf"


if __name__ == "__main__":
    raise SystemExit(main())
