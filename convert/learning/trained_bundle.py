"""From labelled rows to a bundle. START HERE: `write_trained_bundle` calls the steps in order."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..conversion import Job, decide_types, open_source, write_bundle
from ..evaluate.requests import Requests
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..write.manifest import PAGE_FILE, QUALITY_FILE
from .report import Training, render_training
from .rows import Row
from .teacher import Teacher
from .training import train_and_evaluate

CANARIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One training, and the bundle to write."""

    rows: Sequence[Row]
    """Labelled rows; with a teacher there may be none."""
    teacher: Teacher | None = None
    quantization: Quantization
    minutes: float
    """For all trainings together."""
    seed: int
    name: str
    version: int
    expires: str | None
    licence: str | None
    sign: Callable[[bytes], bytes] | None
    """Makes the signature of the manifest's bytes."""


def write_trained_bundle(job: TrainingJob, folder: Path, progress: OnProgress) -> tuple[Training, list[str]]:
    """All files of the bundle, into an empty folder; and warnings. Raises ConvertError."""
    in_training, in_conversion = part_of(progress, 0.0, 0.98), part_of(progress, 0.98, 1.0)
    result = train_and_evaluate(
        job.rows,
        job.quantization,
        minutes=job.minutes,
        seed=job.seed,
        progress=in_training,
        teacher=job.teacher,
    )
    asked = [*job.rows, *(job.teacher.unlabelled if job.teacher is not None else ())]
    # A written answer may hang on a close choice.
    with_labels = [row.request for row in asked if row.task.config.choices]
    canaries = with_labels[:: -(-len(with_labels) // CANARIES) or 1]
    with TemporaryDirectory() as name:
        checkpoint = Path(name)
        result.model.write(checkpoint)
        conversion = Job(
            checkpoint=checkpoint,
            quantization=job.quantization,
            name=job.name,
            version=job.version,
            expires=job.expires,
            licence=job.licence,
            has_canaries=bool(canaries),
            canaries=Requests("", canaries),
            sign=job.sign,
        )
        with open_source(conversion) as source:
            plan, _ = decide_types(conversion, source, in_conversion)
            training = Training(
                name=plan.name,
                version=job.version,
                licence=plan.licence,
                quantization=plan.quantization_name,
                parameters=result.model.parameters,
                file_bytes=plan.file_bytes,
                held_out=result.held_out,
                recipe=asdict(result.recipe),
                tasks=result.tasks,
                teacher=None if job.teacher is None else job.teacher.sha256,
            )
            more_files = {QUALITY_FILE: training.encode(), PAGE_FILE: render_training(training).encode()}
            written = write_bundle(
                conversion, source, plan, None, folder=folder, progress=in_conversion, more_files=more_files
            )
    return training, written.warnings
