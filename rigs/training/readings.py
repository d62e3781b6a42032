"""Simulated readings of one family of pumps, the ground truth of the demonstration model.

The machine: a centrifugal water pump on a two-pole induction motor, rated 2950 rpm, 12 A, 6 bar at the outlet. About a
third of the rows run on a frequency inverter between 75 % and 100 % speed. `share` below is speed / 2950 rpm.

Healthy: pressure = 6 bar * share^2 (affinity law); current = 4 A magnetizing + 8 A * share^2 * load; bearing housing
temperature = ambient 14..38 C + about 26 K * load; vibration about 1.5 mm/s RMS. Scatter of each is a few per cent.

What a fault of intensity q (0 = just begun, 1 = severe) does:

* imbalance: a centrifugal force that grows with share^2 adds (3.4 + 8 q) * share^2 mm/s; hardly any heat.
* bearing fault: adds 3 + 8 q mm/s and 30 + 26 q K of friction heat.
* cavitation: head collapses to 68 .. 28 %, the bubbles add 3 + 6 q mm/s, the motor is partly unloaded.
* overload: load 1.45 .. 2.0; current and heat rise, slip grows, so the speed falls a little.
* overheating: cooling is lost, 28 + 32 q K, and nothing else changes.
* blocked filter: the filter behind the outlet holds flow back; pressure 1.28 .. 1.65 of normal at a small load.
* dry running: nothing to pump; pressure nearly gone, load a quarter, the seal warms.

Independent vibrations add as root of the sum of squares. The class of a row is what was done to the simulated machine.
Where several classes are truly possible, training on such rows is what makes the model's probabilities mean something.

Severity follows from the printed numbers alone: the worst of four zones. Vibration has the zone limits B/C = 4.5 and
C/D = 7.1 mm/s RMS of ISO 10816-3, group 1 on rigid foundations; the others are this family's own.
"""

import math
import random
from dataclasses import dataclass

RATED_SPEED_RPM = 2950.0
RATED_PRESSURE_BAR = 6.0
MAGNETIZING_CURRENT_A = 4.0
LOAD_CURRENT_A = 8.0

FAULTS = (
    "normal",
    "imbalance",
    "bearing fault",
    "cavitation",
    "overload",
    "overheating",
    "blocked filter",
    "dry running",
)
SEVERITIES = ("low", "medium", "high")

VIBRATION_ZONES_MM_S = (4.5, 7.1)
TEMPERATURE_ZONES_C = (82.0, 95.0)
CURRENT_ZONES = (1.3, 1.5)
HIGH_PRESSURE_ZONES = (1.35, 1.5)
LOW_PRESSURE_ZONES = (0.6, 0.4)
# Decimals of vibration, temperature, current, pressure and speed, by kind of sensor.
PRINTED_DECIMALS = ((1, 1, 1, 1, 0), (1, 1, 1, 1, 0), (2, 1, 2, 2, 0), (1, 0, 1, 1, 0), (2, 2, 2, 3, 1))


@dataclass(frozen=True, slots=True)
class Reading:
    """One set of measured values, as printed by the sensor."""

    vibration_mm_s: float
    temperature_c: float
    current_a: float
    pressure_bar: float
    speed_rpm: float

    @property
    def pressure_ratio(self) -> float:
        """Outlet pressure over the healthy pressure at this speed."""
        return self.pressure_bar / (RATED_PRESSURE_BAR * (self.speed_rpm / RATED_SPEED_RPM) ** 2)

    @property
    def current_ratio(self) -> float:
        """Motor current over the healthy current at this speed."""
        share = self.speed_rpm / RATED_SPEED_RPM
        return self.current_a / (MAGNETIZING_CURRENT_A + LOAD_CURRENT_A * share**2)


@dataclass(frozen=True, slots=True)
class Case:
    """A reading with the truth about the machine it came from."""

    reading: Reading
    fault: str
    severity: str


def _zone(value: float, limits: tuple[float, float]) -> int:
    return sum(value >= limit for limit in limits)


def severity_of(reading: Reading) -> str:
    """The worst zone that any quantity is in: `low`, `medium` or `high`."""
    return SEVERITIES[
        max(
            _zone(reading.vibration_mm_s, VIBRATION_ZONES_MM_S),
            _zone(reading.temperature_c, TEMPERATURE_ZONES_C),
            _zone(reading.current_ratio, CURRENT_ZONES),
            _zone(reading.pressure_ratio, HIGH_PRESSURE_ZONES),
            sum(reading.pressure_ratio <= limit for limit in LOW_PRESSURE_ZONES),
        )
    ]


def _simulate(random_source: random.Random, fault: str) -> tuple[float, float, float, float, float]:
    """Unrounded vibration (mm/s), temperature (C), current (A), pressure (bar), speed (rpm)."""
    gauss, uniform = random_source.gauss, random_source.uniform
    intensity = random_source.random()
    setpoint = 1.0 if random_source.random() < 0.65 else uniform(0.75, 1.0)
    load = gauss(1.0, 0.04)
    heat_k = gauss(0.0, 2.0)
    head = gauss(1.0, 0.025)
    added_vibration = 0.0
    if fault == "imbalance":
        added_vibration = (3.4 + 8.0 * intensity) * setpoint**2
        heat_k += uniform(0.0, 3.0)
    elif fault == "bearing fault":
        added_vibration = 3.0 + 8.0 * intensity
        heat_k += 30.0 + 26.0 * intensity
        load *= 1.0 + 0.04 * intensity
    elif fault == "cavitation":
        head *= 0.68 - 0.4 * intensity
        added_vibration = 3.0 + 6.0 * intensity
        load *= 0.88 - 0.25 * intensity
    elif fault == "overload":
        load *= 1.45 + 0.55 * intensity
        head *= 1.0 - 0.06 * intensity
        heat_k -= 10.0
    elif fault == "overheating":
        heat_k += 28.0 + 32.0 * intensity
    elif fault == "blocked filter":
        head *= 1.28 + 0.37 * intensity
        load *= 0.72 - 0.25 * intensity
        added_vibration = uniform(0.0, 1.2)
    elif fault == "dry running":
        head *= uniform(0.01, 0.17)
        load *= uniform(0.15, 0.38)
        heat_k += uniform(4.0, 30.0)
        added_vibration = uniform(0.0, 3.0)
    share = setpoint * (1.0 + 0.017 * (1.0 - load) + gauss(0.0, 0.0012))
    vibration = math.hypot(1.5 * math.exp(gauss(0.0, 0.25)) * (0.4 + 0.6 * setpoint**2), added_vibration)
    temperature = uniform(14.0, 38.0) + 26.0 * load + heat_k
    current = MAGNETIZING_CURRENT_A + LOAD_CURRENT_A * setpoint**2 * load
    return vibration, temperature, current, RATED_PRESSURE_BAR * share**2 * head, RATED_SPEED_RPM * share


def draw_case(random_source: random.Random, fault: str) -> Case:
    """A case of `fault`, printed with 0 to 3 decimals."""
    decimals = random_source.choice(PRINTED_DECIMALS)
    values = zip(_simulate(random_source, fault), decimals, strict=True)
    reading = Reading(*(round(value, places) if places else round(value) for value, places in values))
    return Case(reading, fault, severity_of(reading))
