"""Compares the kind `estimate` with gradient boosting, and says how often its intervals hold later numbers."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convert.learning.recipe import Recipe
from rigs.bench.figures import processor, verdict
from rigs.rows.compressor import Floats
from rigs.rows.training import answers_of, read_rows, train

MAX_RATIO, MIN_SETS = 1.05, 4
CONFIDENCE, MIN_HOLDS, MAX_HOLDS = 0.8, 0.75, 0.85
Labelled = list[tuple[dict[str, Any], float]]
TASKS = f'[tasks.number]\nkind = "estimate"\nconfidence = {CONFIDENCE}\n'


def main(words: Sequence[str]) -> int:
    """Prints a line for each set; the exit code is 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m rigs.rows estimate", description=__doc__)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, help="steps of each training (default: as `edge-convert train`)")
    given = parser.parse_args(words)
    names = given.sets or list(SETS)
    print(processor())
    near, held = zip(*(check(name, given.seed, given.steps) for name in names), strict=True)
    needed = min(MIN_SETS, len(names))
    print(
        f"mean error at most {MAX_RATIO} of boosting's: {sum(near)} sets of {len(near)}: {verdict(sum(near) >= needed)}"
    )
    print(f"intervals hold {MIN_HOLDS:.0%} to {MAX_HOLDS:.0%}: {sum(held)} sets of {len(held)}: {verdict(all(held))}")
    return 0 if sum(near) >= needed and all(held) else 1


def check(name: str, seed: int, steps: int | None) -> tuple[bool, bool]:
    """Whether the mean error is small enough, and whether the intervals are true, on later rows.

    A real set has no later rows, so the rows that were held out count.
    """
    # The short form does without PyTorch and scikit-learn.
    from convert.learning.baselines import baseline_of  # noqa: PLC0415
    from convert.learning.numbers import number_quality  # noqa: PLC0415
    from convert.learning.study import Fold  # noqa: PLC0415

    rows, later = (
        read_rows(({"input": value, "answer": answer} for value, answer in part), TASKS) if part else []
        for part in SETS[name](np.random.default_rng(seed))
    )
    result = train(rows, Recipe(seed=seed) if steps is None else Recipe(seed=seed, steps=steps))
    quality, baseline, count = result.tasks[0].number, result.tasks[0].baseline, result.tasks[0].judged
    assert quality is not None
    low, high = quality.error_interval
    stated = f"stated mean error {quality.mean_error:.4g} ({low:.4g} to {high:.4g})"
    if later:
        quality, count = number_quality(rows, answers_of(result, later)), len(later)
        baseline = baseline_of([Fold(rows, later)], "number", result.model.table)
    assert baseline is not None
    assert baseline.mean_error is not None
    ratio = quality.mean_error / baseline.mean_error
    is_near, is_true = ratio <= MAX_RATIO, MIN_HOLDS <= quality.holds <= MAX_HOLDS
    print(f"{name}: {len(rows)} rows, {result.recipe.steps} steps, {stated};", end=" ")
    print(f"on {count} {'later' if later else 'held-out'} rows {quality.mean_error:.4g},", end=" ")
    print(f"boosting {baseline.mean_error:.4g}: {ratio:.3f} times: {verdict(is_near)};", end=" ")
    print(f"intervals hold {quality.holds:.1%}: {verdict(is_true)}", flush=True)
    return is_near, is_true


def filter_hours(draw: np.random.Generator, count: int) -> Labelled:
    """Hours until a filter clogs, from what its sensors say now. Half are less than 75, some are 500."""
    age, load = draw.uniform(0, 1, count) ** 0.8, draw.uniform(0.4, 1.2, count)
    dust, humidity = draw.gamma(2, 0.5, count) + 0.1, draw.uniform(20, 90, count)
    life = 260 / (0.3 + dust * load) * (1 - 0.002 * (humidity - 50)) * np.exp(draw.normal(0, 0.12, count))
    resistance = load**1.6 * (60 + 250 * age**2.2)
    rise = 13_200 * age**1.2 * load**1.6 / life * np.exp(draw.normal(0, 0.25, count))
    return _labelled(
        {
            "dp_mbar": (40 + resistance + draw.normal(0, 6, count)).round(1),
            "flow_m3h": (1200 * load * np.exp(draw.normal(0, 0.02, count))).round(),
            "dp_per_day": rise.round(2),
            "dust_mg_m3": (dust * np.exp(draw.normal(0, 0.2, count))).round(2),
            "humidity": humidity.round(),
            "temp_c": draw.normal(24, 5, count).round(1),
        },
        (life * (1 - age)).round(1),
    )


def pump_power(draw: np.random.Generator, count: int) -> Labelled:
    """Kilowatts of a pump, from speed, valve, pressures, and the name of what it pumps."""
    fluids = {"water": 1.0, "brine": 1.18, "glycol": 1.1, "slurry 30 %": 1.25, "thin slurry": 1.12}
    fluid = draw.choice(list(fluids), count)
    speed, valve = draw.uniform(900, 3000, count), draw.uniform(20, 100, count)
    flow = 0.09 * speed * (valve / 100) ** 0.6 * np.exp(draw.normal(0, 0.03, count))
    head = 40 * (speed / 3000) ** 2 * (1.25 - 0.4 * (flow / 270) ** 2)
    density = np.array([fluids[str(name)] for name in fluid])
    efficiency = 0.35 + 0.4 * np.sin(np.clip(flow / 0.09 / speed, 0, 1) * np.pi * 0.6)
    power = flow * head * density * 9.81 / 3600 / efficiency * np.exp(draw.normal(0, 0.05, count))
    numbers = {
        "speed_rpm": speed.round(),
        "valve_pct": valve.round(),
        "outlet_bar": (head * density * 0.0981 + draw.normal(0, 0.05, count)).round(2),
        "inlet_bar": draw.normal(0.3, 0.05, count).round(2),
    }
    return [
        (value | {"fluid": str(name)}, answer)
        for (value, answer), name in zip(_labelled(numbers, power.round(2)), fluid, strict=True)
    ]


def _labelled(columns: dict[str, Floats], answers: Floats) -> Labelled:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [(dict(zip(columns, row, strict=True)), answer) for row, answer in zip(rows, answers.tolist(), strict=True)]


def _simulated(make: Callable[[np.random.Generator, int], Labelled]) -> Callable[..., tuple[Labelled, Labelled]]:
    """A maker of 1,500 rows, and 2,000 later ones."""
    return lambda draw: (make(draw, 1500), make(draw, 2000))


def _friedman(number: int, noise: float) -> Callable[[np.random.Generator, int], Labelled]:
    """The benchmark of J. Friedman, "Multivariate adaptive regression splines", 1991, with its usual noise."""

    def make(draw: np.random.Generator, count: int) -> Labelled:
        from sklearn import datasets  # noqa: PLC0415 - as PyTorch

        made = getattr(datasets, f"make_friedman{number}")
        values, answers = made(count, noise=noise, random_state=int(draw.integers(1 << 31)))
        return _labelled({f"x{at}": column.round(4) for at, column in enumerate(values.T)}, answers.round(3))

    return make


def _diabetes(draw: np.random.Generator) -> tuple[Labelled, Labelled]:
    from sklearn.datasets import load_diabetes  # noqa: PLC0415 - as PyTorch

    bunch = load_diabetes(scaled=False)
    order = draw.permutation(len(bunch.target))
    columns = dict(zip(bunch.feature_names, bunch.data[order].T, strict=True))
    return _labelled(columns, bunch.target[order]), []


SETS: dict[str, Callable[[np.random.Generator], tuple[Labelled, Labelled]]] = {
    "diabetes": _diabetes,
    "filter": _simulated(filter_hours),
    "friedman1": _simulated(_friedman(1, 1.0)),
    "friedman2": _simulated(_friedman(2, 100.0)),
    "pump": _simulated(pump_power),
}
