"""Real worker processes, through the parent's end of the pipe."""

import queue
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import TypeVar

import pytest

from edge_agent.core.pipe import EngineSettings, Event, Finished, Load, LoadFailed, Loading, Progress, Ready
from edge_agent.engine.worker import _loading_reporter
from edge_agent.worker.process import WorkerExited, WorkerProcess
from tests.engine.runs import LABELS, TASK, run

WAIT_S = 30.0
Wanted = TypeVar("Wanted")


class Worker:
    """A process and the events that came from it."""

    def __init__(self, model_path: str, **settings: int) -> None:
        self.events: queue.SimpleQueue[Event | WorkerExited] = queue.SimpleQueue()
        load = Load(model_path=model_path, settings=EngineSettings(**settings), tasks=(TASK,))
        self.process = WorkerProcess(load, lambda _process, event: self.events.put(event))

    def wait_for(self, kind: type[Wanted]) -> Wanted:
        """The next event of this kind; anything before it is dropped."""
        while True:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, kind):
                return event
            assert not isinstance(event, WorkerExited), event


Start = Callable[..., Worker]


@pytest.fixture
def start() -> Iterator[Start]:
    workers: list[Worker] = []

    def start_(model_path: str = "echo:", **settings: int) -> Worker:
        workers.append(Worker(model_path, **settings))
        return workers[-1]

    yield start_
    for worker in workers:
        worker.process.stop(WAIT_S)


def test_a_worker_says_ready_answers_and_ends_with_its_input(start: Start, model_path: str) -> None:
    worker = start(model_path, context_tokens=512, max_active=2)

    ready = worker.wait_for(Ready)
    assert ready.pid == worker.process.pid
    assert (ready.context_tokens, ready.max_active) == (512, 2)
    assert ready.cpu_variant
    assert ready.repacked_mib is not None
    worker.process.send(run(7, "cavitation", LABELS))
    answer = worker.wait_for(Finished)
    assert answer.id == 7
    assert answer.cached_tokens > 0

    worker.process.stop(WAIT_S)
    exited = worker.wait_for(WorkerExited)
    assert exited.returncode == 0


def test_progress_is_not_late_where_requests_end_in_quick_succession(start: Start) -> None:
    worker = start()
    for number in range(1, 4):
        worker.process.send(run(number, "a b c"))
        worker.wait_for(Finished)
    ended = monotonic()
    worker.wait_for(Progress)
    # It takes a tenth of a second, on a busy machine a little more, while an idle worker waits for a second.
    assert monotonic() - ended < 0.6


def test_progress_comes_when_the_work_is_done_and_while_nothing_happens(start: Start) -> None:
    worker = start()
    worker.process.send(run(1, "a b c"))
    worker.wait_for(Finished)
    done = worker.wait_for(Progress)
    assert (done.active, done.completion_tokens_total) == (0, 4)
    assert worker.wait_for(Progress) == done


@pytest.mark.parametrize(
    ("path", "message"),
    [("nothing.gguf", "does not exist"), ("echo:speed=3", "'speed=3' is not one of step_ms, load_ms")],
)
def test_a_model_that_cannot_be_opened_is_reported_and_ends_the_worker(start: Start, path: str, message: str) -> None:
    worker = start(path)
    assert message in worker.wait_for(LoadFailed).message
    exited = worker.wait_for(WorkerExited)
    assert exited.returncode == 1
    assert any("cannot be opened" in line for line in exited.log_tail)


def impostor(folder: Path, patch: pytest.MonkeyPatch, script: str) -> Worker:
    """A worker whose Python is replaced by a shell script."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    patch.setattr(sys, "executable", str(program))
    return Worker("echo:")


@pytest.mark.expects_warning
def test_a_worker_that_neither_reads_nor_ends_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = impostor(tmp_path, monkeypatch, "exec sleep 600")
    worker.process.send(run(1, "x" * 1_000_000))
    worker.process.stop(0.1)
    assert worker.wait_for(WorkerExited).returncode == -signal.SIGKILL


@pytest.mark.expects_warning
def test_output_that_is_no_event_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = impostor(tmp_path, monkeypatch, "echo hello; exec sleep 600")
    assert worker.wait_for(WorkerExited).returncode == -signal.SIGKILL
    assert "wrote a line that is no event: b'hello" in caplog.text
    worker.process.stop(WAIT_S)


def test_a_load_reports_the_parts_that_it_completes_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("edge_agent.engine.worker.perf_counter", lambda: now)
    told: list[Event] = []
    on_progress = _loading_reporter(told.append)
    for _ in range(30):
        now += 0.125
        on_progress()
    assert told == [Loading()] * 4
