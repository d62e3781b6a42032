"""A switch of the model as a timeline: what is asked of workers and requests, and what is told, at each event."""

from __future__ import annotations

import json
import os
import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.core import state_files
from edge_agent.core.config import ModelConfig
from edge_agent.core.load_progress import LOAD_SILENCE_S
from edge_agent.core.model import ModelError
from edge_agent.core.protocol import Cancel, Event, LoadFailed, Loading, LoadPhase, Partial, Ready, Run, SetTasks
from edge_agent.models import record as model_record
from edge_agent.models import switch_attempt
from edge_agent.models.bundle import open_model
from edge_agent.models.canaries import Canaries
from edge_agent.models.record import FILE, Record, open_in_force
from edge_agent.models.switch import DYING_S, READ_SILENCE_S, ModelSwitch
from edge_agent.models.switch_attempt import BASE_MB, COPIES, Opened, Phase, Recorded, SwitchError, needed_mb
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.tasks import load_tasks, prefixes_of
from edge_agent.worker import supervisor
from edge_agent.worker.process import EngineProcess, WorkerExited
from edge_agent.worker.supervisor import SILENCE_S, FromWorker, Supervisor
from tests.helpers.facts import READY
from tests.helpers.processes import wait_until
from tests.helpers.support import TASKS, Desk, config, finished, labelled
from tests.models.test_bundle import OTHER_WEIGHTS, bundle
from tests.worker.test_supervisor import KILLED, Process

# A switch that fails is a warning.
pytestmark = pytest.mark.expects_warning

LABELS = {"normal": 0.9, "bearing fault": 0.1}
CANARIES = Canaries.model_validate(
    {
        "schema": 1,
        "tolerances": {"score": 0.1, "number": 0.01},
        "tasks": {"t": {"kind": "classify", "labels": list(LABELS)}},
        "canaries": [{"task": "t", "input": text, "answer": {"scores": LABELS}} for text in ("a", "b")],
    }
)
MUCH_MB = 1e6


class Board:
    """An agent's parts around a ModelSwitch; it runs the bundle `old`, version 3."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        self.inbox: queue.SimpleQueue[Opened | Recorded] = queue.SimpleQueue()
        self.results: list[Any] = []
        self.events: list[dict[str, Any]] = []
        self.lost: list[WorkerExited] = []
        self.spare_mb: float | None = MUCH_MB
        board = self

        class Started(Process):
            def __init__(self, load: Any, _deliver: Callable[[Event | WorkerExited], None]) -> None:
                super().__init__(load)

            def start(self) -> None:
                board.processes.append(self)

        patch.setattr(supervisor, "EngineProcess", Started)
        bundle(folder / "old")
        files = {"model.gguf": OTHER_WEIGHTS, "canaries.json": CANARIES.encode()}
        bundle(folder / "new", files, version=4)
        bundle(folder / "older", version=2)
        bundle(folder / "plain", version=3)
        models = {"default": ModelConfig(path=folder / "old")}
        changes = {"models_dir": folder, "state_dir": folder / "state", "models": models}
        self.config = config(TASKS).model_copy(update=changes)
        self.desk = Desk(slots=2)
        self.dispatcher: Dispatcher = self.desk.dispatcher
        model = open_model("default", folder / "old")
        self.supervisor = Supervisor(
            self.config, model, prefixes_of(load_tasks(self.config)), lambda _: None, lambda: open_in_force(self.config)
        )
        self.dispatcher._send = self.supervisor.send
        self.supervisor.start(0.0)
        self.supervisor.became_ready(READY, 0.0)
        self.switch = ModelSwitch(
            self.config,
            supervisor=self.supervisor,
            dispatcher=self.dispatcher,
            deliver=self.inbox.put,
            spare_mb=lambda _now: self.spare_mb,
            adopted=self.adopted,
            failed=self.events.append,
            worker_exited=lambda end, _now: self.lost.append(end),
        )

    def adopted(self, event: dict[str, Any], ready: Ready, now: float) -> None:
        """As the agent does."""
        self.events.append(event)
        assert ready is READY
        self.dispatcher.worker_ready(self.supervisor.model.name, replace(READY, max_active=2), now)

    def ask(self, name: str, **fields: Any) -> None:
        self.switch.switch(name, allow_downgrade=fields.get("allow_downgrade", False), now=1.0, answer=self.answer)

    def answer(self, data: Any = None, error: SwitchError | None = None) -> None:
        self.results.append(data if error is None else error.code)

    def hear_thread(self, now: float) -> None:
        """What the thread has done."""
        self.switch.hear(self.inbox.get(timeout=30), now)

    def say(self, process: Process, event: Event | WorkerExited, now: float) -> None:
        self.switch.hear(FromWorker(cast("EngineProcess", process), event), now)

    def load(self, name: str = "new", **fields: Any) -> Process:
        """Begins a switch; gives the candidate that is loading."""
        self.ask(name, **fields)
        self.hear_thread(2.0)
        return self.processes[-1]

    def runs(self, process: Process) -> list[int]:
        return [one.id for one in process.commands if isinstance(one, Run)]

    def record(self) -> Record | None:
        return model_record.read(self.config)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Board:
    return Board(monkeypatch, tmp_path)


def right(number: int) -> Any:
    return labelled(number, normal=0.9, bearing_fault=0.1)


def test_what_runs_ends_on_the_old_worker_and_what_waits_is_for_the_new_one(board: Board) -> None:
    old = board.processes[0]
    for name in "abc":
        board.desk.ask({"input": name, "id": name})
    assert board.runs(old) == [1, 2]
    new = board.load()
    board.say(new, READY, 3.0)
    assert board.runs(new) == [0]  # its canaries, one at a time
    board.say(new, right(0), 4.0)
    assert (board.runs(new), board.switch.phase, board.record()) == ([0, 1], Phase.ASKING, None)
    board.say(new, right(1), 5.0)
    assert board.switch.phase is Phase.RECORDING
    assert board.supervisor.worker is old  # type: ignore[comparison-overlap]

    board.hear_thread(6.0)

    assert board.record() == Record(
        configured=board.folder / "old", current=board.folder / "new", previous=board.folder / "old"
    )
    assert board.supervisor.worker is new  # type: ignore[comparison-overlap]
    (result,) = board.results
    assert (result["canaries"], result["is_beside"], result["how"]) == (2, True, "switch")
    assert [(board.events[0][which]["version"]) for which in ("old", "new")] == [3, 4]
    # Both places are taken, by what the old one still runs.
    assert board.runs(new) == [0, 1]
    board.say(old, Partial(id=2, delta="x"), 6.5)
    board.say(old, finished(1), 7.0)
    assert board.runs(new) == [0, 1, 3]
    board.switch.tick(7.1)
    assert old.kills == 0
    board.dispatcher.cancel("b", None, 7.2)
    assert Cancel(id=2) in old.commands
    board.switch.tick(8.0)
    assert old.kills == 1
    board.say(old, KILLED, 8.1)
    board.dispatcher.finish(finished(3), 9.0)
    models = {reply["id"]: reply["model"] and reply["model"]["sha256"] for reply in board.desk.replies}
    assert models == {"a": "5ha", "b": None, "c": board.supervisor.model.sha256}
    assert (board.supervisor.former, board.supervisor.restarts, board.dispatcher.active) == (None, 0, 0)


def test_what_ran_on_the_old_worker_runs_again_on_the_new_one_if_that_dies(board: Board) -> None:
    old = board.processes[0]
    board.desk.ask({"input": "x", "id": "x"})
    new = board.load("plain")
    board.say(new, READY, 3.0)
    board.hear_thread(4.0)
    board.say(old, KILLED, 5.0)
    assert board.runs(new) == [1]
    board.dispatcher.finish(finished(1), 6.0)
    assert board.desk.reply["model"]["sha256"] == board.supervisor.model.sha256


def test_where_memory_is_short_or_unknown_the_old_worker_ends_what_it_runs_and_goes_first(board: Board) -> None:
    old = board.processes[0]
    board.spare_mb = None
    for name in "abc":
        board.desk.ask({"input": name, "id": name})
    board.load()
    board.switch.tick(2.1)
    assert (board.switch.phase, old.kills, len(board.processes)) == (Phase.DRAINING, 0, 1)
    for number in (1, 2):
        board.dispatcher.finish(finished(number), 3.0)
    assert board.runs(old) == [1, 2]  # the third waits
    board.switch.tick(3.1)
    assert (old.kills, board.supervisor.ready, board.dispatcher._slots) == (1, None, 0)
    board.switch.tick(3.5)
    assert len(board.processes) == 1  # it still holds its memory
    board.say(old, KILLED, 4.0)
    board.switch.tick(4.0)
    new = board.processes[1]
    assert board.supervisor.is_coming
    board.say(new, READY, 5.0)
    for number in (0, 1):
        board.say(new, right(number), 6.0)
    board.hear_thread(7.0)
    assert board.runs(new) == [0, 1, 3]
    assert board.results[0]["is_beside"] is False


def test_a_bad_bundle_that_had_the_old_worker_go_first_brings_it_back(board: Board) -> None:
    board.spare_mb = -1.0
    board.load()
    board.switch.tick(2.0)
    board.say(board.processes[0], KILLED, 3.0)
    board.desk.ask({"input": "x", "id": "x"}, at=3.0)
    board.switch.tick(3.0)
    board.say(board.processes[1], READY, 4.0)
    board.say(board.processes[1], labelled(0, normal=0.5, bearing_fault=0.5), 5.0)
    assert (board.results, board.record(), board.processes[1].kills) == (["canaries_differ"], None, 1)
    board.supervisor.watch(5.1, owes_answer=False)
    assert board.processes[2].load.model_path == str(board.folder / "old" / "model.gguf")
    board.dispatcher.worker_ready(board.supervisor.model.name, replace(READY, max_active=1), 6.0)
    assert board.runs(board.processes[2]) == [1]
    # What the candidate still says is nobody's.
    board.say(board.processes[1], right(0), 7.0)
    board.say(board.processes[1], KILLED, 7.0)
    assert board.lost == []


def test_a_new_worker_that_gets_on_may_take_its_time(board: Board) -> None:
    new, now = board.load(), 2.0
    for _ in range(5):
        now += LOAD_SILENCE_S
        board.switch.tick(now)
        board.say(new, Loading(phase=LoadPhase.WEIGHTS), now)
    assert (board.results, board.switch.phase, new.kills) == ([], Phase.LOADING, 0)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (LoadFailed(message="no"), "load_failed"),
        (WorkerExited(returncode=-9, log_tail=("MemoryError",)), "load_failed"),
        (labelled(0, normal=0.7, bearing_fault=0.3), "canaries_differ"),
        (None, "load_failed"),
    ],
)
def test_whatever_is_wrong_with_the_new_worker_leaves_the_old_one_where_it_is(
    board: Board, event: Event | WorkerExited | None, code: str
) -> None:
    old, new = board.processes[0], board.load()
    if event is None:
        board.switch.tick(2.0 + LOAD_SILENCE_S)
        assert board.results == []
        board.switch.tick(2.1 + LOAD_SILENCE_S)
    elif isinstance(event, LoadFailed | WorkerExited):
        board.say(new, event, 3.0)
    else:
        board.say(new, READY, 3.0)
        board.say(new, event, 3.0)
    assert (board.results, board.switch.phase, board.record()) == ([code], None, None)
    assert (old.kills, new.kills, board.supervisor.candidate) == (0, 1, None)
    board.desk.ask("x", at=4.0)
    assert board.runs(old) == [1]
    assert not (board.config.state_dir / FILE).exists()


def test_a_new_worker_that_is_silent_over_a_canary_is_given_up(board: Board) -> None:
    board.say(board.load(), READY, 3.0)
    board.switch.tick(3.0 + SILENCE_S)
    assert board.results == []
    board.switch.tick(3.1 + SILENCE_S)
    assert board.results == ["load_failed"]


def test_versions_rise_unless_told_otherwise_and_a_rollback_needs_not_be_told(board: Board) -> None:
    board.ask("older")
    board.hear_thread(2.0)
    assert (board.results.pop(), len(board.processes)) == ("downgrade", 1)
    board.say(board.load("older", allow_downgrade=True), READY, 3.0)
    board.hear_thread(4.0)
    assert board.results.pop()["new"]["version"] == 2
    board.switch.tick(4.1)
    board.say(board.processes[0], KILLED, 4.2)
    board.switch.roll_back(now=5.0, answer=board.answer)
    board.hear_thread(5.0)
    board.switch.hear(FromWorker(cast("EngineProcess", board.processes[-1]), READY), 6.0)
    board.hear_thread(6.0)
    assert (board.results[0]["how"], board.results[0]["new"]["version"]) == ("rollback", 3)
    assert board.supervisor.previous == board.folder / "older"


def test_the_next_switch_waits_for_the_end_of_the_worker_that_the_last_one_replaced(board: Board) -> None:
    old = board.processes[0]
    board.desk.ask({"input": "x", "id": "x"})
    board.say(board.load("plain"), READY, 3.0)
    board.hear_thread(4.0)
    board.ask("new")
    board.hear_thread(5.0)
    with pytest.raises(SwitchError, match="one switch at a time"):
        board.ask("older")
    assert (board.switch.phase, len(board.processes)) == (Phase.WAITING, 2)
    board.say(old, finished(1), 6.0)
    board.say(old, KILLED, 6.0)
    board.switch.tick(6.1)
    assert (board.switch.phase, len(board.processes)) == (Phase.LOADING, 3)


def test_a_bundle_on_a_disk_that_does_not_answer_is_given_up_and_another_one_may_be_asked_for(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def hanging(*given: Any) -> Any:
        (*_, advance) = given
        advance()
        assert answers.wait(30)
        raise ModelError("too late")

    monkeypatch.setattr(switch_attempt, "open_model", hanging)
    old = board.processes[0]
    board.ask("new")
    (attempt,) = [board.switch._attempt]
    assert attempt is not None
    wait_until(lambda: attempt.advances, "it reads")
    board.switch.tick(200.0)  # since then it has not got on
    board.switch.tick(200.0 + READ_SILENCE_S)
    assert board.results == []
    board.switch.tick(200.1 + READ_SILENCE_S)
    assert (board.results, board.switch.phase) == (["bundle_refused"], None)
    assert board.events[-1]["message"] == "the disk gave nothing more of the bundle for 300 s"
    board.desk.ask("x", at=600.0)
    assert (board.runs(old), old.kills) == ([1], 0)

    monkeypatch.undo()
    answers.set()
    board.hear_thread(600.0)  # what came of it after all is nobody's
    assert board.results == ["bundle_refused"]
    board.ask("older")
    board.hear_thread(601.0)
    assert board.results[1:] == ["downgrade"]


def test_a_bundle_that_is_read_on_may_take_its_time(board: Board) -> None:
    board.ask("new")
    attempt = board.switch._attempt
    assert attempt is not None
    for number in range(1, 6):
        attempt.advance()
        board.switch.tick(number * READ_SILENCE_S)
    assert (board.results, board.switch.phase) == ([], Phase.VERIFYING)
    board.hear_thread(5.5 * READ_SILENCE_S)
    assert board.switch.phase is Phase.LOADING
    assert attempt.advances == 5 + 2  # its own two files


def test_an_old_worker_that_cannot_be_ended_ends_the_switch_and_its_model_is_loaded_again(board: Board) -> None:
    old = board.processes[0]
    board.spare_mb = -1.0
    board.load()
    board.switch.tick(2.0)
    assert (board.switch.phase, old.kills > 0) == (Phase.ENDING, True)
    board.switch.tick(2.0 + DYING_S)
    assert board.results == []
    board.switch.tick(2.1 + DYING_S)
    assert (board.results, board.switch.phase) == (["load_failed"], None)
    board.supervisor.watch(63.0, owes_answer=False)
    assert board.processes[1].load.model_path == str(board.folder / "old" / "model.gguf")
    board.supervisor.became_ready(READY, 64.0)
    board.dispatcher.worker_ready(board.supervisor.model.name, replace(READY, max_active=1), 64.0)
    board.desk.ask("x", at=64.0)
    assert board.runs(board.processes[1]) == [1]
    # As long as it is there, there is no memory for another one; once it is gone, there is.
    board.ask("new")
    board.hear_thread(65.0)
    board.switch.tick(65.1 + DYING_S)
    assert board.results == ["load_failed"] * 2
    board.say(old, KILLED, 130.0)
    board.spare_mb = MUCH_MB
    board.ask("new")
    board.hear_thread(131.0)
    assert board.switch.phase is Phase.LOADING


def test_what_runs_already_is_no_switch(board: Board) -> None:
    board.ask("old")
    assert board.results == [{"changed": False}]
    assert board.switch.phase is None
    with pytest.raises(
        SwitchError, match=r'should be a folder in models_dir: "new", "old", "older", "plain" \(got "nowhere"\)'
    ):
        board.ask("nowhere")
    for folder in (board.config.models_dir / name for name in ("new", "old", "older", "plain")):
        shutil.rmtree(folder)
    with pytest.raises(SwitchError, match=r'models_dir: it holds no bundle \(got "nowhere"\)'):
        board.ask("nowhere")
    with pytest.raises(SwitchError, match="File name too long") as refused:
        board.ask("x" * 256)
    assert refused.value.code == "bad_field"
    with pytest.raises(SwitchError, match="no switch"):
        board.switch.roll_back(now=1.0, answer=board.answer)


def test_what_runs_for_want_of_another_is_in_force_once_it_is_asked_for(board: Board) -> None:
    board.supervisor.model = replace(board.supervisor.model, is_fallback=True)
    board.say(board.load("old"), READY, 3.0)
    board.hear_thread(4.0)
    assert (board.results[0]["changed"], board.supervisor.model.is_fallback) == (True, False)


def test_a_switch_that_cannot_be_recorded_does_not_come_into_force(board: Board) -> None:
    board.config.state_dir.write_bytes(b"no folder")
    new = board.load("plain")
    board.say(new, READY, 3.0)
    board.hear_thread(4.0)
    assert (board.results, new.kills) == (["not_recorded"], 1)


def test_what_was_renamed_but_is_not_surely_on_the_disk_is_taken_back(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(5, "Input/output error")

    board.say(board.load("plain"), READY, 3.0)
    board.hear_thread(4.0)
    board.switch.tick(4.1)
    board.say(board.processes[0], KILLED, 4.2)
    before = board.record()
    new = board.load("new")
    board.say(new, READY, 5.0)
    board.say(new, right(0), 5.0)
    monkeypatch.setattr(state_files, "sync_folder", fail)
    board.say(new, right(1), 5.0)
    board.hear_thread(6.0)
    assert board.results[1:] == ["not_recorded"]
    assert board.record() == before


def test_a_fault_of_ours_ends_a_switch_too(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("nobody thought of this")

    with monkeypatch.context() as patch:
        patch.setattr(model_record, "write", fail)
        board.say(board.load("plain"), READY, 3.0)
        board.hear_thread(4.0)
    monkeypatch.setattr(board.supervisor, "try_out", fail)
    board.load("plain")
    assert board.results == ["not_recorded", "internal"]
    assert board.switch.phase is None


def test_a_folder_whose_name_nobody_can_be_told_is_refused_in_words(board: Board) -> None:
    odd = board.folder / os.fsdecode(b"caf\xe9")
    bundle(odd)
    (board.folder / "linked").symlink_to(odd)
    board.ask("linked")
    board.hear_thread(2.0)
    assert board.results == ["bundle_refused"]
    assert json.dumps(board.events, ensure_ascii=False).encode()


def test_a_bundle_that_changes_while_it_is_loaded_is_not_taken(board: Board) -> None:
    new = board.load("plain")
    (board.folder / "plain" / "model.gguf").write_bytes(OTHER_WEIGHTS)
    board.say(new, READY, 3.0)
    board.hear_thread(4.0)
    assert board.results == ["not_recorded"]
    assert board.record() is None


def test_a_worker_that_dies_while_its_switch_is_recorded_has_died_as_the_one_in_force(board: Board) -> None:
    new = board.load("plain")
    board.say(new, READY, 3.0)
    board.say(new, KILLED, 3.5)
    assert board.results == []
    board.hear_thread(4.0)
    assert board.results[0]["changed"]
    assert board.lost == [KILLED]


def test_an_old_worker_that_dies_while_the_switch_is_recorded_is_not_started_again_before_that(board: Board) -> None:
    board.say(board.load("plain"), READY, 3.0)
    board.supervisor.ended(KILLED, 3.1)
    board.supervisor.watch(100.0, owes_answer=False)
    assert len(board.processes) == 2
    board.hear_thread(101.0)
    assert not board.supervisor.is_deciding


def test_an_agent_that_stops_gives_up_what_is_not_recorded(board: Board) -> None:
    new = board.load("plain")
    board.switch.stop(3.0)
    assert (board.results, new.kills) == (["stopping"], 1)
    board.switch.stop(3.0)
    assert len(board.results) == 1


def test_an_agent_that_stops_tells_of_what_is_recorded(board: Board) -> None:
    board.say(board.load("plain"), READY, 3.0)
    board.switch.stop(4.0)
    assert board.results[0]["changed"]
    assert [event["new"]["version"] for event in board.events] == [3]
    assert board.record()


def test_a_worker_with_more_weights_needs_as_much_more_memory_and_never_less(board: Board) -> None:
    old = open_model("default", board.folder / "old")
    sizes = {factor: replace(old, size_bytes=int(factor * old.size_bytes)) for factor in (0.5, 2.0)}
    assert needed_mb(sizes[2.0], old, 100.0) == pytest.approx(200.0)
    assert needed_mb(sizes[0.5], old, 100.0) == pytest.approx(100.0)
    wanted_mb = BASE_MB + COPIES * old.size_bytes / 1e6
    # Nothing is known of a worker that is not there, or has no weights.
    assert needed_mb(old, old, None) == wanted_mb
    assert needed_mb(old, open_model("default", Path("echo:")), 100.0) == wanted_mb


def test_a_bundle_that_is_replaced_in_its_own_folder_is_nothing_to_go_back_to(board: Board) -> None:
    shutil.rmtree(board.folder / "old")
    bundle(board.folder / "old", version=5)
    board.say(board.load("old"), READY, 3.0)
    board.hear_thread(4.0)
    assert board.results[0]["new"]["version"] == 5
    assert board.supervisor.previous is None


def test_what_the_old_model_took_is_not_held_against_the_new_one(board: Board) -> None:
    board.desk.ask({"input": "x", "id": "x"})
    board.say(board.load("plain"), READY, 3.0)
    forecast, kind = board.dispatcher._forecast, board.dispatcher._active[1].kind
    forecast.measure(kind, share_s=1.0, run_s=1.0, batch=1, now=3.0)
    board.hear_thread(4.0)
    assert forecast.expect(kind) is None
    board.say(board.processes[0], finished(1), 5.0)
    assert forecast.expect(kind) is None


def test_a_worker_that_had_died_is_not_started_beside_the_one_that_took_its_place(board: Board) -> None:
    board.supervisor.ended(KILLED, 1.0)
    new = board.load("plain")
    board.say(new, READY, 2.5)
    board.hear_thread(2.6)
    board.supervisor.watch(100.0, owes_answer=False)
    assert len(board.processes) == 2
    assert board.supervisor.worker is new  # type: ignore[comparison-overlap]
    # Its own files are what it is started from again.
    shutil.rmtree(board.folder / "plain")
    bundle(board.folder / "plain", version=9)
    board.supervisor.ended(KILLED, 100.0)
    board.supervisor.watch(200.0, owes_answer=False)
    assert board.supervisor.is_coming
    wait_until(lambda: board.supervisor.watch(201.0, owes_answer=False) or len(board.processes) == 3, "it is checked")
    assert board.supervisor.model.version == 9


def test_the_new_worker_knows_the_tasks_of_a_reload_that_came_meanwhile(board: Board) -> None:
    new = board.load("plain")
    tasks = load_tasks(config('[tasks.t]\nkind = "generate"\nsystem = "S"\n'))
    board.supervisor.set_tasks(prefixes_of(tasks))
    board.say(new, READY, 3.0)
    board.hear_thread(4.0)
    assert new.commands == [SetTasks(tasks=tuple(task.prefix() for task in tasks.values()))]
