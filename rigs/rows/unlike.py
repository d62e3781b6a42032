"""How many strange readings a trained model notices, by how they are made from ordinary ones.

A reading is noticed by an odd field, or because its numbers do not go together. The limit of the latter is such that
2 % of ordinary readings are noticed, too.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from convert.agent import RarityModel
from convert.learning.quality import UNLIKE_SHARE
from convert.learning.table import build_table
from convert.learning.together import learn_numbers
from convert.learning.training_rows import Row
from edge_agent.core.terminal import aligned
from rigs.bench.figures import processor
from rigs.rows.compressor import compressor, compressor_faults, readings
from rigs.rows.training import classify_table, read_rows
from rigs.training.readings import FAULTS, draw_case

LEARNT, ASKED = 2000, 1000
Labelled = list[dict[str, Any]]
Readings = list[dict[str, float]]


def main(words: Sequence[str]) -> int:
    """Prints a table. It has no target, so the exit code is 0."""
    parser = argparse.ArgumentParser(prog="python -m rigs.rows unlike", description=__doc__)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="how many draws of each set (default: %(default)s)")
    given = parser.parse_args(words)
    names = given.sets or list(SETS)
    print(processor())
    by_set = [[check(name, seed) for seed in range(given.seeds)] for name in names]
    lines = [("noticed, means and extremes of the seeds", *names)]
    for kind in by_set[0][0]:
        shares = [[of_seed[kind] for of_seed in of_set] for of_set in by_set]
        lines += [(kind, *(f"{np.mean(each):.1%} ({min(each):.1%} to {max(each):.1%})" for each in shares))]
    print(*aligned(lines), sep="\n")
    return 0


def check(name: str, seed: int) -> dict[str, float]:
    """The share of readings that is noticed, by their kind."""
    draw = np.random.default_rng(seed)
    learnt, ordinary = drawn(name, draw)
    table, usual = build_table(learnt), learn_numbers(learnt, build_table(learnt), seed)
    assert usual is not None
    rarity = RarityModel(usual)
    limit = np.quantile([rarity.score(reading) for reading in ordinary], 1 - UNLIKE_SHARE, method="higher")

    def share(asked: Readings) -> float:
        are_noticed = [
            bool(table.odd_fields("state", reading)) or rarity.score(table.ordinary_numbers("state", reading)) > limit
            for reading in asked
        ]
        return float(np.mean(are_noticed))

    return {kind: share(asked) for kind, asked in made_of(ordinary, draw).items()}


def drawn(name: str, draw: np.random.Generator) -> tuple[list[Row], Readings]:
    """Rows to learn from, and ordinary readings."""
    rows, cut = SETS[name](draw)
    rows = [rows[at] for at in draw.permutation(len(rows))]
    table = classify_table(sorted({row["answer"] for row in rows}))
    return read_rows(rows[:cut], table), [row["input"] for row in rows[cut:]]


def made_of(ordinary: Readings, draw: np.random.Generator) -> dict[str, Readings]:
    """Readings by kind, with the names and numbers of ordinary ones."""
    names = list(ordinary[0])
    numbers = np.array([list(reading.values()) for reading in ordinary])
    low, high = numbers.min(axis=0), numbers.max(axis=0)
    two = np.argsort(draw.random(numbers.shape), axis=1) < 2
    ends = np.where(draw.random(numbers.shape) < 0.5, low, high)
    strange = numbers[draw.integers(len(numbers), size=(ASKED, len(names))), np.arange(len(names))]
    kinds = {
        "ordinary": numbers,
        "each number from another row": strange,
        "0.4 times the values": 0.4 * numbers,
        "1.8 times the values": 1.8 * numbers,
        "all higher by half of their range": numbers + (high - low) / 2,
        "fields mixed up": draw.permuted(numbers, axis=1),
        "two sensors at 0": np.where(two, 0.0, numbers),
        "two sensors at their least or greatest value": np.where(two, ends, numbers),
    }
    return {kind: [dict(zip(names, row, strict=True)) for row in made.tolist()] for kind, made in kinds.items()}


def _pump(draw: np.random.Generator) -> tuple[Labelled, int]:
    source = random.Random(int(draw.integers(1 << 31)))
    faults = [source.choice(FAULTS) for _ in range(LEARNT + ASKED)]
    return [{"input": asdict(draw_case(source, fault).reading), "answer": fault} for fault in faults], LEARNT


def _compressor(draw: np.random.Generator) -> tuple[Labelled, int]:
    half = (LEARNT + ASKED) // 2
    usual, faulty = readings(compressor(draw, half)), readings(compressor_faults(draw, compressor(draw, half)))
    return _labelled(usual + faulty, ["usual"] * half + ["faulty"] * half), LEARNT


def _bundled(name: str) -> Callable[[np.random.Generator], tuple[Labelled, int]]:
    """A set of scikit-learn, of whose rows 60 % are learnt."""

    def load(_draw: np.random.Generator) -> tuple[Labelled, int]:
        from sklearn import datasets  # noqa: PLC0415 - the short form has none

        bunch = getattr(datasets, f"load_{name}")()
        answers = [str(bunch.target_names[answer]) for answer in bunch.target]
        return _labelled(readings(bunch.data), answers), len(answers) * 6 // 10

    return load


def _labelled(inputs: Sequence[dict[str, float]], answers: Sequence[str]) -> Labelled:
    return [{"input": value, "answer": answer} for value, answer in zip(inputs, answers, strict=True)]


SETS: dict[str, Callable[[np.random.Generator], tuple[Labelled, int]]] = {
    "pump": _pump,
    "compressor": _compressor,
    **{name: _bundled(name) for name in ("iris", "wine", "breast_cancer")},
}
