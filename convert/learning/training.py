"""Trains a model on all rows, and says how right its recipe is on rows that are held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from ..agent import MODEL_FILE, Finished
from ..evaluate.worker import Adapted, open_worker
from ..plan import make_plan
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..read.checkpoint import Checkpoint
from ..read.model import read_model
from .baseline import baseline_of
from .folds import Fold, half_of
from .limits import Limits, limits_of, with_limits
from .model import TrainedModel, train_model
from .quality import Answered, task_quality
from .recipe import MIN_STEPS, Recipe
from .report import TaskQuality
from .rows import Row, by_task
from .study import Study
from .teacher import Teacher

# Steps that are timed, to know how many there is time for.
_TIMED_STEPS = 20
# The rest of the time is for answers.
_TRAINING_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A model of all rows, and how right its recipe is on rows that were held out."""

    model: TrainedModel
    recipe: Recipe
    held_out: str
    """Which rows were held out, in words."""
    tasks: tuple[TaskQuality, ...]


def train_and_evaluate(
    rows: Sequence[Row],
    quantization: Quantization,
    *,
    minutes: float,
    seed: int,
    progress: OnProgress,
    teacher: Teacher | None = None,
) -> TrainingResult:
    """rows: labelled; with a teacher there may be none. minutes: of all trainings together. Raises ConvertError."""
    study = Study.of(rows, teacher, seed)
    # On each fold, on half of one, on all rows.
    trainings = len(study.folds) + 2
    recipe = _with_steps_for(_TRAINING_SHARE * 60 * minutes / trainings, Recipe(seed=seed), study.rows)
    parts = [part_of(progress, at / trainings, (at + 1) / trainings) for at in range(trainings)]
    answers = [
        evaluate_fold(study.with_teacher_answers(fold), recipe, quantization, part)
        for fold, part in zip(study.folds, parts, strict=False)
    ]
    half = Fold(half_of(study.folds[0].train, seed), study.folds[0].held_out)
    with_half = evaluate_fold(study.with_teacher_answers(half), recipe, quantization, parts[-2])
    model = train_model(study.rows, recipe, parts[-1])
    qualities, limits = list[TaskQuality](), dict[str, Limits]()
    for name, of_task in by_task(study.rows).items():
        by_fold = [study.judged(name, of_fold) for of_fold in answers]
        halved = study.judged(name, with_half)
        limits[name] = limits_of([one for several in by_fold for one in several])
        quality = task_quality(
            of_task,
            model.table,
            [with_limits(several, limits[name]) for several in by_fold],
            with_limits(halved, limits_of(halved)),
            baseline_of(study.folds, name, model.table),
            teacher=study.teacher_quality(name, answers[0]),
        )
        qualities.append(quality)
    return TrainingResult(model.with_limits(limits), recipe, study.held_out, tuple(qualities))


def _with_steps_for(seconds: float, recipe: Recipe, rows: Sequence[Row]) -> Recipe:
    """The recipe with as many steps as this time allows, at most its own."""
    times = list[float]()
    timed = replace(recipe, steps=_TIMED_STEPS)
    train_model(rows, timed, lambda _what, _share: times.append(monotonic()))
    step_s = (times[-1] - times[0]) / (len(times) - 1)
    return replace(recipe, steps=max(min(recipe.steps, int(seconds / step_s)), MIN_STEPS))


def evaluate_fold(fold: Fold, recipe: Recipe, quantization: Quantization, progress: OnProgress) -> list[Answered]:
    """Trains on a fold and answers the rows that it holds out. Raises ConvertError."""
    model = train_model(fold.train, recipe, part_of(progress, 0.0, 0.9))
    return answers_of(model, fold.held_out, quantization, part_of(progress, 0.9, 1.0))


def answers_of(
    model: TrainedModel, rows: Sequence[Row], quantization: Quantization, progress: OnProgress
) -> list[Answered]:
    """With the weights rounded as in the bundle. A row that is too long has no answer. Raises ConvertError.

    Rows that are unlike training have an output all the same: `with_limits` takes it from them.
    """
    answers = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        model.write(folder)
        with Checkpoint(folder) as checkpoint:
            make_plan(read_model(checkpoint), quantization).write(folder / MODEL_FILE)
        with open_worker(Adapted(folder / MODEL_FILE), []) as worker:
            for number, row in enumerate(rows):
                progress("answering rows that are held out", number / len(rows))
                event = worker.ask(row.request.make_run(number))
                if not isinstance(event, Finished):
                    answers.append(Answered(row, None, None))
                    continue
                output = row.task.output_of(replace(event, unlike=None))
                strangeness = model.vocabulary.strangeness(row)
                answers.append(Answered(row, output, event.scores, event.unlike, strangeness))
    return answers
