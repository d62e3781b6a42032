import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.clock import timestamp
from edge_agent.core.codes import CommandError
from edge_agent.core.envelope import Envelope
from edge_agent.core.model import Model
from edge_agent.core.pipe import Student
from edge_agent.core.score_map import ScoreMap
from edge_agent.gguf.field_table import fingerprint
from edge_agent.learning import audited, trial
from edge_agent.learning.answers import read_answers, read_open_audits
from edge_agent.learning.feedback import Mark
from edge_agent.learning.learning import Learning
from edge_agent.learning.maths.assessment import Assessment
from edge_agent.requests.request import Request
from edge_agent.requests.score_maps import ScoreMaps
from edge_agent.requests.tasks import Task, with_built_in
from edge_agent.status.alarms import Finding
from edge_agent.store.database import FILE
from edge_agent.store.store import Store
from tests.helpers.processes import wait_until
from tests.helpers.support import MODEL, config, finished

ON = "[feedback]\nenabled = true\n"
STUDENT = Student(name="s", path="s.gguf", sha256="5", quantization="q", tasks={"t": ("a", "b", "c")})
TASK = '[tasks.t]\nkind = "classify"\nlabels = ["a", "b", "c"]\n'


class Bench:
    """Feedback over a store, as the agent uses it."""

    def __init__(self, folder: Path | None = None, text: str = ON + TASK, *, model: str = "m1") -> None:
        settings = config(text)
        self.tasks = with_built_in(settings.tasks)
        self.store = Store(None if folder is None else folder / FILE, lambda _: None)
        self.store.start()
        self.of_model = replace(MODEL, sha256=model)
        self.learning = Learning(
            ScoreMaps(self.of_model, "s/d"), settings, self.tasks, self.store, self.of_model, lambda _: None
        )
        self.feedback, self.students = self.learning._feedback, self.learning._students
        self.events: list[tuple[str, dict[str, Any]]] = []

    @property
    def task(self) -> Task:
        return self.tasks["t"]

    def answer(
        self,
        number: int | str,
        scores: dict[str, float] | None = None,
        *,
        reply_topic: str = "r",
        value: Any = None,
        audit: bool = True,
        unlike: float | None = None,
    ) -> bool:
        """Gives an answer as the dispatcher does; returns whether the caller is asked to check it."""
        request = Request(
            task_name="t", reply_topic=reply_topic, correlation=None, id=number, key=b"", may_be_duplicate=True,
            is_redelivery=False, arrived_at=0.0, task=self.task, envelope=Envelope(input=value or "-"),
            may_be_audited=audit,
        )  # fmt: skip
        self.learning.first(request, is_large_refused=False)
        event = finished(1, text=None, scores=scores or {"a": 0.8, "b": 0.15, "c": 0.05}, unlike=unlike)
        self.last = self.learning.final_answer(request, event, time.monotonic())
        return self.last.please_check

    def mark(self, number: int | str, answer: str | None = None, *, task: str = "t", **more: Any) -> dict[str, Any]:
        return self.feedback.mark(task, Mark(id=number, answer=answer, **more), time.monotonic())

    def settle(self) -> None:
        """Waits until nothing is assessed any more."""

        def is_settled() -> bool:
            self.events += self.feedback.tick(time.monotonic() + 10)
            return self.feedback._assessing is None and all(
                one.due_at is None for one in self.feedback._tracked.values()
            )

        wait_until(is_settled, "it settles")

    def label_of(self, **scores: float) -> Any:
        event = finished(1, text=None, scores=scores)
        return self.learning._maps.scored(self.task, event)[1]


def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(CommandError) as caught:
        call()
    return caught.value.code, caught.value.message


def test_feedback_says_what_it_marked() -> None:
    bench = Bench()
    bench.answer(7)
    assert bench.mark(7, "b") == {"task": "t", "output": "a", "answer": "b", "is_right": False}
    assert bench.mark(7, "a")["is_right"]
    assert bench.mark(7, correct=True) == {"task": "t", "output": "a", "answer": "a", "is_right": True}
    assert bench.mark(7, correct=False) == {"task": "t", "output": "a", "answer": None, "is_right": False}


def test_a_label_may_be_typed_in_any_case_unless_two_labels_differ_by_it_alone() -> None:
    bench = Bench(text=ON + '[tasks.t]\nkind = "classify"\nlabels = ["Worn", "ok", "OK"]\n')
    bench.answer(7, {"Worn": 0.2, "ok": 0.5, "OK": 0.3})
    assert [bench.mark(7, text)["answer"] for text in ("worn", " WORN ", "OK")] == ["Worn", "Worn", "OK"]
    assert refusal(lambda: bench.mark(7, "Ok"))[0] == "bad_field"


def test_health_says_how_many_audits_wait_for_an_answer_and_since_when() -> None:
    bench = Bench(text=ON + TASK + "audit_rate = 1\n")

    def counts() -> tuple[int, int, int, bool]:
        health = bench.learning.as_health(0.0)["accuracy"]["t"]
        return health["asked"], health["open"], health["missed"], health["open_since"] is not None

    assert counts() == (0, 0, 0, False)
    for number in range(3):
        assert bench.answer(number)
    assert counts() == (3, 3, 0, True)
    bench.mark(1, "a")
    assert counts() == (3, 2, 1, True)
    bench.mark(0, "a")
    bench.mark(2, "a")
    assert counts() == (3, 0, 0, False)


def test_of_two_labels_the_other_one_is_right() -> None:
    bench = Bench(text=ON + '[tasks.t]\nkind = "classify"\nlabels = ["a", "b"]\n')
    bench.answer("x", {"a": 0.8, "b": 0.2})
    assert bench.mark("x", correct=False)["answer"] == "b"


def test_an_id_is_a_text_or_a_number_and_these_differ() -> None:
    bench = Bench()
    bench.answer(7)
    assert refusal(lambda: bench.mark("7", "a"))[0] == "not_found"


def test_feedback_that_cannot_be_joined_is_refused_with_words() -> None:
    bench = Bench()
    bench.answer(1, reply_topic="r1")
    bench.answer(1, reply_topic="r2")
    bench.answer(2)
    assert refusal(lambda: bench.mark(1, "a"))[0] == "ambiguous"
    assert bench.mark(1, "a", reply_to="r2")["is_right"]
    assert refusal(lambda: bench.mark(2, "d")) == ("bad_field", 'answer: should be one of a, b, c (got "d")')
    code, message = refusal(lambda: bench.mark(3, "a"))
    assert code == "not_found"
    assert "only the newest 1000 of each task are, for 90 days (got 3)" in message
    code, message = refusal(lambda: bench.mark(2, "a", task="generate"))
    assert (code, message) == ("unknown_task", 'task: should be one that takes feedback: t (got "generate")')


def test_an_answer_that_was_not_given_needs_the_right_label() -> None:
    bench = Bench(text=ON + TASK + "min_score = 0.9\n")
    bench.answer(1)
    assert refusal(lambda: bench.mark(1, correct=True))[0] == "bad_field"
    assert refusal(lambda: bench.mark(1, correct=False))[0] == "bad_field"
    assert bench.mark(1, "b") == {"task": "t", "output": None, "answer": "b", "is_right": None}


def test_an_audit_without_an_answer_counts_as_wrong_if_no_label_is_right() -> None:
    bench = Bench(text=ON + TASK + "audit_rate = 1\nmin_score = 0.9\n")
    assert bench.answer(1)
    assert refusal(lambda: bench.mark(1, correct=True))[0] == "bad_field"
    assert bench.mark(1, correct=False) == {"task": "t", "output": None, "answer": None, "is_right": None}
    bench.settle()
    health = bench.learning.as_health(0.0)["accuracy"]["t"]
    assert (health["accuracy"], health["audits"], health["open"]) == (0.0, 1, 0)
    assert bench.feedback.export("t", after=0, limit=9)["answers"][0]["label"] is None


def teach(bench: Bench, *, rows: int = 60) -> None:
    """The model says "a" with little difference where "b" is right; "c" is always right."""
    for number in range(rows):
        is_c = number % 3 == 0
        bench.answer(number, {"a": 0.2, "b": 0.1, "c": 0.7} if is_c else {"a": 0.5, "b": 0.4, "c": 0.1})
        bench.mark(number, "c" if is_c else "b")
    bench.settle()


def test_feedback_changes_answers_and_the_next_process_knows_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    teach(bench)
    assert bench.label_of(a=0.5, b=0.4, c=0.1) == "b"
    assert bench.label_of(a=0.2, b=0.1, c=0.7) == "c"
    name, event = bench.events[0]
    assert (name, event["new_map"]) == ("recalibration", True)
    assert bench.learning.describe(bench.task)["scores_from"] == "feedback"
    bench.store.commit()
    bench.store.close()

    again = Bench(tmp_path)
    assert again.label_of(a=0.5, b=0.4, c=0.1) == "b"
    again.settle()
    assert again.feedback.facts()["t"].feedback >= 50


def test_what_was_learnt_is_of_one_model_and_one_definition(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    teach(bench)
    bench.learning.set_model(replace(MODEL, sha256="m2"))
    assert bench.label_of(a=0.5, b=0.4, c=0.1) == "a"
    bench.learning.set_model(replace(MODEL, sha256="m1"))
    assert bench.label_of(a=0.5, b=0.4, c=0.1) == "b"
    bench.store.commit()
    bench.store.close()
    assert Bench(tmp_path, ON + TASK + 'system = "Sort."\n').label_of(a=0.5, b=0.4, c=0.1) == "a"


@pytest.mark.parametrize("audit_rate", [0, 0.5])
def test_feedback_of_wrong_answers_alone_changes_nothing(audit_rate: float) -> None:
    bench = Bench(text=f"{ON}{TASK}audit_rate = {audit_rate}\n")
    for number in range(60):
        is_audit = bench.answer(number)
        bench.mark(number, "a" if is_audit else "b")
        bench.settle()
    assert bench.label_of(a=0.5, b=0.4, c=0.1) == "a"


def test_switched_off_it_keeps_nothing_and_deletes_what_was_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    teach(bench)
    bench.store.commit()
    bench.store.close()

    off = Bench(tmp_path, TASK)
    assert not off.answer(1)
    assert off.feedback.facts() == {}
    assert off.label_of(a=0.5, b=0.4, c=0.1) == "a"
    assert [off.store.select(f"SELECT count(*) FROM {table}")[0][0] for table in ("answers", "accuracy")] == [0, 0]


def test_switched_off_by_a_reload_nothing_of_it_holds() -> None:
    bench = Bench()
    teach(bench)
    bench.learning.reconfigure(config(TASK), bench.tasks)
    assert bench.label_of(a=0.5, b=0.4, c=0.1) == "a"


def test_a_reload_keeps_what_is_proven() -> None:
    text = ON + TASK + "audit_rate = 1\nmin_accuracy = 0.9\n"
    bench = Bench(text=text)
    for number in range(80):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
        bench.mark(number, "a")
    bench.settle()
    assert bench.label_of(a=0.9, b=0.05, c=0.05) == "a"
    bench.learning.reconfigure(config(text + '[tasks.u]\nkind = "generate"\n'), bench.tasks)
    assert bench.label_of(a=0.9, b=0.05, c=0.05) == "a"
    assert bench.feedback.facts()["t"].audits == 80


def test_days_and_nights_are_no_shift_once_a_reload_has_the_answers_of_whole_days_compared() -> None:
    def settings(drift_answers: int) -> str:
        return f"{ON}keep = 3000\ndrift_answers = {drift_answers}\n{TASK}"

    bench = Bench(text=settings(200))
    for number in range(2400):
        is_day = number % 800 < 400
        bench.answer(number, {"a": 0.9 if is_day else 0.05, "b": 0.05 if is_day else 0.9, "c": 0.05})
    shifts = []
    for drift_answers in (200, 800, 200):
        bench.learning.reconfigure(config(settings(drift_answers)), bench.tasks)
        bench.settle()
        shifts.append(bench.feedback.facts()["t"].shift)
    assert [shift is not None for shift in shifts] == [True, False, True]


def test_only_so_many_answers_are_kept_with_and_without_feedback() -> None:
    bench = Bench(text="[feedback]\nenabled = true\nkeep = 100\n" + TASK)
    for number in range(500):
        bench.answer(number)
        if number % 2:
            bench.mark(number, "a")
    counts = dict(bench.store.select("SELECT is_marked, count(*) FROM answers GROUP BY is_marked"))
    assert all(75 <= counts[is_marked] <= 125 for is_marked in (0, 1))
    assert refusal(lambda: bench.mark(10, "a"))[0] == "not_found"


@pytest.mark.parametrize(("more", "kept"), [("", None), ("keep_inputs = true\n", b'{"hz":5}')])
def test_inputs_are_kept_only_where_the_configuration_says_so(more: str, kept: bytes | None) -> None:
    bench = Bench(text=ON + more + TASK)
    bench.answer(1, value={"hz": 5})
    assert bench.store.select("SELECT input FROM answers") == [(kept,)]


def test_a_share_of_the_answers_is_audited() -> None:
    bench = Bench(text=ON + TASK + "audit_rate = 0.2\n")
    asked = sum(bench.answer(number) for number in range(1000))
    assert 140 <= asked <= 260


def test_a_request_that_asks_for_no_audit_gets_none() -> None:
    bench = Bench(text=ON + TASK + "audit_rate = 1\n")
    assert [bench.answer(1, audit=False), bench.answer(2)] == [False, True]
    assert bench.mark(1, "a")["is_right"]
    bench.mark(2, "a")
    bench.settle()
    assert (bench.feedback.facts()["t"].asked, bench.feedback.facts()["t"].audits) == (1, 1)


def test_nothing_is_given_before_audits_prove_the_promise(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bench = Bench(text=ON + TASK + "audit_rate = 1\nmin_accuracy = 0.9\n")
    for number in range(80):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05} if number % 4 else {"a": 0.4, "b": 0.3, "c": 0.3})
    assert bench.label_of(a=0.9, b=0.05, c=0.05) is None
    bench.settle()
    assert bench.last.is_unproven
    assert "task t: min_accuracy = 0.9 is not proven: no answer is given until audits prove it" in caplog.text
    for number in range(80):
        bench.mark(number, "a" if number % 4 else "b")
    bench.settle()
    facts = bench.feedback.facts()["t"]
    assert (facts.asked, facts.audits, facts.promised, facts.given) == (80, 80, 0.9, 0.75)
    event = {"task": "t", "promised": 0.9, "asked": 80, "audits": 80, "held_out": 0}
    assert bench.events == [("promise-proven", event)]
    bench.answer(80, {"a": 0.4, "b": 0.3, "c": 0.3})
    assert (bench.last.output, bench.last.is_unproven) == (None, False)
    assert bench.label_of(a=0.9, b=0.05, c=0.05) == "a"
    assert bench.label_of(a=0.4, b=0.3, c=0.3) is None
    for number in range(81, 100):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05}, audit=False, unlike=0.1)
    bench.feedback.on_priors()
    bench.settle()
    facts = bench.feedback.facts()["t"]
    assert (facts.promised, facts.given) == (0.9, 60 / 100)  # as if these had too low a score


# 100 of 100 rows with a score of 0.9 and more were answered right, and 30 of 60 others.
HELD_OUT = ((0.95, 40, 40), (0.9, 60, 60), (0.4, 30, 60))
PROMISED = ON + TASK + "audit_rate = 1\nmin_accuracy = 0.9\n"


@pytest.mark.parametrize("faulty", ["_assessment", "in_background"])
def test_a_task_that_cannot_be_assessed_keeps_no_request_waiting(faulty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(text=PROMISED)
    monkeypatch.setattr(bench.feedback if faulty == "_assessment" else audited, faulty, lambda *_: 1 / 0)
    assert not bench.learning.is_judged
    with pytest.raises(ZeroDivisionError):
        bench.feedback.tick(time.monotonic())
    assert bench.learning.is_judged


@pytest.mark.expects_warning
def test_a_task_that_a_reload_adds_is_judged_before_the_others_are_assessed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(text=PROMISED)
    bench.settle()
    begun: list[Future[Assessment]] = []

    def begin(_name: str, _work: object) -> Future[Assessment]:
        begun.append(Future())
        return begun[-1]

    monkeypatch.setattr(audited, "in_background", begin)
    settings = config(PROMISED + PROMISED[len(ON) :].replace("[tasks.t]", "[tasks.u]"))
    bench.learning.reconfigure(settings, with_built_in(settings.tasks))
    bench.feedback.tick(time.monotonic())
    assert not bench.learning.is_judged
    begun[0].set_exception(ValueError("a fault"))
    bench.feedback.tick(time.monotonic())
    assert (bench.learning.is_judged, len(begun)) == (True, 2)


def test_a_promise_starts_from_rows_that_training_held_out() -> None:
    bench = Bench(text=PROMISED)
    bench.learning.set_model(replace(bench.of_model, held_out={"t": HELD_OUT}))
    assert bench.label_of(a=0.9, b=0.05, c=0.05) is None
    bench.settle()
    facts = bench.feedback.facts()["t"]
    assert (facts.audits, facts.promised, facts.is_unproven) == (0, 0.9, False)
    assert bench.label_of(a=0.9, b=0.05, c=0.05) == "a"
    assert bench.label_of(a=0.4, b=0.3, c=0.3) is None


def test_audits_that_contradict_the_held_out_rows_end_what_these_promise() -> None:
    for wrong, promised in ((1, 0.9), (2, None)):
        bench = Bench(text=PROMISED)
        bench.learning.set_model(replace(bench.of_model, held_out={"t": ((0.9, 297, 300),)}))
        for number in range(20):
            bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
            bench.mark(number, "b" if number < wrong else "a")
        bench.settle()
        assert bench.feedback.facts()["t"].promised == promised


def test_held_out_rows_say_nothing_about_a_fitted_map_or_after_a_drop() -> None:
    for change in ({"since": 1}, {"fitted": ScoreMap(("a", "b", "c"), (1.0, 1.0, 1.0), (0.5, 0.0, 0.0))}):
        bench = Bench(text=PROMISED)
        bench.learning.set_model(replace(bench.of_model, held_out={"t": HELD_OUT}))
        for name, value in change.items():
            setattr(bench.feedback._tracked["t"], name, value)
        bench.settle()
        assert bench.feedback.facts()["t"].is_unproven


def test_a_lower_accuracy_is_over_once_the_newest_audits_show_none(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(text=ON + TASK + "audit_rate = 1\n")
    tracked = bench.feedback._tracked["t"]

    def audit(numbers: range, label: str) -> float | None:
        for number in numbers:
            bench.answer(number)
            bench.mark(number, label)
        bench.settle()
        return tracked.dropped_from

    assert audit(range(100), "a") is None
    until = time.time()
    monkeypatch.setattr(time, "time", lambda: until)
    for number in range(100, 140):
        bench.answer(number)
    monkeypatch.setattr(time, "time", lambda: until + 60)
    for number in range(1000, 1010):
        bench.answer(number, audit=False)
    for number in range(100, 140):
        bench.mark(number, "b")
    bench.settle()
    assert tracked.dropped_from == 1.0
    finding = bench.learning.findings(0.0)["accuracy-low"]
    assert isinstance(finding, Finding)
    figures = f"(100% of the earlier audits were right, and then 0 of 40 until {timestamp(until)})"
    assert figures in finding.message
    assert audit(range(140, 160), "b") == 1.0
    assert audit(range(160, 190), "a") == 1.0
    assert audit(range(190, 260), "a") is None


@pytest.mark.expects_warning
def test_held_out_rows_that_audits_refuted_stay_refuted_under_another_definition() -> None:
    bench = Bench(text=PROMISED)
    model = replace(bench.of_model, held_out={"t": ((0.9, 297, 300),)})
    bench.learning.set_model(model)

    def promised(text: str) -> float | None:
        settings = config(text)
        bench.tasks = with_built_in(settings.tasks)
        bench.learning.reconfigure(settings, bench.tasks)
        bench.settle()
        return bench.feedback.facts()["t"].promised

    other = PROMISED + 'system = "has no effect on a trained model"\n'
    assert (promised(PROMISED), promised(other), promised(PROMISED)) == (0.9, 0.9, 0.9)
    for number in range(20):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
        bench.mark(number, "b" if number < 2 else "a")
    assert (promised(PROMISED), promised(other)) == (None, None)
    # It stays so until the audits of the definition under which they were refuted say something else.
    promised(PROMISED)
    bench.mark(0, "a")
    assert (promised(PROMISED), promised(other)) == (0.9, 0.9)


KEEPS = PROMISED.replace("enabled = true", "enabled = true\nkeep_inputs = true")


def audit(bench: Bench, numbers: Sequence[int], answered: Callable[[int], bool] = lambda _: True) -> None:
    """Audits of the model in force, which is never right."""
    for number in numbers:
        bench.answer(number, {"a": 0.1, "b": 0.8, "c": 0.1}, value={"x": number})
        if answered(number):
            bench.mark(number, "a")


def switch(bench: Bench, model: Model) -> list[int]:
    """Switches to a model that is always right; returns the inputs that it was asked."""
    requests = list(bench.learning.trial_requests(model))
    events = [finished(one.id, text=None, scores={"a": 0.9, "b": 0.05, "c": 0.05}) for one in requests]
    bench.learning.keep_trial(model, events)
    bench.learning.set_model(model)
    bench.settle()
    return [json.loads(one.messages[-1].content)["x"] for one in requests]


def learnt(*inputs: int) -> dict[str, bytes]:
    return {"t": b"".join(fingerprint(json.dumps({"x": one})) for one in inputs)}


@pytest.mark.expects_warning
def test_a_new_model_answers_the_audits_that_its_training_cannot_have_used(tmp_path: Path) -> None:
    bench = Bench(tmp_path, KEEPS)
    audit(bench, range(60))
    bench.settle()
    assert bench.feedback.facts()["t"].is_unproven
    new = replace(bench.of_model, sha256="m2", learnt_from=learnt(*range(0, 21, 5)))
    # Those up to the newest row of the training are no fair sample of the others, whichever it left out.
    assert switch(bench, new) == [*range(59, 20, -1)]
    facts = bench.feedback.facts()["t"]
    assert (facts.audits, facts.earlier, facts.accuracy, facts.promised) == (39, 39, 1.0, 0.9)
    assert bench.label_of(a=0.9, b=0.05, c=0.05) == "a"
    # What callers got stays, and each answer makes one row.
    kept = read_answers(bench.store.select, "t")
    assert (len(kept), {one.output for one in kept}) == (60, {None})
    # On the way back nothing is asked twice, only what came meanwhile.
    audit(bench, range(60, 65))
    assert switch(bench, replace(bench.of_model, learnt_from=learnt())) == [64, 63, 62, 61, 60]
    assert (bench.feedback.facts()["t"].audits, bench.feedback.facts()["t"].earlier) == (65, 5)


def test_what_a_new_model_gives_is_not_judged_by_what_the_one_before_gave() -> None:
    text = KEEPS.replace("min_accuracy = 0.9\n", "min_score = 0.7\n")
    bench = Bench(text=text)
    for number in range(20):
        bench.answer(number, {"a": 0.6, "b": 0.3, "c": 0.1}, value={"x": number}, unlike=0.1 if number < 5 else None)
        bench.mark(number, "a")
    new = replace(bench.of_model, sha256="m2", learnt_from=learnt())
    requests = list(bench.learning.trial_requests(new))
    scores = {"a": 0.9, "b": 0.05, "c": 0.05}
    refused = {one.id for one in requests[:2]}
    bench.learning.keep_trial(
        new, [finished(one.id, text=None, scores=scores, unlike=0.1 if one.id in refused else None) for one in requests]
    )
    bench.settle()
    assert bench.feedback.facts()["t"].given == 0
    bench.learning.set_model(new)
    bench.settle()
    assert bench.feedback.facts()["t"].given == 0.9
    exported = bench.feedback.export("t", after=0, limit=500)
    assert (exported["min_score"], {one["output"] for one in exported["answers"]}) == (0.7, {None})


def test_the_list_of_open_audits_has_those_that_health_counts() -> None:
    bench = Bench(text=KEEPS)
    audit(bench, range(6), lambda number: number == 2)

    def listed() -> tuple[list[int], int]:
        audits, outdated = read_open_audits(bench.store.select, "t", read_answers(bench.store.select, "t"))
        assert len(audits) == bench.feedback.audit_counts()["t"].open
        return [json.loads(each.id) for each in audits], outdated

    assert listed() == ([0, 1, 3, 4, 5], 0)
    switch(bench, replace(bench.of_model, sha256="m2"))
    audit(bench, [6], lambda _: False)
    assert listed() == ([6], 5)
    # This one was asked the audits of the first model again, but not those up to the newest row of its training.
    switch(bench, bench.of_model)
    switch(bench, replace(bench.of_model, sha256="m3", learnt_from=learnt(2)))
    assert listed() == ([3, 4, 5], 3)
    switch(bench, bench.of_model)
    tracked = bench.feedback._tracked["t"]
    tracked.since, tracked.audit_counts = 4, None  # as after a drop
    bench.feedback._table.save_state(tracked.basis, "t", tracked.document())
    assert listed() == ([4, 5], 4)


def test_an_earlier_audit_may_still_be_answered_by_its_caller() -> None:
    bench = Bench(text=KEEPS)
    audit(bench, range(40), lambda number: number < 35)
    switch(bench, replace(bench.of_model, sha256="m2", learnt_from=learnt()))
    # Unanswered ones count, because a choice of audits proves nothing.
    assert (bench.feedback.facts()["t"].asked, bench.feedback.facts()["t"].audits) == (35, 35)
    bench.mark(39, "a")
    bench.settle()
    facts = bench.feedback.facts()["t"]
    assert (facts.asked, facts.audits, facts.promised) == (40, 36, 0.9)


def test_a_new_model_answers_no_audits_from_both_sides_of_a_gap() -> None:
    bench = Bench(text=KEEPS.replace("enabled = true", "enabled = true\nkeep = 100"))
    audit(bench, range(300), lambda number: number < 60)
    assert switch(bench, replace(bench.of_model, sha256="m2", learnt_from=learnt())) == [*range(59, -1, -1)]
    for number in range(299, 199, -1):
        bench.mark(number, "a")
    bench.settle()
    assert bench.feedback.facts()["t"].audits == 60


def test_a_new_model_is_asked_nothing_where_it_is_unknown_what_training_used() -> None:
    bench = Bench(text=KEEPS)
    audit(bench, range(3))
    for model in (
        replace(bench.of_model, sha256="m2"),
        replace(bench.of_model, sha256="m2", learnt_from=learnt(), students=(STUDENT,)),
    ):
        assert switch(bench, model) == []
    bench = Bench(text=PROMISED)
    audit(bench, range(3))
    assert switch(bench, replace(bench.of_model, sha256="m2", learnt_from=learnt())) == []


def test_answers_to_another_definition_of_the_task_judge_no_new_model() -> None:
    bench = Bench(text=KEEPS)
    audit(bench, range(3))
    other = config(KEEPS + 'system = "Look again."\n')
    new = replace(bench.of_model, sha256="m2", learnt_from=learnt())
    requests = list(bench.learning.trial_requests(new))
    bench.learning.reconfigure(other, with_built_in(other.tasks))
    assert not list(bench.learning.trial_requests(new))
    bench.learning.keep_trial(
        new, [finished(one.id, text=None, scores={"a": 1.0, "b": 0.0, "c": 0.0}) for one in requests]
    )
    bench.learning.set_model(new)
    bench.settle()
    assert bench.feedback.facts()["t"].audits == 0


def test_so_many_audits_are_asked_again_and_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(text=KEEPS)
    audit(bench, range(6))
    new = replace(bench.of_model, sha256="m2", learnt_from=learnt())
    monkeypatch.setattr(trial, "MAX_REQUESTS", 4)
    assert switch(bench, new) == [5, 4, 3, 2]
    monkeypatch.setattr(trial, "MAX_S", -1.0)
    assert switch(bench, replace(new, sha256="m3")) == []


def test_a_choice_of_audits_proves_nothing() -> None:
    bench = Bench(text=ON + TASK + "audit_rate = 1\nmin_accuracy = 0.9\n")
    for number in range(160):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
        if number % 2:
            bench.mark(number, "a")
    bench.settle()
    facts = bench.feedback.facts()["t"]
    assert (facts.asked, facts.audits, facts.promised, facts.is_unproven) == (160, 80, None, True)
    assert bench.label_of(a=0.9, b=0.05, c=0.05) is None


def test_another_configured_map_ends_what_was_learnt(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    teach(bench)
    bench.store.commit()
    bench.store.close()
    table = "[tasks.t.score_map]\nscale = {a = 1, b = 1, c = 1}\nbias = {a = 9, b = 0, c = 0}\n"
    again = Bench(tmp_path, f'{ON}{TASK}{table}made_for = "{bench.task.basis_for("m1")}"\n')
    assert again.feedback.facts()["t"].feedback == 0
    assert again.learning._maps.in_force(again.task) == again.task.score_map


def test_an_export_has_the_map_in_force_and_pages_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.answer(1)
    page = bench.feedback.export("t", after=0, limit=1)
    assert (page["map"], page["prior"], page["next"], page["model"]) == (None, None, 1, "m1")
    teach(bench)
    monkeypatch.setattr("edge_agent.learning.feedback._PAGE_BYTES", 1000)
    numbers, after = [], 0
    while after is not None:
        page = bench.feedback.export("t", after=after, limit=500)
        assert len(page["answers"]) < 10
        assert list(page["map"]) == ["a", "b", "c"]
        numbers += [one["number"] for one in page["answers"]]
        after = page["next"]
    assert numbers == list(range(1, 62))


def test_an_export_without_feedback_or_task_is_refused() -> None:
    assert refusal(lambda: Bench(text=TASK).learning.export("t", after=0, limit=1))[0] == "not_enabled"
    assert refusal(lambda: Bench().feedback.export("generate", after=0, limit=1))[0] == "unknown_task"


def test_a_damaged_answer_is_left_out() -> None:
    bench = Bench()
    teach(bench)
    bench.store.write("UPDATE answers SET scores = replace(scores, '\"a\"', '\"A\"') WHERE number = 3")
    bench.store.write("UPDATE answers SET label = 'B' WHERE number = 4")
    bench.store.write("UPDATE answers SET scores = '{' WHERE number = 5")
    bench.answer("new")
    bench.mark("new", "a")
    bench.settle()
    assert [one["number"] for one in bench.feedback.export("t", after=0, limit=5)["answers"]] == [1, 2]


def test_a_map_of_the_configuration_may_name_its_labels_in_any_order() -> None:
    table = "[tasks.t.score_map]\nscale = {c = 1, b = 1, a = 1}\nbias = {c = 3, b = 2, a = 1}\n"
    found = Bench(text=f"{ON}{TASK}{table}made_for = '0123456789abcdef'\n").task.score_map
    assert found is not None
    assert (found.labels, found.biases) == (("a", "b", "c"), (1.0, 2.0, 3.0))


def test_a_promise_does_not_come_true_by_forgetting_the_audits_that_nobody_answered(tmp_path: Path) -> None:
    text = "[feedback]\nenabled = true\nkeep = 100\n" + TASK + "audit_rate = 0.5\nmin_accuracy = 0.9\n"
    bench = Bench(tmp_path, text)
    number = answered = 0
    while answered < 60:
        number += 1
        # Only every fourth answer is wrong, and nobody says so.
        if bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05}) and number % 4:
            bench.mark(number, "a")
            answered += 1
    bench.settle()
    for more in range(number + 1, number + 1001):
        bench.answer(more, {"a": 0.9, "b": 0.05, "c": 0.05})
        if more % 50 == 0:
            bench.settle()
            assert bench.feedback.facts()["t"].promised is None
    bench.store.commit()
    bench.store.close()
    again = Bench(tmp_path, text)
    again.settle()
    assert again.feedback.facts()["t"].promised is None
    assert again.label_of(a=0.9, b=0.05, c=0.05) is None


@pytest.mark.expects_warning
@pytest.mark.parametrize(("first", "then", "promised"), [(0.9, 0.97, 0.9), (0.97, 0.9, None)])
def test_without_new_evidence_other_answers_neither_end_nor_begin_a_promise(
    tmp_path: Path, first: float, then: float, promised: float | None
) -> None:
    text = "[feedback]\nenabled = true\nkeep = 100\n" + TASK + "audit_rate = 1\nmin_accuracy = 0.9\n"
    bench = Bench(tmp_path, text)

    def answer_others(score: float) -> None:
        for number in range(1000, 1150):
            bench.answer(number, {"a": score, "b": 1 - score, "c": 0.0}, audit=False)
        bench.feedback._tracked["t"].due_at = 0.0
        bench.settle()

    # Audits prove the promise from a score of 0.9, and nothing at 0.97, which none reaches, or at 0.
    for number in range(80):
        bench.answer(number, {"a": 0.9, "b": 0.1, "c": 0.0} if number % 4 else {"a": 0.4, "b": 0.3, "c": 0.3})
        bench.mark(number, "a" if number % 4 else "b")
    answer_others(first)
    assert bench.feedback.facts()["t"].promised == promised
    bench.events.clear()
    answer_others(then)
    bench.store.commit()
    bench.store.close()
    bench = Bench(tmp_path, text)
    answer_others(then)
    assert (bench.feedback.facts()["t"].promised, bench.events) == (promised, [])
    # The next answered audit is evidence.
    bench.answer(80, {"a": 0.9, "b": 0.1, "c": 0.0})
    bench.mark(80, "a")
    bench.settle()
    assert [(name, event.get("why")) for name, event in bench.events] == [
        ("promise-lost", "audits") if promised else ("promise-proven", None)
    ]


def test_a_promise_of_a_model_that_opens_only_after_the_start_is_not_proven_again(tmp_path: Path) -> None:
    text = ON + TASK + "audit_rate = 1\nmin_accuracy = 0.9\n"
    bench = Bench(tmp_path, text)
    for number in range(60):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
        bench.mark(number, "a")
    bench.settle()
    assert [name for name, _ in bench.events] == ["promise-proven"]
    bench.store.commit()
    bench.store.close()
    bench = Bench(tmp_path, text, model="")
    bench.settle()
    bench.learning.set_model(replace(MODEL, sha256="m1"))
    bench.settle()
    assert (bench.feedback.facts()["t"].promised, bench.events) == (0.9, [])


@pytest.mark.expects_warning
def test_a_promise_lasts_while_nobody_answers_and_ends_with_the_next_answer_after_a_gap(tmp_path: Path) -> None:
    text = "[feedback]\nenabled = true\nkeep = 100\n" + TASK + "audit_rate = 1\nmin_accuracy = 0.9\n"
    bench = Bench(tmp_path, text)
    for number in range(300):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
        if number < 60:
            bench.mark(number, "a")
    bench.settle()
    assert bench.feedback.facts()["t"].promised == 0.9
    bench.store.commit()
    bench.store.close()
    again = Bench(tmp_path, text)
    again.settle()
    assert (again.feedback.facts()["t"].audits, again.feedback.facts()["t"].promised) == (60, 0.9)
    # Of 240 more the oldest are gone, but that nobody answered those must not be forgotten.
    again.mark(299, "a")
    again.settle()
    facts = again.feedback.facts()["t"]
    assert (facts.audits, facts.promised) == (1, None)
    # New ones prove it anew.
    for number in range(300, 2300):
        again.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
        again.mark(number, "a")
    again.settle()
    assert again.feedback.facts()["t"].promised == 0.9


@pytest.mark.expects_warning
@pytest.mark.parametrize("held_out", [{}, {"t": HELD_OUT}])
def test_a_promise_ends_when_nobody_has_answered_its_audits_for_a_week(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, held_out: dict[str, Any]
) -> None:
    # With 1,000 audits in a few hours, the oldest of those that wait are soon deleted.
    text = "[feedback]\nenabled = true\nkeep = 100\n" + TASK + "audit_rate = 1\nmin_accuracy = 0.9\n"
    clock, days, later_s = time.time, 0.0, 0.0
    monkeypatch.setattr(time, "time", lambda: clock() + days * 86_400)

    def start() -> Bench:
        bench = Bench(tmp_path, text)
        bench.learning.set_model(replace(bench.of_model, held_out=held_out))
        bench.settle()
        return bench

    def state() -> tuple[float | None, bool, bool, int]:
        nonlocal later_s
        # It is assessed every hour.
        later_s += 3700
        assert not bench.feedback.tick(time.monotonic() + later_s)
        bench.settle()
        reasons = bench.learning.reasons()
        missed = bench.learning.as_health(0.0)["accuracy"]["t"]["missed"]
        return bench.feedback.facts()["t"].promised, reasons["audits-open"], reasons["promise-unproven"], missed

    bench = start()
    answered = 0 if held_out else 60
    for number in range(answered):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
        bench.mark(number, "a")
    # More than one in ten wait for their answers for a shift, one of them asked before the clock was set.
    for number in range(answered, answered + 20):
        days = -10_000.0 if number == 60 else 0.0
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
    assert state() == (0.9, False, False, 0)
    days = 7.5 / 24
    assert state() == (0.9, False, False, 0)
    days = 1.5
    assert state() == (0.9, True, False, 0)
    for number in range(answered + 20, 400):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
    assert state() == (0.9, True, False, 0)
    until = bench.feedback.facts()["t"].until
    assert (until is None) == bool(held_out)
    # The next process knows since when they wait, although the oldest are gone.
    bench.store.commit()
    bench.store.close()
    bench = start()
    days = 6.9
    for number in range(400, 600):
        bench.answer(number, {"a": 0.9, "b": 0.05, "c": 0.05})
    assert state() == (0.9, True, False, 0)
    days = 7.1
    promised, is_open, is_unproven, missed = state()
    assert (promised, is_open, is_unproven) == (None, False, True)
    assert missed >= 100
    assert "no answer is given until audits prove it" in caplog.text
    name, lost = bench.events[-1]
    assert (name, lost["task"], lost["promised"], lost["audits"]) == ("promise-lost", "t", 0.9, answered)
    assert lost["why"] == "unanswered"
    # It was proven before this process began.
    assert [name for name, _ in bench.events] == ["promise-lost"]
    assert bench.feedback.export("t", after=0, limit=1)["is_overdue"]
    assert bench.label_of(a=0.9, b=0.05, c=0.05) is None


def test_open_audits_have_room_of_their_own() -> None:
    bench = Bench(text=f"[feedback]\nenabled = true\nkeep = 100\n{TASK}audit_rate = 0.1\n")
    asked = [number for number in range(700) if bench.answer(number)]
    assert bench.learning.as_health(0.0)["accuracy"]["t"]["open"] == len(asked)
    for number in asked:
        bench.mark(number, "a")
    bench.settle()
    assert bench.feedback.facts()["t"].audits == len(asked)
