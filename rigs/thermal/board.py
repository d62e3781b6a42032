"""A simulated Raspberry Pi 5: two thermal nodes, a fan, and firmware that throttles. Figures: parameters.py."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from rigs.thermal import parameters as p
from rigs.thermal.parameters import Cooling

# Far below the time constant of the die, which is about 5 s.
_MAX_STEP_S = 0.5


@dataclass(slots=True)
class Board:
    """full_mhz: `arm_freq` of its config.txt. joules: at the wall. throttled_s: while the firmware limits the clock."""

    cooling: Cooling
    ambient_c: float
    full_mhz: float = p.FULL_MHZ
    die_c: float = 0.0
    sink_c: float = 0.0
    fan: int = 0
    seconds: float = 0.0
    joules: float = 0.0
    throttled_s: float = 0.0
    hottest_c: float = 0.0
    _noise: random.Random = field(default_factory=lambda: random.Random(5), repr=False)

    def __post_init__(self) -> None:
        """Begins as a board that was idle for an hour."""
        self.sink_c = self.die_c = self.ambient_c
        for _ in range(3600):
            self._heat(1.0, p.IDLE_W)

    @property
    def mhz(self) -> float:
        """The clock that the firmware allows."""
        below = p.THROTTLE_MHZ_PER_K * max(0.0, self.die_c - p.THROTTLE_FROM_C)
        below += p.HARD_THROTTLE_MHZ_PER_K * max(0.0, self.die_c - p.HARD_LIMIT_C)
        return min(self.full_mhz, max(p.LOWEST_MHZ, p.FULL_MHZ - below))

    @property
    def busy_share(self) -> float:
        """The power of the cores at this clock, as a share of that at 2400 MHz."""
        mhz = self.mhz
        volts = p.LOWEST_V + (p.FULL_V - p.LOWEST_V) * (mhz - p.LOWEST_MHZ) / (p.FULL_MHZ - p.LOWEST_MHZ)
        return mhz / p.FULL_MHZ * (volts / p.FULL_V) ** 2

    def run(self, seconds: float, watts: float) -> None:
        """Lets time pass while the board draws this power at the wall."""
        while seconds > 1e-9:
            step_s = min(seconds, _MAX_STEP_S)
            if self.die_c >= p.THROTTLE_FROM_C:
                self.throttled_s += step_s
            self._heat(step_s, watts)
            self.joules += step_s * watts
            self.seconds += step_s
            self.hottest_c = max(self.hottest_c, self.die_c)
            seconds -= step_s

    def sensor_c(self) -> float:
        noisy = self.die_c + self._noise.gauss(0.0, p.SENSOR_NOISE_C)
        return round(noisy / p.SENSOR_STEP_C) * p.SENSOR_STEP_C

    def _heat(self, seconds: float, watts: float) -> None:
        self._turn_fan()
        to_sink = (self.die_c - self.sink_c) / self.cooling.die_k_per_w
        to_air = (self.sink_c - self.ambient_c) / self.cooling.sink_k_per_w[self.fan]
        self.die_c += seconds * (watts - to_sink) / self.cooling.die_j_per_k
        self.sink_c += seconds * (to_sink - to_air) / self.cooling.sink_j_per_k

    def _turn_fan(self) -> None:
        most = len(self.cooling.sink_k_per_w) - 1
        while self.fan < most and self.die_c >= p.FAN_TRIPS_C[self.fan]:
            self.fan += 1
        while self.fan and self.die_c < p.FAN_TRIPS_C[self.fan - 1] - p.FAN_HYSTERESIS_C:
            self.fan -= 1


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the engine; watts: at the wall."""

    seconds: float
    watts: float


def engine_step(board: Board, rows: int, threads: int) -> Step:
    """What a step takes by its rows and threads at the board's clock."""
    row_s = 1 / p.PREFILL_TOK_S[threads]
    weights_s = 1 / p.DECODE_TOK_S[threads] - row_s
    rows_s = rows * row_s * p.FULL_MHZ / board.mhz
    weights_w = p.MEMORY_BOUND_W + threads * p.MEMORY_BOUND_W_PER_THREAD
    rows_w = p.COMPUTE_BOUND_W + threads * p.COMPUTE_BOUND_W_PER_THREAD
    seconds = weights_s + rows_s
    return Step(seconds, p.IDLE_W + board.busy_share * (weights_w * weights_s + rows_w * rows_s) / seconds)
