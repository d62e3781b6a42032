"""What the governor promises of any board: it never swings, never loosens for heat, never limits without a reason."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.board.governor import NO_LIMITS, Capacity, Governor, Limits, Sample
from edge_agent.board.governor_stages import HEAT, HELD_S, MEMORY, POWER, RELAX_S, Cause, Level, Stage
from edge_agent.core.config import GovernorConfig

CAPACITY = Capacity(decode_threads=2, prefill_threads=4, batch_tokens=64, max_active=4)
COUNTS = ("decode_threads", "prefill_threads", "batch_tokens", "max_active", "max_tokens")
LIMIT_C = 80.0


def governor(**settings: float) -> Governor:
    return Governor(capacity=CAPACITY, **settings)  # type: ignore[arg-type]


def feel(to: Governor, temperatures: Sequence[float | None], start_s: float = 0.0) -> list[Limits]:
    """A sample per second."""
    return [
        to.observe(Sample(at_s=start_s + at, soc_c=soc_c, limit_c=LIMIT_C)) for at, soc_c in enumerate(temperatures)
    ]


def is_as_tight(one: Limits, other: Limits) -> bool:
    """Whether one allows nothing that the other does not."""

    def allowed(limits: Limits, name: str) -> float:
        value = getattr(limits, name)
        return float("inf") if value is None else value

    names = (*COUNTS, "lowest_priority")
    return one.level >= other.level and all(allowed(one, name) <= allowed(other, name) for name in names)


def check(limits: Limits) -> None:
    """What holds of any limits."""
    assert all(value is None or value >= 1 for value in (getattr(limits, name) for name in COUNTS))
    assert (limits == NO_LIMITS) == (limits.level is Level.NORMAL) == (limits.reason is None)
    assert (limits.cause is None) == (limits.lowest_priority is None)


def changes(limits: list[Limits]) -> int:
    return sum(one != other for one, other in pairwise(limits))


@pytest.mark.parametrize("stages", [HEAT, POWER, MEMORY])
def test_each_stage_is_at_least_as_tight_as_the_one_before(stages: tuple[Stage, ...]) -> None:
    for loose, tight in pairwise(stages):
        for name in (field.name for field in fields(Stage)):
            before, after = getattr(loose, name), getattr(tight, name)
            if name == "level":
                assert after >= before
            elif before is not None:
                assert after is not None
                assert after <= before


def test_a_cool_board_has_no_limits() -> None:
    board = governor()
    assert set(feel(board, [60.0, 65.0, 70.0, 74.0] * 30)) == {NO_LIMITS}


def test_heat_takes_threads_first_then_width_then_the_less_urgent_requests() -> None:
    stages = list(dict.fromkeys(feel(governor(), [76.0 + at * 0.02 for at in range(700)])))
    assert [limits.level for limits in stages] == [0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [one.prefill_threads for one in stages] == [None, 3, 3, 2, 2, 1, 1, 1, 1]
    assert [one.decode_threads for one in stages] == [None, None, 1, 1, 1, 1, 1, 1, 1]
    assert [one.max_active for one in stages] == [None, None, None, 3, 2, 2, 2, 2, 2]
    assert [one.batch_tokens for one in stages] == [None] * 5 + [32] * 4
    assert [one.max_tokens for one in stages] == [None] * 4 + [256, 128, 64, 64, 64]
    assert [one.lowest_priority for one in stages] == [None] * 5 + [5, 4, 0, -1]


def test_who_is_refused_is_told_why() -> None:
    limits = feel(governor(), [79.3] * 30)[-1]
    assert limits.lowest_priority == 4
    assert limits.refusal(5) is Cause.OVERHEATED
    assert limits.refusal(4) is None
    assert NO_LIMITS.refusal(9) is None
    assert limits.reason == "the SoC is near its limit of 80 °C"


def test_only_a_board_that_is_out_of_hand_refuses_the_most_urgent() -> None:
    board = governor()
    assert feel(board, [87.0] * 60)[-1].refusal(0) is None
    assert feel(board, [90.0] * 60, 60.0)[-1].refusal(0) is Cause.OVERHEATED


def test_a_rise_that_would_reach_the_limit_slows_down_before_but_refuses_nobody() -> None:
    steady = feel(governor(), [77.5] * 60)[-1]
    rising = feel(governor(), [67.5 + at * 0.1 for at in range(101)])[-1]
    assert steady == NO_LIMITS
    assert rising.level is Level.WARM
    assert rising.lowest_priority is None


def test_a_die_that_jumps_when_work_begins_is_not_near_its_limit() -> None:
    assert set(feel(governor(), [60.0] * 60 + [68.0, 72.0] + [74.0] * 60)) == {NO_LIMITS}


def test_a_single_reading_that_is_off_refuses_nobody() -> None:
    assert max(limits.level for limits in feel(governor(), [77.0] * 60 + [84.0] + [77.0] * 60)) is Level.WARM


def test_being_slowed_down_is_no_alarm_yet() -> None:
    board = governor()
    assert feel(board, [78.4] * 60)[-1].level is Level.WARM
    assert feel(board, [79.0] * 60, 60.0)[-1].level is Level.HOT


def test_it_recovers_stage_by_stage() -> None:
    board = governor()
    hot = feel(board, [79.9] * 60)[-1]
    told = feel(board, [60.0] * int(len(HEAT) * RELAX_S + 60), 60.0)
    assert hot.level is Level.CRITICAL
    assert told[-1] == NO_LIMITS
    assert all(is_as_tight(before, after) for before, after in pairwise(told))
    still = told[int(RELAX_S) - 2]
    assert still.reason == f"{hot.reason} (over, eased step by step)"
    assert replace(still, reason=hot.reason) == hot
    assert changes(told) == 7


def test_where_no_sensor_tells_nothing_is_limited() -> None:
    board = governor()
    assert set(feel(board, [None] * 100)) == {NO_LIMITS}
    assert board.observe(Sample(at_s=100.0, soc_c=120.0)) == NO_LIMITS
    assert board.observe(Sample(at_s=101.0, limit_c=80.0)) == NO_LIMITS
    assert board.observe(Sample(at_s=102.0, soc_c=float("nan"), limit_c=80.0)) == NO_LIMITS
    assert board.observe(Sample(at_s=103.0, memory_available_mb=1.0)) == NO_LIMITS
    assert feel(board, [79.9], 104.0)[-1].level is Level.CRITICAL


def test_a_sensor_that_fails_while_it_is_hot_keeps_the_limits_for_a_moment() -> None:
    board = governor()
    hot = feel(board, [79.5] * 60)[-1]
    told = feel(board, [None] * 1200, 60.0)
    assert {replace(limits, reason=hot.reason) for limits in told[: int(HELD_S) - 1]} == {hot}
    # Then less and less, one stage a minute; never all power, for nobody knows how hot it is.
    steps = [limits for limits, before in zip(told, [hot, *told], strict=False) if limits != before]
    assert len(steps) > 3
    assert all(is_as_tight(before, limits) for before, limits in pairwise(steps))
    assert [limits.level for limits in (told[-1], steps[-1])] == [Level.WARM] * 2
    assert told[-1].reason == "the SoC was hot when it last told its temperature"
    changed = [at for at, (one, other) in enumerate(pairwise(told)) if one != other]
    assert all(later - earlier >= RELAX_S for earlier, later in pairwise(changed))
    # Until it is told that it is cool.
    assert feel(board, [50.0] * 130, 1260.0)[-1] == NO_LIMITS


def test_a_board_that_never_tells_its_temperature_is_not_limited() -> None:
    assert set(feel(governor(), [None] * 100)) == {NO_LIMITS}


@pytest.mark.parametrize("mean_c", [77.5, 78.0, 78.3, 79.0, 79.4, 80.0])
def test_noise_of_a_degree_does_not_make_it_swing(mean_c: float) -> None:
    noise = random.Random(3)
    told = feel(governor(), [mean_c + noise.uniform(-1, 1) for _ in range(3600)])
    # It may tighten by a few stages while the noise shows all it has, and stays there.
    assert changes(told) <= len(HEAT)
    assert changes(told[300:]) <= 1


@settings(deadline=None, max_examples=60)
@given(temperatures=st.lists(st.floats(20, 110), min_size=1, max_size=400))
def test_no_temperatures_make_it_change_more_than_so_often(temperatures: list[float]) -> None:
    told = feel(governor(), temperatures)
    for limits in told:
        check(limits)
    loosened = [at for at, (one, other) in enumerate(pairwise(told)) if not is_as_tight(other, one)]
    assert all(later - earlier >= RELAX_S for earlier, later in pairwise(loosened))


@settings(deadline=None, max_examples=200)
@given(
    history=st.lists(st.floats(60, 90), max_size=60),
    soc_c=st.floats(60, 90),
    hotter_c=st.floats(0, 30),
    pause_s=st.floats(0, 200),
)
def test_after_any_history_a_hotter_sample_never_loosens(
    history: list[float], soc_c: float, hotter_c: float, pause_s: float
) -> None:
    cool = governor()
    feel(cool, history)
    hot = copy.deepcopy(cool)
    at_s = len(history) + pause_s
    sample = Sample(at_s=at_s, soc_c=soc_c, limit_c=LIMIT_C)
    assert is_as_tight(hot.observe(replace(sample, soc_c=soc_c + hotter_c)), cool.observe(sample))


@settings(deadline=None, max_examples=100)
@given(
    samples=st.lists(
        st.builds(
            Sample,
            at_s=st.just(0.0),
            soc_c=st.none() | st.floats(-50, 150),
            limit_c=st.none() | st.floats(40, 110),
            undervoltage_now=st.none() | st.booleans(),
            memory_available_mb=st.none() | st.floats(0, 9000),
            memory_total_mb=st.none() | st.floats(1, 9000),
        ),
        max_size=60,
    ),
    threads=st.integers(1, 64),
    max_active=st.integers(1, 32),
)
def test_whatever_a_board_says_limits_are_sane(samples: list[Sample], threads: int, max_active: int) -> None:
    capacity = Capacity(decode_threads=threads, prefill_threads=threads, batch_tokens=32, max_active=max_active)
    board = Governor(capacity=capacity)
    for at, sample in enumerate(samples):
        limits = board.observe(replace(sample, at_s=at * 7.0))
        check(limits)
        sizes = [(getattr(limits, name), getattr(capacity, name)) for name in COUNTS[:4]]
        assert all(limit is None or limit < full for limit, full in sizes)


def volts(to: Governor, low: list[bool | None], start_s: float = 0.0) -> list[Limits]:
    return [to.observe(Sample(at_s=start_s + at, undervoltage_now=now)) for at, now in enumerate(low)]


def test_a_voltage_that_is_low_halves_the_threads_at_once_and_more_while_it_stays() -> None:
    board = governor()
    told = volts(board, [True] * 40)
    assert (told[0].prefill_threads, told[0].decode_threads, told[0].lowest_priority) == (2, 1, None)
    assert told[10].prefill_threads == 1
    assert told[20].refusal(5) is Cause.POWER_LIMITED
    assert told[39].refusal(0) is None


def test_a_voltage_that_flickers_is_not_taken_for_one_that_stays_low() -> None:
    assert volts(governor(), [True, False] * 4)[-1].level is Level.WARM


def test_where_the_voltage_falls_each_time_work_comes_back_tries_become_rare() -> None:
    board = governor()
    tries, at_s, limits = [], 0.0, NO_LIMITS
    while at_s < 4 * 3600:
        before = limits
        limits = board.observe(Sample(at_s=at_s, undervoltage_now=limits == NO_LIMITS))
        tries += [at_s] if limits != NO_LIMITS and before == NO_LIMITS else []
        at_s += 1.0
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[0] < 2 * RELAX_S + 5
    assert pauses[-1] > 15 * RELAX_S
    assert len(tries) < 25


def test_a_try_that_fails_waits_longer_once_and_not_for_ever() -> None:
    board = governor()

    def relaxed_after_s(start_s: float, low_s: int) -> int:
        volts(board, [True] * low_s, start_s)
        before, *told = volts(board, [False] * 4000, start_s + low_s)
        return next(at for at, limits in enumerate(told, 1) if limits != before)

    assert relaxed_after_s(0.0, 1) == RELAX_S - 1
    volts(board, [True] * 30, 4100.0)
    volts(board, [False] * 65, 4130.0)
    assert relaxed_after_s(4195.0, 25) == 2 * RELAX_S - 1
    assert relaxed_after_s(20_000.0, 1) == RELAX_S - 1


def test_memory_that_runs_out_narrows_then_refuses_and_comes_back() -> None:
    board = governor(memory_reserve_mb=100.0)

    def at(at_s: float, available_mb: float) -> Limits:
        return board.observe(Sample(at_s=at_s, memory_available_mb=available_mb, memory_total_mb=2000.0))

    assert at(0, 250) == NO_LIMITS
    assert at(1, 190).max_active == 2
    assert at(2, 140).refusal(9) is Cause.MEMORY_LOW
    assert at(3, 90).refusal(1) is Cause.MEMORY_LOW
    assert at(4, 40).refusal(0) is Cause.MEMORY_LOW
    assert [at(5.0 + second, 2000.0) for second in range(600)][-1] == NO_LIMITS


def test_memory_must_come_back_by_more_than_a_little() -> None:
    board = governor(memory_reserve_mb=100.0)
    told = [board.observe(Sample(at_s=at, memory_available_mb=190.0 if at < 1 else 240.0)) for at in range(600)]
    assert set(told) == {told[0]}
    assert told[0].level is Level.WARM


def test_the_reserve_is_a_share_of_the_memory_unless_it_is_given() -> None:
    sample = Sample(at_s=0.0, memory_available_mb=190.0, memory_total_mb=2000.0)
    assert governor().observe(sample).level is Level.WARM
    assert governor(memory_reserve_mb=50.0).observe(sample) == NO_LIMITS
    assert governor(memory_reserve_mb=0.0).observe(replace(sample, memory_available_mb=0.0)) == NO_LIMITS


def test_of_several_causes_the_tightest_limit_of_each_kind_holds() -> None:
    board = governor()
    both = Sample(at_s=0.0, soc_c=79.2, limit_c=LIMIT_C, memory_available_mb=80.0, memory_total_mb=2000.0)
    limits = board.observe(both)
    assert (limits.prefill_threads, limits.max_active, limits.max_tokens) == (1, 1, 64)
    assert limits.level is Level.CRITICAL
    assert limits.lowest_priority == 0
    assert limits.refusal(1) is limits.refusal(9) is Cause.MEMORY_LOW
    assert limits.reason == "the SoC is near its limit of 80 °C; less memory is available than 200 MB"


def test_switched_off_it_only_raises_alarms() -> None:
    board = Governor(enabled=False, capacity=CAPACITY)
    sample = Sample(at_s=0.0, soc_c=85.0, limit_c=LIMIT_C, undervoltage_now=True)
    assert board.observe(sample) == NO_LIMITS


def test_before_the_engine_tells_its_size_only_refusals_are_limits() -> None:
    board = Governor()
    limits = feel(board, [79.9] * 30)[-1]
    assert (limits.decode_threads, limits.prefill_threads, limits.batch_tokens, limits.max_active) == (None,) * 4
    assert limits.refusal(5) is Cause.OVERHEATED
    board.capacity = CAPACITY
    assert feel(board, [79.9], 30.0)[-1].prefill_threads == 1


def test_health_tells_what_is_limited_and_nothing_else() -> None:
    assert NO_LIMITS.as_health() == {"level": "normal", "limits": {}, "reason": None}
    limits = feel(governor(), [78.0])[-1]
    assert limits.as_health() == {
        "level": "warm",
        "limits": {"prefill_threads": 3},
        "reason": "the SoC is near its limit of 80 °C",
    }


def test_its_settings_are_those_of_the_configuration() -> None:
    defaults = Governor.__init__.__kwdefaults__
    assert defaults == {**GovernorConfig().model_dump(), "capacity": Capacity()}
