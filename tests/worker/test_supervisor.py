from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

import pytest

from edge_agent.board.process import ProcessMemory
from edge_agent.core.config import Config
from edge_agent.core.load_progress import LOAD_SILENCE_S
from edge_agent.core.protocol import Command, Event, Load, LoadPhase, SetTasks
from edge_agent.models import record as model_record
from edge_agent.models.bundle import open_model
from edge_agent.models.record import Record, open_in_force
from edge_agent.requests.tasks import load_tasks, prefixes_of
from edge_agent.worker import supervisor as supervisor_module
from edge_agent.worker.memory_bound import LASTING_S, MARGIN_MB, PAUSE_S
from edge_agent.worker.process import WorkerExited
from edge_agent.worker.supervisor import SILENCE_S, STABLE_AFTER_S, End, Supervisor
from tests.helpers.facts import READY
from tests.helpers.support import config, with_model
from tests.models.test_bundle import OTHER_WEIGHTS, bundle

pytestmark = pytest.mark.expects_warning

KILLED = WorkerExited(returncode=-9, log_tail=())


class Process:
    """Stands for a worker process."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.commands: list[Command] = []
        self.kills = 0
        self.is_running = True
        self.is_stopped = False
        self.pid = 77

    def send(self, command: Command) -> None:
        self.commands.append(command)

    def kill(self) -> None:
        self.kills += 1

    def stop(self, _timeout_s: float) -> None:
        self.is_stopped = True


class Nursery:
    """A supervisor and the processes that it started."""

    def __init__(self, patch: pytest.MonkeyPatch, settings: Config, path: Path = Path("echo:")) -> None:
        self.processes: list[Process] = []
        self.faults: list[OSError] = []
        nursery = self

        class Started(Process):
            def __init__(self, load: Load, _deliver: Callable[[Event | WorkerExited], None]) -> None:
                super().__init__(load)

            def start(self) -> None:
                if nursery.faults:
                    raise nursery.faults.pop()
                nursery.processes.append(self)

        patch.setattr(supervisor_module, "EngineProcess", Started)
        model = open_model("default", path)
        self.supervisor = Supervisor(
            settings, model, prefixes_of(load_tasks(settings)), lambda _: None, lambda: open_in_force(settings)
        )

    def die(self, now: float) -> None:
        self.processes[-1].is_running = False
        self.supervisor.ended(KILLED, now)

    def watch(self, since: float, until: float, *, owes_answer: bool = False) -> list[float]:
        """Every quarter of a second; gives when a worker was started."""
        started = []
        for quarter in range(int((until - since) * 4) + 1):
            before = len(self.processes)
            self.supervisor.watch(since + quarter / 4, owes_answer=owes_answer)
            if len(self.processes) > before:
                started.append(since + quarter / 4)
        return started


def read_anew(one: Supervisor, now: float) -> End | None:
    """What comes of the model's files, which were due at `now` and are others than they were."""
    assert one.watch(now, owes_answer=False) is None
    assert one._opening is not None
    # Else systemd would be told that there is none to come.
    assert one.is_coming
    wait([one._opening], timeout=30)
    return one.watch(now, owes_answer=False)


@pytest.fixture
def nursery(monkeypatch: pytest.MonkeyPatch) -> Nursery:
    return Nursery(monkeypatch, config())


def test_workers_that_die_at_load_follow_each_other_after_longer_and_longer_pauses(nursery: Nursery) -> None:
    nursery.supervisor.start(0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        nursery.die(now)
        (started_at,) = nursery.watch(now, now + 30.0)
        pauses.append(started_at - now)
        now = started_at
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert nursery.supervisor.restarts == 8
    assert [process.load.is_restart for process in nursery.processes] == [False] + [True] * 8


@pytest.mark.parametrize(("lived_s", "pause_s"), [(STABLE_AFTER_S, 4.0), (STABLE_AFTER_S + 1.0, 0.0)])
def test_only_a_worker_that_lived_long_is_replaced_at_once(nursery: Nursery, lived_s: float, pause_s: float) -> None:
    nursery.supervisor.start(0.0)
    for now in (0.0, 10.0):
        nursery.die(now)
        nursery.watch(now, now + 5.0)
    nursery.supervisor.became_ready(READY, 20.0)
    nursery.die(20.0 + lived_s)
    died_at = 20.0 + lived_s
    assert nursery.supervisor.restart_at == died_at + pause_s
    if not pause_s:
        nursery.watch(died_at, died_at)
        nursery.die(died_at + 0.5)
        assert nursery.supervisor.restart_at == died_at + 1.5


def test_when_the_next_worker_answers_is_known_once_one_did(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    assert one.ended(KILLED, 5.0).ready_at is None
    nursery.watch(5.0, 6.0)
    one.became_ready(READY, 8.0)
    assert one.ready is READY
    # The pause, and what the last one took from its start on.
    assert one.ended(KILLED, 9.0).ready_at == 9.0 + 2.0 + (8.0 - 6.0)
    assert one.ready is None


def test_a_silent_worker_is_killed_once_and_only_if_it_owes_an_answer(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    one.became_ready(READY, 200.0)
    one.heard(200.0)
    nursery.watch(200.0, 200.0 + 2 * SILENCE_S)
    (process,) = nursery.processes
    assert process.kills == 0
    one.heard(500.0)
    nursery.watch(500.0, 500.0 + SILENCE_S - 1.0, owes_answer=True)
    assert process.kills == 0
    nursery.watch(500.0 + SILENCE_S, 530.0 + SILENCE_S, owes_answer=True)
    assert process.kills == 1
    # Until it is gone, it is one that cannot be killed.
    assert one.dying_s(530.0 + SILENCE_S) == 30.0
    end = one.ended(KILLED, 531.0 + SILENCE_S)
    assert end.how == "killed by the agent: it said nothing for 120 s while it owed an answer"
    assert one.dying_s(532.0 + SILENCE_S) is None


def test_a_load_may_take_as_long_as_it_gets_on(nursery: Nursery) -> None:
    one, now = nursery.supervisor, 0.0
    one.start(now)
    (process,) = nursery.processes
    for _ in range(10):
        nursery.watch(now, now + LOAD_SILENCE_S - 1.0)
        now += LOAD_SILENCE_S - 1.0
        one.heard(now)
    assert process.kills == 0
    one.load_phase = LoadPhase.MEASURE
    nursery.watch(now, now + LOAD_SILENCE_S + 1.0)
    assert process.kills == 1
    assert one.ended(KILLED, now + 400.0).how == "killed by the agent: its load (measure) did not get on for 300 s"
    # The next one is not held to the silence of this one.
    nursery.watch(now + 400.0, now + 402.0)
    assert [process.kills for process in nursery.processes] == [1, 0]
    assert one.load_phase is LoadPhase.PROGRAM


def test_a_model_that_cannot_be_loaded_is_given_up_at_first_and_tried_again_later(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    one.load_failed("not a model")
    nursery.die(0.1)
    assert one.has_given_up
    assert (one.restart_at, one.restarts, one.is_coming) == (None, 0, False)


def test_a_model_that_was_loaded_before_is_tried_again(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    one.became_ready(READY, 1.0)
    nursery.die(2.0)
    nursery.watch(2.0, 3.0)
    one.load_failed("no memory")
    nursery.die(3.5)
    assert not one.has_given_up
    assert one.restart_at == 5.5
    assert one.is_coming


def test_a_worker_that_cannot_be_started_is_tried_again_later(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    nursery.die(0.0)
    nursery.faults = [OSError("no more processes")]
    assert nursery.watch(0.0, 10.0) == [3.0]
    one.stop(1.0)
    assert nursery.processes[-1].is_stopped


def test_of_a_worker_that_cannot_be_started_is_told_why_and_when_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle(tmp_path / "here")
    nursery = Nursery(monkeypatch, with_model(tmp_path / "here"), tmp_path / "here")
    one = nursery.supervisor
    one.start(0.0)
    one.became_ready(READY, 3.0)
    nursery.die(4.0)
    (tmp_path / "here").rename(tmp_path / "gone")
    assert one.watch(4.5, owes_answer=False) is None
    end = read_anew(one, 5.0)
    assert end is not None
    assert end is one.last_end
    assert end.how.startswith("not started: models.default.path: ")
    assert "does not exist" in end.how
    # The next pause, and what the last one took to load.
    assert (end.ready_at, one.restart_at) == (5.0 + 2.0 + 3.0, 7.0)
    (tmp_path / "gone").rename(tmp_path / "here")
    # It is the one that was checked.
    assert nursery.watch(6.0, 10.0) == [7.0]


def test_files_that_were_replaced_are_checked_and_told_once_they_are_another_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle(tmp_path / "here")
    nursery = Nursery(monkeypatch, with_model(tmp_path / "here"), tmp_path / "here")
    one, first = nursery.supervisor, nursery.supervisor.model
    one.start(0.0)
    one.became_ready(READY, 0.0)

    def replace_files(now: float, contents: dict[str, bytes] | None = None, **manifest: int) -> End | None:
        """At the death of the worker."""
        nursery.die(now)
        (tmp_path / "here").rename(tmp_path / f"old{now}")
        bundle(tmp_path / "here", contents, **manifest)
        assert one.restart_at is not None
        return read_anew(one, one.restart_at)

    # A copy is no other model.
    assert replace_files(10.0) is None
    assert (one.replaced, len(nursery.processes)) == (None, 2)
    for now, version in ((20.0, 7), (30.0, 2)):
        assert replace_files(now, {"model.gguf": OTHER_WEIGHTS}, version=version) is None
        assert one.model.version == version
        assert nursery.processes[-1].load.model_sha256 == one.model.sha256
        # Of two in a row, what answered last is the old one.
        assert one.replaced is not None
        assert (one.replaced.version, one.replaced.sha256) == (first.version, first.sha256)
    # What it was before is nothing new.
    assert replace_files(40.0) is None
    assert (one.replaced, len(nursery.processes)) == (None, 5)


def test_a_bundle_in_force_that_does_not_open_any_more_gives_way_to_the_one_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("before", "here"):
        bundle(tmp_path / name)
    settings = with_model(tmp_path / "before")
    record = Record(configured=tmp_path / "before", current=tmp_path / "here", previous=tmp_path / "before")
    model_record.write(settings.state_dir, record)
    nursery = Nursery(monkeypatch, settings, tmp_path / "here")
    one = nursery.supervisor
    one.previous = tmp_path / "before"
    one.start(0.0)
    nursery.die(1.0)
    (tmp_path / "here" / "model.gguf").write_bytes(OTHER_WEIGHTS + b"!")
    assert read_anew(one, 2.0) is None
    assert nursery.processes[-1].load.model_path == str(tmp_path / "before" / "model.gguf")
    assert one.model.is_fallback
    # There is nothing left to go back to.
    assert one.previous is None


def test_a_worker_that_is_let_go_is_not_started_for_files_that_were_being_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle(tmp_path / "here")
    nursery = Nursery(monkeypatch, with_model(tmp_path / "here"), tmp_path / "here")
    one = nursery.supervisor
    one.start(0.0)
    nursery.die(1.0)
    (tmp_path / "here" / "model.gguf").touch()
    one.watch(2.0, owes_answer=False)
    assert one._opening is not None
    one.let_go()
    assert not one.is_coming
    assert nursery.watch(2.0, 10.0) == []


def test_without_a_worker_nobody_is_asked_and_nobody_is_stopped(nursery: Nursery) -> None:
    nursery.supervisor.set_tasks(())
    nursery.supervisor.stop(1.0)
    assert nursery.processes == []


def test_tasks_are_for_the_worker_that_runs_and_for_the_next(nursery: Nursery) -> None:
    nursery.supervisor.start(0.0)
    tasks = load_tasks(config('[tasks.t]\nkind = "generate"\nsystem = "S"\n'))
    nursery.supervisor.set_tasks(prefixes_of(tasks))
    wanted = tuple(task.prefix() for task in tasks.values())
    assert nursery.processes[0].commands == [SetTasks(tasks=wanted)]
    nursery.die(1.0)
    nursery.watch(1.0, 2.0)
    assert [len(process.load.tasks) for process in nursery.processes] == [1, 2]


def test_the_end_of_a_worker_is_told_by_its_signal_and_without_what_went_well(
    nursery: Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    one = nursery.supervisor
    first = one.ended(WorkerExited(returncode=-9, log_tail=("INFO engine: loaded", "INFO engine: warm")), 1.0)
    second = one.ended(WorkerExited(returncode=1, log_tail=("INFO engine: loaded", "MemoryError")), 2.0)

    assert [str(end) for end in (first, second)] == ["killed by SIGKILL", "exit code 1: MemoryError"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "worker ended: killed by SIGKILL restart_in_s=1.0 log=nothing",
        "worker ended: exit code 1 restart_in_s=2.0 log=MemoryError",
    ]


@pytest.mark.parametrize(
    ("counts", "code", "how"),
    [
        ((3, 4), -9, "killed by SIGKILL, the kernel was out of memory"),
        ((3, 3), -9, "killed by SIGKILL"),
        ((None, None), -9, "killed by SIGKILL"),
        ((3, 4), -6, "killed by SIGABRT"),
    ],
)
def test_a_worker_that_the_kernel_ended_for_its_memory_is_told_as_such(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, counts: tuple[int | None, int | None], code: int, how: str
) -> None:
    told = iter(counts)
    monkeypatch.setattr(supervisor_module, "oom_kills", lambda: next(told))
    nursery.supervisor.start(0.0)
    end = nursery.supervisor.ended(WorkerExited(returncode=code, log_tail=()), 1.0)
    assert (end.how, end.is_out_of_memory) == (how, "memory" in how)


class Memory:
    """Of a worker, as the kernel tells it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.held_mib = 400.0
        patch.setattr(supervisor_module, "process_memory", lambda _pid: self.read())

    def read(self) -> ProcessMemory:
        return ProcessMemory(anonymous_mib=self.held_mib - 10.0, swapped_mib=10.0, file_mib=9e3, data_mib=500.0)


def test_a_worker_that_holds_too_much_memory_for_some_seconds_is_to_be_replaced(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, one = Memory(monkeypatch), nursery.supervisor
    one.start(0.0)
    one.weigh(1e4, 0.5)
    one.became_ready(READY, 1.0)
    one.weigh(1e4, 1.0)
    assert one.memory.bound_mb == 500.0 * 1.048576 + MARGIN_MB[1]
    memory.held_mib = 500.0 + MARGIN_MB[1] / 1.048576 + 1.0
    one.weigh(1e4, 2.0)
    assert one.outgrown_at is None
    one.weigh(1e4, 2.0 + LASTING_S)
    assert one.outgrown_at == 2.0 + LASTING_S
    one.replace_outgrown(9.0)
    one.replace_outgrown(9.1)
    assert nursery.processes[0].kills == 1
    end = one.ended(KILLED, 10.0)
    assert end.how == "killed by the agent: the worker holds 781 MB, 780 MB are all that it should need"
    assert (one.outgrown_at, one.restarts) == (None, 1)
    # The next one has a bound of its own.
    nursery.watch(10.0, 12.0)
    assert one.memory.bound_mb is None


def test_a_worker_that_goes_on_growing_is_replaced_no_later_and_only_once(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, one = Memory(monkeypatch), nursery.supervisor
    one.start(0.0)
    one.became_ready(READY, 0.0)
    for second in range(int(PAUSE_S[0]) + 200):
        memory.held_mib = 400.0 + 200.0 * second
        one.weigh(1e4, float(second))
    decided_at = 2.0 + LASTING_S
    assert one.outgrown_at == decided_at
    # Nor does one replacement count as several for the pause before the next.
    one.replace_outgrown(300.0)
    one.ended(KILLED, 300.0)
    nursery.watch(300.0, 301.0)
    one.became_ready(READY, 301.0)
    memory.held_mib = 400.0
    one.weigh(1e4, 301.0)
    memory.held_mib = 2000.0
    for second in range(302, 307):
        one.weigh(1e4, float(second))
    assert one.outgrown_at == 302.0 + LASTING_S
