"""Trains a model on all rows, and says how right its recipe is on rows that are held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic

from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from .baseline import baseline_of
from .evaluation import evaluate_fold
from .folds import Fold, half_of
from .limits import Limits, limits_of, with_limits
from .model import TrainedModel, train_model
from .quality import task_quality
from .recipe import LEAST_STEPS, Recipe
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
    """model: of all rows. tasks: how right the recipe is on those that are held out, which held_out names."""

    model: TrainedModel
    recipe: Recipe
    held_out: str
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
        by_fold = [study.judged(name, several) for several in answers]
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
    return replace(recipe, steps=max(min(recipe.steps, int(seconds / step_s)), LEAST_STEPS))
