"""From labelled rows to a bundle. START HERE: `write_trained_bundle` calls the steps in order."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ..agent import MODEL_FILE, FieldTable, Finished, number_of
from ..conversion import Job, decide_types, open_source, write_bundle
from ..evaluate.requests import Requests
from ..evaluate.worker import AdaptedModel, open_worker
from ..plan import make_plan
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..read.checkpoint import Checkpoint
from ..read.model import read_model
from ..write.manifest import PAGE_FILE, QUALITY_FILE
from .model import TrainedModel, train_model
from .quality import AnsweredRow, Limits, limits_of, task_quality, with_limits
from .recipe import MIN_STEPS, Recipe
from .report import Baseline, TaskQuality, Training, render_training
from .study import Fold, Study, half_of
from .teacher import Teacher
from .training_rows import Row, by_task

# A baseline is trained only up to this many labels: for very many it takes minutes.
_MAX_LABELS = 50
CANARIES = 20
# Steps that are timed, to know how many there is time for.
_TIMED_STEPS = 20
# The rest of the time is for answers.
_TRAINING_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    rows: Sequence[Row]  # Labelled rows; with a teacher there may be none.
    teacher: Teacher | None = None
    quantization: Quantization
    minutes: float  # For all trainings together.
    seed: int
    name: str
    version: int
    expires: str | None
    licence: str | None
    sign: Callable[[bytes], bytes] | None  # Makes the signature of the manifest's bytes.


@dataclass(frozen=True, slots=True)
class _Result:
    """A model of all rows, and how right its recipe is on rows that were held out."""

    model: TrainedModel
    recipe: Recipe
    held_out: str  # Which rows were held out, in words.
    tasks: tuple[TaskQuality, ...]


def write_trained_bundle(job: TrainingJob, folder: Path, progress: OnProgress) -> tuple[Training, list[str]]:
    """All files of the bundle, into an empty folder; and warnings. Raises ConvertError."""
    in_training, in_conversion = part_of(progress, 0.0, 0.98), part_of(progress, 0.98, 1.0)
    result = _train_and_evaluate(job, in_training)
    asked = [*job.rows, *(job.teacher.unlabelled if job.teacher is not None else ())]
    # Only labels are recorded, because a written answer may depend on a close choice.
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


def _train_and_evaluate(job: TrainingJob, progress: OnProgress) -> _Result:
    """Trains a model on all rows, and on each fold for how right its recipe is. Raises ConvertError."""
    study = Study.of(job.rows, job.teacher, job.seed)
    # On each fold, on half of one, on all rows.
    trainings = len(study.folds) + 2
    recipe = _with_steps_for(_TRAINING_SHARE * 60 * job.minutes / trainings, Recipe(seed=job.seed), study.rows)
    parts = [part_of(progress, at / trainings, (at + 1) / trainings) for at in range(trainings)]
    answers = [
        _evaluate_fold(study.with_teacher_answers(fold), recipe, job.quantization, part)
        for fold, part in zip(study.folds, parts, strict=False)
    ]
    half = Fold(half_of(study.folds[0].train, job.seed), study.folds[0].held_out)
    with_half = _evaluate_fold(study.with_teacher_answers(half), recipe, job.quantization, parts[-2])
    model = train_model(study.rows, recipe, parts[-1])
    qualities, limits = list[TaskQuality](), dict[str, Limits]()
    for name, of_task in by_task(study.rows).items():
        by_fold = [study.judged(name, of_fold) for of_fold in answers]
        halved = study.judged(name, with_half)
        limits[name] = limits_of([answered for of_fold in by_fold for answered in of_fold])
        quality = task_quality(
            of_task,
            model.table,
            [with_limits(of_fold, limits[name]) for of_fold in by_fold],
            with_limits(halved, limits_of(halved)),
            baseline_of(study.folds, name, model.table),
            teacher=study.teacher_quality(name, answers[0]),
        )
        qualities.append(quality)
    return _Result(model.with_limits(limits), recipe, study.held_out, tuple(qualities))


def _with_steps_for(seconds: float, recipe: Recipe, rows: Sequence[Row]) -> Recipe:
    """The recipe with as many steps as this time allows, at most its own."""
    times = list[float]()
    timed = replace(recipe, steps=_TIMED_STEPS)
    train_model(rows, timed, lambda _what, _share: times.append(monotonic()))
    step_s = (times[-1] - times[0]) / (len(times) - 1)
    return replace(recipe, steps=max(min(recipe.steps, int(seconds / step_s)), MIN_STEPS))


def _evaluate_fold(fold: Fold, recipe: Recipe, quantization: Quantization, progress: OnProgress) -> list[AnsweredRow]:
    """Trains on a fold and answers the rows that it holds out. Raises ConvertError."""
    model = train_model(fold.train, recipe, part_of(progress, 0.0, 0.9))
    return _answers_of(model, fold.held_out, quantization, part_of(progress, 0.9, 1.0))


def _answers_of(
    model: TrainedModel, rows: Sequence[Row], quantization: Quantization, progress: OnProgress
) -> list[AnsweredRow]:
    """With the weights rounded as in the bundle. A row that is too long has no answer. Raises ConvertError.

    Rows unlike training have an output, too, which `with_limits` then removes.
    """
    answers = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        model.write(folder)
        with Checkpoint(folder) as checkpoint:
            make_plan(read_model(checkpoint), quantization).write(folder / MODEL_FILE)
        with open_worker(AdaptedModel(folder / MODEL_FILE), []) as worker:
            for number, row in enumerate(rows):
                progress("answering rows that are held out", number / len(rows))
                event = worker.ask(row.request.build_engine_request(number))
                if not isinstance(event, Finished):
                    answers.append(AnsweredRow(row, None, None))
                    continue
                output = row.task.output_of(replace(event, unlike=None))
                strangeness = model.vocabulary.strangeness(row)
                answers.append(AnsweredRow(row, output, event.scores, event.unlike, strangeness))
    return answers


def baseline_of(folds: Sequence[Fold], task: str, table: FieldTable) -> Baseline | None:
    """How many held-out rows a standard method answers right: gradient boosting on numbers, else logistic regression.

    None without labels or labelled rows, or with too many labels.
    """
    sides = [(by_task(fold.train)[task], by_task(fold.held_out)[task]) for fold in folds]
    first = sides[0][0][0]
    if not first.task.config.choices or first.chances is not None:
        return None
    # Neither method can be trained on one label alone, and both take minutes for very many.
    if not all(2 <= len({row.answer for row in train}) <= _MAX_LABELS for train, _ in sides):
        return None
    numbers = [
        field.name for field in table.fields if field.edges is not None and field.name in table.tasks[task].fields
    ]
    # Texts of blanks alone have no features.
    if not numbers and not any(row.text.strip() for train, _ in sides for row in train):
        return None
    right = 0
    for train, held_out in sides:
        model, features = _boosting(numbers) if numbers else _regression()
        model.fit(features(train), [row.answer for row in train])
        right += sum(model.predict(features(held_out)) == [row.answer for row in held_out])
    return Baseline(name="gradient boosting" if numbers else "logistic regression", right=int(right))


def _boosting(numbers: Sequence[str]) -> tuple[Any, Any]:
    def features(rows: Sequence[Row]) -> Any:
        """[rows, numbers], NaN where one is missing."""
        numbers_of_rows = [[number_of(row.values.get(name)) for name in numbers] for row in rows]
        return np.array(numbers_of_rows, dtype=np.float64)

    return HistGradientBoostingClassifier(early_stopping=False, random_state=0), features


def _regression() -> tuple[Any, Any]:
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\S+")  # noqa: S106 - no password
    return make_pipeline(words, LogisticRegression(C=10)), lambda rows: [row.text for row in rows]
