"""The governor on a simulated Raspberry Pi 5: `python -m rigs.thermal`. It takes about 20 seconds.

A SIMULATION of one hour with more requests than fit, with and without the governor. Its figures and their sources are
in parameters.py. Real boards differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rigs.thermal import parameters as p
from rigs.thermal.simulation import HOUR_S, simulate

# The last one as with `arm_freq=1800` on a board without a fan in a hot place.
_BOARDS = ((p.PASSIVE, p.FULL_MHZ), (p.ACTIVE, p.FULL_MHZ), (p.PASSIVE, p.LOWER_MHZ))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rigs.thermal", description=__doc__)
    parser.add_argument("--minutes", type=float, default=HOUR_S / 60, help="simulated (default: 60)")
    options = parser.parse_args(arguments)
    print("SIMULATION of a Raspberry Pi 5 with Qwen2.5-0.5B Q4_0 and more requests than fit\n")
    print(" cooling   MHz  ambient  governor  throttled  hottest   tokens  answers  watts  J/token  p95 urgent  levels")
    for cooling, mhz in _BOARDS:
        for ambient_c in (25.0, 40.0, 50.0):
            for is_governed in (False, True):
                one = simulate(cooling, ambient_c, is_governed=is_governed, full_mhz=mhz, seconds=60 * options.minutes)
                print(
                    f"{cooling.name:>8}  {mhz:4.0f}  {ambient_c:4.0f} °C  {'yes' if is_governed else 'no':>8}  "
                    f"{one.throttled_s:7.0f} s  {one.hottest_c:4.1f} °C  {one.tokens:7}  {one.answered:7}  "
                    f"{one.watts:5.2f}  {one.joules_per_token:7.3f}  {one.urgent_p95_s:8.2f} s  {one.level_changes:6}"
                )
    print("\np95 urgent: latency of requests of priority 0; levels: how often the governor's level changed")


if __name__ == "__main__":
    main()
