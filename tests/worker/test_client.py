"""A worker asked directly: its answers and its end."""

import os
import signal
from dataclasses import replace

import pytest

from edge_agent.core.pipe import ChatMessage, EngineRequest, EngineSettings, Finished, Load, TextPlan
from edge_agent.worker.client import WorkerError, started

ECHO = Load(model_path="echo:", settings=EngineSettings())


def question(number: int) -> EngineRequest:
    return EngineRequest(
        id=number, task="generate", messages=(ChatMessage(role="user", content="hello"),), plan=TextPlan()
    )


def test_requests_are_answered_one_by_one() -> None:
    with started(ECHO) as worker:
        worker.ready()
        answers = [worker.ask(question(number)) for number in (1, 2)]

    assert [answer.id for answer in answers] == [1, 2]
    assert all(isinstance(answer, Finished) for answer in answers)


def test_the_end_of_a_worker_is_an_error() -> None:
    with started(ECHO) as worker:
        worker.ready()
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"the worker ended \(killed by SIGKILL\)"):
            worker.answer()


def test_a_model_that_does_not_load_is_an_error() -> None:
    with started(replace(ECHO, model_path="/nowhere.gguf")) as worker, pytest.raises(WorkerError, match="nowhere"):
        worker.ready()
