"""The simulated board behaves as its sources measured real ones; and what the governor reaches on it."""

from __future__ import annotations

from functools import cache

import pytest

from rigs.thermal import parameters as p
from rigs.thermal.__main__ import Outcome, main, simulate
from rigs.thermal.board import Board, engine_step
from rigs.thermal.parameters import Cooling


@cache
def simulate_free(cooling: Cooling) -> Outcome:
    """At 40 °C without the governor."""
    return simulate(cooling, 40.0, is_governed=False)


def governed(cooling: Cooling) -> tuple[Outcome, Outcome, Outcome]:
    """At 25, 40 and 50 °C."""
    cool, warm, hot = (simulate(cooling, at_c, is_governed=True) for at_c in (25.0, 40.0, 50.0))
    assert warm.throttled_s == hot.throttled_s == 0
    assert hot.urgent_p95_s <= 1.25 * cool.urgent_p95_s
    return cool, warm, hot


def test_with_a_fan_nothing_throttles_and_nothing_is_lost_at_40_degrees() -> None:
    _, warm, _ = governed(p.ACTIVE)
    assert warm.tokens >= 0.95 * simulate_free(p.ACTIVE).tokens


def test_without_a_fan_nothing_throttles_but_work_is_lost() -> None:
    cool, warm, hot = governed(p.PASSIVE)
    free = simulate_free(p.PASSIVE)
    assert free.throttled_s > 3000
    # The firmware lowers clock and voltage, which saves more per token than fewer threads do.
    assert 0.68 <= warm.tokens / free.tokens < 0.95
    assert 1 < warm.joules_per_token / free.joules_per_token <= 1.2
    assert cool.level_changes <= 30
    assert hot.level_changes <= 10
    assert hot == simulate(p.PASSIVE, 50.0, is_governed=True)


def test_without_a_fan_a_lower_clock_gives_more_tokens_per_joule() -> None:
    warm = simulate(p.PASSIVE, 40.0, is_governed=True, full_mhz=p.LOWER_MHZ)
    free = simulate_free(p.PASSIVE)
    assert warm.throttled_s == 0
    assert warm.tokens >= 0.8 * free.tokens
    assert warm.joules_per_token < free.joules_per_token


def test_the_short_form_prints_a_line_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--minutes", "1"])
    assert len([line for line in capsys.readouterr().out.splitlines() if " °C " in line]) == 18


def test_without_a_fan_it_throttles_a_little_after_some_minutes_in_a_room() -> None:
    board = Board(p.PASSIVE, 23.0)
    board.run(180, 10.5)
    assert board.throttled_s == 0
    board.run(3420, 10.5)
    assert board.throttled_s > 1200
    assert 80 < board.die_c < 85
    assert 2200 < board.mhz < 2400


def test_a_fan_holds_full_load_at_its_second_step() -> None:
    board = Board(p.ACTIVE, 22.0)
    board.run(1800, 9.5)
    assert 58 < board.hottest_c < 64


@pytest.mark.parametrize(("die_c", "mhz"), [(79.9, 2400), (82.9, 2255), (85.0, 2150), (86.1, 1500), (99.0, 1500)])
def test_the_firmware_lowers_the_clock_by_temperature(die_c: float, mhz: float) -> None:
    board = Board(p.PASSIVE, 23.0)
    board.die_c = die_c
    assert board.mhz == pytest.approx(mhz, abs=2)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_steps_take_what_was_measured_of_prompts_and_answers(threads: int) -> None:
    board = Board(p.ACTIVE, 25.0)
    assert 1 / engine_step(board, 1, threads).seconds == pytest.approx(p.DECODE_TOK_S[threads])
    assert 512 / engine_step(board, 512, threads).seconds == pytest.approx(p.PREFILL_TOK_S[threads], rel=0.03)


def test_power_at_full_load_is_what_was_measured() -> None:
    board = Board(p.ACTIVE, 25.0)
    assert engine_step(board, 1, 4).watts == pytest.approx(11.9, abs=0.15)
    assert engine_step(board, 512, 4).watts == pytest.approx(12.0, abs=0.15)


def test_a_throttled_board_is_slower_and_takes_less() -> None:
    cool, hot = Board(p.PASSIVE, 25.0), Board(p.PASSIVE, 25.0)
    hot.die_c = 90.0
    assert engine_step(hot, 64, 4).seconds > 1.3 * engine_step(cool, 64, 4).seconds
    assert engine_step(hot, 64, 4).watts < 0.65 * engine_step(cool, 64, 4).watts
