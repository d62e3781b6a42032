"""A bundle from labelled rows: trains, converts, and says how right the model is."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..agent import ClassifyTask, Task
from ..conversion import Job, decide_types, open_source, write_bundle
from ..evaluate.requests import Requests
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..report.training import Training, render_training
from ..write.manifest import PAGE_FILE, QUALITY_FILE
from .rows import read_rows
from .train import train

_CANARIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """rows: the file. minutes: of training. licence: None = not stated. sign: of the manifest's bytes, or None."""

    rows: Path
    tasks: dict[str, Task]
    quantization: Quantization
    minutes: float
    seed: int
    name: str
    version: int
    licence: str | None
    sign: Callable[[bytes], bytes] | None


def write_trained(job: TrainingJob, folder: Path, progress: OnProgress) -> tuple[Training, list[str]]:
    """All files of the bundle, into an empty folder; and warnings. Raises ConvertError."""
    rows = read_rows(job.rows, job.tasks)
    trained = train(rows, job.quantization, minutes=job.minutes, seed=job.seed, progress=part_of(progress, 0.0, 0.98))
    # Scores can be recorded whatever they are; parts of an object only where the choice is not close.
    with_labels = [row.request for row in rows if isinstance(row.task.config, ClassifyTask)]
    canaries = with_labels[:: max(len(with_labels) // _CANARIES, 1)][:_CANARIES]
    with TemporaryDirectory() as name:
        checkpoint = Path(name)
        trained.learned.write(checkpoint)
        conversion = Job(
            checkpoint=checkpoint,
            quantization=job.quantization,
            name=job.name,
            version=job.version,
            licence=job.licence,
            has_canaries=bool(canaries),
            canaries=Requests("", canaries),
            sign=job.sign,
        )
        with open_source(conversion) as source:
            plan, _ = decide_types(conversion, source, progress)
            training = Training(
                name=plan.name,
                version=job.version,
                licence=plan.licence,
                quantization=plan.quantization_name,
                parameters=trained.learned.parameters,
                file_bytes=plan.file_bytes,
                held_out=trained.held_out,
                recipe=asdict(trained.recipe),
                tasks=trained.tasks,
            )
            pages = {QUALITY_FILE: training.encode(), PAGE_FILE: render_training(training).encode()}
            written = write_bundle(
                conversion, source, plan, None, folder=folder, progress=part_of(progress, 0.98, 1.0), pages=pages
            )
    return training, written.warnings
