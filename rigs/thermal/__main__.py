"""The governor on a simulated Raspberry Pi 5: `python -m rigs.thermal`. It takes about 20 seconds.

A SIMULATION of one hour with more requests than fit, with and without the governor. Its figures and their sources are
in parameters.py. Real boards differ: --resistance and --capacity scale how the board is cooled.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from rigs.thermal import parameters as p
from rigs.thermal.parameters import Cooling
from rigs.thermal.simulation import HOUR_S, simulate

# The last one as with `arm_freq=1800` on a board without a fan in a hot place.
_BOARDS = ((p.PASSIVE, p.FULL_MHZ), (p.ACTIVE, p.FULL_MHZ), (p.PASSIVE, p.LOWER_MHZ))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rigs.thermal", description=__doc__)
    parser.add_argument("--resistance", type=float, default=1.0, help="factor of the thermal resistances (default: 1)")
    parser.add_argument("--capacity", type=float, default=1.0, help="factor of the heat capacities (default: 1)")
    parser.add_argument("--minutes", type=float, default=HOUR_S / 60, help="simulated (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the requests' arrivals and sizes (default: 1)")
    options = parser.parse_args(arguments)
    print("SIMULATION of a Raspberry Pi 5 with Qwen2.5-0.5B Q4_0 and more requests than fit\n")
    print(" cooling   MHz  ambient  governor  throttled  hottest   tokens  answers  watts  J/token  p95 urgent  levels")
    for cooling, mhz in _BOARDS:
        scaled = scale(cooling, options.resistance, options.capacity)
        for ambient_c in (25.0, 40.0, 50.0):
            for is_governed in (False, True):
                one = simulate(
                    scaled,
                    ambient_c,
                    is_governed=is_governed,
                    full_mhz=mhz,
                    seconds=60 * options.minutes,
                    seed=options.seed,
                )
                print(
                    f"{cooling.name:>8}  {mhz:4.0f}  {ambient_c:4.0f} °C  {'yes' if is_governed else 'no':>8}  "
                    f"{one.throttled_s:7.0f} s  {one.hottest_c:4.1f} °C  {one.tokens:7}  {one.answered:7}  "
                    f"{one.watts:5.2f}  {one.joules_per_token:7.3f}  {one.urgent_p95_s:8.2f} s  {one.level_changes:6}"
                )
    print("\np95 urgent: latency of requests of priority 0; levels: how often the governor's level changed")


def scale(cooling: Cooling, resistance: float, capacity: float) -> Cooling:
    return replace(
        cooling,
        sink_k_per_w=tuple(resistance * step for step in cooling.sink_k_per_w),
        die_k_per_w=resistance * cooling.die_k_per_w,
        sink_j_per_k=capacity * cooling.sink_j_per_k,
        die_j_per_k=capacity * cooling.die_j_per_k,
    )


if __name__ == "__main__":
    main()
