"""On any board the governor promises not to swing, never to loosen for heat, and to give each limit a reason."""

import random
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.board.governor import HEAT, MEMORY, NO_LIMITS, POWER, RELAX_S, Governor, Level, Limits, Stage
from edge_agent.board.reading import BoardReading, Memory, Thermal, Throttle
from edge_agent.core.codes import Code
from edge_agent.core.config import GovernorConfig
from edge_agent.core.pipe import SetLimits

CAPACITY = SetLimits(threads=2, prefill_threads=4, batch_tokens=64, max_active=4)
SIZES = ("threads", "prefill_threads", "batch_tokens", "max_active")
COUNTS = ("decode_threads", "prefill_threads", "batch_tokens", "max_active", "max_tokens")
LIMIT_C = 80.0
UNKNOWN = BoardReading()


def governor(capacity: SetLimits = CAPACITY, **config: Any) -> Governor:
    board = Governor(GovernorConfig(**config))
    board.set_capacity(capacity)
    return board


def at(soc_c: float | None, limit_c: float | None = LIMIT_C) -> BoardReading:
    return BoardReading(thermal=Thermal(soc_c=soc_c, limit_c=limit_c))


def available(available_mb: float | None, total_mb: float | None = 2000.0) -> BoardReading:
    return BoardReading(memory=Memory(available_mb=available_mb, total_mb=total_mb))


def decide(board: Governor, readings: Sequence[BoardReading], start_s: float = 0.0) -> list[Limits]:
    """The limits for one reading a second."""
    return [board.decide(reading, start_s + second) for second, reading in enumerate(readings)]


def heat(board: Governor, temperatures: Sequence[float | None], start_s: float = 0.0) -> list[Limits]:
    return decide(board, [at(soc_c) for soc_c in temperatures], start_s)


def undervoltage(board: Governor, low: Sequence[bool | None], start_s: float = 0.0) -> list[Limits]:
    return decide(board, [BoardReading(throttle=Throttle(undervoltage_now=now)) for now in low], start_s)


def is_as_tight(one: Limits, other: Limits) -> bool:
    """Whether the first allows nothing that the second does not."""

    def allowed(limits: Limits, name: str) -> float:
        value = getattr(limits, name)
        return float("inf") if value is None else value

    names = (*COUNTS, "lowest_priority")
    return one.level >= other.level and all(allowed(one, name) <= allowed(other, name) for name in names)


def changes(limits: list[Limits]) -> int:
    return sum(not (is_as_tight(one, other) and is_as_tight(other, one)) for one, other in pairwise(limits))


@pytest.mark.parametrize("stages", [HEAT, POWER, MEMORY])
def test_each_stage_is_at_least_as_tight_as_the_one_before(stages: tuple[Stage, ...]) -> None:
    for loose, tight in pairwise(stages):
        assert tight.level >= loose.level
        for name in (field.name for field in fields(Stage) if field.name != "level"):
            before, after = getattr(loose, name), getattr(tight, name)
            assert before is None or (after is not None and after <= before)


@pytest.mark.parametrize(
    "readings",
    [
        [at(60.0), at(65.0), at(70.0), at(74.0)] * 30,
        [UNKNOWN] * 100,
        [at(120.0, limit_c=None), at(None), available(1.0, total_mb=None), available(None)],
    ],
)
def test_a_cool_board_and_unknown_readings_have_no_limits(readings: list[BoardReading]) -> None:
    assert set(decide(governor(), readings)) == {NO_LIMITS}


def test_heat_takes_threads_first_then_width_then_the_less_urgent_requests() -> None:
    stages = list(dict.fromkeys(heat(governor(), [76.0 + at * 0.02 for at in range(700)])))
    assert [limits.level for limits in stages] == [0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [one.prefill_threads for one in stages] == [None, 3, 3, 2, 2, 1, 1, 1, 1]
    assert [one.decode_threads for one in stages] == [None, None, 1, 1, 1, 1, 1, 1, 1]
    assert [one.max_active for one in stages] == [None, None, None, 3, 2, 2, 2, 2, 2]
    assert [one.batch_tokens for one in stages] == [None] * 5 + [32] * 4
    assert [one.max_tokens for one in stages] == [None] * 4 + [256, 128, 64, 64, 64]
    assert [one.lowest_priority for one in stages] == [None] * 5 + [5, 4, 0, -1]


def test_a_refusal_names_its_cause() -> None:
    board = governor()
    limits = heat(board, [79.3] * 30)[-1]
    assert limits.lowest_priority == 4
    assert limits.refusal(5) is Code.OVERHEATED
    assert limits.refusal(4) is None
    assert NO_LIMITS.refusal(9) is None
    assert limits.reason == "the SoC is near its limit of 80 °C"
    # Only a board that is out of hand refuses the most urgent.
    assert heat(board, [87.0] * 60, 30.0)[-1].refusal(0) is None
    assert heat(board, [90.0] * 60, 90.0)[-1].refusal(0) is Code.OVERHEATED


def test_a_single_reading_that_is_off_refuses_nothing() -> None:
    assert max(limits.level for limits in heat(governor(), [77.0] * 60 + [84.0] + [77.0] * 60)) is Level.WARM


@pytest.mark.parametrize("later", [60.0, None])
def test_it_recovers_stage_by_stage_also_when_the_sensor_fails(later: float | None) -> None:
    board = governor()
    hot = heat(board, [79.9] * 60)[-1]
    limits = heat(board, [later] * int(len(HEAT) * RELAX_S + 60), 60.0)
    assert hot.level is Level.CRITICAL
    assert limits[-1] == NO_LIMITS
    assert all(is_as_tight(before, after) for before, after in pairwise(limits))
    assert limits[int(RELAX_S) - 10].reason == hot.reason
    assert changes(limits) == 7


@pytest.mark.parametrize("mean_c", [78.0, 79.4])
def test_noise_of_a_degree_does_not_make_it_swing(mean_c: float) -> None:
    noise = random.Random(3)
    limits = heat(governor(), [mean_c + noise.uniform(-1, 1) for _ in range(1800)])
    # It may tighten by a few stages until the noise has shown its full range, and stays there.
    assert changes(limits) <= len(HEAT)
    assert changes(limits[300:]) <= 1


@settings(deadline=None, max_examples=40)
@given(
    readings=st.lists(
        st.builds(
            lambda soc_c, limit_c, is_low, available_mb, total_mb: BoardReading(
                thermal=Thermal(soc_c=soc_c, limit_c=limit_c),
                throttle=Throttle(undervoltage_now=is_low),
                memory=Memory(available_mb=available_mb, total_mb=total_mb),
            ),
            st.none() | st.floats(-50, 150),
            st.none() | st.floats(40, 110),
            st.none() | st.booleans(),
            st.none() | st.floats(0, 9000),
            st.none() | st.floats(1, 9000),
        ),
        max_size=60,
    ),
    threads=st.integers(1, 64),
    max_active=st.integers(1, 32),
)
def test_limits_are_sane_for_any_readings(readings: list[BoardReading], threads: int, max_active: int) -> None:
    capacity = SetLimits(threads=threads, prefill_threads=threads, batch_tokens=32, max_active=max_active)
    board = governor(capacity)
    for second, reading in enumerate(readings):
        limits = board.decide(reading, second * 7.0)
        assert all(value is None or value >= 1 for value in (getattr(limits, name) for name in COUNTS))
        assert (limits == NO_LIMITS) == (limits.level is Level.NORMAL) == (limits.reason is None)
        assert (limits.refusal_cause is None) == (limits.lowest_priority is None)
        sizes = [(getattr(limits.for_worker(), name), getattr(capacity, name)) for name in SIZES]
        assert all(limit is None or limit < full for limit, full in sizes)


def test_a_low_voltage_halves_the_threads_at_once_and_takes_more_while_it_lasts() -> None:
    limits = undervoltage(governor(), [True] * 40)
    assert (limits[0].prefill_threads, limits[0].decode_threads, limits[0].lowest_priority) == (2, 1, None)
    assert limits[10].prefill_threads == 1
    assert limits[20].refusal(5) is Code.POWER_LIMITED
    assert limits[39].refusal(0) is None


def test_memory_that_runs_out_narrows_then_refuses_and_comes_back() -> None:
    board = governor(memory_reserve_mb=100.0)
    assert board.decide(available(250), 0) == NO_LIMITS
    assert board.decide(available(190), 1).max_active == 2
    assert board.decide(available(140), 2).refusal(9) is Code.MEMORY_LOW
    assert board.decide(available(90), 3).refusal(1) is Code.MEMORY_LOW
    assert board.decide(available(40), 4).refusal(0) is Code.MEMORY_LOW
    assert decide(board, [available(2000.0)] * 600, 5.0)[-1] == NO_LIMITS
    # It must come back by more than a little.
    limits = decide(governor(memory_reserve_mb=100.0), [available(190)] + [available(240)] * 600)
    assert {one.level for one in limits} == {Level.WARM}


def test_the_memory_reserve_is_a_share_of_the_memory_unless_configured() -> None:
    assert governor().decide(available(190.0), 0.0).level is Level.WARM
    assert governor(memory_reserve_mb=50.0).decide(available(190.0), 0.0) == NO_LIMITS
    assert governor(memory_reserve_mb=0.0).decide(available(0.0), 0.0) == NO_LIMITS
    assert governor().spare_mb(Memory(available_mb=300.0, total_mb=2000.0)) == 100.0
    assert governor().spare_mb(Memory()) is None


def test_of_several_causes_the_tightest_limit_of_each_kind_holds() -> None:
    both = BoardReading(thermal=Thermal(soc_c=79.2, limit_c=LIMIT_C), memory=Memory(available_mb=80.0, total_mb=2000.0))
    limits = governor().decide(both, 0.0)
    assert (limits.prefill_threads, limits.max_active, limits.max_tokens) == (1, 1, 64)
    assert (limits.level, limits.lowest_priority) == (Level.CRITICAL, 0)
    assert limits.refusal(1) is limits.refusal(9) is Code.MEMORY_LOW
    assert limits.reason == "the SoC is near its limit of 80 °C; less than 200 MB of memory are available"


def test_a_governor_that_is_off_limits_nothing_and_can_be_switched_on() -> None:
    board = governor(enabled=False)
    assert set(heat(board, [85.0] * 60)) == {NO_LIMITS}
    board.reconfigure(GovernorConfig())
    assert heat(board, [85.0], 60.0)[-1].level is Level.CRITICAL


def test_before_the_worker_is_ready_only_refusals_are_limits() -> None:
    board = Governor(GovernorConfig())
    limits = heat(board, [79.9] * 30)[-1]
    assert (limits.decode_threads, limits.prefill_threads, limits.batch_tokens, limits.max_active) == (None,) * 4
    assert limits.refusal(5) is Code.OVERHEATED
    board.set_capacity(CAPACITY)
    assert heat(board, [79.9], 30.0)[-1].prefill_threads == 1
