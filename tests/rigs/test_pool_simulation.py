"""The simulated pool loses no request, and shows what a slow board does to each policy."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rigs.pool_simulation import ASSUMED_TIMES_S, POLICIES, Plant, Run, main, simulate

EQUAL = Plant(boards=100, slow_share=0, load=0.01, hand_over_ms=0, seconds=1000)
MIXED = Plant(boards=50, seconds=60)


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_boards_at_low_load_answer_as_fast_as_one(policy: str) -> None:
    row = simulate(policy, EQUAL)
    assert row.refused == 0
    assert row.p95 == pytest.approx(ASSUMED_TIMES_S[949] * 1000, rel=0.06)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("load", [0.8, 1.3])
def test_each_request_is_answered_or_refused_once(policy: str, load: float) -> None:
    plant = replace(MIXED, load=load, places=2, seconds=20)
    run = Run(plant)
    POLICIES[policy](run)
    assert not any(board.waiting or board.started_at for board in run.boards)
    row = simulate(policy, plant)
    assert row.answered + row.refused == row.sent == len(run.requests)
    assert row.answered > row.late
    if load > 1:
        assert row.refused + row.late > 0.1 * row.sent


def test_a_pool_queue_refuses_less_than_those_who_choose_a_slow_board() -> None:
    rows = {policy: simulate(policy, MIXED) for policy in POLICIES}
    assert rows["pool queue"].refused == rows["lower bound"].refused == 0
    assert rows["round robin"].refused > 0.05 * rows["round robin"].sent
    old, fresh = rows["better of two, figures every 10 s"], rows["better of two, figures of now"]
    assert old.refused > fresh.refused + 0.05 * old.sent
    assert rows["lower bound"].p95 < rows["pool queue"].p95 < old.p95


def test_a_place_takes_no_work_during_the_hand_over() -> None:
    slow_broker = simulate("pool queue", replace(MIXED, hand_over_ms=200))
    assert slow_broker.p50 > simulate("pool queue", MIXED).p50 + 150


def test_the_same_seed_gives_the_same_figures() -> None:
    for policy in POLICIES:
        assert simulate(policy, MIXED) == simulate(policy, MIXED)
        assert simulate(policy, MIXED) != simulate(policy, replace(MIXED, seed=2))


def test_the_times_come_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "times"
    path.write_text("100\n100\n")
    words = ["rig", "--times", str(path), "--boards=5", "--slow-share=0", "--load=0.01", "--hand-over-ms=0"]
    monkeypatch.setattr(sys, "argv", [*words, "--json"])
    assert main() == 0
    assert {round(row["p50"]) for row in json.loads(capsys.readouterr().out)["rows"]} == {100}
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0
    assert capsys.readouterr().out.count("100 ms") >= 2 * len(POLICIES)
    path.write_text("-1\n")
    with pytest.raises(SystemExit):
        main()
    assert "one number a line" in capsys.readouterr().err
