"""How near numbers with feedback are to the true ones, and how often their intervals hold these."""

import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.kinds.estimate import EstimateTask
from edge_agent.core.pipe import Finish
from edge_agent.learning import answers, estimates
from edge_agent.learning.answers import read_answers, read_open_audits
from edge_agent.learning.commands.rows import rows_of
from edge_agent.requests.request import LARGE
from edge_agent.status.alarms import UNKNOWN
from tests.helpers.learning import LearningBench
from tests.helpers.support import config, finished

TASK = """
[feedback]
enabled = true
keep_inputs = true
[tasks.t]
kind = "estimate"
minimum = 0
audit_rate = 1
"""
# The median is 20, and the interval 10 to 40.
SCORES = {"0.0..10.0": 0.1, "10.0..20.0": 0.4, "20.0..40.0": 0.4, "40.0..90.0": 0.1}


class Bench(LearningBench):
    def __init__(self, folder: Path, text: str = TASK) -> None:
        super().__init__(folder, text)

    def answer(self, number: int, *, unlike: float | None = None, audit: bool = True) -> bool:
        """Gives an answer; returns whether the caller is asked to check it."""
        request = self.request(number, audit=audit)
        assert self.learning.first(request, is_large_refused=False) == LARGE
        request.answerer = LARGE
        event = finished(1, finish=Finish.MODEL, text=None, scores=SCORES, unlike=unlike)
        return self.learning.final_answer(request, event, time.monotonic()).please_check

    @property
    def accuracy(self) -> dict[str, Any]:
        found: dict[str, Any] = self.learning.as_health(0.0)["accuracy"]["t"]
        return found


def test_true_numbers_of_audits_measure_the_error_and_the_intervals(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.accuracy["mean_error"] is None
    assert [bench.answer(number) for number in range(6)] == [True] * 6
    assert not bench.answer(6, audit=False)
    assert bench.mark(0, answer=22)["data"] == {"task": "t", "output": 20, "answer": 22, "is_right": True, "by": None}
    result = bench.mark(1, answer="30.5", by="Ana")
    assert result["data"] == {"task": "t", "output": 20, "answer": 30.5, "is_right": False, "by": "Ana"}
    bench.mark(3, answer=45)
    known = bench.accuracy
    assert known["mean_error"] == pytest.approx((2 + 10.5 + 25) / 3)
    assert known["holds"] == known["holds_recent"] == pytest.approx(2 / 3)
    assert (known["asked"], known["audits"], known["feedback"]) == (6, 3, 0)
    assert (known["open"], known["missed"]) == (3, 1)
    # The newest feedback counts.
    bench.mark(3, answer=20)
    assert bench.accuracy["holds"] == 1


def test_intervals_that_hold_too_few_true_numbers_raise_an_alarm_until_new_audits_show_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    assert bench.learning.findings(0.0)["accuracy-low"] == UNKNOWN
    for number in range(12):
        bench.answer(number)
        bench.mark(number, answer=30 if number < 6 else 80)
        if number == 5:
            assert bench.learning.findings(0.0)["accuracy-low"] is None
    finding = bench.learning.findings(0.0)["accuracy-low"]
    assert finding is None
    for number in range(12, 18):
        bench.answer(number)
        bench.mark(number, answer=80)
    finding = bench.learning.findings(0.0)["accuracy-low"]
    assert finding is not None
    assert finding.message.startswith("intervals of task t hold 6 of the newest 18 true numbers, and should hold 80%")
    monkeypatch.setattr(estimates, "MAX_AUDITS", 10)
    for number in range(18, 60):
        bench.answer(number)
        bench.mark(number, answer=30)
    assert bench.learning.findings(0.0)["accuracy-low"] is None
    known = bench.accuracy
    assert (known["holds"], known["holds_recent"], known["mean_error_recent"]) == (0.8, 1.0, 10.0)


def test_an_export_has_numbers_and_intervals(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(3):
        bench.answer(number, unlike=1.0 if number == 2 else None)
    bench.mark(1, answer="30.5")
    page = bench.learning.export("t", after=0, limit=2)
    assert (page["kind"], page["confidence"], page["next"]) == ("estimate", 0.8, 2)
    assert [(one["interval"], one["output"], one["label"]) for one in page["answers"]] == [
        ((10, 40), 20, None), ((10, 40), 20, 30.5),
    ]  # fmt: skip
    (last,) = bench.learning.export("t", after=2, limit=2)["answers"]
    assert (last["number"], last["interval"], last["output"], last["is_audit"]) == (3, None, None, True)


def test_what_is_known_outlives_the_process(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.answer(1)
    bench.mark(1, answer=22)
    bench.store.commit()
    bench.learning.reconfigure(config(TASK), bench.tasks)
    assert bench.accuracy["mean_error"] == 2


def test_feedback_that_was_not_asked_for_is_no_audit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TASK.replace("audit_rate = 1\n", ""))
    assert not bench.answer(1)
    bench.mark(1, answer=22)
    assert (bench.accuracy["audits"], bench.accuracy["feedback"]) == (0, 1)


def test_a_refused_reading_is_asked_about_but_measures_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.accuracy["given"] is None
    assert [bench.answer(number, unlike=1.0) for number in range(10)] == [True] * 10
    result = bench.mark(0, answer=80, by="Ana")
    assert result["data"] == {"task": "t", "output": None, "answer": 80, "is_right": None, "by": "Ana"}
    known = bench.accuracy
    assert (known["given"], known["mean_error"], known["holds"], known["audits"]) == (0, None, None, 1)
    assert bench.learning.findings(0.0)["accuracy-low"] == UNKNOWN
    # Six that are outside their intervals would raise the alarm.
    for number in range(2, 9):
        bench.mark(number, answer=80)
    bench.answer(10)
    bench.mark(10, answer=22)
    known = bench.accuracy
    assert (known["mean_error"], known["mean_error_recent"], known["holds"], known["holds_recent"]) == (2, 2, 1, 1)
    assert (known["asked"], known["audits"], known["open"], known["missed"]) == (11, 9, 2, 2)
    assert bench.learning.findings(0.0)["accuracy-low"] is None


def test_refused_readings_push_no_judged_ones_out_of_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "MAX_AUDITS", 2)
    bench = Bench(tmp_path)
    for number in range(4):
        bench.answer(number, unlike=None if number < 2 else 1.0)
        bench.mark(number, answer=30)
    assert (bench.accuracy["mean_error_recent"], bench.accuracy["audits"]) == (10, 4)


def test_the_share_that_gets_a_number_is_that_of_the_newest_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "NEWEST_ANSWERS", 4)
    bench = Bench(tmp_path, TASK.replace("audit_rate = 1\n", ""))
    for number in range(5):
        assert not bench.answer(number, unlike=1.0 if number in (0, 3) else None)
    bench.mark(2, answer=22)
    bench.mark(3, answer=22)
    assert bench.accuracy["given"] == 0.75
    assert bench.accuracy["feedback"] == 2


def test_an_input_unlike_training_that_gets_its_answer_is_judged(tmp_path: Path) -> None:
    bench = Bench(tmp_path, f'{TASK}outside = "answer"\n')
    assert bench.answer(1, unlike=1.0)
    assert bench.mark(1, answer=22)["data"]["is_right"]
    assert (bench.accuracy["given"], bench.accuracy["holds"]) == (1, 1)


@pytest.mark.parametrize("answer", [-1, "soon", True])
def test_what_is_no_number_of_the_task_is_refused(tmp_path: Path, answer: Any) -> None:
    bench = Bench(tmp_path)
    bench.answer(1)
    assert bench.mark(1, answer=answer)["error"]["code"] == "bad_field"


def test_true_numbers_become_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.answer(1)
    bench.answer(2)
    bench.answer(3, unlike=1.0)
    bench.answer(4, unlike=1.0)
    bench.mark(1, answer=22)
    bench.mark(3, answer=80)
    bench.store.commit()
    answers = read_answers(bench.store.select, "t")
    rows, left_out = rows_of("t", answers, EstimateTask(kind="estimate"))
    assert [(row["input"], row["answer"]) for row in rows] == [({"n": 1}, 22.0), ({"n": 3}, 80.0)]
    assert left_out == {"no_feedback": 2}
    assert [answer.id for answer in read_open_audits(bench.store.select, "t", answers)[0]] == ["2", "4"]
