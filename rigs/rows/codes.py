"""Compares a model trained on rows with error codes with gradient boosting on numbers and words, on later rows."""

import argparse
from collections import Counter
from collections.abc import Sequence

import numpy as np

from convert.agent import share_interval
from convert.learning.recipe import Recipe
from convert.learning.training_rows import Row
from rigs.bench.figures import processor, verdict
from rigs.rows.plant import LABELS, NUMBERS, plant
from rigs.rows.training import board_answers, classify_table, read_rows, train


def main(words: Sequence[str]) -> int:
    """Prints a table; the exit code is 1 if boosting is right more often than the model's interval allows."""
    parser = argparse.ArgumentParser(prog="python -m rigs.rows codes", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=(2000, 200), help="of a training (default: 2000 200)")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="of a training (default: %(default)s)")
    parser.add_argument("--later", type=int, default=4000, help="rows that are asked about (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    print(processor())
    verdicts = [check_codes(count, given.later, Recipe(steps=given.steps, seed=given.seed)) for count in given.rows]
    return 0 if all(verdicts) else 1


def check_codes(count: int, later: int, recipe: Recipe) -> bool:
    draw = np.random.default_rng([recipe.seed, count])
    rows, asked = (read_rows(plant(draw, size), classify_table(tuple(LABELS))) for size in (count, later))
    result = train(rows, recipe)
    [quality] = result.tasks
    answers = board_answers(result, asked)
    right = [answered.is_right for answered in answers]
    unlabelled = sum(answered.output is None for answered in answers)
    boosting_right = max((right_of_boosting(rows, asked, smallest_leaf=size) for size in (20, 5)), key=sum)
    low, high = share_interval(sum(right), later)
    is_met = sum(boosting_right) / later <= high
    print(f"{count} rows, {recipe.steps} steps, {later} later rows")
    print(f"  stated {quality.accuracy:.1%} [{quality.interval[0]:.1%} to {quality.interval[1]:.1%}]", end=", ")
    print(f"true {sum(right) / later:.1%} [{low:.1%} to {high:.1%}], no label {unlabelled / later:.1%}")
    print(f"  gradient boosting on numbers and words {sum(boosting_right) / later:.1%}: {verdict(is_met)}")
    for label in LABELS:
        mine, theirs = (
            [hit for hit, row in zip(hits, asked, strict=True) if row.answer == label]
            for hits in (right, boosting_right)
        )
        print(f"  {label}: {sum(mine) / len(mine):.1%}, boosting {sum(theirs) / len(theirs):.1%} of {len(mine)}")
    odd = Counter(answered.row.answer for answered in answers if answered.is_odd)
    print(f"  rows with an odd field: {dict(odd)}")
    return is_met


def right_of_boosting(rows: Sequence[Row], asked: Sequence[Row], *, smallest_leaf: int) -> list[bool]:
    from convert.learning.baselines import boosting  # noqa: PLC0415 - needs scikit-learn

    model, features = boosting(NUMBERS, ("remark",), rows)
    model.set_params(min_samples_leaf=smallest_leaf).fit(features(rows), [row.answer for row in rows])
    return [bool(is_right) for is_right in model.predict(features(asked)) == [row.answer for row in asked]]
