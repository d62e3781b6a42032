"""From which score on a student answers alone."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.model import Model
from edge_agent.core.pipe import NEVER, Run, Student, StudentAnswer
from edge_agent.feedback import students
from edge_agent.feedback.feedback import Mark
from edge_agent.feedback.students import StudentFacts
from edge_agent.requests.request import Request
from tests.feedback.test_feedback import ON, TASK, Bench
from tests.helpers.support import MODEL, finished

STUDENT = Student(name="student-t", path="student-t.gguf", sha256="5", quantization="Q8_0")


def with_student(sha256: str = "5") -> Model:
    return Model(
        **{name: getattr(MODEL, name) for name in ("key", "source", "path", "bundle_name", "sha256", "quantization")},
        size_bytes=1,
        students=(Student(name="student-t", path="student-t.gguf", sha256=sha256, quantization="Q8_0"),),
    )


class Cascade(Bench):
    """Answers of a student and of the large model, as the dispatcher gives them."""

    def __init__(self, folder: Path | None = None, text: str = TASK + "agree = 0.9\n") -> None:
        super().__init__(folder, text)
        self.feedback.students.set_students(with_student(), {"t": "student-t"})
        self.number = 0

    @property
    def fact(self) -> StudentFacts:
        return self.feedback.students.facts()["t"]

    @property
    def least(self) -> float | None:
        return self.feedback.students.least_score(self.task)

    def reply(self, score: float, *, right: bool = True, least: float | None = None, value: Any = None) -> bool:
        """A request whose student answers "a" with this score; the large model answers "a", or if not right "b"."""
        self.number += 1
        least = self.least if least is None else least
        assert least is not None
        stands = score >= least
        scores = {"a": score, "b": (1 - score) / 2, "c": (1 - score) / 2}
        own = scores if stands or right else {"a": 0.1, "b": 0.8, "c": 0.1}
        run = Run(id=1, task="t", messages=(), plan=None, student_least=least)  # type: ignore[arg-type]
        request = Request(
            task_name="t", reply_topic="r", correlation=None, id=self.number, key=b"", may_be_duplicate=True,
            is_redelivery=False, arrived_at=0.0, task=self.task, input=value, run=run,
        )  # fmt: skip
        answer = StudentAnswer(name="student-t", scores=scores, stands=stands)
        event = finished(1, text=None, scores=own, student=answer)
        _, output = self.scoring.scored(self.task, event)
        return self.feedback.keep(request, event, output, time.monotonic())

    def settle(self) -> None:
        for _ in range(400):
            self.feedback.tick(time.monotonic() + 10)
            known = self.feedback.students
            if known._assessing is None and all(one.fresh < students.ASSESS_EVERY for one in known._tracked.values()):
                return
            time.sleep(0.005)
        raise AssertionError("it does not settle")


@pytest.fixture(autouse=True)
def _without_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students, "AUDIT_SHARE", 0.0)


def test_a_task_without_a_student_has_no_least_score() -> None:
    bench = Bench()
    assert bench.feedback.students.least_score(bench.task) is None
    assert bench.feedback.students.facts() == {}


def test_the_large_model_answers_all_until_agreement_is_proven_and_then_the_sure_ones_are_the_students() -> None:
    cascade = Cascade()
    cascade.settle()
    assert cascade.least == NEVER
    draw = random.Random(1)
    for _ in range(300):
        score = draw.uniform(0.4, 1)
        # Below 0.7 it agrees half of the time.
        cascade.reply(score, right=score > 0.7 or draw.random() < 0.5)
    cascade.settle()
    assert cascade.least is not None
    assert 0.5 < cascade.least < 0.8
    fact = cascade.fact
    assert (fact.student, fact.share, fact.audits, fact.promised) == ("student-t", 0.0, 300, 0.9)
    assert fact.accuracy is not None
    assert 0.7 < fact.accuracy < 0.9
    cascade.reply(0.9)
    assert cascade.fact.share == pytest.approx(1 / 301)


def test_what_a_proven_student_passes_on_is_no_audit() -> None:
    cascade = Cascade()
    for _ in range(100):
        cascade.reply(0.9)
    cascade.settle()
    assert cascade.least == 0.0
    for _ in range(50):
        cascade.reply(0.3, right=False, least=0.5)
    cascade.settle()
    assert cascade.fact.audits == 100
    # One that is drawn is.
    cascade.reply(0.3, right=False, least=NEVER)
    cascade.feedback.students._tracked["t"].fresh = students.ASSESS_EVERY
    cascade.settle()
    assert cascade.fact.audits == 101


@pytest.mark.expects_warning
def test_a_student_that_agrees_less_proves_itself_again() -> None:
    cascade = Cascade()
    for _ in range(200):
        cascade.reply(0.9, least=NEVER)
    cascade.settle()
    assert cascade.least == 0.0
    for _ in range(100):
        cascade.reply(0.9, right=False, least=NEVER)
    cascade.settle()
    assert cascade.least == NEVER
    for _ in range(100):
        cascade.reply(0.9, least=NEVER)
    cascade.settle()
    assert cascade.least == 0.0
    assert cascade.fact.audits == 100


def test_what_is_proven_outlives_the_agent_but_neither_another_student_nor_another_task(tmp_path: Path) -> None:
    cascade = Cascade(tmp_path)
    for _ in range(100):
        cascade.reply(0.9)
    cascade.settle()
    cascade.store.commit()
    cascade.store.close()
    again = Cascade(tmp_path)
    again.settle()
    assert again.least == 0.0
    again.feedback.students.set_students(with_student("6"), {"t": "student-t"})
    again.settle()
    assert again.least == NEVER


def test_no_name_of_a_request_is_kept_where_feedback_is_off() -> None:
    cascade = Cascade()
    cascade.reply(0.9, value={"secret": 1})
    assert cascade.store.select("SELECT id, reply_topic, input FROM answers") == [("", "", None)]


def test_a_promised_accuracy_is_proven_by_callers_and_not_by_the_large_model() -> None:
    text = ON + TASK + "min_accuracy = 0.9\naudit_rate = 1.0\n"
    cascade = Cascade(text=text)
    for _ in range(60):
        assert cascade.reply(0.9, right=False)
        # The large model was wrong, the student right.
        cascade.mark(cascade.number, "a")
    cascade.settle()
    assert cascade.least == 0.0
    assert (cascade.fact.audits, cascade.fact.accuracy, cascade.fact.promised) == (60, 1.0, 0.9)
    # One that the student answers alone is audited, too.
    assert cascade.reply(0.9, value="hums")
    assert cascade.mark(cascade.number, "b")["is_right"] is False
    cascade.settle()
    assert cascade.fact.audits == 61


def test_feedback_on_an_answer_of_the_student_is_taken() -> None:
    cascade = Cascade(text=ON + TASK)
    cascade.reply(0.9, least=0.5, value="hums")
    assert cascade.mark(cascade.number, "b") == {"task": "t", "output": "a", "answer": "b", "is_right": False}
    rows = cascade.store.select("SELECT task, input, is_marked, label FROM answers")
    assert rows == [("t/student-t", b'"hums"', 1, "b")]
    assert cascade.feedback.mark("t", Mark(id=cascade.number, is_correct=True), 0.0)["is_right"]


def test_with_feedback_off_a_promised_accuracy_cannot_be_proven_so_the_student_is_not_asked() -> None:
    assert Cascade(text=TASK + "min_accuracy = 0.9\naudit_rate = 1.0\n").least is None
