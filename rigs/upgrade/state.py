"""The old agent and the new one take turns on one state folder: stopped, killed, and with the broker away."""

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge_agent.commands.authority import sign
from edge_agent.core.clock import timestamp
from edge_agent.tools.demo.broker import free_port
from rigs.upgrade.trees import NEW, OLD, Tree
from tests.helpers.bundles import DEMO_TASKS, demo_requests
from tests.helpers.client import Client
from tests.helpers.keys import write_keys
from tests.helpers.processes import AgentProcess, Mosquitto, is_running, wait_until, workers

BASE = "edgeai/v1/hall1/press-04"
RESPONSE = f"{BASE}/infer/generate/response"
DATABASE = "requests-1.sqlite"
WAYS = [(OLD, NEW), (NEW, OLD)]
there_and_back = pytest.mark.parametrize(("first", "second"), WAYS, ids=["there", "back"])


class Board:
    """Its folder, and a broker that keeps sessions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        (folder / "broker").mkdir()
        self.broker = Mosquitto(folder / "broker", self.port, is_persistent=True)
        self.broker.start()
        self.agent: AgentProcess | None = None

    def configure(self, more: str = "", *, model: str | Path = "echo:", of_model: str = "", first: str = "") -> None:
        """The configuration of the next start."""
        (self.folder / "config.toml").write_text(
            f'models_dir = "models"\nstate_dir = "state"\n{first}[device]\nsite = "hall1"\nid = "press-04"\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self.port}\n'
            f"[models.default]\npath = {json.dumps(str(model))}\n{of_model}{more}",
            encoding="utf-8",
        )

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def start(self, tree: Tree) -> AgentProcess:
        """Returns when it is online."""
        with closing(Client(self.port, "5")) as client:
            client.subscribe(f"{BASE}/state")
            client.hear_retained()
            before = len(client.on(f"{BASE}/state"))
            self.agent = AgentProcess(self.folder / "config.toml", tree.program())

            def is_online() -> bool:
                assert self.agent is not None
                assert self.agent.process.poll() is None, self.agent.log
                return any(message.json["state"] == "online" for message in client.on(f"{BASE}/state")[before:])

            wait_until(is_online, "the agent is online", 120)
        return self.agent

    def end(self, how: signal.Signals) -> None:
        """Stops or kills the agent; its worker is gone, too."""
        assert self.agent is not None
        of_agent = workers(self.agent.process.pid)
        self.agent.signal(how)
        self.agent.wait()
        self.agent.stop()
        wait_until(lambda: not any(map(is_running, of_agent)), "the worker has ended")

    def end_all(self) -> None:
        if self.agent is not None and self.agent.process.poll() is None:
            self.end(signal.SIGKILL)
        self.broker.stop()

    @contextmanager
    def client(self) -> Iterator[Client]:
        with closing(Client(self.port, "5")) as client:
            client.subscribe(f"{BASE}/#")
            client.hear_retained()
            yield client

    def rows(self, name: str, statement: str) -> list[Any]:
        """Rows of a database in the state folder, from a copy, so that it stays as it is. No agent may run."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for file in self.state.glob(f"{name}*"):
            shutil.copy(file, copy)
        with closing(sqlite3.connect(copy / name)) as connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path)
    try:
        yield board
    finally:
        board.end_all()


def replies_by_id(client: Client) -> dict[Any, set[bytes]]:
    """By the id of a request, its different terminal replies."""
    found: dict[Any, set[bytes]] = {}
    for message in client.on(RESPONSE):
        if message.json["status"] != "partial":
            found.setdefault(message.json["id"], set()).add(message.payload)
    return found


def ask(client: Client, task: str, given: object, **fields: Any) -> dict[str, Any]:
    topic = f"{BASE}/infer/{task}/response"
    heard = len(client.on(topic))
    client.publish(f"{BASE}/infer/{task}/request", {"input": given, **fields})
    return client.wait(topic, count=heard + 1)[heard].json


def command(client: Client, operation: str, fields: dict[str, Any]) -> dict[str, Any]:
    topic = f"{BASE}/cmd/{operation}"
    return client.exchange(topic, fields, f"{topic}/result").json


def health(client: Client) -> dict[str, Any]:
    return client.exchange(f"{BASE}/cmd/health", b"", f"{BASE}/health").json


@there_and_back
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_every_request_is_answered_once(board: Board, first: Tree, second: Tree, how: signal.Signals) -> None:
    board.configure("[engine]\nmax_active = 2\n", model="echo:step_ms=300")
    with board.client() as client:
        board.start(first)
        for number in range(12):
            client.publish(f"{BASE}/infer/generate/request", {"input": f"one two {number}", "id": number})
        wait_until(lambda: len(replies_by_id(client)) >= 2, "the first ones are answered")
        board.end(how)
        # A stop refuses what waits.
        assert how is signal.SIGTERM or len(replies_by_id(client)) < 12
        board.start(second)
        wait_until(lambda: len(replies_by_id(client)) == 12, "all are answered")
        board.end(signal.SIGTERM)
        assert {len(replies) for replies in replies_by_id(client).values()} == {1}
        statuses = {json.loads(reply)["status"] for replies in replies_by_id(client).values() for reply in replies}
        assert statuses <= ({"ok"} if how is signal.SIGKILL else {"ok", "busy"}), statuses


@there_and_back
def test_replies_that_the_broker_did_not_get_are_delivered(board: Board, first: Tree, second: Tree) -> None:
    board.configure(model="echo:step_ms=400")
    board.start(first)
    with board.client() as client:
        for number in range(3):
            client.publish(f"{BASE}/infer/generate/request", {"input": f"one two three {number}", "id": number})
        time.sleep(0.6)  # they are acknowledged, and not yet answered
        assert not replies_by_id(client)
    board.broker.stop()
    time.sleep(4)
    board.end(signal.SIGKILL)
    killed_at = timestamp()
    assert board.rows(DATABASE, "SELECT count(*) FROM requests WHERE reply IS NOT NULL AND NOT is_delivered") == [(3,)]
    board.broker.start()
    with board.client() as client:
        board.start(second)
        wait_until(lambda: len(replies_by_id(client)) == 3, "all replies have come")
        replies = [json.loads(reply) for both in replies_by_id(client).values() for reply in both]
        assert len(replies) == 3
        assert all(reply["ts"] < killed_at and reply["status"] == "ok" for reply in replies)


@there_and_back
def test_a_signed_command_is_not_carried_out_again(board: Board, first: Tree, second: Tree) -> None:
    (board.folder / "key").write_text("a secret\n")
    board.configure('[commands]\nkey_file = "key"\n')
    with board.client() as client:
        board.start(first)
        fields = {"nonce": "n1", "ts": timestamp()}
        signed = {**fields, "hmac": sign(b"a secret", "ping", fields)}
        assert command(client, "ping", signed)["status"] == "ok"
        board.end(signal.SIGKILL)
        board.start(second)
        again = command(client, "ping", signed)
        assert again["error"]["code"] == "unauthorized", again
        fields = {"nonce": "n2", "ts": timestamp()}
        assert command(client, "ping", {**fields, "hmac": sign(b"a secret", "ping", fields)})["status"] == "ok"
        board.end(signal.SIGTERM)
    assert len((board.state / "nonces-1").read_bytes()) == 2 * 16


def has_another_worker(agent: AgentProcess, than: int) -> bool:
    return workers(agent.process.pid) not in ([], [than])


@there_and_back
def test_what_ended_the_worker_twice_is_not_run(board: Board, first: Tree, second: Tree) -> None:
    board.configure(model="echo:step_ms=1000")
    with board.client() as client:
        agent = board.start(first)
        client.publish(f"{BASE}/infer/generate/request", {"input": "a b c d e f g h", "id": 1})
        for _ in range(2):
            wait_until(lambda: health(client)["inference"]["active"] == 1, "the request runs")
            (worker,) = workers(agent.process.pid)
            os.kill(worker, signal.SIGKILL)
            wait_until(partial(has_another_worker, agent, worker), "there is another worker")
        assert json.loads(client.wait_for(RESPONSE, lambda reply: reply["status"] != "partial").payload)["error"]
        board.end(signal.SIGTERM)
        board.start(second)
        assert ask(client, "generate", "a b c d e f g h")["error"]["code"] == "quarantined"
        assert ask(client, "generate", "a")["status"] == "ok"


@there_and_back
def test_subscriptions_of_a_task_that_is_gone_end(board: Board, first: Tree, second: Tree) -> None:
    task = '[tasks.vibration]\nkind = "classify"\nlabels = ["normal", "loud"]\nsubscribe = ["plant/+/vibration"]\n'
    board.configure(task)
    board.start(first)
    with board.client() as client:
        client.publish("plant/one/vibration", "normal")
        client.wait(f"{BASE}/infer/vibration/response")
        board.end(signal.SIGKILL)
        board.configure()
        board.start(second)
        before = health(client)["mqtt"]
        client.publish("plant/one/vibration", "normal")
        assert ask(client, "generate", "a")["status"] == "ok"
        after = health(client)["mqtt"]
        assert after["dropped"] == before["dropped"]
        board.end(signal.SIGTERM)


MARKED = "SELECT count(*) FROM answers WHERE is_marked"
FEEDBACK = "[feedback]\nenabled = true\n"
TASK = '[tasks.triage]\nkind = "classify"\nsystem = "good or bad"\nlabels = ["good", "bad"]\n'


def test_the_way_back_loses_feedback_alone(board: Board) -> None:
    board.configure(TASK)
    board.start(OLD)
    board.end(signal.SIGTERM)
    board.configure(TASK + FEEDBACK)
    with board.client() as client:
        board.start(NEW)
        for number in range(5):
            text, right = ("good", "bad") if number % 2 else ("bad", "good")
            ask(client, "triage", text, id=number)
            topic = f"{BASE}/infer/triage/feedback"
            result = client.exchange(topic, {"id": number, "answer": right}, f"{topic}/result").json
            assert result["status"] == "ok", result
        board.end(signal.SIGTERM)
        board.start(NEW)
        board.end(signal.SIGKILL)
        assert board.rows(DATABASE, MARKED) == [(5,)]
        # `feedback` is a table that 0.1.0 does not know.
        done = OLD.run("check-config", board.folder / "config.toml")
        assert (done.returncode, "feedback: unknown key" in done.stderr) == (78, True), done.stderr
        board.configure(TASK)
        agent = board.start(OLD)
        assert "the record of requests was damaged, what can be read goes on" in agent.log
        assert (board.state / f"{DATABASE}.damaged").exists()
        assert ask(client, "triage", "bad")["output"] == "bad"
        board.end(signal.SIGTERM)
        board.configure(TASK + FEEDBACK)
        agent = board.start(NEW)
        assert "lost" not in agent.log
        board.end(signal.SIGTERM)
        assert board.rows(DATABASE, MARKED) == [(0,)]


def test_the_model_in_force_goes_there_and_back(board: Board) -> None:
    private, public = write_keys(board.folder)
    models = board.folder / "models"
    models.mkdir()
    asked = ("--tasks", DEMO_TASKS, "--canaries", demo_requests(board.folder / "requests", 1), "--sign", private)
    for number, (name, tree) in enumerate({"one": OLD, "two": OLD, "three": NEW}.items(), 1):
        tree.convert(models / name, *asked, "--model-version", str(number))
    allow = '[commands]\nallow = ["ping", "health", "model-switch", "model-rollback"]\n'
    board.configure(allow, model=models / "one", of_model=f"public_key = {json.dumps(str(public))}\n")

    def runs(client: Client) -> list[int]:
        client.hear_retained()
        return [model["version"] for model in client.on(f"{BASE}/info")[-1].json["models"]]

    with board.client() as client:
        board.start(OLD)
        result = command(client, "model-switch", {"model": "default", "bundle": "two"})
        assert result["status"] == "ok", result
        client.wait(f"{BASE}/event/model-switched")
        board.end(signal.SIGKILL)
        board.start(NEW)
        assert runs(client) == [2]
        assert command(client, "model-rollback", {"model": "default"})["status"] == "ok"
        client.wait(f"{BASE}/event/model-switched", count=2)
        assert runs(client) == [1]
        command(client, "model-switch", {"model": "default", "bundle": "three"})
        client.wait(f"{BASE}/event/model-switched", count=3)
        assert json.loads((board.state / "model-1.json").read_bytes())["least_version"] == 3
        board.end(signal.SIGKILL)
        board.start(OLD)
        assert runs(client) == [3]
        command(client, "model-rollback", {"model": "default"})
        client.wait(f"{BASE}/event/model-switched", count=4)
        assert runs(client) == [1]
        board.end(signal.SIGTERM)
        board.start(NEW)
        assert runs(client) == [1]
        board.end(signal.SIGTERM)
