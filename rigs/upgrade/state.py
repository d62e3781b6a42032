"""The old agent and the new one take turns on one state folder, stopped, killed, and with the broker away."""

import json
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.commands.authority import sign
from edge_agent.core.clock import timestamp
from rigs.upgrade.trees import NEW, OLD, Tree
from tests.helpers.bundles import DEMO_TASKS, demo_requests
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, Mosquitto, free_port, is_running, wait_until, workers
from tests.helpers.site import Site, written_config

DEVICE = "press-04"
BASE = f"edgeai/v1/test/{DEVICE}"
REQUEST, RESPONSE, STATE = f"{BASE}/infer/generate/request", f"{BASE}/infer/generate/response", f"{BASE}/state"
DATABASE = "requests-1.sqlite"
WAYS = [(OLD, NEW), (NEW, OLD)]
there_and_back = pytest.mark.parametrize(("first", "second"), WAYS, ids=["there", "back"])


class Board:
    """A board's folder, a broker that keeps sessions, and a client that hears everything."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        (folder / "broker").mkdir()
        self.broker = Mosquitto(folder / "broker", free_port(), is_persistent=True)
        self.broker.start()
        self.client = self.new_client()
        self.agent: AgentProcess | None = None

    def new_client(self) -> Client:
        client = Client(self.broker.port, "5")
        client.subscribe(f"{BASE}/#")
        client.hear_retained()
        return client

    def configure(self, more: str = "", *, model: str | Path = "echo:") -> None:
        """Writes the configuration of the next start."""
        written_config(self.folder, model, more, device=DEVICE, port=self.broker.port)

    def start(self, tree: Tree) -> Site:
        """Returns when it is online."""
        before = len(self.client.on(STATE))
        self.agent = AgentProcess(self.folder / "config.toml", tree.program())

        def is_online() -> bool:
            return any(message.json["state"] == "online" for message in self.client.on(STATE)[before:])

        wait_until(is_online, "the agent is online", 120)
        return Site(BASE, "5", self.broker.port, self.agent, self.client)

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
        self.client.close()
        self.broker.stop()

    def count(self, what: str) -> int:
        """Rows of the database, from a copy, so that it stays as it is. No agent may run."""
        with tempfile.TemporaryDirectory() as name:
            copy = Path(shutil.copytree(self.state, Path(name) / "state"))
            with closing(sqlite3.connect(copy / DATABASE)) as connection:
                (count,) = connection.execute(f"SELECT count(*) FROM {what}").fetchone()
        return int(count)

    def replies(self) -> list[dict[str, Any]]:
        """The different terminal replies to `generate`."""
        return [
            json.loads(payload)
            for payload in dict.fromkeys(message.payload for message in self.client.on(RESPONSE))
            if json.loads(payload)["status"] != "partial"
        ]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path)
    try:
        yield board
    finally:
        board.end_all()


@there_and_back
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_every_request_is_answered_once(board: Board, first: Tree, second: Tree, how: signal.Signals) -> None:
    board.configure("[engine]\nmax_active = 2\n", model="echo:step_ms=300")
    board.start(first)
    for number in range(12):
        board.client.publish(REQUEST, {"input": f"one two {number}", "id": number})
    wait_until(lambda: len(board.replies()) >= 2, "the first ones are answered")
    board.end(how)
    # A stop refuses what waits.
    assert how is signal.SIGTERM or len(board.replies()) < 12
    board.start(second)
    wait_until(lambda: len({reply["id"] for reply in board.replies()}) == 12, "all are answered")
    board.end(signal.SIGTERM)
    assert sorted(reply["id"] for reply in board.replies()) == list(range(12))
    statuses = {reply["status"] for reply in board.replies()}
    assert statuses <= ({"ok"} if how is signal.SIGKILL else {"ok", "busy"}), statuses


@there_and_back
def test_replies_that_the_broker_did_not_get_are_delivered(board: Board, first: Tree, second: Tree) -> None:
    board.configure(model="echo:step_ms=400")
    board.start(first)
    for number in range(3):
        board.client.publish(REQUEST, {"input": f"one two three {number}", "id": number})
    time.sleep(0.6)  # they are acknowledged, and not yet answered
    assert not board.replies()
    board.client.close()
    board.broker.stop()
    time.sleep(4)
    board.end(signal.SIGKILL)
    killed_at = timestamp()
    assert board.count("requests WHERE reply IS NOT NULL AND NOT is_delivered") == 3
    board.broker.start()
    board.client = board.new_client()
    board.start(second)
    wait_until(lambda: len({reply["id"] for reply in board.replies()}) == 3, "all replies have come")
    assert len(board.replies()) == 3
    assert all(reply["ts"] < killed_at and reply["status"] == "ok" for reply in board.replies())


@there_and_back
def test_a_signed_command_is_not_carried_out_again(board: Board, first: Tree, second: Tree) -> None:
    def ping(nonce: str) -> dict[str, Any]:
        fields = {"nonce": nonce, "ts": timestamp()}
        return {**fields, "hmac": sign(b"a secret", "ping", fields)}

    (board.folder / "key").write_text("a secret\n")
    board.configure('[commands]\nkey_file = "key"\n')
    site = board.start(first)
    signed = ping("n1")  # only now: 0.1.0 refuses what was signed before its start
    assert site.command("ping", signed)["status"] == "ok"
    board.end(signal.SIGKILL)
    site = board.start(second)
    assert site.command("ping", signed)["error"]["code"] == "unauthorized"
    assert site.command("ping", ping("n2"))["status"] == "ok"
    board.end(signal.SIGTERM)
    assert len((board.state / "nonces-1").read_bytes()) == 2 * 16


@there_and_back
def test_what_ended_the_worker_twice_is_not_run(board: Board, first: Tree, second: Tree) -> None:
    board.configure(model="echo:step_ms=1000")
    site = board.start(first)
    board.client.publish(REQUEST, {"input": "a b c d e f g h", "id": 1})
    for _ in range(2):
        site.wait_until_active(1)
        (worker,) = workers(site.agent.process.pid)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: workers(site.agent.process.pid) not in ([], [worker]), "there is another worker")  # noqa: B023
    assert site.next_terminal(RESPONSE, 0)["error"]
    board.end(signal.SIGTERM)
    site = board.start(second)
    assert site.ask("generate", {"input": "a b c d e f g h"})["error"]["code"] == "quarantined"
    assert site.ask("generate", {"input": "a"})["status"] == "ok"


@there_and_back
def test_subscriptions_of_a_task_that_is_gone_end(board: Board, first: Tree, second: Tree) -> None:
    def dropped() -> int:
        health = board.client.exchange(f"{BASE}/cmd/health", b"", f"{BASE}/health").json
        return int(health["mqtt"]["dropped"])

    board.configure('[tasks.heat]\nkind = "classify"\nlabels = ["normal", "hot"]\nsubscribe = ["plant/+/heat"]\n')
    board.start(first)
    board.client.publish("plant/one/heat", "normal")
    board.client.wait(f"{BASE}/infer/heat/response")
    board.end(signal.SIGKILL)
    board.configure()
    site = board.start(second)
    before = dropped()
    board.client.publish("plant/one/heat", "normal")
    assert site.ask("generate", {"input": "a"})["status"] == "ok"
    assert dropped() == before


MARKED = "answers WHERE is_marked"
FEEDBACK = "[feedback]\nenabled = true\n"


def test_the_way_back_loses_feedback_alone(board: Board) -> None:
    board.configure()
    board.start(OLD)
    board.end(signal.SIGTERM)
    board.configure(FEEDBACK)
    site = board.start(NEW)
    for number in range(5):
        site.ask("triage", {"input": "normal", "id": number})
        topic = f"{BASE}/infer/triage/feedback"
        result = board.client.exchange(topic, {"id": number, "answer": "cavitation"}, f"{topic}/result").json
        assert result["status"] == "ok", result
    board.end(signal.SIGTERM)
    board.start(NEW)
    board.end(signal.SIGKILL)
    assert board.count(MARKED) == 5
    board.configure()
    site = board.start(OLD)
    assert "the record of requests was damaged, what can be read goes on" in site.agent.log
    assert (board.state / f"{DATABASE}.damaged").exists()
    assert site.ask("triage", {"input": "normal"})["output"] == "normal"
    board.end(signal.SIGTERM)
    board.configure(FEEDBACK)
    assert "lost" not in board.start(NEW).agent.log
    board.end(signal.SIGTERM)
    assert board.count(MARKED) == 0


def test_the_model_in_force_goes_there_and_back(board: Board) -> None:
    models = board.folder / "models"
    models.mkdir()
    asked = ("--tasks", DEMO_TASKS, "--canaries", demo_requests(board.folder / "requests", 1))
    for number, (name, tree) in enumerate({"one": OLD, "two": OLD, "three": NEW}.items(), 1):
        tree.convert(models / name, *asked, "--model-version", str(number))
    allow = '[commands]\nallow = ["ping", "health", "model-switch", "model-rollback"]\n'
    board.configure(allow, model=models / "one")
    switched = f"{BASE}/event/model-switched"

    def runs() -> list[int]:
        board.client.hear_retained()
        return [model["version"] for model in board.client.on(f"{BASE}/info")[-1].json["models"]]

    site = board.start(OLD)
    assert site.command("model-switch", {"model": "default", "bundle": "two"})["status"] == "ok"
    board.client.wait(switched)
    board.end(signal.SIGKILL)
    site = board.start(NEW)
    assert runs() == [2]
    assert site.command("model-rollback", {"model": "default"})["status"] == "ok"
    board.client.wait(switched, count=2)
    assert runs() == [1]
    site.command("model-switch", {"model": "default", "bundle": "three"})
    board.client.wait(switched, count=3)
    assert json.loads((board.state / "model-1.json").read_bytes())["least_version"] == 3
    board.end(signal.SIGKILL)
    site = board.start(OLD)
    assert runs() == [3]
    site.command("model-rollback", {"model": "default"})
    board.client.wait(switched, count=4)
    assert runs() == [1]
    board.end(signal.SIGTERM)
    board.start(NEW)
    assert runs() == [1]
    board.end(signal.SIGTERM)
