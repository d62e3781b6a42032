"""The governor on a simulated Raspberry Pi 5: `python -m rigs.thermal [--json] [--seed N]`. It takes some seconds.

An hour of more requests than fit, with and without the governor; then what comes of the aims where the board's thermal
resistances or capacities are 30 % off, or its clock is lower. A SIMULATION: its figures and their sources are in
parameters.py.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rigs.thermal import parameters as p
from rigs.thermal.aims import LOWER_MHZ, Aims, all_aims
from rigs.thermal.simulation import Outcome, simulate

_BOARDS = ((p.PASSIVE, p.FULL_MHZ), (p.PASSIVE, LOWER_MHZ), (p.ACTIVE, p.FULL_MHZ))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rigs.thermal", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one document")
    parser.add_argument("--seed", type=int, default=1, help="of the requests' arrivals and sizes (default: 1)")
    given = parser.parse_args()
    outcomes = [
        simulate(cooling, ambient_c, is_governed=is_governed, full_mhz=mhz, seed=given.seed)
        for cooling, mhz in _BOARDS
        for ambient_c in (25.0, 40.0, 50.0)
        for is_governed in (False, True)
    ]
    reached = [one for cooling in (p.PASSIVE, p.ACTIVE) for one in all_aims(cooling, given.seed)]
    if given.json:
        told = {"outcomes": [asdict(one) for one in outcomes], "aims": [asdict(one) for one in reached]}
        print(json.dumps({"is_simulation": True, **told}))
    else:
        _print_outcomes(outcomes)
        _print_aims(reached)


def _print_outcomes(outcomes: list[Outcome]) -> None:
    print("SIMULATION of a Raspberry Pi 5 with Qwen2.5-0.5B Q4_0: 60 minutes of more requests than fit\n")
    print(" cooling   MHz  ambient  governor  throttled  hottest   tokens  answers  watts  J/token  p95 urgent  levels")
    for one in outcomes:
        print(
            f"{one.cooling:>8}  {one.mhz:4.0f}  {one.ambient_c:4.0f} °C  {'yes' if one.is_governed else 'no':>8}  "
            f"{one.throttled_s:7.0f} s  {one.hottest_c:4.1f} °C  {one.tokens:7}  {one.answered:7}  {one.watts:5.2f}  "
            f"{one.joules_per_token:7.3f}  {one.urgent_p95_s:8.2f} s  {one.level_changes:6}"
        )
    print("\np95 urgent: latency of requests of priority 0; levels: how often the governor's level changed")


def _print_aims(reached: list[Aims]) -> None:
    print("\nWith the governor        at 40 °C, of without it at 2400 MHz     at 50 °C\n")
    print(" cooling  parameters         throttled   tokens   J/token     throttled  p95 urgent, of 25 °C")
    for one in reached:
        print(
            f"{one.cooling:>8}  {one.variant:17}  {one.throttled_s_at_40:7.0f} s  {one.tokens_share_at_40:6.0%}  "
            f"{one.joules_per_token_share_at_40:8.0%}     {one.throttled_s_at_50:7.0f} s  "
            f"{one.urgent_p95_share_at_50:20.0%}"
        )


if __name__ == "__main__":
    main()
