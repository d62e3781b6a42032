"""Real worker processes, through the parent's end of the pipe."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from edge_agent.core.protocol import (
    Cancel,
    Cancelled,
    EngineSettings,
    Event,
    Finished,
    Load,
    LoadFailed,
    Loading,
    Partial,
    Progress,
    Ready,
    SetTasks,
    TaskPrefix,
    decode_command,
    decode_event,
    encode_command,
    encode_event,
)
from edge_agent.engine import worker as worker_module
from edge_agent.engine.engine import Totals
from edge_agent.worker.process import EngineProcess, WorkerExited
from tests.engine.runs import LABELS, TASK, run

WAIT_S = 30.0
Wanted = TypeVar("Wanted")


class Worker:
    """A process and the events that came from it."""

    def __init__(self, model_path: str, **settings: int) -> None:
        self.events: queue.SimpleQueue[Event | WorkerExited] = queue.SimpleQueue()
        load = Load(model_path=model_path, settings=EngineSettings(**settings), tasks=(TASK,))
        self.process = EngineProcess(load, self.events.put)
        self.process.start()

    def wait_for(self, kind: type[Wanted]) -> Wanted:
        """The next event of this kind; anything before it is dropped."""
        while True:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, kind):
                return event
            assert not isinstance(event, WorkerExited), event


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start_(model_path: str = "echo:", **settings: int) -> Worker:
        workers.append(Worker(model_path, **settings))
        return workers[-1]

    yield start_
    for worker in workers:
        worker.process.stop(WAIT_S)


def test_a_worker_says_ready_answers_and_ends_with_its_input(start: Callable[..., Worker], model_path: str) -> None:
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


def test_progress_comes_when_the_work_is_done_and_while_nothing_happens(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.process.send(run(1, "a b c"))

    worker.wait_for(Finished)
    done = worker.wait_for(Progress)
    assert (done.active, done.completion_tokens_total) == (0, 4)
    assert worker.wait_for(Progress) == done


def test_requests_that_arrive_while_others_run_share_their_steps(start: Callable[..., Worker]) -> None:
    worker = start("echo:step_ms=20")
    worker.process.send(run(1, "a b c d e f g h", stream=True))
    worker.wait_for(Partial)
    worker.process.send(run(2, "x y", stream=False))

    assert worker.wait_for(Finished).id == 2
    assert worker.wait_for(Finished).batch == 2


def test_a_cancelled_request_ends_between_two_steps(start: Callable[..., Worker]) -> None:
    worker = start("echo:step_ms=20")
    worker.process.send(run(1, "a " * 500, stream=True, max_tokens=600))
    worker.wait_for(Partial)
    worker.process.send(Cancel(id=1))
    worker.process.send(Cancel(id=77))

    assert worker.wait_for(Cancelled).id == 1
    worker.process.send(run(2, "b"))
    assert worker.wait_for(Finished).text == "Reading: b"


def test_tasks_can_change_while_it_runs(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.process.send(SetTasks(tasks=()))
    worker.process.send(run(1, "b"))

    assert worker.wait_for(Finished).cached_tokens == 0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.gguf", "does not exist"),
        ("echo:speed=3", "'speed=3' is not one of step_ms, load_ms, hang_ms, leak_kb"),
    ],
)
def test_a_model_that_cannot_be_opened_is_told_and_ends_the_worker(
    start: Callable[..., Worker], path: str, message: str
) -> None:
    worker = start(path)

    assert message in worker.wait_for(LoadFailed).message
    exited = worker.wait_for(WorkerExited)
    assert exited.returncode == 1
    assert any("cannot be opened" in line for line in exited.log_tail)


def test_a_worker_that_is_killed_is_told_with_its_signal(start: Callable[..., Worker]) -> None:
    worker = start("echo:step_ms=20")
    worker.process.send(run(1, "a " * 500, stream=True, max_tokens=600))
    worker.wait_for(Partial)
    assert worker.process.pid is not None

    os.kill(worker.process.pid, signal.SIGKILL)

    assert worker.wait_for(WorkerExited).returncode == -signal.SIGKILL
    worker.process.send(run(2, "b"))


def test_ctrl_c_is_left_to_the_agent(start: Callable[..., Worker]) -> None:
    worker = start()
    worker.wait_for(Ready)
    assert worker.process.pid is not None

    os.kill(worker.process.pid, signal.SIGINT)
    worker.process.send(run(1, "b"))

    assert worker.wait_for(Finished).id == 1


@pytest.mark.expects_warning
def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\nexec sleep 600\n", encoding="utf-8")
    deaf.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(deaf))
    worker = Worker("echo:")

    worker.process.stop(0.1)

    assert worker.wait_for(WorkerExited).returncode == -signal.SIGKILL


@pytest.mark.expects_warning
def test_a_worker_that_reads_nothing_cannot_block_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\nexec sleep 600\n", encoding="utf-8")
    deaf.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(deaf))
    worker = Worker("echo:")
    filling = threading.Thread(target=worker.process.send, args=(run(1, "x" * 1_000_000),))
    filling.start()
    while not worker.process._write_lock.locked():
        filling.join(0.01)

    worker.process.stop(0.1)

    filling.join(WAIT_S)
    assert worker.wait_for(WorkerExited).returncode == -signal.SIGKILL


@pytest.mark.expects_warning
def test_output_that_is_no_event_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    babbling = tmp_path / "babbling"
    babbling.write_text("#!/bin/sh\necho hello\nexec sleep 600\n", encoding="utf-8")
    babbling.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(babbling))
    worker = Worker("echo:")

    assert worker.wait_for(WorkerExited).returncode == -signal.SIGKILL
    assert "wrote a line that is no event: b'hello" in caplog.text
    worker.process.stop(WAIT_S)


@pytest.mark.parametrize("failing", ["engine-log", "engine-events", "engine-writes"])
def test_a_worker_without_its_threads_is_not_started(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    start = threading.Thread.start

    def start_or_fail(thread: threading.Thread) -> None:
        if thread.name == failing:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    process = EngineProcess(Load(model_path="echo:", settings=EngineSettings()), lambda _: None)

    with pytest.raises(OSError, match="can't start new thread"):
        process.start()

    assert process._process is not None
    assert process._process.returncode == -signal.SIGKILL


def test_end_of_input_ends_a_worker_that_still_loads(start: Callable[..., Worker]) -> None:
    worker = start("echo:load_ms=60000")

    worker.process.stop(WAIT_S)

    assert worker.wait_for(WorkerExited).returncode == 0


def test_a_start_that_gets_on_is_told_and_one_that_does_not_is_silent(start: Callable[..., Worker]) -> None:
    slow, stuck = start("echo:load_ms=60000"), start("echo:hang_ms=60000")

    # Once in any case: the program itself had to be read.
    stuck.wait_for(Loading)
    for _ in range(3):
        slow.wait_for(Loading)
    assert stuck.events.empty()


def drive(*lines: bytes, keep_open: bool = True) -> tuple[int, bytes, bytes]:
    """Return code, output and log of a worker that is driven by hand."""
    with subprocess.Popen(
        [sys.executable, "-m", "edge_agent.engine.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"".join(lines))
        process.stdin.flush()
        if not keep_open:
            process.stdin.close()
        output, log = process.stdout.read(), process.stderr.read()
        return process.wait(), output, log


def first_load() -> bytes:
    return encode_command(Load(model_path="echo:", settings=EngineSettings()))


@pytest.mark.parametrize("line", [b"no json\n", b'{"type":"dance"}\n'])
def test_what_is_no_command_ends_the_worker_with_a_traceback(line: bytes) -> None:
    code, output, log = drive(first_load(), line)

    assert code == 1
    assert b"not a command" in log
    assert b"not a command" not in output


@pytest.mark.parametrize("commands", [(Cancel(id=1),), ("load", "load")])
def test_load_is_the_first_command_and_only_that(commands: tuple[Any, ...]) -> None:
    lines = [first_load() if command == "load" else encode_command(command) for command in commands]

    code, _, log = drive(*lines)

    assert code == 1
    assert b"first command" in log


def test_whatever_a_library_prints_stays_out_of_the_events(tmp_path: Path) -> None:
    script = tmp_path / "printing.py"
    script.write_text(
        "import os, sys\nfrom edge_agent.engine import worker\n"
        "worker._name_thread = lambda name: os.write(1, b'printed by a library\\n')\nsys.exit(worker.main())\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        input=b"",
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )

    assert done.stdout == b""
    assert b"printed by a library" in done.stderr


def test_commands_without_end_do_not_put_steps_off() -> None:
    class EnoughStepsError(Exception):
        pass

    class Commands:
        asked = 0

        def waiting(self, *, timeout_s: float) -> list[SetTasks]:
            assert timeout_s == 0.0
            self.asked += 1
            assert self.asked < 100
            return [SetTasks(tasks=())]

    class Engine:
        has_work = True
        linger_s = 0.0
        steps = 0

        def set_tasks(self, tasks: tuple[TaskPrefix, ...]) -> None: ...

        def step(self) -> list[Event]:
            self.steps += 1
            if self.steps == 10:
                raise EnoughStepsError
            return []

        def progress(self) -> Progress:
            return Totals().progress(active=1)

    with pytest.raises(EnoughStepsError):
        worker_module._serve(cast("Any", Engine()), cast("Any", Commands()), lambda _: None)


def test_out_of_memory_the_kernel_takes_the_worker(start: Callable[..., Worker]) -> None:
    ready = start().wait_for(Ready)
    assert int(Path(f"/proc/{ready.pid}/oom_score_adj").read_text(encoding="ascii")) >= 500


def test_what_callers_say_is_not_kept_to_be_found_again() -> None:
    """As pydantic would, process-wide: in the agent and in the worker."""
    said = "what a caller said"
    event, command = encode_event(Partial(id=1, delta=said)), encode_command(run(1, said))
    assert decode_event(event).delta is not decode_event(event).delta  # type: ignore[union-attr]
    heard = [decode_command(command).messages[-1].content for _ in range(2)]  # type: ignore[union-attr]
    assert heard[0] == heard[1]
    assert heard[0] is not heard[1]
