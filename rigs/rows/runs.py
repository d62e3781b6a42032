"""Whether the interval that a training states holds the share of right answers to rows of other runs.

Each training is short, of a small model, and on rows in runs from one of four simulated sources: readings of an
episode, of a day or of a wandering level are alike. The truth is how often the written model is right on rows of many
other runs.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convert.learning.recipe import Recipe
from convert.learning.runs import in_groups
from convert.learning.training_rows import Row
from rigs.bench.figures import processor, verdict
from rigs.rows.training import board_answers, classify_table, read_rows, train

LABELS = ("normal", "worn", "cavitation")
MIN_HELD = 0.9
RECIPE = Recipe(width=32, layers=1, steps=200)
# How many other runs tell the truth.
OTHER_RUNS = 150
_Rows = list[dict[str, Any]]


def main(words: Sequence[str]) -> int:
    """Prints each training; the exit code is 1 if fewer intervals hold the truth than should."""
    parser = argparse.ArgumentParser(prog="python -m rigs.rows runs", description=__doc__)
    parser.add_argument("--trainings", type=int, default=10, help="of each source (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first training (default: %(default)s)")
    parser.add_argument("--sources", choices=SOURCES, nargs="+", default=[*SOURCES], help="default: all")
    parser.add_argument(
        "--independent", action="store_true", help="take all rows for independent, to see what groups are for"
    )
    given = parser.parse_args(words)
    print(processor())
    seeds = range(given.seed, given.seed + given.trainings)
    return 0 if check_intervals(given.sources, seeds, is_grouped=not given.independent) else 1


@dataclass(frozen=True, slots=True)
class Stated:
    """What a training says of its model, and what is true of it."""

    share: float
    low: float
    high: float
    truth: float

    @property
    def holds(self) -> bool:
        return self.low <= self.truth <= self.high


def check_intervals(sources: Sequence[str], seeds: Sequence[int], *, is_grouped: bool = True) -> bool:
    held = total = 0
    for name in sources:
        for seed in seeds:
            stated = train_and_ask(SOURCES[name], seed, is_grouped=is_grouped)
            held, total = held + stated.holds, total + 1
            interval = f"[{100 * stated.low:.1f}-{100 * stated.high:.1f}]"
            missed = "" if stated.holds else "  NOT HELD"
            print(
                f"{name} {seed}: stated {100 * stated.share:.1f} {interval}, true {100 * stated.truth:.1f}{missed}",
                flush=True,
            )
    is_met = held >= MIN_HELD * total
    print(f"intervals that hold the truth: {held} of {total}: {verdict(is_met)}")
    return is_met


def train_and_ask(source: "Source", seed: int, *, is_grouped: bool) -> Stated:
    draw = np.random.default_rng([seed, source.number])
    rows = read(source.draw(draw, source.runs))
    if not is_grouped:
        rows = [replace(row, group=None) for row in rows]
    result = train(rows, replace(RECIPE, seed=seed))
    [quality] = result.tasks
    answers = board_answers(result, read(source.draw(draw, OTHER_RUNS)))
    truth = sum(answered.is_right for answered in answers) / len(answers)
    return Stated(quality.accuracy, *quality.interval, truth)


def read(rows: _Rows) -> list[Row]:
    """The rows with the groups that `edge-convert train` gives them."""
    return in_groups(read_rows(rows, classify_table(LABELS)))[0]


# The sources. Each run differs from the others by more than its rows do from each other.

SENSORS = ("vibration", "temperature", "current", "pressure")
# What a label does to the sensors.
_EFFECTS = np.array([[0.0, 0.0, 0.0, 0.0], [1.6, 1.0, 0.0, 0.0], [0.8, 0.0, 0.6, -1.4]])


def episodes(draw: np.random.Generator, runs: int) -> _Rows:
    """Each episode has one label and a level of its own, and says which it is."""
    rows = []
    for run in range(runs):
        label, level, length = int(draw.integers(3)), draw.normal(0, 0.8, 4), draw.integers(8, 25)
        values = _EFFECTS[label] + level + draw.normal(0, 0.5, (length, 4))
        rows += [_row(reading, label, group=f"episode {run}") for reading in values]
    return rows


def days(draw: np.random.Generator, runs: int) -> _Rows:
    """Each day has all labels and an offset of all sensors, so that on some days nearly all answers are wrong."""
    rows = []
    for run in range(runs):
        offset, noise = draw.normal(0, 1.0, 4), draw.uniform(0.2, 0.6)
        for label in draw.permutation([0, 0, 0, 1, 2]).tolist():
            rows += [
                _row(reading, label, group=f"day {run}")
                for reading in _EFFECTS[label] + offset + draw.normal(0, noise, (6, 4))
            ]
    return rows


def shifts(draw: np.random.Generator, runs: int) -> _Rows:
    """Like `days`, but with times instead of groups."""
    return [
        {key: value for key, value in row.items() if key != "group"} | {"ts": number}
        for number, row in enumerate(days(draw, runs))
    ]


def wandering(draw: np.random.Generator, runs: int) -> _Rows:
    """Sensors wander slowly, which only the order of the file shows; faults come and go."""
    rows, level, label = [], draw.normal(0, 1, 4), 0
    for _ in range(20 * runs):
        level = 0.96 * level + 0.28 * draw.normal(0, 1, 4)
        if draw.random() < 1 / 12:
            label = int(draw.integers(3))
        rows.append(_row(_EFFECTS[label] + 0.8 * level + draw.normal(0, 0.3, 4), label))
    return rows


def _row(reading: Any, label: int, **row_keys: Any) -> dict[str, Any]:
    values = {sensor: round(float(value), 3) for sensor, value in zip(SENSORS, reading, strict=True)}
    return {"input": values, "answer": LABELS[label], **row_keys}


@dataclass(frozen=True, slots=True)
class Source:
    number: int  # It is part of the seed.
    draw: Callable[[np.random.Generator, int], _Rows]
    runs: int  # The number of runs in a training.


SOURCES = {
    "episodes": Source(0, episodes, 30),
    "days": Source(1, days, 20),
    "shifts": Source(2, shifts, 27),
    "wandering": Source(3, wandering, 20),
}
