"""The score from which on a student answers alone."""

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.codes import CommandError
from edge_agent.core.model import Model
from edge_agent.core.pipe import Student
from edge_agent.learning import students
from edge_agent.learning.facts import StudentFacts
from edge_agent.learning.feedback import Mark
from edge_agent.learning.students import UNREACHABLE, RequestNotes, StudentChoice
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.tasks import with_built_in
from tests.helpers.support import MODEL, config, finished
from tests.learning.test_feedback import ON, TASK, Bench

LABELS = ("a", "b", "c")


def with_student(sha256: str = "5", labels: tuple[str, ...] = LABELS, **more: Any) -> Model:
    student = Student(
        name="student-t", path="", sha256=sha256, quantization="Q8_0", tasks={"t": labels, "gone": labels}, **more
    )
    return replace(MODEL, students=(student,))


class Cascade(Bench):
    """Answers of a student and of the large model, as the dispatcher gives them."""

    def __init__(self, folder: Path | None = None, text: str = TASK + "agree = 0.9\n") -> None:
        super().__init__(folder, text)
        self.students.set_model(with_student())
        self.number = 0

    @property
    def fact(self) -> StudentFacts:
        return self.students.facts()["t"]

    @property
    def choice(self) -> StudentChoice:
        found = self.students.choose(self.task)
        assert found is not None
        return found

    @property
    def least(self) -> float:
        return self.choice.min_score

    def reply(
        self, score: float, *, right: bool = True, choice: StudentChoice | None = None, value: Any = None
    ) -> bool:
        """A request whose student answers "a" with this score; the large model answers "a", or if not right "b"."""
        self.number += 1
        choice = choice or self.choice
        is_alone = score >= choice.min_score and not choice.is_audit
        of_student = finished(1, text=None, scores={"a": score, "b": (1 - score) / 2, "c": (1 - score) / 2})
        of_model = replace(of_student, scores={"a": 0.1, "b": 0.8, "c": 0.1}) if not right else of_student
        request = Request(
            task_name="t", reply_topic="r", correlation=None, id=self.number, key=b"", may_be_duplicate=True,
            is_redelivery=False, arrived_at=0.0, task=self.task, answerer="student-t" if is_alone else LARGE,
            notes=RequestNotes(value, choice, None if is_alone else of_student),
        )  # fmt: skip
        event = of_student if is_alone else of_model
        return self.learning.final_answer(request, event, time.monotonic()).please_check

    def audit(self, score: float = 0.9, *, right: bool = True) -> None:
        """A request that is drawn for an audit by the large model."""
        self.reply(score, right=right, choice=StudentChoice("student-t", UNREACHABLE, is_audit=True))

    def settle(self) -> None:
        for _ in range(400):
            self.learning.tick(time.monotonic() + 10)
            if self.students._assessing is None and all(one.due_at is None for one in self.students._tracked.values()):
                return
            time.sleep(0.005)
        raise AssertionError("it does not settle")


@pytest.fixture(autouse=True)
def _without_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students, "AUDIT_SHARE", 0.0)


def test_a_task_without_a_student_chooses_none() -> None:
    bench = Bench()
    assert bench.students.choose(bench.task) is None
    assert bench.students.facts() == {}


def test_the_large_model_answers_all_until_agreement_is_proven_and_then_the_sure_ones_are_the_students() -> None:
    cascade = Cascade()
    cascade.settle()
    assert cascade.choice == StudentChoice("student-t", UNREACHABLE, is_audit=True)
    draw = random.Random(1)
    for _ in range(300):
        score = draw.uniform(0.4, 1)
        # Below 0.7 it agrees half of the time.
        cascade.reply(score, right=score > 0.7 or draw.random() < 0.5)
    cascade.settle()
    assert 0.5 < cascade.least < 0.8
    assert not cascade.choice.is_audit
    fact = cascade.fact
    assert (fact.student, fact.share, fact.audits, fact.promised) == ("student-t", 0.0, 300, 0.9)
    assert fact.accuracy is not None
    assert 0.7 < fact.accuracy < 0.9
    cascade.reply(0.9)
    assert cascade.fact.share == pytest.approx(1 / 301)


def test_what_a_proven_student_answers_or_passes_on_is_no_audit_and_does_not_move_the_least_score() -> None:
    cascade = Cascade(text=ON + TASK + "agree = 0.9\n")
    for _ in range(100):
        cascade.audit(0.75)
    cascade.settle()
    for _ in range(400):
        cascade.reply(0.95)
        cascade.reply(0.3, choice=StudentChoice("student-t", 0.5), right=False)
    cascade.students._tracked["t"].due_at = 0.0
    cascade.settle()
    assert (cascade.least, cascade.fact.audits) == (0.0, 100)


def test_requests_are_drawn_for_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    cascade = Cascade()
    for _ in range(100):
        cascade.audit()
    cascade.settle()
    monkeypatch.setattr(students, "AUDIT_SHARE", 0.5)
    assert 30 < sum(cascade.choice.is_audit for _ in range(100)) < 70


@pytest.mark.expects_warning
def test_a_student_that_agrees_less_proves_itself_again() -> None:
    cascade = Cascade()
    for _ in range(200):
        cascade.audit()
    cascade.settle()
    assert cascade.least == 0.0
    for _ in range(100):
        cascade.audit(right=False)
    cascade.settle()
    assert cascade.least == UNREACHABLE
    for _ in range(100):
        cascade.audit()
    cascade.settle()
    assert (cascade.least, cascade.fact.audits) == (0.0, 100)


def test_what_is_proven_outlives_the_agent_but_not_another_student(tmp_path: Path) -> None:
    cascade = Cascade(tmp_path)
    for _ in range(100):
        cascade.audit()
    cascade.settle()
    cascade.store.commit()
    cascade.store.close()
    again = Cascade(tmp_path)
    again.settle()
    assert again.least == 0.0
    again.students.set_model(with_student("6"))
    again.settle()
    assert again.least == UNREACHABLE


def test_answers_of_a_definition_that_is_gone_prove_nothing() -> None:
    cascade = Cascade()
    settings = config(TASK + 'agree = 0.9\nsystem = "Sort."\n')
    cascade.learning.reconfigure(settings, with_built_in(settings.tasks))
    # Requests of the old one that still run.
    for _ in range(100):
        cascade.audit()
    cascade.students._tracked["t"].due_at = 0.0
    cascade.settle()
    assert (cascade.fact.audits, cascade.fact.least_score) == (0, None)


def test_with_agree_1_the_large_model_answers_all() -> None:
    assert Cascade(text=TASK + "agree = 1\n").students.choose(Cascade().task) is None


@pytest.mark.expects_warning
def test_a_student_of_other_labels_or_another_template_is_not_asked() -> None:
    cascade = Cascade()
    for other in (with_student(labels=("a", "b", "d")), with_student(templates={"t": "{{ input.other }}"})):
        cascade.students.set_model(other)
        assert cascade.students.choose(cascade.task) is None
    cascade.students.set_model(with_student(templates={"t": cascade.task.config.template}))
    assert cascade.students.choose(cascade.task) is not None


def test_no_name_of_a_request_is_kept_where_feedback_is_off() -> None:
    cascade = Cascade()
    cascade.reply(0.9, value={"secret": 1})
    assert cascade.store.select("SELECT id, reply_topic, input FROM answers") == [("", "", None)]


def test_old_answers_of_a_student_are_forgotten() -> None:
    cascade = Cascade(text=ON.replace("true", "true\nkeep = 100") + TASK)
    for _ in range(200):
        cascade.reply(0.9, choice=StudentChoice("student-t", 0.5))
    [(count,)] = cascade.store.select("SELECT count(*) FROM answers")
    assert count == 100


def test_a_promised_accuracy_is_proven_by_callers_and_not_by_the_large_model() -> None:
    cascade = Cascade(text=ON + TASK + "min_accuracy = 0.9\naudit_rate = 1.0\n")
    for _ in range(students.ASSESS_EVERY):
        assert cascade.reply(0.9, right=False)
        # The large model was wrong, the student right.
        cascade.mark(cascade.number, "a")
    cascade.settle()
    assert (cascade.fact.audits, cascade.fact.accuracy) == (students.ASSESS_EVERY, 1.0)
    for _ in range(students.ASSESS_EVERY):
        cascade.reply(0.9)
        cascade.mark(cascade.number, "a")
    cascade.settle()
    assert (cascade.least, cascade.fact.promised) == (0.0, 0.9)
    # One that the student answers alone is audited, too.
    assert cascade.reply(0.9, value="hums")
    assert cascade.mark(cascade.number, "b")["is_right"] is False
    cascade.students._tracked["t"].due_at = 0.0
    cascade.settle()
    assert cascade.fact.audits == 2 * students.ASSESS_EVERY + 1


def test_feedback_on_an_answer_of_the_student_is_taken() -> None:
    cascade = Cascade(text=ON + TASK)
    cascade.reply(0.9, choice=StudentChoice("student-t", 0.5), value="hums")
    assert cascade.mark(cascade.number, "b") == {"task": "t", "output": "a", "answer": "b", "is_right": False}
    rows = cascade.store.select("SELECT task, input, is_marked, label FROM answers")
    assert rows == [("t/student-t", b'"hums"', 1, "b")]
    assert cascade.feedback.mark("t", Mark(id=cascade.number, correct=True), 0.0)["is_right"]


def test_no_caller_overrides_what_the_large_model_judged() -> None:
    cascade = Cascade(text=ON + TASK + "agree = 0.9\n")
    for _ in range(students.ASSESS_EVERY):
        cascade.reply(0.9, right=False)
        cascade.mark(cascade.number, "a")
    cascade.settle()
    assert cascade.fact.accuracy == 0.0
    with pytest.raises(CommandError):
        cascade.mark("", "a")


def test_with_feedback_off_a_promised_accuracy_cannot_be_proven_so_the_student_is_not_asked() -> None:
    cascade = Cascade(text=TASK + "min_accuracy = 0.9\naudit_rate = 1.0\n")
    assert cascade.students.choose(cascade.task) is None
