"""The simulated board does what the sources of its parameters saw real ones do."""

from __future__ import annotations

import pytest

from rigs.thermal import parameters as p
from rigs.thermal.board import Board, engine_step


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
