"""From labelled rows to a bundle. START HERE: `write_trained_bundle` calls the steps in order."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

from ..agent import MODEL_FILE, EstimateTask, Finished, percent
from ..conversion import Job, decide_types, open_source, write_bundle
from ..errors import ConvertError, escaped
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
from .numbers import levels_of, number_quality, with_levels
from .quality import AnsweredRow, HeldOutCounts, Limits, held_out_counts, limits_of, task_quality, with_limits
from .recipe import MIN_STEPS, NUMBER_PASSES, Recipe
from .report import TaskQuality, Training, render_training
from .study import Fold, Study
from .teacher import Teacher
from .training_rows import Row, by_task

CANARIES = 20
# Steps that are timed, to know how many there is time for.
_TIMED_STEPS = 20
# The rest of the time is for answers.
_TRAINING_SHARE = 0.9
_OVERRIDE = "--any-accuracy writes it anyway"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    rows: Sequence[Row]  # Labelled rows; with a teacher there may be none.
    teacher: Teacher | None = None
    quantization: Quantization
    recipe: Recipe
    minutes: float | None = None  # The most for all trainings together; the recipe then has as many steps as fit.
    takes_any_accuracy: bool = False  # A model is written although the most frequent answer alone is right as often.
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
    useless = [task for task in result.tasks if task.is_useless]
    if useless and not job.takes_any_accuracy:
        raise ConvertError("; ".join([*map(_useless, useless), *result.warnings]))
    asked = [*job.rows, *(job.teacher.unlabelled if job.teacher is not None else ())]
    # Only scores are recorded, because a written answer may depend on a close choice.
    scored = [row.request for row in asked if row.task.config.canary_part == "scores"]
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
    return training, [*result.warnings, *map(_useless, useless), *written.warnings]


def _useless(task: TaskQuality) -> str:
    share, constant = (percent(count / task.judged) for count in (task.right, task.most_frequent))
    name = escaped(task.name)
    if (number := task.number) is not None:
        error, constant_error = map(number.with_unit, (number.mean_error, number.constant_error))
        always = f"always answering {number.with_unit(number.constant)}"
        return f"task {name}: a mean error of {error} is no less than the {constant_error} of {always}; {_OVERRIDE}"
    always = f"always giving the most frequent answer ({constant})"
    return f"task {name}: {share} right is no better than {always}; {_OVERRIDE}"


def train_and_evaluate(job: TrainingJob, progress: OnProgress) -> Result:
    """Trains a model on all rows, and on each fold for how right its recipe is. Raises ConvertError."""
    study, warnings = Study.of(job.rows, job.teacher, job.recipe.seed), list[str]()
    recipe = full = _for_numbers(job.recipe, study.rows)
    # On each fold, and on all rows.
    trainings = len(study.folds) + 1
    if job.minutes is not None:
        recipe = _with_steps_for(_TRAINING_SHARE * 60 * job.minutes / trainings, recipe, study.rows)
    if recipe.steps < full.steps:
        warnings.append(
            f"--minutes {job.minutes:g} allows each training only {recipe.steps:,} of {full.steps:,} steps on this "
            "machine: the model may be right less often, and another run will not give the same bytes"
        )
    parts = [part_of(progress, at / trainings, (at + 1) / trainings) for at in range(trainings)]
    answers = [
        _evaluate_fold(study.with_teacher_answers(fold), recipe, job.quantization, part)
        for fold, part in zip(study.folds, parts, strict=False)
    ]
    model = train_model(study.rows, recipe, parts[-1])
    qualities, limits, levels = list[TaskQuality](), dict[str, Limits](), dict[str, tuple[float, ...]]()
    held_out = dict[str, HeldOutCounts]()
    for name, of_task in by_task(study.rows).items():
        judged = [answered for of_fold in answers for answered in study.judged(name, of_fold)]
        limits[name] = limits_of(judged, model.vocabulary.known_strangeness(of_task))
        held_out[name] = held_out_counts(judged) if of_task[0].task.config.choices else ()
        if model.table.tasks[name].number is not None:
            levels[name] = levels_of(judged)
            judged = with_levels(judged)
        judged = with_limits(judged, limits[name])
        quality = task_quality(
            of_task,
            model.table,
            judged,
            baseline_of(study.folds, name, model.table),
            teacher=study.teacher_quality(name, answers[0]),
            number=number_quality(of_task, judged) if name in levels else None,
        )
        qualities.append(quality)
    model = model.with_limits(limits).with_levels(levels).with_held_out(held_out)
    return Result(model, recipe, study.held_out, tuple(qualities), warnings)


def _for_numbers(recipe: Recipe, rows: Sequence[Row]) -> Recipe:
    """With fewer steps if the answers of all tasks are numbers and rows are few."""
    if not all(isinstance(row.task.config, EstimateTask) for row in rows):
        return recipe
    return replace(recipe, steps=min(recipe.steps, max(NUMBER_PASSES * len(rows) // recipe.batch, MIN_STEPS)))


def _with_steps_for(seconds: float, recipe: Recipe, rows: Sequence[Row]) -> Recipe:
    """The recipe with as many steps as this time allows, at most its own."""
    times = list[float]()
    timed = replace(recipe, steps=_TIMED_STEPS)
    train_model(rows, timed, lambda _what, _share: times.append(monotonic()))
    step_s = median(after - before for before, after in pairwise(times))
    return replace(recipe, steps=min(recipe.steps, max(int(seconds / step_s), MIN_STEPS)))


def _evaluate_fold(fold: Fold, recipe: Recipe, quantization: Quantization, progress: OnProgress) -> list[AnsweredRow]:
    """Trains on a fold and answers the rows that it holds out. Raises ConvertError."""
    model = train_model(fold.train, recipe, part_of(progress, 0.0, 0.9))
    return answers_of(model, fold.held_out, quantization, part_of(progress, 0.9, 1.0))


def answers_of(
    model: TrainedModel, rows: Sequence[Row], quantization: Quantization, progress: OnProgress
) -> list[AnsweredRow]:
    """With the weights rounded as in the bundle. A row that is too long has no answer. Raises ConvertError.

    Rows unlike training, and those with an odd field, have an output, too, which `with_limits` then removes.
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
                is_odd = bool(event.odd_fields)
                answers.append(AnsweredRow(row, output, event.scores, event.unlike, strangeness, is_odd))
    return answers
