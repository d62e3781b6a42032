"""A simulated compressor, its faults, and sensors that break."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
CODES = (-99.0, 850.0, 65535.0)
SENSORS = ("frozen", "jumped", "drifted")
COMPRESSOR = (
    *("current_a", "pressure_bar", "flow_m3_min", "oil_temp_c", "vibration_mm_s", "dew_point_c", "filter_bar"),
    *("outlet_bar", "power_kw", "ambient_c"),
)


def compressor(draw: np.random.Generator, count: int) -> Floats:
    """Readings of COMPRESSOR, which runs in four of five, at some load and ambient temperature."""
    runs = draw.random(count) < 0.8
    load = np.where(runs, draw.beta(2, 2, count), 0.0)
    ambient = draw.normal(22, 5, count)
    current = np.where(runs, 25 + 45 * load, 0.3) + draw.normal(0, 0.8, count)
    pressure = np.where(runs, 6.8 + 0.5 * (1 - load), 6.2) + draw.normal(0, 0.08, count)
    flow = np.where(runs, 12 * load + 0.5, 0) + draw.normal(0, 0.25, count)
    oil = ambient + np.where(runs, 35 + 25 * load, 8) + draw.normal(0, 1.5, count)
    vibration = np.where(runs, 1.2 + 0.8 * load, 0.1) * np.exp(draw.normal(0, 0.12, count))
    dew_point = 3 + 0.1 * (ambient - 22) + 1.5 * load + draw.normal(0, 0.4, count)
    filter_ = np.where(runs, 0.15 + 0.2 * load, 0.0) + draw.normal(0, 0.02, count)
    outlet = pressure - filter_ - 0.1 + draw.normal(0, 0.03, count)
    power = current * 0.62 * np.where(runs, 0.86, 0.3) + draw.normal(0, 0.6, count)
    return np.stack([current, pressure, flow, oil, vibration, dew_point, filter_, outlet, power, ambient], axis=1)


def compressor_faults(draw: np.random.Generator, rows: Floats) -> Floats:
    """The rows with a fouled cooler, worn bearing, clogged filter, air leak, failed dryer or overloaded motor.

    Each fault is more or less severe.
    """
    rows, fault, size = rows.copy(), draw.integers(0, 6, len(rows)), draw.uniform(0.3, 1.2, len(rows))
    changes = (
        *((0, "oil_temp_c", 0, 18), (1, "vibration_mm_s", 1.5, 0), (2, "filter_bar", 0, 0.25)),
        *((2, "outlet_bar", 0, -0.25), (3, "flow_m3_min", -0.5, 0), (4, "dew_point_c", 0, 4), (5, "current_a", 0, 10)),
    )
    for number, name, factor, offset in changes:
        column = COMPRESSOR.index(name)
        changed = rows[:, column] * (1 + factor * size) + offset * size
        rows[:, column] = np.where(fault == number, changed, rows[:, column])
    return rows


def break_sensors(
    draw: np.random.Generator, rows: Floats, others: Floats
) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows with one sensor broken, which one, and how, by its place in SENSORS.

    A frozen one has another reading's value, a jumped one is 3 to 6 standard deviations off, a drifted one 1 to 3.
    """
    rows, every = rows.copy(), np.arange(len(rows))
    sensor, kind = draw.integers(0, rows.shape[1], len(rows)), draw.integers(0, len(SENSORS), len(rows))
    frozen = others[draw.integers(0, len(others), len(rows)), sensor]
    size = np.where(kind == 1, draw.uniform(3, 6, len(rows)), draw.uniform(1, 3, len(rows)))
    moved = rows[every, sensor] + draw.choice([-1, 1], len(rows)) * size * others.std(axis=0)[sensor]
    rows[every, sensor] = np.where(kind == 0, frozen, moved)
    return rows, sensor, kind


def with_codes(draw: np.random.Generator, rows: Floats, share: float) -> Floats:
    """Rows with this share of their numbers replaced by the error codes of sensors."""
    return np.where(draw.random(rows.shape) < share, draw.choice(CODES, rows.shape), rows)


def readings(rows: Floats) -> list[dict[str, float]]:
    names = COMPRESSOR if rows.shape[1] == len(COMPRESSOR) else [f"field-{at}" for at in range(rows.shape[1])]
    return [dict(zip(names, row, strict=True)) for row in rows.tolist()]
