from __future__ import annotations

import itertools

import pytest

from tests.helpers.boards.steps import Costs, durations, lost, report


def test_steps_count_only_in_a_turn_that_holds_all_of_them() -> None:
    assert durations([(0.0, 1.0), (1.0, 3.0), (3.0, 6.0), (6.0, 7.5)], [(0.0, 5.0), (6.0, 8.0)]) == [1.0, 2.0, 1.5]


def test_what_a_pass_takes_is_what_is_done_less_beside_it() -> None:
    # Ten steps a second; the one that begins at 1.0 takes 0.05 s longer.
    ends = [0.1 * number + (0.05 if number > 10 else 0.0) for number in range(41)]
    steps = list(itertools.pairwise(ends))
    assert lost(steps, [1.0], 0.5) == pytest.approx([0.05])
    assert lost(steps, [2.0, 2.53], 0.5) == pytest.approx([0.0, 0.0])


def test_the_report_tells_the_mean_and_how_sure_it_is() -> None:
    told = report(Costs(without=[0.01] * 3, beside=[0.01] * 3, lost=[0.001, 0.003], cpu=[0.0005, 0.0007]))
    assert "lost to a pass: 2.000 ms of steps (standard error 1.000)" in told
    assert "most 0.700 ms" in told
