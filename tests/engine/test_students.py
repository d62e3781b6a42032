"""Students in a real worker process, whose large model is the echo engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.core import pipe
from edge_agent.core.codes import Code
from edge_agent.worker.client import WorkerClient, WorkerError, started
from tests.engine.prompt.test_field_prompts import LABELS, trained

__all__ = ["trained"]


def load(path: Path) -> pipe.Load:
    student = pipe.Student(name="student-sound", path=str(path), sha256="", quantization="Q8_0")
    return pipe.Load(model_path="echo:", settings=pipe.EngineSettings(), students=(student,))


def run(
    least: float | None, *, value: object = '{"rms": 0.7}', labels: tuple[str, ...] = LABELS, only: Code | None = None
) -> pipe.Run:
    text = value if isinstance(value, str) else json.dumps(value)
    messages = (pipe.ChatMessage(role="user", content=text),)
    plan = pipe.LabelsPlan(labels=labels)
    return pipe.Run(id=1, task="sound", messages=messages, plan=plan, student_least=least, student_only=only)


@pytest.fixture(scope="module")
def worker(trained: Path) -> Iterator[WorkerClient]:
    with started(load(trained)) as found:
        assert found.ready().students == {"sound": "student-sound"}
        yield found


def asked(worker: WorkerClient, request: pipe.Run) -> pipe.Finished:
    answer = worker.ask(request)
    assert isinstance(answer, pipe.Finished), answer
    return answer


def test_an_answer_with_enough_score_is_the_students(worker: WorkerClient) -> None:
    answer = asked(worker, run(0.5))
    assert answer.student is not None
    assert answer.student.stands
    assert answer.scores == answer.student.scores
    assert (answer.student.name, answer.prompt_tokens) == ("student-sound", 5)


def test_any_other_goes_on_to_the_large_model_and_says_what_the_student_thought(worker: WorkerClient) -> None:
    alone = asked(worker, run(0.0))
    answer = asked(worker, run(pipe.NEVER))
    assert answer.student is not None
    assert not answer.student.stands
    assert alone.student is not None
    assert answer.student.scores == alone.student.scores
    assert answer.scores != answer.student.scores
    assert answer.share_s > 0


@pytest.mark.parametrize(
    "request_",
    [run(None), run(0.0, value="no field"), run(0.0, labels=("calm", "noisy"))],
    ids=["none", "field", "labels"],
)
def test_what_the_student_does_not_take_is_answered_by_the_large_model(
    worker: WorkerClient, request_: pipe.Run
) -> None:
    answer = asked(worker, request_)
    assert answer.student is None
    assert answer.scores is not None


@pytest.mark.parametrize("value", ['{"rms": 0.7}', "no field"])
def test_where_the_student_alone_may_answer_the_rest_fails_with_the_reason(worker: WorkerClient, value: str) -> None:
    failed = worker.ask(run(pipe.NEVER, value=value, only=Code.OVERHEATED))
    assert isinstance(failed, pipe.Failed)
    assert failed.code is Code.OVERHEATED
    assert failed.message.startswith("student student-sound is not sure")


def test_many_requests_at_once_are_each_answered_once(worker: WorkerClient) -> None:
    runs = [run(least) for _ in range(20) for least in (None, 0.0, pipe.NEVER)]
    answers = list(worker.ask_all(runs, at_once=12))
    assert sorted(one.id for one in answers) == list(range(1, 61))
    by_student = [one for one in answers if isinstance(one, pipe.Finished) and one.student and one.student.stands]
    assert len(by_student) == 20


def test_a_cancel_reaches_the_student(worker: WorkerClient) -> None:
    # Whichever comes first, the request ends once, and the next one is answered.
    worker.process.send(run(0.0))
    worker.process.send(pipe.Cancel(id=1))
    event = worker._next(5)
    while isinstance(event, pipe.Progress):
        event = worker._next(5)
    assert isinstance(event, pipe.Cancelled | pipe.Finished)
    assert asked(worker, run(0.0)).student is not None


def test_a_file_that_is_no_student_is_named_at_the_load(tmp_path: Path) -> None:
    (tmp_path / "student-x.gguf").write_bytes(b"GGUF")
    with started(load(tmp_path / "student-x.gguf")) as worker, pytest.raises(WorkerError, match="does not load"):
        worker.ready()
