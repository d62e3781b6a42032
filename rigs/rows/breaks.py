"""Breaks each field of each training set in turn, and asks the field table that a training writes about it.

A break counts if no training row shows the like: the broken value is outside the range of theirs. Ordinary later rows
may be just outside, too, as the output says, and at most 2 % of them may be named. So only breaks that are outside by
more than half of that range all have to be named.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convert.agent import FieldTable, ScoreMap, compact_json, values_of
from convert.learning.table import build_table
from edge_agent.learning.facts import INPUT_DRIFT
from edge_agent.learning.maths.assessment import Answer, assess
from rigs.bench.figures import processor, verdict
from rigs.rows.compressor import compressor, readings
from rigs.rows.plant import plant
from rigs.rows.training import classify_table, read_rows

MAX_ORDINARY = 0.02
MAX_ROWS = 2000
# How many later rows are broken.
_BROKEN_ROWS = 100
# How a sensor or a gateway breaks, as what becomes of its number; None if it is missing.
BREAKS: Mapping[str, Callable[[float], Any]] = {
    "code -99": lambda _: -99,
    "code 65535": lambda _: 65535,
    "bar to psi": lambda number: number * 14.5038,
    "°C to °F": lambda number: number * 1.8 + 32,
    "text": lambda number: f"{number:.1f}".replace(".", ","),
    "missing": lambda _: None,
    "stuck at 0": lambda _: 0,
    "times 1000": lambda number: number * 1000,
}
Reading = dict[str, Any]


def main(words: Sequence[str]) -> int:
    """Prints a table for each set; the exit code is 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m rigs.rows breaks", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many draws of each set (default: %(default)s)")
    given = parser.parse_args(words)
    print(processor())
    sets = {**simulated(), **bundled()}
    verdicts = [check_set(name, draw_rows, range(given.seeds)) for name, draw_rows in sets.items()]
    verdicts += check_drift(range(given.seeds))
    print(f"{verdicts.count(True)} of {len(verdicts)} targets are met")
    return 0 if all(verdicts) else 1


def check_set(name: str, draw_rows: Callable[[np.random.Generator], list[Reading]], seeds: Sequence[int]) -> bool:
    ordinary, counts, named = list[float](), Counter[tuple[str, bool]](), Counter[tuple[str, bool]]()
    with_label, reach = 0, 0.0
    for seed in seeds:
        draw = np.random.default_rng(seed)
        rows = draw_rows(draw)
        draw.shuffle(rows)
        cut = min(MAX_ROWS, len(rows) * 7 // 10)
        table, known, later = learnt(rows[:cut]), rows[:cut], rows[cut:]
        ordinary.append(float(np.mean([bool(odd_of(table, row)) for row in later])))
        numbers = [field.name for field in table.fields if field.edges is not None]
        reach = max(reach, *(excess(table, row) for row in later))
        for row in later[:_BROKEN_ROWS]:
            for field, kind, broken in broken_rows(row, known):
                counts[kind] += 1
                named[kind] += field in odd_of(table, broken)
            texts = {key: value for key, value in row.items() if key not in numbers}
            with_label += not odd_of(table, texts | {"remark": "x"})
    all_named, far = (share(named, counts, are_far) for are_far in ((False, True), (True,)))
    is_met = far == 1 and float(np.mean(ordinary)) <= MAX_ORDINARY and not with_label
    print(f"{name}: {np.mean(ordinary):.2%} of ordinary later rows are odd; all numbers missing: {with_label} labels")
    print(f"  ordinary later rows are beyond the rows of the training by up to {reach:.0%} of their range")
    by_kind = ", ".join(
        f"{kind} {share(named, counts, (False, True), (kind,)):.1%}"
        for kind in BREAKS
        if counts[kind, True] + counts[kind, False]
    )
    print(f"  named {all_named:.2%} of {sum(counts.values())} breaks that are beyond them", end=", ")
    print(f"{far:.2%} of those by more than 50 %: {verdict(is_met)}")
    print(f"  {by_kind}")
    return is_met


def check_drift(seeds: Sequence[int]) -> Iterator[bool]:
    """Whether 400 readings of the plant in psi raise `input-drift` after 400 ordinary ones, which do not."""
    for name, factor, wanted in (("as before", 1.0, False), ("in psi", 14.5038, True)):
        shifts = []
        for seed in seeds:
            draw = np.random.default_rng(seed)
            rows = [row["input"] for row in plant(draw, MAX_ROWS + 800)]
            table, newest = learnt(rows[:MAX_ROWS]), rows[-400:]
            newest = [row | {"outlet_bar": row["outlet_bar"] * factor} for row in newest]
            kept = [
                Answer(
                    scores={"a": 1.0}, output="a", rare_fields=table.rare_fields("state", values_of(compact_json(row)))
                )
                for row in [*rows[MAX_ROWS:-400], *newest]
            ]
            shifts.append(assess(kept, current=ScoreMap.identity(("a",)), min_accuracy=None, confidence=0.95).shift)
        are_raised = [shift is not None and shift.index >= INPUT_DRIFT for shift in shifts]
        is_met = all(raised is wanted for raised in are_raised)
        print(
            f"400 readings {name}: input-drift raised in {sum(are_raised)} of {len(shifts)} plants: {verdict(is_met)}"
        )
        yield is_met


def share(
    named: Counter[tuple[str, bool]],
    counts: Counter[tuple[str, bool]],
    are_far: Sequence[bool],
    kinds: Sequence[str] = tuple(BREAKS),
) -> float:
    keys = [(kind, is_far) for kind in kinds for is_far in are_far]
    return sum(named[key] for key in keys) / (sum(counts[key] for key in keys) or 1)


def learnt(rows: Sequence[Reading]) -> FieldTable:
    labels = ("a", "b")
    labelled = ({"input": row, "answer": labels[number % 2]} for number, row in enumerate(rows))
    return build_table(read_rows(labelled, classify_table(labels)))


def odd_of(table: FieldTable, row: Reading) -> list[str]:
    return [odd.field for odd in table.odd_fields("state", values_of(compact_json(row)))]


def excess(table: FieldTable, row: Reading) -> float:
    """How far the numbers of an ordinary row are beyond those of the training, as a share of the field's range."""
    shares = [0.0]
    for field in table.fields:
        if field.edges is not None and field.code_of(row[field.name], table.codes) is None:
            low, high = field.edges[0], field.edges[-1]
            shares.append(max(low - row[field.name], row[field.name] - high) / ((high - low) or 1.0))
    return max(shares)


def broken_rows(row: Reading, known: Sequence[Reading]) -> Iterator[tuple[str, tuple[str, bool], Reading]]:
    """Field, kind of break, and the row, for each break that no known row has; and whether it is far from them."""
    for field, number in row.items():
        if isinstance(number, str):
            continue
        others = {other[field] for other in known}
        low, high = min(others), max(others)
        for kind, break_ in BREAKS.items():
            broken = break_(number)
            if not isinstance(broken, int | float):
                yield field, (kind, True), row | {field: broken}
            elif not low <= broken <= high:
                half = (high - low) / 2
                yield field, (kind, not low - half <= broken <= high + half), row | {field: broken}


def simulated() -> dict[str, Callable[[np.random.Generator], list[Reading]]]:
    return {
        "compressor": lambda draw: readings(compressor(draw, 3000)),
        "plant": lambda draw: [row["input"] for row in plant(draw, 3000) if row["answer"] != "sensor fault"],
        "plant with codes": lambda draw: [row["input"] for row in plant(draw, 3000)],
    }


def bundled() -> dict[str, Callable[[np.random.Generator], list[Reading]]]:
    """The sets that scikit-learn brings along."""
    from sklearn import datasets  # noqa: PLC0415 - the short form does without

    def rows_of(name: str) -> Callable[[np.random.Generator], list[Reading]]:
        return lambda _draw: readings(getattr(datasets, f"load_{name}")().data)

    return {name: rows_of(name) for name in ("wine", "breast_cancer", "digits", "diabetes", "iris")}
