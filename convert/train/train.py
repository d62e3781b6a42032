"""`edge-convert train` from end to end. START HERE: `train` calls the steps in order."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import ConvertError
from ..progress import OnProgress, part_of
from ..quantize.recipe import Quantization
from ..report.training import TaskQuality
from .baseline import baseline_of
from .folds import Fold, folds_of
from .judge import judge
from .learn import Learned, Recipe, learn
from .quality import task_quality
from .rows import Row, tasks_of

# Steps that are timed, to know how many there is time for.
_TRIAL_STEPS = 20
_LEAST_STEPS = 100


@dataclass(frozen=True, slots=True)
class Trained:
    """The model that has learnt from all rows, and how right its recipe is on rows that are held out."""

    learned: Learned
    recipe: Recipe
    held_out: str
    tasks: tuple[TaskQuality, ...]


def train(
    rows: Sequence[Row], quantization: Quantization, *, minutes: float, seed: int, progress: OnProgress
) -> Trained:
    """Judges a recipe on rows that are held out, and learns by it from all rows. Raises ConvertError."""
    folds, held_out = folds_of(rows, seed)
    for name in tasks_of(rows):
        if not any(row.task.name == name for row in folds[0].held_out):
            raise ConvertError(f"task {name}: none of its rows is among {held_out}, which are held out")
    # Of the folds, of half of the rows, and of all rows.
    trainings = len(folds) + 2
    recipe = _affordable(Recipe(seed=seed), rows, 60 * minutes / trainings)
    parts = [part_of(progress, at / trainings, (at + 1) / trainings) for at in range(trainings)]
    answers = [judge(fold, recipe, quantization, part) for fold, part in zip(folds, parts, strict=False)]
    halved = Fold(folds[0].known[::2], folds[0].held_out)
    with_half = judge(halved, recipe, quantization, parts[-2])
    learned = learn(rows, recipe, parts[-1])
    qualities = [
        task_quality(
            [row for row in rows if row.task.name == name],
            [[one for one in several if one.row.task.name == name] for several in answers],
            [one for one in with_half if one.row.task.name == name],
            baseline_of(folds, task),
        )
        for name, task in tasks_of(rows).items()
    ]
    return Trained(learned, recipe, held_out, tuple(qualities))


def _affordable(recipe: Recipe, rows: Sequence[Row], seconds: float) -> Recipe:
    """With as many steps as there is time for, at most its own."""
    began = time.monotonic()
    learn(rows, replace(recipe, steps=_TRIAL_STEPS), lambda _what, _share: None)
    step_s = (time.monotonic() - began) / _TRIAL_STEPS
    return replace(recipe, steps=max(min(recipe.steps, int(0.9 * seconds / step_s)), _LEAST_STEPS))
