import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from edge_agent.agent import Agent
from edge_agent.board.reading import BoardReading, Memory, Thermal
from edge_agent.core.messages import Publication, Reply
from edge_agent.core.model import Model
from edge_agent.core.pipe import EngineRequest, Event, Loading, Progress, Ready, Student
from edge_agent.core.topics import TaskTopics
from edge_agent.learning import audited
from edge_agent.learning.answers import AnswerTable, KeptAnswer
from edge_agent.learning.maths.assessment import Assessment
from edge_agent.loader import load_config
from edge_agent.models.bundle import open_model
from edge_agent.models.switch import Switched
from edge_agent.mqtt.link import TAKEN_OVER, Connected, ConnectionFailed, FailedAt
from edge_agent.pool.claim import Claim
from edge_agent.pool.link import CLAIMS_KEPT_S
from edge_agent.requests.request import LARGE
from edge_agent.run_note import MODEL_CHANGED, RunNote
from edge_agent.status import homeassistant
from edge_agent.status.presence import State
from edge_agent.worker.client import WorkerClient
from edge_agent.worker.process import WorkerExited, WorkerProcess
from edge_agent.worker.supervisor import FromWorker
from tests.helpers.facts import READY
from tests.helpers.support import BASE, MODEL, config, inbound, labelled, received, with_model
from tests.helpers.workers import KILLED, FakeProcess, fake_processes
from tests.models.test_bundle import OTHER_WEIGHTS, bundle

MINIMAL = '[device]\nsite = "hall1"\nid = "board1"\n[models.default]\npath = "echo:"\n'


def an_agent(more: str = "") -> Agent:
    return Agent(config(more), Path("config.toml"), open_model("default", Path("echo:")))


def agent_of(path: Path, more: str) -> Agent:
    """An agent that may reload its configuration."""
    path.write_text(MINIMAL + more, encoding="utf-8")
    return Agent(load_config(path), path, open_model("default", Path("echo:")))


def agent_with_bundle(path: Path) -> Agent:
    return Agent(with_model(bundle(path)), Path("config.toml"), open_model("default", path))


@pytest.mark.expects_warning
def test_why_there_is_no_connection_is_logged_once_until_there_was_one(caplog: pytest.LogCaptureFixture) -> None:
    agent = an_agent()
    link = agent._connections.data
    refused = ConnectionFailed(link=link, failed_at=FailedAt.NOT_REACHED, reason="Connection refused")
    silent = ConnectionFailed(link=link, failed_at=FailedAt.NOT_ANSWERED, reason="no answer")
    lost = ConnectionFailed(link=link, failed_at=FailedAt.LOST, reason="Unspecified error")

    for event in (refused, refused, silent, refused, Connected(link=link), lost, refused):
        agent._handle(event, 1.0)

    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told[0] == (
        "cannot connect, trying again client=hall1.board1.data broker=localhost:1883 reason=Connection refused"
    )
    reasons = [text.split("reason=")[1].split(":")[0] for text in told]
    assert reasons == ["Connection refused", "no answer", "Unspecified error", "Connection refused"]


def test_a_reload_applies_what_it_can_and_names_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "config.toml"
    agent = agent_of(path, "[health]\ninterval_s = 600\n")
    now = time.monotonic()
    agent._tick(now)
    assert agent._status._health_at == now + 600.0
    queue = '[queue]\njournal = "memory"\n'
    path.write_text(MINIMAL + "[health]\ninterval_s = 2\n" + queue, encoding="utf-8")
    assert agent._commands.reload() == {"applied": ["health"], "needs_restart": ["queue.journal"]}
    assert now + 2.0 <= agent._status._health_at < now + 60.0
    path.write_text(MINIMAL + queue + 'capacity = 9\n[log]\nlevel = "ERROR"\n[engine]\nthreads = 1\n', encoding="utf-8")
    caplog.clear()
    told: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(agent._status, "publish_event", lambda *event: told.append(event))
    agent._on_signal(signal.SIGHUP, None)
    agent._tick(now + 1.0)
    reload = {"op": "reload", "by": None, "applied": ["queue", "health", "log"]}
    assert told == [("command", {**reload, "needs_restart": ["queue.journal", "engine"]})]
    assert logging.getLogger().level == logging.ERROR
    path.write_text(MINIMAL, encoding="utf-8")
    assert agent._commands.reload() == {"applied": ["queue", "log"], "needs_restart": []}
    assert logging.getLogger().level == logging.INFO


def test_a_drain_ends_although_its_state_cannot_be_published(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent()
    agent._presence.state = State.ONLINE
    monkeypatch.setattr(agent._status, "publish_health", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        agent._commands.stop(0.0)
    agent._commands.tick(0.1)
    assert agent._commands.is_stopped


def test_the_log_says_that_a_state_has_reached_no_broker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    agent = an_agent()
    agent._status.publish_state(State.ONLINE, None)
    connected(agent, monkeypatch)
    agent._status.publish_state(State.DRAINING, "command")
    told = [text for text in caplog.messages if text.startswith("state=")]
    assert told == [
        "state=online reason=None (no broker knows it yet: not connected)", "state=draining reason=command",
    ]  # fmt: skip


def connected(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[Publication]:
    """What the agent publishes from now on."""
    told: list[Publication] = []
    monkeypatch.setattr(agent._connections.control, "is_connected", True)
    monkeypatch.setattr(agent._connections.control, "publish", told.append)
    return told


def test_a_reload_applies_governor_and_home_assistant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    agent = agent_of(path, "")
    published = connected(agent, monkeypatch)
    device = homeassistant.object_id(load_config(path))
    # For each table, messages to Home Assistant and whether they say anything, and subscriptions to others' topics.
    for more, told, heard in (
        ("enabled = true", [(f"homeassistant/device/{device}/config", True)], {"homeassistant/status"}),
        (
            'enabled = true\nprefix = "ha"',
            [(f"homeassistant/device/{device}/config", False), (f"ha/device/{device}/config", True)],
            {"ha/status"},
        ),
        ('enabled = false\nprefix = "ha"', [(f"ha/device/{device}/config", False)], set()),
        ("", [], set()),
    ):
        path.write_text(f"{MINIMAL}[governor]\nheadroom_c = 9\n[homeassistant]\n{more}\n", encoding="utf-8")
        published.clear()
        assert "homeassistant" in agent._commands.reload()["applied"]
        assert [(one.topic, bool(one.payload)) for one in published if not one.topic.startswith(BASE)] == told
        assert {one for one in agent._connections.control.subscriptions.wanted if not one.startswith(BASE)} == heard
    assert agent._governor._config.headroom_c == 9


def with_worker(patch: pytest.MonkeyPatch, agent: Agent, ready: Ready | None = READY, now: float = 0.0) -> FakeProcess:
    """Starts a worker of the agent, which is ready at `now` unless `ready` is None."""
    processes = fake_processes(patch)
    agent._supervisor.start(now - READY.load_s)
    if ready is not None:
        agent._on_ready(ready, now)
    return processes[0]


def test_a_worker_gets_requests_although_its_state_cannot_be_published(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent()
    monkeypatch.setattr(agent._status, "publish_all", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        with_worker(monkeypatch, agent)
    assert agent._dispatcher.slots._slots_by_model == {LARGE: READY.max_active}


def test_a_worker_that_leaks_is_replaced_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent()
    with_worker(monkeypatch, agent)
    looked_at: list[float] = []
    monkeypatch.setattr(agent._supervisor, "replace_outgrown", looked_at.append)
    agent._on_board_reading(BoardReading(), 1.0)
    agent._handle(received(inbound(f"{BASE}/infer/generate/request", "text", at=1.5)), 1.5)
    assert not agent._dispatcher.is_idle
    agent._on_board_reading(BoardReading(), 2.0)
    assert looked_at == [1.0]


def from_worker(process: FakeProcess, event: Event | WorkerExited) -> FromWorker:
    return FromWorker(cast("WorkerProcess", process), event)


def test_after_a_lost_connection_an_unchanged_answer_is_published_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent(
        '[tasks.pump]\nkind = "classify"\nlabels = ["good", "bad"]\nsubscribe = ["plant/+/hz"]\npublish_on = "change"\n'
    )
    process = with_worker(monkeypatch, agent)
    published: list[bool] = []
    monkeypatch.setattr(agent._delivery, "stage_reply", lambda *_, is_published, **__: published.append(is_published))
    for number in range(1, 7):
        at = float(number)
        if number == 4:
            for link in (agent._connections.control, agent._connections.data):
                agent._handle(Connected(link=link), at)
        agent._handle(received(inbound("plant/1/hz", f"{number}", at=at, packet_id=number)), at)
        agent._dispatcher.fill_slots(at)
        agent._handle(from_worker(process, labelled(number, good=0.9, bad=0.1)), at)
    assert published == [True, False, False, True, False, False]


PROMISED = (
    '[queue]\njournal = "memory"\n[feedback]\nenabled = true\n'
    '[tasks.pump]\nkind = "classify"\nlabels = ["good", "bad"]\nmin_accuracy = 0.9\n'
)


class PromisedAnswers:
    """An agent with a task whose promise is proven for two models, by audits that are judged when a test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.agent = an_agent(PROMISED)
        self.model = self.agent._supervisor.model
        self.other = replace(self.model, sha256="m2", bundle_name="other")
        self.published = connected(self.agent, patch)
        self.outputs: list[object] = []
        self._work: list[tuple[Future[Assessment], Callable[[], Assessment]]] = []
        patch.setattr(audited, "in_background", self._begin)
        patch.setattr(self.agent._delivery, "stage_reply", self._take_reply)
        self.agent._delivery.start()
        table, task = AnswerTable(self.agent._store), self.agent._dispatcher._tasks["pump"]
        for model, count in ((self.model, 40), (self.other, 50)):
            for number in range(count):
                answer = KeptAnswer(
                    id=str(number), reply_topic="r", wall_s=time.time(), scores={"good": 0.9, "bad": 0.1},
                    output="good", label="good", is_audit=True, is_marked=True,
                )  # fmt: skip
                table.keep("pump", task.basis_for(model.weights_sha256), answer)
        self.agent._learn_if_needed()

    def _begin(self, _name: str, work: Callable[[], Assessment]) -> Future[Assessment]:
        future = Future[Assessment]()
        self._work.append((future, work))
        return future

    def judge(self) -> None:
        """Ends what was begun."""
        begun, self._work = self._work, []
        for future, work in begun:
            future.set_result(work())

    def _take_reply(self, reply: Reply, **_: object) -> None:
        self.outputs.append(json.loads(reply.document)["output"])

    def ask(self, number: int, now: float) -> None:
        topic, payload = f"{BASE}/infer/pump/request", {"id": number, "input": "x", "deadline_ms": 60_000}
        self.agent._handle(received(inbound(topic, payload, at=now, packet_id=number)), now)
        self.agent._tick(now)

    def answer(self, process: FakeProcess, now: float) -> None:
        """The worker answers all that it was asked."""
        for number in asked(process):
            self.agent._handle(from_worker(process, labelled(number, good=0.9, bad=0.1)), now)

    def told(self) -> list[tuple[str, float | None, int]]:
        """The model, what is promised and the number of audits in each document of health."""
        documents = [json.loads(one.payload) for one in self.published if one.topic == f"{BASE}/health"]
        facts = [(one["worker"]["model"], one["accuracy"]["pump"]) for one in documents]
        told = [(model, one["promised"], one["audits"]) for model, one in facts]
        return [one for number, one in enumerate(told) if told[:number][-1:] != [one]]


def asked(process: FakeProcess) -> list[int]:
    return [command.id for command in process.commands if isinstance(command, EngineRequest)]


def test_after_a_start_requests_and_health_wait_until_a_proven_promise_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = PromisedAnswers(monkeypatch)
    agent, process = board.agent, with_worker(monkeypatch, board.agent, None)
    agent._handle(Connected(link=agent._connections.control), 1.0)
    agent._handle(from_worker(process, READY), 1.1)
    for now in (1.2, 60.0):
        board.ask(round(now), now)
        assert (asked(process), board.told(), agent._presence.state) == ([], [], State.OFFLINE)
    board.judge()
    agent._tick(60.1)
    assert (asked(process), agent._presence.state) == ([1, 2], State.ONLINE)
    board.answer(process, 60.2)
    assert (board.outputs, board.told()) == (["good", "good"], [(board.model.bundle_name, 0.9, 40)])


def test_after_a_switch_and_back_requests_and_health_wait_until_a_proven_promise_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = PromisedAnswers(monkeypatch)
    agent, processes = board.agent, fake_processes(monkeypatch)
    agent._supervisor.start(0.0)
    agent._handle(from_worker(processes[0], READY), 1.0)
    agent._tick(1.1)
    board.judge()
    agent._tick(1.2)
    told = [(board.model.bundle_name, 0.9, 40)]
    assert board.told() == told
    for number, (model, audits) in enumerate(((board.other, 50), (board.model, 40)), 1):
        now = 100.0 * number
        # Something is being assessed as the switch ends, and the new model does not wait for it.
        agent._dispatcher.admission.answerers.set_priors({})
        agent._tick(now)
        agent._supervisor.retire()
        agent._dispatcher.on_worker_lost("its model is replaced", now)
        worker = WorkerClient(agent._supervisor.load_command(model))
        agent._supervisor.adopt(model, worker, READY, now)
        agent._dispatcher.on_model_replaced(model)
        agent._on_switch_ended(Switched(READY, {}, {}), now)
        coming = agent._status.publish_health()
        for later in (1.0, 60.0):
            board.ask(int(now + later), now + later)
            assert (asked(processes[-1]), board.told()) == ([], told)
        board.judge()
        agent._tick(now + 60.1)
        board.answer(processes[-1], now + 60.2)
        told.append((model.bundle_name, 0.9, audits))
        assert agent._status.health_sequence == coming
        assert (board.outputs, board.told()) == (["good", "good"] * number, told)


@pytest.mark.expects_warning
def test_an_old_reading_of_the_board_is_neither_published_nor_an_alarm() -> None:
    agent = an_agent()
    hot = BoardReading(thermal=Thermal(soc_c=90.0, limit_c=80.0), memory=Memory(total_mb=1000.0))
    for second in range(10):
        agent._monitor._latest, agent._monitor.advanced_at = hot, float(second)
        agent._status.update_alarms(float(second))
    assert agent._status.alarms.severities == {"overheating": "critical"}
    for second in range(10, 90):
        agent._status.update_alarms(float(second))
    assert agent._status.alarms.severities == {}
    document = agent._status.health(90.0)
    assert (document["thermal"]["soc_c"], document["memory"]["total_mb"]) == (None, None)
    assert document["sensor_errors"] == {"board": "not read for more than 10 s"}
    assert "sensor-errors" in document["reasons"]


@pytest.mark.expects_warning
def test_the_end_of_a_worker_is_published_before_the_next_health_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent()
    process = with_worker(monkeypatch, agent)
    told = connected(agent, monkeypatch)
    agent._handle(from_worker(process, KILLED), 1.0)
    documents = [json.loads(word.payload) for word in told if word.topic == f"{BASE}/health"]
    assert [(one["overall"], one["worker"]["pid"]) for one in documents] == [("critical", None)]


def test_a_model_that_stands_in_for_another_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent()
    told = connected(agent, monkeypatch)
    with_worker(monkeypatch, agent)
    agent._supervisor.model = replace(agent._supervisor.model, is_fallback=True, version=2)
    for _ in range(2):
        with_worker(monkeypatch, agent)
    (event,) = [json.loads(word.payload) for word in told if word.topic == f"{BASE}/event/model-fallback"]
    assert (event["old"], event["new"]["version"]) == ({"folder": "model.gguf"}, 2)


@pytest.mark.expects_warning
def test_a_fault_in_any_part_is_an_alarm_and_a_reason_of_health(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent()
    for number in range(3):
        process = with_worker(monkeypatch, agent)
        agent._handle(from_worker(process, KILLED), float(number))
    agent._handle(ConnectionFailed(link=agent._connections.data, failed_at=FailedAt.LOST, reason=TAKEN_OVER), 3.0)
    # No worker runs, so the request waits.
    agent._dispatcher.admission.receive(inbound(f"{BASE}/infer/generate/request", "text", at=3.0), 3.0)

    for second in range(3, 43):
        agent._monitor._latest = BoardReading(disk_free_mb=10.0)
        agent._dispatcher.replies.overloaded_total += 1
        agent._status.update_alarms(float(second))

    wanted = {"worker-crash-loop", "duplicate-client-id", "disk-low", "queue-overload"}
    assert set(agent._status.alarms.severities) == wanted
    assert wanted <= set(agent._status.health(10.0)["reasons"])


def test_a_task_whose_model_the_bundle_lacks_is_a_reason_of_health_and_named_in_info(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for more, task in (('[tasks.watch]\nkind = "unusual"\n', "watch"), ('[tasks.t]\nkind = "generate"\n', None)):
        agent = an_agent(more)
        assert "task-without-model" not in agent._status.health(0.0)["reasons"]
        with_worker(monkeypatch, agent)
        assert ("task-without-model" in agent._status.health(1.0)["reasons"]) == (task is not None)
        warning = agent._status._info()["models"][0]["warning"] or ""
        assert ("the bundle has no model made for the labels and template of: watch" in warning) == (task is not None)


def test_info_has_the_built_in_task_only_if_the_bundle_has_a_model_for_it() -> None:
    agent = an_agent('[tasks.watch]\nkind = "unusual"\n')
    assert {*agent._status._info()["tasks"]} == {"watch", "generate"}
    for model in (replace(MODEL, path=Path("watch.json")), replace(MODEL, reads_fields=True)):
        agent._supervisor.model = model
        assert {*agent._status._info()["tasks"]} == {"watch"}


def test_a_trained_model_serves_the_tasks_that_it_was_trained_for() -> None:
    student = Student(name="s", path="s.json", sha256="5", quantization="q", tasks={"s": ()})
    trained = replace(MODEL, reads_fields=True, held_out={"t": ()}, students=(student,))
    trained = replace(trained, label_sets={"t": ("a", "b")}, templates={"t": "T"})
    alone = replace(MODEL, path=Path("s.json"), students=(student,))

    def served(model: Model, labels: str = "", template: str = "T", *, has_own_model: bool = False) -> str:
        return "".join(
            name
            for name in "stu"
            if model.serves(name, has_own_model=has_own_model, labels=tuple(labels), template=template)
        )

    assert [served(model) for model in (MODEL, trained, alone)] == ["stu", "s", "s"]
    assert served(trained, has_own_model=True) == "s"
    # The order of labels says nothing.
    assert [served(trained, "ba"), served(trained, "abc"), served(trained, "ab", "X")] == ["t", "", ""]
    assert served(MODEL, "abc", "X") == "stu"


def test_the_watchdog_hears_which_part_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent()
    process = with_worker(monkeypatch, agent)
    told: list[str | None] = []
    monkeypatch.setattr(agent._watchdog, "tick", lambda find_fault, _now: told.append(find_fault()))
    monkeypatch.setattr(type(agent._connections), "network_threads_alive", {"hall1.board1.data": True})
    agent._handle(from_worker(process, Progress()), 10.0)
    for monitored, now in ((5.0, 12.0), (5.0, 40.0)):
        agent._monitor.advanced_at = monitored
        agent._tick(now)
    assert told == [None, "the board has not been read for 35 s"]


def test_a_first_load_that_makes_progress_gets_more_time_from_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    notified: list[str] = []
    monkeypatch.setattr("edge_agent.agent.notify", notified.append)
    agent = an_agent()
    process = with_worker(monkeypatch, agent, None)
    loading = from_worker(process, Loading())
    agent._handle(loading, 1.0)
    assert notified == ["EXTEND_TIMEOUT_USEC=300000000"]
    agent._handle(from_worker(process, READY), 2.0)
    notified.clear()
    # A worker that loads later delays no start.
    agent._handle(loading, 3.0)
    assert not any(line.startswith("EXTEND") for line in notified)


@pytest.mark.expects_warning
def test_a_model_that_is_gone_at_the_death_of_its_worker_ends_all_requests_and_is_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    agent = agent_with_bundle(tmp_path / "here")
    process = with_worker(monkeypatch, agent)
    (tmp_path / "here").rename(tmp_path / "gone")
    agent._handle(from_worker(process, KILLED), 1.0)
    topic = f"{BASE}/infer/generate/request"
    payload = {"id": 0, "input": "x", "deadline_ms": 600_000}
    agent._on_message(received(inbound(topic, payload, at=1.1)), 1.1)
    for now in (1.5, 2.5, 4.5):
        agent._tick(now)
        agent._status.update_alarms(now)
    agent._on_message(received(inbound(topic, {"id": 1, "input": "x", "deadline_ms": 500}, at=4.6)), 4.6)
    assert agent._dispatcher.waiting == 0
    assert "id=0 status=failed code=engine_lost" in caplog.text
    assert "id=1 status=busy code=loading" in caplog.text
    assert agent._status.alarms.severities == {"model-load-failed": "critical"}
    assert "model.gguf" in agent._status.health(now)["worker"]["last_end"]


@pytest.mark.expects_warning
def test_other_files_in_the_place_of_the_model_end_the_agent_and_its_requests_wait_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_with_bundle(tmp_path / "here")
    process, published = with_worker(monkeypatch, agent), connected(agent, monkeypatch)
    agent._run_note = RunNote(tmp_path)
    agent._dispatcher.admission.receive(inbound(f"{BASE}/infer/generate/request", "text", at=1.0), 1.0)
    agent._dispatcher.fill_slots(1.0)
    (tmp_path / "here").rename(tmp_path / "was")
    bundle(tmp_path / "here", {"model.gguf": OTHER_WEIGHTS}, version=2)
    agent._handle(from_worker(process, KILLED), 1.0)
    agent._tick(2.1)
    assert agent._dispatcher.waiting == 1
    states = [json.loads(one.payload)["reason"] for one in published if one.topic == f"{BASE}/state"]
    assert states == ["model-changed"]
    agent._stop()
    assert RunNote(tmp_path).begin() == MODEL_CHANGED


POOL = '[pool]\nname = "pumps"\n'
BUILT = """
import sys
from pathlib import Path
from edge_agent.agent import Agent
from edge_agent.loader import load_config
from edge_agent.models.bundle import open_model

path = Path(sys.argv[1])
agent = Agent(load_config(path), path, open_model("default", Path("echo:")))
agent._delivery.start()
agent._learn_if_needed()
walled = ("edge_agent.learning", "edge_agent.pool", "pika")
print(*(name for name in walled if any(module.split(f"{name}.")[0] in ("", name) for module in sys.modules)))
"""


@pytest.mark.parametrize(
    ("more", "imported"),
    [("", ""), (POOL, "edge_agent.pool pika"), ("[feedback]\nenabled = true\n", "edge_agent.learning")],
)
def test_what_stands_behind_a_wall_is_imported_only_where_it_is_used(tmp_path: Path, more: str, imported: str) -> None:
    (tmp_path / "config.toml").write_text(f'state_dir = "{tmp_path}"\n{MINIMAL}{more}', encoding="utf-8")
    command = [sys.executable, "-c", BUILT, str(tmp_path / "config.toml")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == imported


def test_a_board_takes_requests_of_its_pool_only_while_it_can_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent(POOL)
    with_worker(monkeypatch, agent)
    assert agent._pool is not None
    places: list[int | None] = []
    now = 100.0
    for lost_at in (now, None, now, now - 9.9, now - CLAIMS_KEPT_S):
        agent._connections._data_lost_at = lost_at
        agent._tick(now)
        places.append(agent._pool._wanted_places)
    assert places == [0, READY.max_active, 0, 0, None]


def test_a_claim_runs_on_this_boards_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent(POOL)
    process = with_worker(monkeypatch, agent)
    ends: list[str] = []
    pool, settle = "edgeai/v1/hall1/pool/pumps", partial(ends.append, "settled")
    message, topics = inbound(f"{pool}/infer/generate/request", "text", at=1.0), TaskTopics(pool)
    agent._handle(Claim(message=message, topics=topics, deliveries=1, acknowledge=settle, requeue=settle), 1.0)
    agent._tick(1.0)
    assert agent._dispatcher.active == 1
    assert any(isinstance(command, EngineRequest) for command in process.commands)
    # It is settled once the broker has the reply.
    assert ends == []


def test_health_and_alarms_know_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = an_agent(POOL)
    with_worker(monkeypatch, agent)
    assert agent._status.health(1.0)["pool"]["name"] == "pumps"
    agent._status.update_alarms(1.0)
    assert {"pool-unreachable", "pool-backlog"} <= agent._status.alarms.findings.keys()
    assert an_agent()._status.health(1.0)["pool"] is None


def test_a_change_of_the_pool_needs_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    agent = agent_of(path, POOL)
    path.write_text(f"{MINIMAL}{POOL}port = 7\n", encoding="utf-8")
    assert agent._commands.reload() == {"applied": [], "needs_restart": ["pool"]}
