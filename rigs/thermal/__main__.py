"""The governor on a simulated Raspberry Pi 5: `python -m rigs.thermal`. It takes about 20 seconds.

A SIMULATION of one hour with more requests than fit, with and without the governor. Its figures and their sources are
in parameters.py. Real boards differ.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.board.governor import Governor, Level
from edge_agent.board.reading import BoardReading, Thermal
from edge_agent.core.config import GovernorConfig
from edge_agent.core.pipe import SetLimits
from rigs.thermal import parameters as p
from rigs.thermal.agent import SimulatedAgent, arrivals
from rigs.thermal.board import Board
from rigs.thermal.parameters import Cooling

# The last one as with `arm_freq=1800` on a board without a fan in a hot place.
_BOARDS = ((p.PASSIVE, p.FULL_MHZ), (p.ACTIVE, p.FULL_MHZ), (p.PASSIVE, p.LOWER_MHZ))
HOUR_S = 3600.0
_SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One simulated run. urgent_p95_s: of the requests of priority 0; one without an answer is infinitely late."""

    throttled_s: float
    hottest_c: float
    tokens: int
    answered: int
    watts: float
    joules_per_token: float
    urgent_p95_s: float
    level_changes: int


def simulate(
    cooling: Cooling, ambient_c: float, *, is_governed: bool, full_mhz: float = p.FULL_MHZ, seconds: float = HOUR_S
) -> Outcome:
    """The same arguments give the same outcome."""
    board, agent = Board(cooling, ambient_c, full_mhz), SimulatedAgent()
    capacity = SetLimits(
        threads=p.DECODE_THREADS,
        prefill_threads=p.PREFILL_THREADS,
        batch_tokens=p.BATCH_TOKENS,
        max_active=p.MAX_ACTIVE,
    )
    governor = Governor(GovernorConfig(enabled=is_governed))
    governor.set_capacity(capacity)
    requests = arrivals()
    request = next(requests)
    sample_at, changes, level = 0.0, 0, Level.NORMAL
    while board.seconds < seconds:
        while request.arrived_s <= board.seconds:
            agent.arrive(request)
            request = next(requests)
        if sample_at <= board.seconds:
            sample_at += _SAMPLE_S
            thermal = Thermal(soc_c=board.sensor_c(), limit_c=p.THROTTLE_FROM_C)
            agent.limits = governor.decide(BoardReading(thermal=thermal), board.seconds)
            changes += agent.limits.level is not level
            level = agent.limits.level
        if not agent.work(board):
            board.run(max(1e-3, min(request.arrived_s, sample_at) - board.seconds), p.IDLE_W)
    return Outcome(
        throttled_s=board.throttled_s,
        hottest_c=board.hottest_c,
        tokens=agent.tokens,
        answered=agent.answered,
        watts=board.joules / board.seconds,
        joules_per_token=board.joules / agent.tokens,
        urgent_p95_s=sorted(agent.urgent_s)[math.ceil(0.95 * len(agent.urgent_s)) - 1],
        level_changes=changes,
    )


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
