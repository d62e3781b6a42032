"""From labelled rows to a bundle. START HERE: `write_trained_bundle` calls the steps in order."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from ..agent import MODEL_FILE, Finished, UsualReadings
from ..conversion import Job, decide_types, open_source, write_bundle
from ..evaluate.requests import Requests
from ..evaluate.worker import AdaptedModel, open_worker
from ..plan import make_plan
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..read.checkpoint import Checkpoint
from ..read.model import read_model
from ..write.manifest import PAGE_FILE, QUALITY_FILE
from .baselines import baseline_of
from .model import TrainedModel, train_model
from .numbers import levels_of, number_quality, with_levels, with_number
from .pace import TimeLimit
from .quality import AnsweredRow, HeldOutCounts, Limits, held_out_counts, limits_of, task_quality, with_limits
from .recipe import MAX_NUMBER_EPOCHS, MIN_STEPS, Recipe
from .report import TaskQuality, Training, UselessError, render_training
from .study import Fold, Study
from .teacher import Teacher
from .together import learn_numbers, with_held_out, with_scores
from .training_rows import Row, by_task

CANARIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    rows: Sequence[Row]  # Labelled rows; with a teacher there may be none.
    notes: Sequence[str] = ()  # On the labels of these rows, which a refusal repeats minutes later.
    is_selection: bool = False  # Whether rows are there because somebody noticed them, so held-out ones prove nothing.
    teacher: Teacher | None = None
    quantization: Quantization
    recipe: Recipe
    minutes: float | None = None  # Limits all trainings together, which then have as many steps as there is time for.
    allows_any_accuracy: bool = False  # Whether a model is written that is no better than always giving one answer.
    name: str
    version: int
    expires: str | None
    licence: str | None
    sign: Callable[[bytes], bytes] | None  # Makes the signature of the manifest's bytes.


@dataclass(frozen=True, slots=True)
class Result:
    """A model of all rows, and how right its recipe is on rows that were held out."""

    model: TrainedModel
    recipe: Recipe
    held_out: str  # Which rows were held out, in words.
    tasks: tuple[TaskQuality, ...]
    warnings: list[str]


def write_trained_bundle(job: TrainingJob, folder: Path, progress: OnProgress) -> tuple[Training, list[str]]:
    """All files of the bundle, into an empty folder; and warnings. Raises ConvertError."""
    in_training, in_conversion = part_of(progress, 0.0, 0.98), part_of(progress, 0.98, 1.0)
    result = train_and_evaluate(job, in_training)
    useless = [task.why_useless for task in result.tasks if task.is_useless]
    if useless and not job.allows_any_accuracy:
        raise UselessError("; ".join([*useless, *result.warnings, *job.notes]), result.held_out, result.tasks)
    rows = [*job.rows, *(job.teacher.unlabelled if job.teacher is not None else ())]
    # Only scores are recorded, because a written answer may depend on a close choice.
    scored = [row.request for row in rows if row.task.config.canary_part == "scores"]
    canaries = scored[:: -(-len(scored) // CANARIES) or 1]
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
    return training, [*result.warnings, *useless, *written.warnings]


def train_and_evaluate(job: TrainingJob, progress: OnProgress) -> Result:
    """Trains a model on all rows, and one on each fold, which say how right the recipe is. Raises ConvertError."""
    study = Study.of(job.rows, job.teacher, job.recipe.seed)
    trainings = len(study.folds) + 1
    recipe = _recipe_for(job, study.rows)
    limit = TimeLimit(job.minutes, trainings, monotonic())
    parts = [part_of(progress, number / trainings, (number + 1) / trainings) for number in range(trainings)]
    answers = [
        _evaluate_fold(study.with_teacher_answers(fold), recipe, limit, job.quantization, part)
        for fold, part in zip(study.folds, parts, strict=False)
    ]
    model = _train(study.rows, recipe, limit, parts[-1])
    qualities, limits, levels = list[TaskQuality](), dict[str, Limits](), dict[str, tuple[float, ...]]()
    together = dict[str, UsualReadings]()
    held_out, odd = dict[str, HeldOutCounts](), dict[str, tuple[int, int]]()
    for name, task_rows in by_task(study.rows).items():
        judged = [answered for fold_answers in answers for answered in study.judged(name, fold_answers)]
        if (readings := learn_numbers(task_rows, model.table, recipe.seed)) is None:
            # A field of it may be a number in one of the folds.
            judged = [replace(answered, unlike=None) for answered in judged]
        else:
            together[name] = with_held_out(readings, judged)
        limits[name] = limits_of(judged, model.vocabulary.known_strangeness(task_rows))
        if task_rows[0].task.config.is_number:
            levels[name] = levels_of(judged)
            judged = with_levels(judged)
        judged = with_limits(judged, limits[name])
        proves = task_rows[0].task.config.choices and not job.is_selection
        held_out[name] = held_out_counts(judged) if proves else ()
        odd[name] = sum(answered.is_unlike for answered in judged), len(judged)
        quality = task_quality(
            task_rows,
            model.table,
            judged,
            baseline_of(study.folds, name, model.table),
            teacher=study.teacher_quality(name, answers[0]),
        )
        qualities.append(with_number(quality, number_quality(task_rows, judged)) if name in levels else quality)
    table = model.table.with_together(together).with_limits(limits).with_levels(levels).with_held_out(held_out, odd)
    model = model.with_table(table)
    recipe, warnings = replace(recipe, steps=model.steps), limit.warnings(recipe.steps)
    warnings += [why for quality in qualities if (why := quality.never_recognized)]
    return Result(model, recipe, study.held_out, tuple(qualities), warnings)


def _recipe_for(job: TrainingJob, rows: Sequence[Row]) -> Recipe:
    """The job's recipe, with fewer steps for few rows of numbers."""
    if not all(row.task.config.is_number for row in rows):
        return job.recipe
    return replace(
        job.recipe, steps=min(job.recipe.steps, max(MAX_NUMBER_EPOCHS * len(rows) // job.recipe.batch, MIN_STEPS))
    )


def _train(rows: Sequence[Row], recipe: Recipe, limit: TimeLimit, progress: OnProgress) -> TrainedModel:
    model = train_model(rows, recipe, progress, seconds=limit.seconds_for_next(monotonic()))
    limit.on_trained(model.steps)
    return model


def _evaluate_fold(
    fold: Fold, recipe: Recipe, limit: TimeLimit, quantization: Quantization, progress: OnProgress
) -> list[AnsweredRow]:
    """Trains on a fold and answers the rows that it holds out. Raises ConvertError."""
    model = _train(fold.train, recipe, limit, part_of(progress, 0.0, 0.9))
    answers = answers_of(model, fold.held_out, quantization, part_of(progress, 0.9, 1.0))
    return with_scores(answers, fold.train, model.table, recipe.seed)


def answers_of(
    model: TrainedModel, rows: Sequence[Row], quantization: Quantization, progress: OnProgress
) -> list[AnsweredRow]:
    """The answers of the model with its weights rounded as in the bundle. A row that is too long has none.

    Rows unlike training and rows with an odd field have an output, too, which `with_limits` removes later. Raises
    ConvertError.
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
                output = row.task.output_of(replace(event, unlike=None, odd_fields=()))
                strangeness = model.vocabulary.strangeness(row)
                is_odd = any(odd.why != "together" for odd in event.odd_fields)
                answers.append(AnsweredRow(row, output, event.scores, event.unlike, strangeness, is_odd))
    return answers
