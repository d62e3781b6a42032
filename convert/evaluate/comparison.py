"""A model against its unquantized reference, on texts that nothing was tuned on."""

from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..agent import MODEL_FILE, Code, Failed, Finished, model_facts, model_tokens, prefixes_of
from ..errors import ConvertError, escaped
from ..measure.cache import read_cached, write_cached
from ..measure.divergence import Differences, Predictions, compare, load, predict, save
from ..measure.runner import Runner
from ..measure.texts import Texts, chunks
from ..plan import FilePlan, make_plan
from ..progress import OnProgress, named, part_of
from ..quantize.recipe import Quantization
from ..quantize.targets import Target
from ..report.numbers import Z95
from ..report.quality import Comparison, Divergence, EvaluationTexts, Perplexity, Reference, Size, TaskAccuracy
from .requests import Requests, row_error
from .worker import AdaptedModel, open_worker

# About 4 000 positions, so that the mean is known within some percent.
EVALUATION_CHUNKS = 16
# What the report compares a bundle with.
PLAIN = (Quantization.Q4_0, Quantization.IQ4_NL, Quantization.Q4_K_M, Quantization.Q8_0)


def compare_models(
    model: AdaptedModel,
    reference: AdaptedModel,
    texts: Texts,
    examples: Requests | None = None,
    *,
    work: Path,
    progress: OnProgress = lambda _what, _share: None,
) -> Comparison:
    """Compares them on texts, and on labelled examples if there are any.

    `work` caches the reference's predictions and answers. Raises ConvertError if a model cannot run or computes no
    finite numbers, or if their vocabularies differ.
    """
    own, other = model_facts(model.path), model_facts(reference.path)
    if model_tokens(model.path) != model_tokens(reference.path):
        raise ConvertError(
            f"{escaped(str(model.path))}: its vocabulary of {own.tokens} tokens is not that of the reference "
            f"{escaped(str(reference.path))}, of {other.tokens}; only models with the same vocabulary can be compared"
        )
    cached = reference.cached(work, texts.sha256, ".npz")
    predictions = _predictions(reference, cached, texts, part_of(progress, 0.0, 0.5))
    measuring = partial(part_of(progress, 0.5, 1.0), "measuring the model")
    with Runner(model.path, model.adapters) as runner:
        positions = compare(runner, predictions, progress=measuring)
    tasks = () if examples is None else measure_accuracy(model, reference, examples, work=work, progress=progress)
    return Comparison(
        reference=Reference(file_sha256=reference.sha256, type=other.quantization),
        texts=EvaluationTexts(
            name=texts.name,
            sha256=texts.sha256,
            tokens=sum(len(one.tokens) for one in predictions),
            positions=len(positions.divergence),
        ),
        divergence=_divergence(positions),
        perplexity=_perplexity(positions),
        tasks=tasks,
    )


def plain_sizes(
    own: FilePlan, target: Target, reference: AdaptedModel, texts: Texts, *, work: Path, progress: OnProgress
) -> list[Size]:
    """The types of PLAIN as `--type` makes them, with the reference's adapters. `work` caches the divergences."""
    cached = reference.cached(work, texts.sha256, "-plain.json")
    divergences: dict[str, float] = read_cached(cached) or {}
    sizes = []
    for at, quantization in enumerate(PLAIN):
        part = part_of(progress, at / len(PLAIN), (at + 1) / len(PLAIN))
        plan = make_plan(own.model, quantization, name=own.name, licence=own.licence)
        if quantization.name not in divergences:
            with TemporaryDirectory(dir=work, prefix="plain-") as folder:
                model = AdaptedModel(Path(folder) / MODEL_FILE, reference.adapters)
                plan.write(model.path)
                comparing = named(part, f"comparing with {quantization.value}")
                comparison = compare_models(model, reference, texts, work=work, progress=comparing)
                divergences[quantization.name] = comparison.divergence.mean
            write_cached(cached, divergences)
        sizes.append(
            Size(
                name=f"--type {quantization.value}",
                bytes=plan.file_bytes,
                ram_bytes=plan.ram_bytes(target),
                divergence=divergences[quantization.name],
                is_own=False,
            )
        )
    return sizes


def _predictions(reference: AdaptedModel, cached: Path, texts: Texts, progress: OnProgress) -> list[Predictions]:
    if (known := load(cached)) is not None:
        return known
    with Runner(reference.path, reference.adapters) as runner:
        measuring = partial(progress, "measuring the reference")
        predictions = predict(runner, chunks(texts, runner, seed=0, max_chunks=EVALUATION_CHUNKS), progress=measuring)
    save(cached, predictions)
    return predictions


def _divergence(positions: Differences) -> Divergence:
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


def _perplexity(positions: Differences) -> Perplexity:
    """The interval of the ratio follows from the changes at each position, which scatter less than the perplexities."""
    change = -positions.next_log_change
    mean, error = float(change.mean()), float(change.std() / len(change) ** 0.5)
    own = float(np.exp(-positions.next_log.mean()))
    return Perplexity(
        ratio=float(np.exp(mean)),
        low=float(np.exp(mean - Z95 * error)),
        high=float(np.exp(mean + Z95 * error)),
        own=own,
        reference=own / float(np.exp(mean)),
    )


def measure_accuracy(
    model: AdaptedModel, reference: AdaptedModel, examples: Requests, *, work: Path, progress: OnProgress
) -> tuple[TaskAccuracy, ...]:
    """The share of right answers of both models. `work` caches the reference's answers. Raises ConvertError."""
    cached = reference.cached(work, examples.sha256, ".json")
    of_reference = read_cached(cached)
    if of_reference is None:
        of_reference = _are_right(reference, examples, part_of(progress, 0.0, 0.5))
        write_cached(cached, of_reference)
    of_model = _are_right(model, examples, part_of(progress, 0.5, 1.0))
    counts = {name: Counter[tuple[bool, bool]]() for name in examples.tasks}
    for example, own, other in zip(examples.requests, of_model, of_reference, strict=True):
        counts[example.task.name][own, bool(other)] += 1
    return tuple(
        TaskAccuracy(
            name=name,
            kind=examples.tasks[name].config.kind,
            examples=count.total(),
            accuracy=(count[True, True] + count[True, False]) / count.total(),
            reference_accuracy=(count[True, True] + count[False, True]) / count.total(),
            gained=count[True, False],
            lost=count[False, True],
        )
        for name, count in counts.items()
    )


def _are_right(model: AdaptedModel, examples: Requests, progress: OnProgress) -> list[bool]:
    """Whether each answer is right; an answer that is not valid, or not sure enough, is not."""
    are_right = []
    with open_worker(model, prefixes_of(examples.tasks.values())) as worker:
        for number, example in enumerate(examples.requests):
            progress("answering the labelled examples", number / len(examples.requests))
            event = worker.ask(example.build_engine_request(number))
            if isinstance(event, Failed) and event.code in (Code.TOO_LONG, Code.BAD_FIELD):
                raise row_error(example, event.message)
            output = example.task.output_of(event) if isinstance(event, Finished) else None
            are_right.append(example.task.config.is_right(output, example.fields["answer"]))
    return are_right
