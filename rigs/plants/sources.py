"""Labelled rows: of a simulated pump, of a simulated compressor whose sensors drift, and of a public table."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rigs.training.readings import FAULTS, draw_case

# Of a line of labelled rows.
Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plant:
    """labels: of its task. rows: takes a seed."""

    labels: tuple[str, ...]
    rows: Callable[[int], list[Fields]]


COMPRESSOR_FAULTS = ("normal", "refrigerant leak", "dirty condenser", "worn valve", "iced evaporator", "motor fault")


def _pump(seed: int) -> list[Fields]:
    draw, rows = random.Random(seed), []
    for _ in range(_MANY):
        reading = draw_case(draw, fault := draw.choice(FAULTS)).reading
        names = ("vibration_mm_s", "temperature_c", "current_a", "pressure_bar", "speed_rpm")
        rows.append({"input": {name: getattr(reading, name) for name in names}, "answer": fault})
    return rows


def _compressor(seed: int) -> list[Fields]:
    """A refrigeration compressor: pressures follow the temperatures of its room and of the outside.

    Half of the rows are normal. Four sensors drift by up to 2 % of their value over all rows; one value in twenty is
    missing. Rows carry their time.
    """
    draw, rows = random.Random(seed), []
    drifts = {name: draw.uniform(-0.02, 0.02) for name in ("suction_bar", "discharge_bar", "discharge_c", "current_a")}
    for number in range(_MANY):
        fault = "normal" if draw.random() < 0.5 else draw.choice(COMPRESSOR_FAULTS[1:])
        values = _compressor_values(draw, fault)
        for name, drift in drifts.items():
            values[name] *= 1 + drift * number / _MANY
        shown: Fields = {name: round(value, 2) for name, value in values.items() if draw.random() >= 0.05}
        shown["mode"] = draw.choice(("cooling", "cooling", "eco"))
        rows.append({"ts": number, "input": shown, "answer": fault})
    return rows


def _compressor_values(draw: random.Random, fault: str) -> dict[str, float]:
    room_c, outside_c, load, severity = draw.uniform(-25, 5), draw.uniform(-5, 38), draw.uniform(0.5, 1), draw.random()
    # Of R134a, roughly: the pressure rises by 3.5 % a kelvin.
    suction_bar = 2.9 * 1.035 ** (room_c - 8)
    discharge_bar = 2.9 * 1.035 ** (outside_c + 12)
    superheat_k, current_factor, discharge_k = 7 + draw.gauss(0, 1), 1 + draw.gauss(0, 0.03), draw.gauss(0, 2)
    if fault == "refrigerant leak":
        suction_bar *= 0.85 - 0.35 * severity
        superheat_k += 6 + 12 * severity
        discharge_bar *= 0.95 - 0.15 * severity
    elif fault == "dirty condenser":
        discharge_bar *= 1.15 + 0.35 * severity
    elif fault == "worn valve":
        suction_bar *= 1.15 + 0.3 * severity
        discharge_bar *= 0.9 - 0.15 * severity
        discharge_k += 10 + 20 * severity
    elif fault == "iced evaporator":
        suction_bar *= 0.9 - 0.25 * severity
        superheat_k -= 3 + 3 * severity
    elif fault == "motor fault":
        current_factor *= 1.12 + 0.3 * severity
    lift = discharge_bar / suction_bar
    return {
        "room_c": room_c,
        "outside_c": outside_c,
        "suction_bar": suction_bar * (1 + draw.gauss(0, 0.015)),
        "discharge_bar": discharge_bar * (1 + draw.gauss(0, 0.015)),
        "superheat_k": superheat_k,
        "discharge_c": room_c + superheat_k + 30 * lift**0.5 + discharge_k,
        "current_a": (4 + 9 * load * lift**0.4) * current_factor,
        "load": load,
    }


def _tumours(seed: int) -> list[Fields]:
    """scikit-learn's breast cancer data: 569 rows, 30 numbers, from the UCI repository."""
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - of the extra `train`

    data = load_breast_cancer()
    names = [name.replace(" ", "_") for name in data.feature_names]
    rows = [
        {"input": dict(zip(names, map(float, values), strict=True)), "answer": str(data.target_names[target])}
        for values, target in zip(data.data, data.target, strict=True)
    ]
    return random.Random(seed).sample(rows, len(rows))


# Enough for the largest training set and a test set.
_MANY = 4000
PLANTS: Mapping[str, Plant] = {
    "pump": Plant(FAULTS, _pump),
    "compressor": Plant(COMPRESSOR_FAULTS, _compressor),
    "tumours": Plant(("malignant", "benign"), _tumours),
}
