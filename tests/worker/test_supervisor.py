"""When a worker is started, killed and restarted, and what is said of its end."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from edge_agent.core.config import Config
from edge_agent.core.pipe import (
    LOAD_SILENCE_S,
    Cancelled,
    EngineRequest,
    Event,
    Loading,
    Progress,
    SetTasks,
    TextPlan,
)
from edge_agent.models.bundle import open_model
from edge_agent.requests.tasks import prefixes_of, with_built_in
from edge_agent.worker.process import ANSWER_SILENCE_S, WorkerExited, WorkerProcess
from edge_agent.worker.supervisor import (
    GROWTH_MIB,
    REPLACED_EVERY_S,
    SILENT_AFTER_S,
    STABLE_AFTER_S,
    CanaryAnswered,
    FromWorker,
    Supervisor,
    WorkerEvent,
)
from tests.helpers.facts import READY
from tests.helpers.support import config, with_model
from tests.helpers.workers import KILLED, FakeProcess, WorkerMemory, fake_processes
from tests.models.test_bundle import OTHER_WEIGHTS, bundle

pytestmark = pytest.mark.expects_warning


class Nursery:
    """A supervisor and the processes that it started."""

    def __init__(self, patch: pytest.MonkeyPatch, settings: Config, path: Path = Path("echo:")) -> None:
        self.processes = fake_processes(patch)
        prefixes = prefixes_of(with_built_in(settings.tasks).values())
        self.supervisor = Supervisor(settings, open_model("default", path), prefixes, lambda _: None)

    def say(self, event: Event | WorkerExited, now: float, process: FakeProcess | None = None) -> WorkerEvent | None:
        worker = cast("WorkerProcess", process or self.processes[-1])
        return self.supervisor.receive(FromWorker(worker, event), now)

    def die(self, now: float, event: WorkerExited = KILLED) -> str:
        self.processes[-1].is_running = False
        assert self.say(event, now) == event
        return self.supervisor.on_ended(event, now)

    def tick(self, now: float) -> str | None:
        return self.supervisor.restart_or_kill(now)

    def watch(self, since: float, until: float) -> list[float]:
        """Ticks every quarter of a second; returns the times at which a worker was started."""
        started = []
        for quarter in range(int((until - since) * 4) + 1):
            before = len(self.processes)
            self.tick(since + quarter / 4)
            if len(self.processes) > before:
                started.append(since + quarter / 4)
        return started


@pytest.fixture
def nursery(monkeypatch: pytest.MonkeyPatch) -> Nursery:
    return Nursery(monkeypatch, config())


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nursery:
    """A nursery whose model is the bundle `here`, with a worker that loads."""
    bundle(tmp_path / "here")
    nursery = Nursery(monkeypatch, with_model(tmp_path / "here"), tmp_path / "here")
    nursery.supervisor.start(0.0)
    return nursery


def test_restarts_after_failed_loads_follow_an_exponential_back_off(nursery: Nursery) -> None:
    nursery.supervisor.start(0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        nursery.die(now)
        (started_at,) = nursery.watch(now, now + 30.0)
        pauses.append(started_at - now)
        now = started_at
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert nursery.supervisor.restarts == 8


@pytest.mark.parametrize(("lived_s", "pause_s"), [(STABLE_AFTER_S, 4.0), (STABLE_AFTER_S + 1.0, 0.0)])
def test_only_a_worker_that_lived_long_is_restarted_at_once(nursery: Nursery, lived_s: float, pause_s: float) -> None:
    nursery.supervisor.start(0.0)
    for now in (0.0, 10.0):
        nursery.die(now)
        nursery.watch(now, now + 5.0)
    nursery.supervisor.on_ready(READY, 20.0)
    died_at = 20.0 + lived_s
    nursery.die(died_at)
    assert nursery.supervisor.restart_at == died_at + pause_s
    if not pause_s:
        nursery.watch(died_at, died_at)
        nursery.die(died_at + 0.5)
        assert nursery.supervisor.restart_at == died_at + 1.5


def test_the_next_answer_can_be_predicted_once_a_worker_was_ready(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    nursery.die(5.0)
    assert one.next_ready_at is None
    nursery.watch(5.0, 6.0)
    one.on_ready(READY, 8.0)
    assert one.ready is READY
    # It is the pause, and the time from the last start to the answer.
    nursery.die(9.0)
    assert one.next_ready_at == 9.0 + 2.0 + (8.0 - 6.0)
    assert one.ready is None


def test_a_silent_worker_is_killed_once_even_if_no_answer_is_due(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    one.on_ready(READY, 200.0)
    nursery.say(Progress(), 200.0)
    (process,) = nursery.processes
    nursery.watch(200.0, 200.0 + ANSWER_SILENCE_S - 1.0)
    assert process.kills == 0
    nursery.watch(200.0 + ANSWER_SILENCE_S, 230.0 + ANSWER_SILENCE_S)
    assert process.kills == 1
    assert nursery.die(231.0 + ANSWER_SILENCE_S) == "killed by the agent: it was silent for 120 s"


def test_a_worker_is_not_blamed_for_a_time_in_which_the_agent_stood_still_as_well(nursery: Nursery) -> None:
    nursery.supervisor.start(0.0)
    nursery.supervisor.on_ready(READY, 1.0)
    (process,) = nursery.processes
    nursery.watch(1.0, 2.0)
    nursery.watch(1000.0, 999.0 + ANSWER_SILENCE_S)
    assert process.kills == 0
    nursery.watch(1000.0, 1000.0 + ANSWER_SILENCE_S)
    assert process.kills == 1


def test_a_load_may_take_any_time_while_it_makes_progress(nursery: Nursery) -> None:
    nursery.supervisor.start(0.0)
    (process,), now = nursery.processes, 0.0
    for _ in range(10):
        nursery.watch(now, now + LOAD_SILENCE_S - 1.0)
        now += LOAD_SILENCE_S - 1.0
        nursery.say(Loading(), now)
    assert process.kills == 0
    nursery.watch(now, now + LOAD_SILENCE_S + 1.0)
    assert process.kills == 1
    assert nursery.die(now + 400.0) == "killed by the agent: its load made no progress for 300 s"
    nursery.watch(now + 400.0, now + 402.0)
    assert [process.kills for process in nursery.processes] == [1, 0]


@pytest.mark.parametrize("was_ready", [False, True])
def test_a_model_that_does_not_load_is_given_up_unless_it_did_before(nursery: Nursery, *, was_ready: bool) -> None:
    one = nursery.supervisor
    one.start(0.0)
    if was_ready:
        one.on_ready(READY, 1.0)
        nursery.die(2.0)
        nursery.watch(2.0, 3.0)
    one.on_load_failed("no memory")
    nursery.die(3.5)
    assert one.has_given_up is not was_ready
    assert one.has_or_expects_worker is was_ready
    assert one.restart_at == (5.5 if was_ready else None)


def test_a_worker_that_cannot_be_started_is_tried_again_later(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    nursery.die(0.0)
    nursery.processes.faults = [OSError("no more processes")]
    assert nursery.watch(0.0, 10.0) == [3.0]
    one.stop(1.0)
    assert nursery.processes[-1].is_stopped


def test_a_model_that_is_gone_at_a_restart_is_given_up_until_it_is_loaded_again(here: Nursery, tmp_path: Path) -> None:
    one = here.supervisor
    one.on_ready(READY, 3.0)
    here.die(4.0)
    (tmp_path / "here").rename(tmp_path / "gone")
    end = here.tick(5.0)
    assert end is one.last_end
    assert end is not None
    assert end == f'"{tmp_path}/here/model.gguf" cannot be opened: No such file or directory'
    assert one.has_given_up
    (tmp_path / "gone").rename(tmp_path / "here")
    assert here.watch(6.0, 100.0) == []
    one.load(one.model, 100.0)
    assert not one.has_given_up


def test_other_files_in_the_place_of_the_model_are_not_loaded(here: Nursery, tmp_path: Path) -> None:
    here.die(4.0)
    (tmp_path / "here" / "model.gguf").write_bytes(OTHER_WEIGHTS)
    assert here.watch(4.0, 10.0) == []
    assert here.supervisor.has_changed_files


def test_tasks_reach_the_worker_that_runs_and_the_next_one(nursery: Nursery) -> None:
    nursery.supervisor.start(0.0)
    prefixes = prefixes_of(with_built_in(config('[tasks.t]\nkind = "generate"\nsystem = "S"\n').tasks).values())
    nursery.supervisor.set_prefixes(prefixes)
    assert nursery.processes[0].commands == [SetTasks(tasks=prefixes)]
    nursery.die(1.0)
    nursery.watch(1.0, 2.0)
    assert [len(process.load.tasks) for process in nursery.processes] == [1, 2]


def test_a_canary_is_answered_apart_from_requests(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    one.ask_canary(EngineRequest(id=5, task="t", messages=(), plan=TextPlan()))
    one.cancel_canary()
    asked, cancelled = nursery.processes[0].commands
    answer = Cancelled(id=asked.id)  # type: ignore[union-attr]
    assert cancelled.id == answer.id  # type: ignore[union-attr]
    assert nursery.say(answer, 1.0) == CanaryAnswered(answer)
    assert nursery.say(Cancelled(id=1), 1.0) == Cancelled(id=1)


def test_words_of_an_unknown_worker_are_ignored_and_are_no_sign_of_life(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)
    one.on_ready(READY, 1.0)
    assert nursery.say(Progress(), 9.0, FakeProcess(None, print)) is None  # type: ignore[arg-type]
    assert one.silent_s(9.0) == 9.0


def test_no_worker_and_a_fallback_are_reasons_and_silence_counts(nursery: Nursery) -> None:
    one = nursery.supervisor
    one.start(0.0)

    def holds() -> set[str]:
        return {name for name, is_so in one.reasons().items() if is_so}

    assert holds() == {"model-not-loaded"}
    assert one.ready_since is None
    assert one.as_health()["worker"]["pid"] is None
    one.on_ready(READY, 1.0)
    nursery.say(Progress(), 1.0)
    assert holds() == set()
    assert one.ready_since == 1.0
    assert not one.is_silent(0.9 + SILENT_AFTER_S)
    assert one.is_silent(1.0 + SILENT_AFTER_S)
    one.model = replace(one.model, is_fallback=True)
    assert holds() == {"model-fallback"}
    worker = one.as_health()["worker"]
    assert (worker["pid"], worker["repacked_mb"]) == (READY.pid, pytest.approx(104.858, abs=0.001))


def test_an_end_is_described_by_its_signal_and_the_last_warnings(nursery: Nursery) -> None:
    nursery.supervisor.start(0.0)
    end = WorkerExited(returncode=-9, log_tail=("INFO engine: loaded", "MemoryError"))
    assert nursery.die(1.0, end) == "killed by SIGKILL: MemoryError"


def test_a_leaking_worker_is_replaced_at_rest_at_most_hourly(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, one = WorkerMemory(monkeypatch), nursery.supervisor
    one.replace_outgrown(0.0)
    one.start(0.0)
    one.replace_outgrown(0.5)
    for ready_at in (1.0, 2.0):
        one.on_ready(READY, ready_at)
        memory.held_mib = 500.0 + GROWTH_MIB
        one.replace_outgrown(ready_at)
        assert nursery.processes[-1].kills == 0
        memory.held_mib += 1.0
        one.replace_outgrown(ready_at)
        if ready_at == 1.0:
            how = nursery.die(1.5)
            assert how == "killed by the agent: the worker holds 757 MiB and should need at most 756 MiB"
            nursery.watch(1.5, 3.0)
    assert [process.kills for process in nursery.processes] == [1, 0]
    one.replace_outgrown(2.0 + REPLACED_EVERY_S)
    assert nursery.processes[-1].kills == 1
