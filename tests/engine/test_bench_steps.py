from __future__ import annotations

import pytest

from edge_agent.tools.bench.steps import sweep


class Board:
    """A clock that only steps move on: each costs this long per row, divided by the threads."""

    def __init__(self, *row_s: float) -> None:
        self.row_s = list(row_s)
        self.now = 0.0
        self.said: list[str] = []

    def step(self, rows: int, threads: int) -> None:
        self.now += (self.row_s.pop(0) if len(self.row_s) > 1 else self.row_s[0]) * rows / threads

    def sweep(
        self, widths: list[int], counts: list[int], *, rounds: int, budget_s: float
    ) -> dict[int, dict[int, float]]:
        clock = lambda: self.now  # noqa: E731
        return sweep(self.step, widths, counts, rounds=rounds, budget_s=budget_s, say=self.said.append, clock=clock)


def test_each_width_is_measured_with_each_number_of_threads() -> None:
    rates = Board(0.01).sweep([1, 4], [1, 2], rounds=1, budget_s=60)

    assert rates == {
        1: {1: pytest.approx(100), 2: pytest.approx(200)},
        4: {1: pytest.approx(100), 2: pytest.approx(200)},
    }


def test_a_slow_board_has_its_narrow_steps_measured_and_the_rest_left_out() -> None:
    rates = Board(1.0).sweep([1, 64], [1, 2], rounds=5, budget_s=1)

    assert rates == {1: {1: 1.0, 2: 2.0}, 64: {}}
