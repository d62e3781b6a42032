from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core import pipe
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.engine.step import step_costs
from edge_agent.engine.step.scheduler import StepCost
from tests.engine.prompt.test_field_prompts import trained
from tests.engine.runs import OpenLlama

__all__ = ["trained"]


class Board:
    """A clock that only steps move on, by what they cost here."""

    def __init__(self, cost_s: Callable[[int, int], float], head_s: Callable[[int], float] = lambda _: 0.0) -> None:
        self.cost_s = cost_s
        self.head_s = head_s
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def step(self, rows: int, outputs: int, threads: int) -> None:
        self.now += self.cost_s(rows, threads) + self.head_s(outputs)

    def costs(
        self, threads: list[int], prefill_threads: list[int] | None = None, *, max_rows: int = 128
    ) -> list[StepCost]:
        return step_costs.measure(
            self.step, threads=threads, prefill_threads=prefill_threads or threads, max_rows=max_rows, clock=self.clock
        )


def pi_5(rows: int, threads: int) -> float:
    """Bound by memory up to 8 rows, where threads are in each other's way, and by arithmetic beyond."""
    return max(0.029 * (1 + 0.1 * abs(threads - 2)), rows * 0.012 / threads)


def test_narrow_and_wide_steps_get_the_threads_that_are_fastest_for_them() -> None:
    costs = {cost.rows: cost for cost in Board(pi_5).costs([1, 2, 3, 4])}
    assert costs[1].threads == 2
    assert costs[64].threads == 4
    assert costs[64].seconds == pytest.approx(pi_5(64, 4))
    assert list(costs) == sorted(costs)


def test_steps_that_write_are_measured_with_the_logits_of_every_row() -> None:
    costs = Board(lambda *_: 0.1, lambda outputs: 0.01 * outputs).costs([1, 2])
    seconds = {cost.rows: cost.seconds for cost in costs}
    assert (seconds[1], seconds[8], seconds[16], seconds[64]) == pytest.approx((0.11, 0.18, 0.26, 0.11))


def test_given_threads_are_not_tried_against_others() -> None:
    costs = Board(lambda rows, _: rows / 1000).costs([2], [3])
    assert {cost.rows: cost.threads for cost in costs} == {cost.rows: 2 if cost.rows < 8 else 3 for cost in costs}


def test_a_slow_board_is_not_measured_for_ever() -> None:
    board = Board(lambda rows, _: rows * 0.5)
    costs = board.costs([1, 2, 3, 4])
    assert board.now < 5 * step_costs.MEASURE_S
    assert costs[0].rows == 1


def test_what_was_measured_is_kept_for_the_same_key_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "calibration.json"
    found = [StepCost(1, 2, 0.02)]
    step_costs.save_costs(path, "this model", found)
    assert step_costs.load_costs(path, "this model") == found
    assert step_costs.load_costs(path, "another") is None
    assert step_costs.load_costs(tmp_path / "nothing.json", "this model") is None


@pytest.mark.parametrize("content", ["", "{}", '{"key": "k", "costs": [{"heads": 1}]}', "[1]"])
def test_after_damage_to_the_file_steps_are_measured_again(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    assert step_costs.load_costs(path, "k") is None


def test_an_engine_measures_once_and_remembers(
    open_llama: OpenLlama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That is so although the configuration says what it can, because it cannot say which widths are worth it.
    settings: dict[str, Any] = {"state_dir": str(tmp_path), "sha256": "5ha"}
    first = open_llama(**settings)
    assert first.ready(0.0).measure_s > 0

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(step_costs, "measure", fail)
    again = open_llama(**settings)

    assert again.ready(0.0) == replace(first.ready(0.0), measure_s=again.ready(0.0).measure_s)
    assert again.ready(0.0).measure_s < first.ready(0.0).measure_s


def test_a_trained_model_has_one_thread(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_costs, "thread_counts", lambda _: [2])
    load = pipe.Load(model_path=str(trained), settings=pipe.EngineSettings(), state_dir=str(tmp_path))
    ready = LlamaEngine(load).ready(0.0)
    assert (ready.threads, ready.prefill_threads) == (1, 1)
