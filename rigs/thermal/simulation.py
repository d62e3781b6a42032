"""The closed loop: a simulated agent under load on a simulated board, with or without the governor."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_agent.board.governor import EngineCapacity, Governor, Level
from edge_agent.board.reading import BoardReading, Thermal
from edge_agent.core.config import GovernorConfig
from rigs.thermal import parameters as p
from rigs.thermal.agent import SimulatedAgent, arrivals
from rigs.thermal.board import Board
from rigs.thermal.parameters import Cooling

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
    cooling: Cooling,
    ambient_c: float,
    *,
    is_governed: bool,
    full_mhz: float = p.FULL_MHZ,
    seconds: float = HOUR_S,
) -> Outcome:
    """The same arguments give the same outcome."""
    board, agent = Board(cooling, ambient_c, full_mhz), SimulatedAgent()
    capacity = EngineCapacity(
        decode_threads=p.DECODE_THREADS,
        prefill_threads=p.PREFILL_THREADS,
        batch_tokens=p.BATCH_TOKENS,
        max_active=p.MAX_ACTIVE,
    )
    governor = Governor(GovernorConfig(enabled=is_governed), capacity)
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
