"""A worker asked directly: its answers, its end, and an interrupt at any moment of its life."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.protocol import ChatMessage, EngineSettings, Finished, Load, Run, TextPlan
from edge_agent.worker.client import WorkerError, started
from edge_agent.worker.process import EngineProcess

ECHO = Load(model_path="echo:", settings=EngineSettings())


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Every process that is started. SIGINT interrupts, whatever the shell of these tests has it do."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield processes
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("place", [(subprocess, "Popen"), (EngineProcess, "send"), (EngineProcess, "stop")])
@pytest.mark.parametrize("is_before", [True, False])
def test_an_interrupt_while_a_worker_starts_or_stops_leaves_no_process(
    workers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], *, is_before: bool
) -> None:
    interrupted = getattr(*place)

    def interrupting(*arguments: Any, **options: Any) -> Any:
        if is_before:
            interrupt()
        result = interrupted(*arguments, **options)
        if not is_before:
            interrupt()
        return result

    monkeypatch.setattr(*place, interrupting)
    with pytest.raises(KeyboardInterrupt), started(ECHO) as worker:
        worker.ready()

    assert [worker.returncode for worker in workers] == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_ends_the_wait_for_a_worker(workers: list[subprocess.Popen[bytes]]) -> None:
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), started(replace(ECHO, model_path="echo:load_ms=60000")) as worker:
        worker.ready()

    assert [worker.returncode for worker in workers] == [0]


def test_a_thread_that_is_not_interrupted_starts_workers_as_well(workers: list[subprocess.Popen[bytes]]) -> None:
    def start() -> None:
        with started(ECHO) as worker:
            worker.ready()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

    assert [worker.returncode for worker in workers] == [0]


def question(number: int) -> Run:
    return Run(id=number, task="generate", messages=(ChatMessage(role="user", content="hello"),), plan=TextPlan())


def test_requests_are_answered_one_by_one() -> None:
    with started(ECHO) as worker:
        worker.ready()
        answers = [worker.ask(question(number)) for number in (1, 2)]

    assert [answer.id for answer in answers] == [1, 2]
    assert all(isinstance(answer, Finished) for answer in answers)


def test_the_end_of_a_worker_is_an_error() -> None:
    with started(ECHO) as worker:
        worker.ready()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"the worker ended \(killed by SIGKILL\)"):
            worker.answer()


def test_a_model_that_does_not_load_is_an_error() -> None:
    with started(replace(ECHO, model_path="/nowhere.gguf")) as worker, pytest.raises(WorkerError, match="nowhere"):
        worker.ready()


def test_a_worker_that_keeps_nothing_measures_nothing(demo_bundle: Path) -> None:
    with started(Load(model_path=str(demo_bundle / "model.gguf"), settings=EngineSettings())) as worker:
        assert worker.ready().prefill_tok_s is None
