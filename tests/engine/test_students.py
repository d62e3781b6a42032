"""Students in a real worker process, whose large model is the echo engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.core import pipe
from edge_agent.worker.client import WorkerClient, WorkerError, started
from tests.engine.prompt.test_field_prompts import LABELS, trained

__all__ = ["trained"]

STUDENT = "student-sound"


def load(path: Path) -> pipe.Load:
    student = pipe.Student(name=STUDENT, path=str(path), sha256="", quantization="Q8_0", tasks={"sound": LABELS})
    return pipe.Load(model_path="echo:", settings=pipe.EngineSettings(), students=(student,))


def run(student: str | None, text: str = '{"rms": 0.7}') -> pipe.EngineRequest:
    messages = (pipe.ChatMessage(role="user", content=text),)
    plan = pipe.LabelsPlan(labels=LABELS)
    return pipe.EngineRequest(id=1, task="sound", messages=messages, plan=plan, student=student)


@pytest.fixture(scope="module")
def worker(trained: Path) -> Iterator[WorkerClient]:
    with started(load(trained)) as found:
        found.ready()
        yield found


def test_a_request_is_answered_by_the_model_that_it_names(worker: WorkerClient) -> None:
    of_student, of_model = (worker.ask(run(name)) for name in (STUDENT, None))
    assert isinstance(of_student, pipe.Finished)
    assert isinstance(of_model, pipe.Finished)
    # They are the task, three fields and the place of the answer.
    assert of_student.prompt_tokens == 5
    assert of_student.scores != of_model.scores


def test_many_requests_at_once_are_each_answered_once(worker: WorkerClient) -> None:
    runs = [run(name) for _ in range(30) for name in (None, STUDENT)]
    answers = list(worker.ask_all(runs, at_once=12))
    assert sorted(one.id for one in answers) == list(range(1, 61))
    assert all(isinstance(one, pipe.Finished) for one in answers)


def test_a_cancel_reaches_the_student(worker: WorkerClient) -> None:
    # Whichever comes first, the request ends once, and the next one is answered.
    worker.process.send(run(STUDENT))
    worker.process.send(pipe.Cancel(id=1))
    event = worker._next(5)
    while isinstance(event, pipe.Progress):
        event = worker._next(5)
    assert isinstance(event, pipe.Cancelled | pipe.Finished)
    assert isinstance(worker.ask(run(STUDENT)), pipe.Finished)


def test_the_time_of_students_is_counted_apart(worker: WorkerClient) -> None:
    worker.ask(run(STUDENT))
    event = worker._next(5)
    while not (isinstance(event, pipe.Progress) and event.students_s):
        event = worker._next(5)
    assert event.prompt_tokens_total == 0 or event.steps_total


def test_a_file_that_is_no_model_is_named_at_the_load(tmp_path: Path) -> None:
    (tmp_path / "student-x.gguf").write_bytes(b"GGUF")
    with started(load(tmp_path / "student-x.gguf")) as worker, pytest.raises(WorkerError, match="does not load"):
        worker.ready()
