"""A conversion from end to end. START HERE: `decide_types` and `write_bundle` call the stages in order."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .agent import ADAPTER_FILE, MANIFEST_FILE, MODEL_FILE, SIGNATURE_FILE, sha256_of
from .allocate import Option, allocate
from .errors import ConvertError, escaped
from .evaluate.canaries import record_canaries
from .evaluate.comparison import compare_models, plain_sizes
from .evaluate.requests import Requests
from .evaluate.worker import AdaptedModel
from .measure.cache import write_reference
from .measure.runner import LoadedVocabulary
from .measure.texts import Texts, chunks
from .measure.vocabulary import WantedVocabulary, coverage_of, fit_vocabulary
from .plan import DEFAULT_NAME, FilePlan, make_plan
from .progress import OnProgress, part_of
from .quantize.ggml import GgmlType
from .quantize.recipe import Quantization
from .quantize.targets import Target, candidates
from .read.checkpoint import Checkpoint
from .read.config import MODEL_TYPE
from .read.lora import Lora, read_lora
from .read.model import SourceModel, read_model
from .read.vocabulary import cut_lora
from .report.quality import Bundle, CalibrationTexts, Comparison, Quality, Size, TensorQuality, Vocabulary
from .write import manifest
from .write.gguf_file import write_adapter

if TYPE_CHECKING:
    from .measure.sensitivity import Sensitivities


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What `--budget` and `--calibration` ask for: calibrated quantization."""

    budget: int | None  # Bytes of model.gguf; if None, the types are those of the quantization's name.
    calibration: Texts
    evaluation: Texts
    seed: int
    work: Path  # The cache folder.
    recovers: bool = False  # Whether weights are trained after rounding (`--recover`).


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    checkpoint: Path
    quantization: Quantization
    target: Target = Target.ANY
    tuning: Tuning | None = None
    vocabulary: WantedVocabulary | None = None
    lora: Path | None = None
    name: str = DEFAULT_NAME
    version: int = 1
    expires: str | None = None
    licence: str | None = None  # If None, the checkpoint's.
    examples: Requests | None = None
    has_canaries: bool = True
    canaries: Requests | None = None  # If None, the included ones.
    sign: Callable[[bytes], bytes] | None = None  # Makes the signature of the manifest's bytes.


@dataclass(frozen=True, slots=True)
class Source:
    """What is converted: an open checkpoint, all of it but its weights, and perhaps an adapter."""

    checkpoint: Checkpoint
    model: SourceModel
    lora: Lora | None
    vocabulary: Vocabulary  # The model's, which may be a part of the checkpoint's.


@dataclass(frozen=True, slots=True)
class TunedMatrices:
    """The rounded matrices of a model, and the tensors that were trained after that."""

    tuning: Tuning
    reference: Path  # The BF16 model.
    sensitivities: "Sensitivities"
    chosen: Mapping[str, Option]  # The types by matrix; empty without a budget.
    recovered: Mapping[str, Any] = field(default_factory=dict)
    """The tensors that were trained after rounding, by name, as the file stores them."""

    def encoded(self, name: str, kind: GgmlType) -> bytes | None:
        """The data of a trained tensor or a rounded matrix; None for any other tensor."""
        if name in self.recovered:
            return bytes(self.recovered[name].data)
        return self.sensitivities.encoded_path(name, kind).read_bytes() if name in self.sensitivities.losses else None


@dataclass(frozen=True, slots=True)
class WrittenBundle:
    vocabulary: Vocabulary
    manifest: Mapping[str, Any]
    canaries: int  # How many were recorded.
    comparison: Comparison | None  # None if it was not measured.
    warnings: list[str]  # For the operator.


@contextmanager
def open_source(job: Job) -> Iterator[Source]:
    """Raises CheckpointError for a damaged or unsupported checkpoint or adapter, ConvertError for too few tokens."""
    with Checkpoint(job.checkpoint) as checkpoint:
        model = read_model(checkpoint)
        lora = None if job.lora is None else read_lora(job.lora, model.tensors)
        source = Source(checkpoint, model, lora, Vocabulary(tokens=model.checkpoint_tokens, of=model.checkpoint_tokens))
        yield source if job.vocabulary is None else _with_vocabulary(source, job.vocabulary)


def _with_vocabulary(source: Source, wanted: WantedVocabulary) -> Source:
    model, kept = fit_vocabulary(source.model, wanted)
    lora = source.lora
    coverage = coverage_of(wanted.evaluation, source.model, model, kept)
    vocabulary = Vocabulary(tokens=len(kept), of=model.checkpoint_tokens, coverage=coverage)
    return replace(source, model=model, lora=None if lora is None else cut_lora(lora, kept), vocabulary=vocabulary)


def decide_types(job: Job, source: Source, progress: OnProgress) -> tuple[FilePlan, TunedMatrices | None]:
    """From sensitivities to an allocation: the plan of model.gguf and, with tuning, encoded matrices.

    Raises ConvertError.
    """
    plan = make_plan(source.model, job.quantization, name=job.name, licence=job.licence)
    if (tuning := job.tuning) is None:
        return plan, None
    if tuning.budget is None:
        kinds = {info.name: [info.kind] for info in plan.infos}
    else:
        kinds = {tensor.name: candidates(job.target, tensor) for tensor in plan.matrices}
        min_bytes = plan.with_types({name: types[0] for name, types in kinds.items()}).file_bytes
        if tuning.budget < min_bytes:
            raise ConvertError(
                f"--budget: {tuning.budget} bytes are too few, at least {min_bytes} bytes are needed for this model"
            )
    # Imports scipy, which takes a third of the time until a conversion begins.
    from .measure.sensitivity import measure_sensitivities  # noqa: PLC0415

    reference = write_reference(source.checkpoint, source.model, tuning.work, progress)
    with LoadedVocabulary(reference) as vocabulary:
        # Texts that are too short are refused now, not after an hour of measuring.
        chunks(tuning.evaluation, vocabulary, seed=0, max_chunks=1)
    sensitivities = measure_sensitivities(
        reference,
        plan.matrices,
        kinds,
        tuning.calibration,
        progress,
        seed=tuning.seed,
        with_divergences=tuning.budget is not None,
    )
    if tuning.budget is None:
        return plan, TunedMatrices(tuning, reference, sensitivities, {})
    options = {tensor.name: sensitivities.options(tensor, kinds[tensor.name]) for tensor in plan.matrices}
    # Header and vectors take the same bytes with any types of the matrices.
    smallest = sum(choices[0].file_bytes for choices in options.values())
    chosen = allocate(options, tuning.budget - min_bytes + smallest)
    plan = plan.with_types({name: option.kind for name, option in chosen.items()})
    return plan, TunedMatrices(tuning, reference, sensitivities, chosen)


def recover(plan: FilePlan, tuned: TunedMatrices, progress: OnProgress) -> TunedMatrices:
    """Trains levels, scales, norms and biases of the plan's tensors. Raises ConvertError."""
    # Imports PyTorch, which takes seconds.
    from .recover.recovery import recover_blocks  # noqa: PLC0415

    trained = recover_blocks(
        plan,
        tuned.encoded,
        reference=tuned.reference,
        texts=tuned.tuning.calibration,
        seed=tuned.tuning.seed,
        folder=tuned.sensitivities.folder,
        progress=progress,
    )
    return replace(tuned, recovered=trained)


def write_bundle(
    job: Job,
    source: Source,
    plan: FilePlan,
    tuned: TunedMatrices | None,
    *,
    folder: Path,
    progress: OnProgress,
    more_files: Mapping[str, bytes] | None = None,
) -> WrittenBundle:
    """Quantizes, writes, compares and makes the manifest: all files of the bundle, in an empty folder.

    `more_files` holds the content of further files of the bundle by name. Raises ConvertError if the disk is too small,
    CheckpointError for damaged weights.
    """
    if (free := shutil.disk_usage(folder).free) < plan.data_bytes:
        where = escaped(str(folder.parent))
        raise ConvertError(f"{where}: only {free} bytes are free, but the model takes {plan.data_bytes}")
    encoded = None if tuned is None else tuned.encoded
    plan.write(folder / MODEL_FILE, encoded=encoded, progress=progress)
    if source.lora is not None:
        write_adapter(folder / ADAPTER_FILE, plan.name, source.lora)
    model = AdaptedModel.from_path(folder)
    canaries, warnings = 0, list[str]()
    if job.has_canaries:
        canaries, warnings = record_canaries(model, job.canaries, folder, progress)
    comparison = None
    if tuned is not None:
        comparison = _write_quality(job, source, plan, tuned, model=model, canaries=canaries, progress=progress)
        shutil.copyfile(tuned.sensitivities.importance_path, folder / manifest.IMPORTANCE_FILE)
    for name, content in (more_files or {}).items():
        (folder / name).write_bytes(content)
    progress("hashing", 1.0)
    document = _manifest(job, source, plan, comparison, folder)
    data = manifest.canonical_json(document)
    (folder / MANIFEST_FILE).write_bytes(data)
    if job.sign is not None:
        (folder / SIGNATURE_FILE).write_bytes(job.sign(data))
    return WrittenBundle(source.vocabulary, document, canaries, comparison, warnings)


def _write_quality(
    job: Job,
    source: Source,
    plan: FilePlan,
    tuned: TunedMatrices,
    *,
    model: AdaptedModel,
    canaries: int,
    progress: OnProgress,
) -> Comparison:
    """Compares the finished model with the reference and with plain types; writes quality.json and quality.html."""
    from .report.page import render_page  # noqa: PLC0415 - matplotlib takes a second

    folder, work, tuning = model.path.parent, tuned.reference.parent, tuned.tuning
    reference = AdaptedModel(tuned.reference, model.user_adapters)
    comparison = compare_models(
        model, reference, tuning.evaluation, job.examples, work=work, progress=part_of(progress, 0.0, 0.3)
    )
    words = [f"--type {plan.quantization.value}"]
    if tuning.budget is None:
        words.append("--calibration")
    if tuning.recovers:
        words.append("--recover")
    own = Size(
        name=" ".join(words),
        bytes=plan.file_bytes,
        ram_bytes=plan.ram_bytes(job.target),
        divergence=comparison.divergence.mean,
        is_own=True,
    )
    others = plain_sizes(
        plan, job.target, reference, tuning.evaluation, work=work, progress=part_of(progress, 0.3, 1.0)
    )
    adapter = folder / ADAPTER_FILE
    quality = Quality(
        bundle=Bundle(
            name=plan.name,
            version=job.version,
            licence=plan.licence,
            quantization=plan.quantization_name,
            bits_per_weight=round(plan.bits_per_weight, 3),
            target=job.target.value,
            calibration=CalibrationTexts(name=tuning.calibration.name, sha256=tuning.calibration.sha256),
            adapter_sha256=sha256_of(adapter) if adapter.is_file() else None,
            canaries=canaries,
            vocabulary=source.vocabulary,
            bytes_per_token=plan.bytes_per_token,
            recovered=tuning.recovers,
        ),
        comparison=comparison,
        tensors=tuple(
            TensorQuality(
                name=info.name,
                type=info.kind.name,
                bytes=info.nbytes,
                divergence=None if option is None else option.divergence,
                is_scaled=option is not None and not option.is_measured,
            )
            for info, option in ((info, tuned.chosen.get(info.name)) for info in plan.infos if len(info.shape) > 1)
        ),
        sizes=(own, *others),
    )
    (folder / manifest.QUALITY_FILE).write_bytes(quality.encode())
    (folder / manifest.PAGE_FILE).write_text(render_page(quality), "utf-8")
    return comparison


def _manifest(job: Job, source: Source, plan: FilePlan, comparison: Comparison | None, folder: Path) -> dict[str, Any]:
    importance, lora, template = folder / manifest.IMPORTANCE_FILE, source.lora, source.model.chat_template
    is_recovered = job.tuning is not None and job.tuning.recovers
    vocabulary = {"tokens": source.vocabulary.tokens, "of": source.vocabulary.of}
    tools = manifest.tools() | (manifest.torch_versions() if is_recovered else {})
    return {
        "schema": manifest.SCHEMA if source.model.fields is None else manifest.TRAINED_SCHEMA,
        "name": plan.name,
        "version": job.version,
        "architecture": MODEL_TYPE,
        "quantization": plan.quantization_name,
        "licence": plan.licence,
        "files": manifest.describe_files(folder),
        "source": {
            "files": source.checkpoint.source_hashes() | (lora.sources if lora else {}),
            "revision": source.checkpoint.revision(),
        },
        "recipe": {
            "types": {info.name: info.kind.name for info in plan.infos},
            "imatrix_sha256": sha256_of(importance) if importance.is_file() else None,
            **({"recovered": True} if is_recovered else {}),
        },
        "tools": tools | ({} if comparison is None else manifest.versions("matplotlib")),
        "context_length": plan.model.config.max_position_embeddings,
        "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        "quality": None if comparison is None else asdict(comparison),
        **({} if source.vocabulary.coverage is None else {"vocabulary": vocabulary}),
        **({} if job.expires is None else {"expires": job.expires}),
    }
