"""A model switch as a timeline: what workers and requests see of it, and how it ends."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.core.clock import parse_timestamp
from edge_agent.core.config import ModelConfig
from edge_agent.core.kinds.unusual import UnusualTask
from edge_agent.core.model import ModelError
from edge_agent.core.pipe import Cancelled, Command, EngineRequest, Event, LoadFailed, SetTasks
from edge_agent.models import record
from edge_agent.models.bundle import open_model
from edge_agent.models.canaries import CanaryFile
from edge_agent.models.record import (
    FILE,
    Record,
    model_refusals,
    open_in_force,
    open_or_placeholder,
    read_record,
    write_record,
)
from edge_agent.models.switch import ModelSwitch, Switched, SwitchFailed, needed_mb
from edge_agent.requests.tasks import Task, prefixes_of, with_built_in
from edge_agent.worker.process import WorkerExited, WorkerProcess
from edge_agent.worker.supervisor import FromWorker, Supervisor
from tests.helpers.bundles import flip
from tests.helpers.facts import READY
from tests.helpers.keys import key_sha256, sign, write_keys, write_revocations
from tests.helpers.processes import wait_until
from tests.helpers.support import TASKS, Desk, config, finished, labelled
from tests.helpers.workers import KILLED, FakeProcess, fake_processes
from tests.models.test_bundle import OTHER_WEIGHTS, bundle

# A switch that fails is a warning.
pytestmark = pytest.mark.expects_warning

LABELS = {"normal": 0.9, "bearing fault": 0.1}
CANARIES = CanaryFile.model_validate(
    {
        "schema": 1,
        "tolerances": {"score": 0.1, "number": 0.01},
        "tasks": {"t": {"kind": "classify", "labels": list(LABELS)}},
        "canaries": [{"task": "t", "input": text, "answer": {"scores": LABELS}} for text in ("a", "b")],
    }
)
MUCH_MB = 1e6


class Board:
    """An agent's parts around a ModelSwitch; it runs the bundle `old`, version 3.

    `says` is what the worker of a new model says once it is started, `answers` its answers to its canaries by number.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.spare_mb: float | None = MUCH_MB
        self.says: list[Event | WorkerExited] = [READY]
        self.answers: dict[int, Event | WorkerExited] = {}
        self.delivered: list[FromWorker] = []
        bundle(folder / "old")
        files = {"model.gguf": OTHER_WEIGHTS, "canaries.json": CANARIES.encode()}
        bundle(folder / "new", files, version=4)
        bundle(folder / "older", version=2)
        bundle(folder / "plain", version=3)
        models = {"default": ModelConfig(path=folder / "old")}
        changes = {"models_dir": folder, "state_dir": folder / "state", "models": models}
        self.config = config(TASKS).model_copy(update=changes)
        self.desk = Desk(slots=2)
        self.dispatcher = self.desk.dispatcher
        self.processes = fake_processes(patch)
        self.supervisor = Supervisor(
            self.config,
            open_model("default", folder / "old"),
            prefixes_of(with_built_in(self.config.tasks).values()),
            self.delivered.append,
        )
        self.dispatcher._send = self.supervisor.send
        self.supervisor.start(0.0)
        self.supervisor.on_ready(READY, 0.0)
        self.old = self.processes[0]
        self.processes.on_start = self.start_candidate
        self.processes.on_send = self.answer_canary
        self.switch = ModelSwitch(self.config, self.supervisor, self.dispatcher, lambda _now: self.spare_mb)

    def start_candidate(self, process: FakeProcess) -> None:
        if self.switch.is_underway:
            for event in self.says:
                process.deliver(event)

    def answer_canary(self, process: FakeProcess, command: Command) -> None:
        if isinstance(command, EngineRequest) and self.switch.is_underway and process is not self.old:
            process.deliver(self.answers.get(command.id, right(command.id)))

    def ask(self, name: str, **fields: Any) -> None:
        assert self.switch.start(name, **{"allow_downgrade": False, **fields})

    def tick(self, now: float) -> Switched | SwitchFailed | None:
        """Ticks as the agent does."""
        self.supervisor.restart_or_kill(now)
        end = self.switch.tick(now)
        if isinstance(end, Switched):
            self.dispatcher.on_worker_ready(self.supervisor.model, replace(READY, max_active=2), now)
        return end

    def tick_until(
        self, is_so: Callable[[], object], now: float, *, step_s: float = 0.0
    ) -> Switched | SwitchFailed | None:
        """Ticks until that is so or the switch has ended, with `step_s` between two ticks."""
        ends: list[Switched | SwitchFailed] = []
        times = itertools.count(now, step_s)

        def go_on() -> bool:
            end = self.tick(next(times))
            ends.extend([] if end is None else [end])
            return bool(ends or is_so())

        wait_until(go_on, "it gets on")
        return ends[0] if ends else None

    def finish(self, now: float = 3.0, *, step_s: float = 0.0) -> dict[str, Any] | str:
        """The answer to the command: data, or the code of an error."""
        end = self.tick_until(lambda: False, now, step_s=step_s)
        assert end is not None
        return end.data if isinstance(end, Switched) else end.error.code

    def run(self, name: str, now: float = 3.0, **fields: Any) -> dict[str, Any] | str:
        self.ask(name, **fields)
        return self.finish(now)

    def say(self, process: FakeProcess, event: Event | WorkerExited, now: float) -> None:
        """Passes an event of a worker on as the agent does."""
        match self.supervisor.receive(FromWorker(cast("WorkerProcess", process), event), now):
            case WorkerExited() as end:
                self.supervisor.on_ended(end, now)
                self.dispatcher.on_worker_lost("killed", now)
            case None:
                pass
            case answer:
                self.dispatcher.on_worker_answer(cast("Any", answer), now)

    def runs(self, process: FakeProcess) -> list[int]:
        return [one.id for one in process.commands if isinstance(one, EngineRequest)]

    @property
    def worker(self) -> FakeProcess:
        """The worker in force."""
        assert self.supervisor._current is not None
        return cast("FakeProcess", self.supervisor._current.process)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Board:
    return Board(monkeypatch, tmp_path)


def right(number: int) -> Event:
    return labelled(number, normal=0.9, bearing_fault=0.1)


def test_what_runs_ends_on_the_old_worker_and_what_waits_runs_on_the_new_one(board: Board) -> None:
    old = board.old
    for name in "abc":
        board.desk.ask({"input": name, "id": name})
    assert board.runs(old) == [1, 2]

    board.dispatcher._tasks["watch"] = Task("watch", UnusualTask(kind="unusual"))
    board.ask("new")
    board.tick_until(lambda: board.dispatcher.is_paused, 3.0)
    new = board.processes[1]
    # The new one has been asked its canaries, and waits for what the old one still runs.
    assert (board.worker, board.runs(new), old.kills, read_record(board.config)) == (old, [0, 1], 0, None)
    board.say(old, finished(1), 7.0)
    board.dispatcher.cancel("cancelled by command", 7.2, request_id="b")
    board.say(old, Cancelled(id=2), 7.3)
    end = board.tick_until(lambda: False, 8.0)

    assert isinstance(end, Switched)
    recorded = read_record(board.config)
    assert recorded is not None
    assert recorded == Record(
        configured=board.folder / "old",
        current=board.folder / "new",
        previous=board.folder / "old",
        least_version=4,
        changed_at=recorded.changed_at,
    )
    assert (board.worker, old.kills) == (new, 1)
    assert (end.data["canaries"], end.data["is_beside"], end.data["how"]) == (2, True, "switch")
    assert end.data["unserved_tasks"] == ["watch"]
    assert [end.event[which]["version"] for which in ("old", "new")] == [3, 4]
    assert board.runs(new) == [0, 1, 3]
    board.say(new, finished(3), 9.0)
    models = {reply["id"]: reply["model"] and reply["model"]["sha256"] for reply in board.desk.replies}
    assert models == {"a": "5ha", "b": None, "c": board.supervisor.model.sha256}
    assert (board.supervisor.restarts, board.dispatcher.active) == (0, 0)


def test_no_model_is_in_force_before_its_canaries_and_its_record(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    write = record.write_record
    monkeypatch.setattr(record, "write_record", lambda *given: may_write.wait(30) and write(*given))
    board.ask("new")
    board.tick_until(lambda: len(board.processes) > 1 and board.runs(board.processes[1]) == [0, 1], 3.0)
    for _ in range(3):
        assert board.tick(4.0) is None
    assert (board.supervisor.model.source, read_record(board.config)) == (board.folder / "old", None)
    may_write.set()
    assert isinstance(board.finish(5.0), dict)
    assert (board.worker, board.supervisor.restart_at) == (board.processes[1], None)


def test_what_the_answerers_ask_follows_the_canaries_and_is_theirs_before_the_model_is_in_force(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerers, kept = board.dispatcher.admission.answerers, list[Any]()
    asked = [replace(request_of_canary(), id=number) for number in (70, 60)]
    monkeypatch.setattr(answerers, "trial_requests", lambda _model: iter(asked))
    monkeypatch.setattr(
        answerers, "keep_trial", lambda model, events: kept.append((model, events, board.supervisor.model is model))
    )
    board.run("new")
    [(model, events, was_in_force)] = kept
    assert board.runs(board.worker) == [0, 1, 70, 60]
    assert (model, [event.id for event in events], was_in_force) == (board.supervisor.model, [70, 60], False)
    # A worker that dies of one of them is no model to switch to.
    board.answers[60] = KILLED
    assert board.run("plain", allow_downgrade=True) == "load_failed"


def request_of_canary() -> EngineRequest:
    return CANARIES.build_engine_request(0, 0)


def test_requests_of_an_old_worker_that_dies_run_again_on_the_new_one(board: Board) -> None:
    board.desk.ask({"input": "x", "id": "x"})
    board.ask("plain")
    board.tick_until(lambda: board.dispatcher.is_paused, 3.0)
    board.say(board.old, KILLED, 5.0)
    board.finish(5.1)
    assert board.runs(board.worker) == [1]
    board.say(board.worker, finished(1), 6.0)
    assert board.desk.reply["model"]["sha256"] == board.supervisor.model.sha256


@pytest.mark.parametrize(
    ("says", "answer", "code"),
    [
        (LoadFailed(message="no"), None, "load_failed"),
        (WorkerExited(returncode=-9, log_tail=("MemoryError",)), None, "load_failed"),
        (READY, labelled(0, normal=0.7, bearing_fault=0.3), "canaries_differ"),
        (READY, WorkerExited(returncode=-9, log_tail=()), "load_failed"),
        (OSError(11, "no more processes"), None, "load_failed"),
    ],
)
def test_any_fault_of_the_new_worker_leaves_the_old_one_in_force(
    board: Board, says: Event | WorkerExited | OSError, answer: Event | WorkerExited | None, code: str
) -> None:
    if isinstance(says, OSError):
        board.processes.faults = [says]
    else:
        board.says = [says]
    if answer is not None:
        board.answers[0] = answer
    assert board.run("new") == code
    assert (board.worker, board.old.kills, board.switch.is_underway) == (board.old, 0, False)
    assert sum(process.kills for process in board.processes[1:]) == len(board.processes) - 1
    board.desk.ask("x", at=4.0)
    assert board.runs(board.old) == [1]
    assert not (board.config.state_dir / FILE).exists()


def test_a_switch_to_what_runs_changes_nothing(board: Board) -> None:
    assert not board.switch.start("old", allow_downgrade=False)
    assert not board.switch.is_underway
    # A fallback is not what the record names.
    board.supervisor.model = replace(board.supervisor.model, is_fallback=True)
    assert isinstance(board.run("old"), dict)
    assert not board.supervisor.model.is_fallback


def test_a_switch_that_cannot_be_recorded_does_not_come_into_force(board: Board) -> None:
    board.config.state_dir.write_bytes(b"no folder")
    assert board.run("plain") == "not_recorded"
    assert board.processes[1].kills == 1


def test_a_bundle_that_changes_while_it_is_loaded_does_not_come_into_force(board: Board) -> None:
    def change_and_answer(process: FakeProcess) -> None:
        (board.folder / "plain" / "model.gguf").write_bytes(OTHER_WEIGHTS)
        process.deliver(READY)

    board.processes.on_start = change_and_answer
    assert board.run("plain") == "not_recorded"
    assert read_record(board.config) is None


def test_an_agent_that_stops_gives_up_what_is_not_recorded(board: Board) -> None:
    board.says = []
    board.ask("plain")
    board.tick_until(lambda: len(board.processes) > 1, 2.0)
    end = board.switch.stop(3.0)
    assert isinstance(end, SwitchFailed)
    assert (end.error.code, board.processes[1].kills) == ("stopping", 1)
    assert board.switch.stop(3.0) is None


def test_a_model_with_more_weights_needs_as_much_more_memory_and_never_less(board: Board) -> None:
    old = open_model("default", board.folder / "old")
    sizes = {factor: replace(old, size_bytes=int(factor * old.size_bytes)) for factor in (0.5, 2.0)}
    assert needed_mb(sizes[2.0], old, 100.0) == pytest.approx(200.0)
    assert needed_mb(sizes[0.5], old, 100.0) == pytest.approx(100.0)
    # Nothing is known of a worker that is not there, or has no weights.
    assert needed_mb(old, old, None) == old.likely_worker_mb
    assert needed_mb(old, open_model("default", Path("echo:")), 100.0) == old.likely_worker_mb


def test_a_start_that_fell_back_to_the_previous_model_has_no_previous_one(board: Board) -> None:
    board.run("plain")
    assert board.switch.previous == board.folder / "old"
    (board.folder / "plain" / "model.gguf").unlink()
    board.supervisor.model = open_in_force(board.config)
    again = ModelSwitch(board.config, board.supervisor, board.dispatcher, lambda _now: None)
    assert again.previous is None


def test_who_switched_and_when_outlives_the_agent_but_not_a_fallback(board: Board) -> None:
    assert board.switch.describe() == {"previous": None, "changed_at": None, "changed_by": None}
    board.run("plain", by="ana")
    before = board.switch.describe()
    assert parse_timestamp(before["changed_at"])
    assert before == {"previous": "old", "changed_at": before["changed_at"], "changed_by": "ana"}
    again = ModelSwitch(board.config, board.supervisor, board.dispatcher, lambda _now: None)
    assert again.describe() == before
    (board.folder / "plain" / "model.gguf").unlink()
    board.supervisor.model = open_in_force(board.config)
    again = ModelSwitch(board.config, board.supervisor, board.dispatcher, lambda _now: None)
    assert again.describe() == {"previous": None, "changed_at": None, "changed_by": None}


def test_a_switch_that_fails_on_a_board_without_a_model_starts_no_worker(board: Board) -> None:
    (board.folder / "old" / "model.gguf").unlink()
    board.supervisor.has_given_up = True
    board.say(board.old, KILLED, 1.0)
    board.supervisor.model, fault = open_or_placeholder(board.config)
    assert fault
    board.spare_mb, board.says = None, [LoadFailed(message="no")]
    assert board.run("plain") == "load_failed"
    assert board.supervisor.restart_at is None


def test_the_new_worker_gets_the_tasks_of_a_reload_that_came_meanwhile(board: Board) -> None:
    board.says = []
    board.ask("plain")
    board.tick_until(lambda: len(board.processes) > 1, 2.0)
    prefixes = prefixes_of(with_built_in(config('[tasks.t]\nkind = "generate"\nsystem = "S"\n').tasks).values())
    board.supervisor.set_prefixes(prefixes)
    board.processes[1].deliver(READY)
    board.finish()
    assert board.worker.commands == [SetTasks(tasks=prefixes)]


def test_an_expired_bundle_is_not_switched_to_but_a_rollback_to_it_and_a_start_go_on(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(board.folder / "brief", version=5, expires="2026-01-01")
    assert board.run("brief", allow_downgrade=True) == "expired"
    # While the clock is unset nothing has expired.
    with monkeypatch.context() as unset:
        unset.setattr(time, "time", lambda: 1000.0)
        assert isinstance(board.run("brief"), dict)
    assert open_in_force(board.config).expires == "2026-01-01"
    board.run("plain", allow_downgrade=True)
    assert board.switch.roll_back()
    assert isinstance(board.finish(), dict)
    assert board.supervisor.model.bundle_name == "pump-demo"
    assert board.supervisor.model.expires == "2026-01-01"


def test_a_version_below_that_of_the_last_switch_is_a_downgrade_also_after_a_fallback(board: Board) -> None:
    bundle(board.folder / "newest", version=5)
    assert isinstance(board.run("newest"), dict)
    (board.folder / "newest" / "model.gguf").unlink()
    board.supervisor.model = open_in_force(board.config)
    assert board.supervisor.model.version == 3
    board.switch = ModelSwitch(board.config, board.supervisor, board.dispatcher, lambda _now: board.spare_mb)
    board.ask("new")
    end = board.tick_until(lambda: False, 3.0)
    assert isinstance(end, SwitchFailed)
    message = "version 4 is older than 5, the least version since the last switch; `allow_downgrade` permits it"
    assert (end.error.code, end.error.message) == ("downgrade", message)
    assert isinstance(board.run("new", allow_downgrade=True), dict)
    # The version that was permitted last is the least one from now on.
    assert (board.run("plain"), board.switch._min_version) == ("downgrade", 4)


def test_a_switch_to_the_bundle_in_force_is_no_downgrade_while_a_newer_one_stands_in(board: Board) -> None:
    assert isinstance(board.run("new"), dict)
    assert board.switch.roll_back()
    board.finish()
    file = board.folder / "old" / "model.gguf"
    flip(file)
    board.supervisor.model = open_in_force(board.config)
    assert (board.supervisor.model.version, board.supervisor.model.is_fallback) == (4, True)
    board.switch = ModelSwitch(board.config, board.supervisor, board.dispatcher, lambda _now: board.spare_mb)
    flip(file)
    assert board.run("older") == "downgrade"
    assert isinstance(board.run("old"), dict)
    # It stands in no longer, so its successor may replace it, and not the other way round.
    assert isinstance(board.run("new"), dict)
    assert board.run("old") == "downgrade"


def test_a_fallback_refuses_older_versions_where_the_record_is_of_0_1_0(board: Board) -> None:
    assert isinstance(board.run("new"), dict)
    file = board.config.state_dir / "model-1.json"
    record = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({key: record[key] for key in ("schema", "configured", "current", "previous")}), "utf-8")
    flip(board.folder / "new" / "model.gguf")
    board.supervisor.model = open_in_force(board.config)
    assert (board.supervisor.model.version, board.supervisor.model.is_fallback) == (3, True)
    board.switch = ModelSwitch(board.config, board.supervisor, board.dispatcher, lambda _now: board.spare_mb)
    assert board.run("older") == "downgrade"


class SignedBoard:
    """A board that opens signed bundles only, with a list of revocations that revokes nothing yet."""

    def __init__(self, board: Board) -> None:
        self.board, self.list = board, board.folder / "revocations.json"
        self.keys = {name: write_keys(board.folder, name) for name in ("first", "second")}
        for name in ("old", "new", "older", "plain"):
            sign(board.folder / name, self.keys["first"][0])
        public = tuple(public for _, public in self.keys.values())
        model = ModelConfig(path=board.folder / "old", public_keys=public, revocations=self.list)
        board.config = board.config.model_copy(update={"models": {"default": model}})
        board.switch = ModelSwitch(board.config, board.supervisor, board.dispatcher, lambda _now: board.spare_mb)
        self.publish(1)

    def publish(self, number: int, **fields: Any) -> None:
        write_revocations(self.list, self.keys["second"][0], number, **fields)


@pytest.fixture
def signed(board: Board) -> SignedBoard:
    return SignedBoard(board)


def test_what_is_revoked_is_neither_switched_to_nor_rolled_back_to(signed: SignedBoard) -> None:
    board = signed.board
    assert isinstance(board.run("new"), dict)
    signed.publish(2, manifests=[str(open_model("default", board.folder / "old").manifest_sha256)])
    assert board.switch.roll_back()
    assert board.finish() == "revoked"
    signed.publish(3, keys=[key_sha256(signed.keys["first"][1])])
    assert board.run("plain", allow_downgrade=True) == "revoked"
    sign(board.folder / "plain", signed.keys["second"][0])
    assert isinstance(board.run("plain", allow_downgrade=True), dict)


def test_a_faulty_list_refuses_switches_and_leaves_the_way_back_open(signed: SignedBoard) -> None:
    board = signed.board
    assert isinstance(board.run("new"), dict)
    signed.list.unlink()
    assert board.run("plain", allow_downgrade=True) == "revocations_faulty"
    assert board.switch.roll_back()
    assert isinstance(board.finish(), dict)


def test_a_start_goes_on_with_a_faulty_list_and_not_with_a_revoked_bundle(signed: SignedBoard) -> None:
    board = signed.board
    assert isinstance(board.run("new"), dict)
    newest = str(open_model("default", board.folder / "new").manifest_sha256)
    signed.list.unlink()
    assert open_in_force(board.config).version == 4
    signed.publish(2, manifests=[newest])
    model = open_in_force(board.config)
    assert (model.version, model.is_fallback) == (3, True)
    assert "new/manifest.json: revoked by list 2" in (model.warning or "")
    # The copy of the list counts when the list is taken away.
    signed.list.unlink()
    assert open_in_force(board.config).version == 3


def test_an_older_signed_bundle_in_the_folder_of_the_one_in_force_does_not_open(signed: SignedBoard) -> None:
    board = signed.board
    assert isinstance(board.run("new"), dict)
    for name in ("new", "older"):
        (board.folder / name).rename(board.folder / f"{name}.away")
    (board.folder / "older.away").rename(board.folder / "new")
    model = open_in_force(board.config)
    assert (model.version, model.is_fallback) == (3, True)
    told = "new/manifest.json: version: should be at least 4, the version of the last switch (got 2)"
    assert told in (model.warning or "")
    assert [fault for fault in model_refusals(board.config) if told in fault]
    # Without a key it is taken as before, although anyone may have made it.
    unsigned = {"default": ModelConfig(path=board.folder / "old")}
    assert open_in_force(board.config.model_copy(update={"models": unsigned})).version == 2
    # With a key it is not, nor if the configuration names this folder.
    configured = board.config.models["default"].model_copy(update={"path": board.folder / "new"})
    replaced = Record(configured=configured.path, current=configured.path, previous=None, least_version=4)
    write_record(board.config.state_dir, replaced)
    with pytest.raises(ModelError, match="should be at least 4"):
        open_in_force(board.config.model_copy(update={"models": {"default": configured}}))
