"""Labelled rows of a simulated compressor, of which some have a broken sensor."""

from typing import Any

import numpy as np

# What a broken sensor of the plant sends.
CODES = (-99.0, 0.0, 850.0, 65535.0)
NUMBERS = ("inlet_bar", "outlet_bar", "oil_temp_c", "dew_point_c", "motor_a", "load_hours")
# For each label, its share of the rows and the remarks that a person may make.
LABELS = {
    "normal": (0.5, ("runs fine", "checked, nothing to see", "quiet")),
    "air leak": (0.1, ("hissing near the valve", "loses pressure at night")),
    "cooler fouled": (0.1, ("hot air behind the cooler", "dust on the fins")),
    "bearing wear": (0.1, ("humming, rising with load", "grinding when it starts")),
    "filter clogged": (0.1, ("whistles at the inlet", "filter looks grey")),
    "sensor fault": (0.1, ("display flickers", "value jumps")),
}
_REMARKED = 0.4


def plant(draw: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Rows as a file has them. A fault may be so small that its row hardly shows it."""
    names, shares = list(LABELS), [share for share, _ in LABELS.values()]
    return [_row(draw, names[draw.choice(len(names), p=shares)]) for _ in range(count)]


def _row(draw: np.random.Generator, label: str) -> dict[str, Any]:
    size, load = draw.uniform(0.1, 1.2), draw.uniform(0.4, 1)
    reading = {
        "inlet_bar": 0.98 + draw.normal(0, 0.012) - (0.06 * size if label == "filter clogged" else 0),
        "outlet_bar": 7.0 + 0.4 * (1 - load) + draw.normal(0, 0.12) - (0.9 * size if label == "air leak" else 0),
        "oil_temp_c": 60 + 16 * load + draw.normal(0, 2.5) + (18 * size if label == "cooler fouled" else 0),
        "dew_point_c": 3 + 2 * load + draw.normal(0, 0.6) + (2 * size if label == "cooler fouled" else 0),
        "motor_a": 60 + 80 * load + draw.normal(0, 4) + (30 * size if label in {"bearing wear", "air leak"} else 0),
        "load_hours": draw.uniform(0, 24) * load,
    }
    if label == "sensor fault":
        reading[NUMBERS[draw.integers(len(NUMBERS))]] = CODES[draw.integers(len(CODES))]
    remarks = LABELS[label][1] if draw.random() < _REMARKED else ("",)
    numbers = {name: round(float(value), 3) for name, value in reading.items()}
    return {"input": numbers | {"remark": remarks[draw.integers(len(remarks))]}, "answer": label}
