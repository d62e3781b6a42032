"""What the governor is to reach on the simulated board, and on ones that differ from what was published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rigs.thermal import parameters as p
from rigs.thermal.parameters import Cooling
from rigs.thermal.simulation import simulate

_OFF = 0.3
# As `arm_freq` of a board that has no fan in a hot place.
LOWER_MHZ = 1800.0


@dataclass(frozen=True, slots=True)
class Aims:
    """Shares at 40 °C: of the same hour without the governor at 2400 MHz. At 50 °C: of 25 °C, both with it."""

    cooling: str
    variant: str
    throttled_s_at_40: float
    tokens_share_at_40: float
    joules_per_token_share_at_40: float
    throttled_s_at_50: float
    urgent_p95_share_at_50: float


def aims(cooling: Cooling, variant: str = "as published", *, full_mhz: float = p.FULL_MHZ, seed: int = 1) -> Aims:
    free = simulate(cooling, 40.0, is_governed=False, seed=seed)
    cool, warm, hot = (
        simulate(cooling, ambient_c, is_governed=True, full_mhz=full_mhz, seed=seed) for ambient_c in (25.0, 40.0, 50.0)
    )
    return Aims(
        cooling=cooling.name,
        variant=variant,
        throttled_s_at_40=warm.throttled_s,
        tokens_share_at_40=warm.tokens / free.tokens,
        joules_per_token_share_at_40=warm.joules_per_token / free.joules_per_token,
        throttled_s_at_50=hot.throttled_s,
        urgent_p95_share_at_50=hot.urgent_p95_s / cool.urgent_p95_s,
    )


def all_aims(cooling: Cooling, seed: int = 1) -> Iterator[Aims]:
    """As published; with resistances, then capacities, 30 % off; with a lower clock."""
    yield aims(cooling, seed=seed)
    for factor in (1 - _OFF, 1 + _OFF):
        sink = tuple(factor * resistance for resistance in cooling.sink_k_per_w)
        other = replace(cooling, sink_k_per_w=sink, die_k_per_w=factor * cooling.die_k_per_w)
        yield aims(other, f"resistances x {factor:.1f}", seed=seed)
    for factor in (1 - _OFF, 1 + _OFF):
        other = replace(cooling, sink_j_per_k=factor * cooling.sink_j_per_k, die_j_per_k=factor * cooling.die_j_per_k)
        yield aims(other, f"capacities x {factor:.1f}", seed=seed)
    yield aims(cooling, f"{LOWER_MHZ:.0f} MHz", full_mhz=LOWER_MHZ, seed=seed)
