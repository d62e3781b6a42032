from __future__ import annotations

from typing import Any

import pytest

from edge_agent.board.governor_stages import Level
from edge_agent.board.reading import BoardReading, Memory, Power, Scope, Thermal, Throttle
from edge_agent.board_control import BoardControl
from edge_agent.core.config import GovernorConfig
from edge_agent.core.protocol import Command, Ready, SetLimits
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.status.health import Throughput
from tests.helpers.support import Outlet, config, delivery

pytestmark = pytest.mark.expects_warning
READY = Ready(
    pid=1,
    context_tokens=4096,
    max_active=4,
    threads=2,
    prefill_threads=4,
    batch_tokens=128,
    vocabulary=100,
    cpu_variant="",
    repacked_mib=None,
    load_s=1.0,
    measure_s=0.0,
    prefill_tok_s=None,
    decode_tok_s=None,
)


def at(soc_c: float, **fields: Any) -> BoardReading:
    return BoardReading(thermal=Thermal(soc_c=soc_c, limit_c=80.0), **fields)


class Desk:
    def __init__(self, **settings: Any) -> None:
        self.sent: list[Command] = []
        self.dispatcher = Dispatcher(config(), {}, delivery(Outlet()), self.sent.append)
        self.throughput = Throughput()
        self.control = BoardControl(GovernorConfig(**settings), self.dispatcher, self.throughput, self.sent.append)
        self.control.worker_ready(READY)

    def stay(self, reading: BoardReading, *, begin: int = 0, seconds: int = 60) -> int:
        """How often the level changed."""
        return sum(self.control.observe(reading, float(now)) for now in range(begin, begin + seconds))


def test_a_hot_board_s_limits_reach_worker_and_dispatcher() -> None:
    desk = Desk()
    assert desk.sent == [SetLimits()]
    assert desk.stay(at(50.0)) == 0
    assert desk.sent == [SetLimits()]
    assert desk.stay(at(79.0), begin=60) >= 1
    limits = desk.dispatcher.limits
    assert limits.level is Level.HOT
    assert desk.sent[-1] == SetLimits(
        threads=limits.decode_threads,
        prefill_threads=limits.prefill_threads,
        batch_tokens=limits.batch_tokens,
        max_active=limits.max_active,
    )
    assert (limits.decode_threads, limits.max_active) == (1, 2)


def test_a_worker_that_comes_new_hears_the_limits() -> None:
    desk = Desk()
    desk.stay(at(79.0))
    limited = desk.sent[-1]
    desk.control.worker_ready(READY)
    assert desk.sent[-1] == limited != SetLimits()


def test_another_governor_takes_over_at_the_next_reading_and_knows_what_the_worker_can_do() -> None:
    desk = Desk()
    desk.stay(at(79.0))
    hot = desk.dispatcher.limits
    desk.control.reconfigure(GovernorConfig(enabled=False))
    assert desk.stay(at(79.0), begin=60, seconds=1) == 1
    assert desk.dispatcher.limits.level is Level.NORMAL
    assert desk.sent[-1] == SetLimits()
    desk.control.reconfigure(GovernorConfig(headroom_c=20.0))
    desk.stay(at(70.0), begin=120)
    assert desk.dispatcher.limits.decode_threads == hot.decode_threads == 1


def test_a_governor_that_stays_the_same_keeps_what_it_has_learned() -> None:
    desk = Desk()
    before = desk.control._governor
    desk.control.reconfigure(GovernorConfig())
    assert desk.control._governor is before


def test_a_board_that_cools_is_free_again() -> None:
    desk = Desk()
    desk.stay(at(79.0))
    desk.stay(at(50.0), begin=60, seconds=600)
    assert desk.dispatcher.limits.level is Level.NORMAL
    assert desk.sent[-1] == SetLimits()


def test_what_is_unknown_limits_nothing() -> None:
    desk = Desk()
    assert desk.stay(BoardReading()) == 0
    assert desk.sent == [SetLimits()]


def test_a_governor_that_is_off_limits_nothing() -> None:
    desk = Desk(enabled=False)
    assert desk.stay(at(85.0)) == 0
    assert desk.sent == [SetLimits()]


@pytest.mark.parametrize(
    ("reading", "cause"),
    [
        (BoardReading(throttle=Throttle(undervoltage_now=True)), "power_limited"),
        (BoardReading(memory=Memory(total_mb=4000.0, available_mb=50.0)), "memory_low"),
    ],
)
def test_low_voltage_and_short_memory_limit_too(reading: BoardReading, cause: str) -> None:
    desk = Desk()
    desk.stay(reading)
    assert cause in desk.dispatcher.limits.causes


def test_energy_is_that_of_the_engine_s_time() -> None:
    desk = Desk()
    idle, busy = (BoardReading(power=Power(watts=watts, scope=Scope.BOARD, source="ina")) for watts in (3.0, 9.0))
    desk.stay(idle, seconds=5)
    for now in range(5, 15):
        desk.throughput.busy_s += 1.0
        desk.throughput.completion_tokens += 10
        desk.control.observe(busy, float(now))
    assert desk.dispatcher.energy.of_request(2.0) == pytest.approx(2.0 * 57.0 / 10.0)
    assert desk.dispatcher.energy.joules_per_token == pytest.approx(57.0 / 100)
