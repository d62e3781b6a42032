"""What a model is worth beside another one, measured on the same texts."""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from .errors import ConvertError, printable
from .kept import new_file
from .measure.divergence import Divergence as Positions
from .measure.divergence import Predictions, compare, load, predict, save
from .measure.runner import Runner
from .measure.texts import CHUNK_TOKENS, Texts, chunks
from .progress import Progress
from .read.model_facts import model_facts
from .report.quality import Divergence, Perplexity, Quality, Reference
from .report.quality import Texts as JudgedBy
from .write.manifest import sha256_of

# About 4 000 positions: the mean is then known within some percent.
EVALUATION_CHUNKS = 16
_Z95 = 1.96


def evaluate(
    model: Path,
    reference: Path,
    kind: str,
    texts: Texts,
    *,
    adapters: Sequence[Path] = (),
    reference_adapters: Sequence[Path] = (),
    work: Path,
    threads: int,
    progress: Progress,
) -> Quality:
    """model, reference: GGUF files, each with the adapters that are applied to it; kind: the reference's type.
    work: a folder where what it predicts is kept.

    Raises ConvertError if one cannot be run or computes no numbers, or they have other vocabularies.
    """
    _check_vocabularies(model, reference)
    sha256 = sha256_of(reference)
    kept = work / f"{sha256[:16]}-{judged_by(texts, reference_adapters)}.npz"
    progress("measuring the reference", 0.0)
    predictions = _predictions(reference, reference_adapters, kept, texts, threads)
    progress("measuring the model", 0.5)
    with Runner(model, chunk_tokens=CHUNK_TOKENS, threads=threads, adapters=adapters) as runner:
        positions = compare(runner, predictions)
    return Quality(
        reference=Reference(file_sha256=sha256, type=kind),
        texts=JudgedBy(
            name=texts.name,
            sha256=texts.sha256,
            tokens=sum(len(one.tokens) for one in predictions),
            positions=len(positions.divergence),
        ),
        divergence=_divergence(positions),
        perplexity=_perplexity(positions),
    )


def _check_vocabularies(model: Path, reference: Path) -> None:
    own, other = model_facts(model).tokens, model_facts(reference).tokens
    if own != other:
        raise ConvertError(
            f"{printable(str(model))}: has a vocabulary of {own} tokens, the reference {printable(str(reference))} "
            f"one of {other}; only models of the same vocabulary can be compared"
        )


def judged_by(texts: Texts, adapters: Sequence[Path]) -> str:
    """A name for what is kept of models with these adapters on these texts."""
    return "-".join(sha256[:16] for sha256 in (*map(sha256_of, adapters), texts.sha256))


def _predictions(
    reference: Path, adapters: Sequence[Path], kept: Path, texts: Texts, threads: int
) -> list[Predictions]:
    try:
        return load(kept)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        pass  # nothing, or nothing readable, is there: it is made anew
    with Runner(reference, chunk_tokens=CHUNK_TOKENS, threads=threads, adapters=adapters) as runner:
        found = predict(runner, chunks(texts, runner, seed=0, most=EVALUATION_CHUNKS))
    with new_file(kept) as draft:
        save(draft, found)
    return found


def _divergence(positions: Positions) -> Divergence:
    values = positions.divergence
    median, p90, p99 = (float(value) for value in np.percentile(values, [50, 90, 99]))
    return Divergence(
        mean=positions.mean,
        error=float(values.std() / len(values) ** 0.5),
        median=median,
        p90=p90,
        p99=p99,
        max=float(np.max(values)),
        top1_agreement=float(positions.agrees.mean()),
    )


def _perplexity(positions: Positions) -> Perplexity:
    """The ratio's interval follows from the change at each position, which scatters less than either perplexity."""
    change = -positions.next_log_change
    mean, error = float(change.mean()), float(change.std() / len(change) ** 0.5)
    own = float(np.exp(-positions.next_log.mean()))
    return Perplexity(
        ratio=float(np.exp(mean)),
        low=float(np.exp(mean - _Z95 * error)),
        high=float(np.exp(mean + _Z95 * error)),
        own=own,
        reference=own / float(np.exp(mean)),
    )
