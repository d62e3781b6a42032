"""`edge-agent pool` declares a pool's queues and their binding, and shows the queue, the boards and what they lack."""

import json
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker

from edge_agent import cli
from edge_agent.core.messages import Message
from edge_agent.mqtt.subscriptions import Subscriptions
from edge_agent.tools.watch import watch as watch_module
from tests.helpers.processes import EdgeAgent
from tests.helpers.rabbit import DEAD, QUEUE, REFUSED, FakeBroker, FakeChannel, Waiting, fake_broker
from tests.helpers.support import CONFIG
from tests.tools.watch import boards

POOL = '[pool]\nname = "pumps"\n'
FIGURES = {"places": 4, "per_minute": 90, "waited_ms": 12.4, "claimed_total": 700, "given_back_total": 3}
FIGURES |= {"repeated_total": 1}
ADVICE = "check mqtt.host, pool.port, and that a RabbitMQ listens there for AMQP"


class FakeClient:
    """Stands in for the connection by MQTT. `said` is what the bus brings."""

    said: list[Message]
    is_connected = True

    def __init__(self, *_: object) -> None:
        self.connections, self.reason = 1, "Connection refused"
        self.link = self
        self.subscriptions = Subscriptions(lambda _: 1, lambda _: None)
        self.broker = "localhost:1883"
        self._left = [*self.said]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def heard_at(self) -> float:
        return time.monotonic()

    def connect(self, _timeout_s: float) -> bool:
        return self.is_connected

    def receive(self, timeout_s: float) -> Message | None:
        if self._left:
            return self._left.pop(0)
        threading.Event().wait(timeout_s)
        return None


class Pool:
    """The command with a configuration of this board, the queue with seven requests and a dead letter, and the bus."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, edge_agent: EdgeAgent) -> None:
        self.folder, self.patch, self._edge_agent = folder, patch, edge_agent
        self.broker: FakeBroker = fake_broker(patch)
        for _ in range(7):
            self.broker.publish(b"x")
        self.broker.queues[DEAD].append(Waiting(DEAD, DEAD, b"x", BasicProperties()))
        self.client: type[FakeClient] = type("Client", (FakeClient,), {"said": []})
        patch.setattr(watch_module, "Client", self.client)

    def run(self, *words: str, more: str = POOL) -> tuple[int, str, str]:
        """The exit code, and what is printed on standard output and error."""
        path = self.folder / "config.toml"
        path.write_text(CONFIG + more, encoding="utf-8")
        done = self._edge_agent("pool", *words, "--config", path)
        return done.returncode, done.stdout, done.stderr

    def status(self, *words: str) -> tuple[int, str, str]:
        return self.run("status", "--wait", "0.1", *words)

    def say(self, device: str, topic: str, payload: bytes) -> None:
        text, now = f"edgeai/v1/hall1/{device}/{topic}", time.monotonic()
        message = Message(topic=text, payload=payload, qos=1, packet_id=1, is_retained=False, received_at=now)
        self.client.said.append(message)

    def board(self, device: str, *tasks: str, pool: str = "pumps", **figures: Any) -> None:
        """A board that says everything."""
        info = {**json.loads(boards.info()), "tasks": [*tasks]}
        self.say(device, "info", json.dumps(info).encode())
        self.say(device, "state", boards.state())
        self.say(device, "health", boards.health(pool={"name": pool, **FIGURES, **figures}))


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edge_agent: EdgeAgent) -> Pool:
    return Pool(tmp_path, monkeypatch, edge_agent)


def test_declare_makes_queues_and_binding(pool: Pool) -> None:
    pool.broker.queues.clear()
    words = f"{QUEUE}: declared, bound to amq.topic as {QUEUE}.infer.*.request\n"
    assert [pool.run("declare") for _ in range(2)] == 2 * [(0, words, "")]
    assert {*pool.broker.queues} == {QUEUE, DEAD}
    assert {*pool.broker.bindings} == {(QUEUE, "amq.topic", f"{QUEUE}.infer.*.request")}


def test_the_bound_of_the_queue_is_an_option(pool: Pool) -> None:
    bounds: list[Any] = []
    declare = FakeChannel.queue_declare

    def note(channel: FakeChannel, queue: str, *, arguments: dict[str, Any], **options: Any) -> Any:
        bounds.append(arguments.get("x-max-length"))
        return declare(channel, queue, arguments=arguments, **options)

    pool.patch.setattr(FakeChannel, "queue_declare", note)
    assert pool.run("declare", "--most-waiting", "77")[0] == pool.run("declare")[0] == 0
    assert bounds == [None, 77, None, 10_000]
    assert pool.broker.accounts == [None, None]


def test_another_account_with_a_password_may_declare(pool: Pool) -> None:
    (pool.folder / "secret").write_text("of admin\n", encoding="ascii")
    for words, code in (
        (["--username", "admin"], 64),
        (["--password-file", f"{pool.folder}/secret"], 64),
        (["--username", "admin", "--password-file", f"{pool.folder}/none"], 1),
        (["--username", "admin", "--password-file", f"{pool.folder}/secret"], 0),
    ):
        done, _, err = pool.run("declare", *words)
        assert done == code
        assert code != 1 or f"{pool.folder}/none" in err
    assert pool.broker.accounts == [("admin", "of admin")]


@pytest.mark.parametrize(
    ("action", "what"), [("declare", "pool cannot be declared"), ("status", "queue cannot be read")]
)
def test_a_broker_that_is_not_there_is_told(pool: Pool, action: str, what: str) -> None:
    pool.broker.refusals["localhost"] = REFUSED
    code, _, err = pool.run(action, "--wait", "0.1")
    assert (code, "localhost:5672: Connection refused; " + ADVICE in err, what in err) == (1, True, True), err


def test_a_queue_that_is_another_one_is_told_in_the_brokers_words(pool: Pool) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ChannelClosedByBroker(406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length'")

    pool.patch.setattr(FakeChannel, "queue_declare", refuse)
    code, _, err = pool.run("declare")
    assert (code, "PRECONDITION_FAILED - inequivalent arg 'x-max-length'; the queue exists" in err) == (1, True)
    assert not pool.broker.connection.is_open


def test_boards_with_the_same_tasks_are_a_good_pool(pool: Pool) -> None:
    pool.board("press-04", "triage", "report")
    pool.board("press-05", "report", "triage", waited_ms=None)
    pool.board("oven", "other", pool="ovens")
    pool.say("lathe", "state", boards.state())
    code, out, _ = pool.status()
    head, titles, *lines = out.splitlines()
    assert (code, head) == (0, "pool pumps: 7 requests wait, the boards have 0 places, 1 dead letters")
    assert titles.split() == [
        *("BOARD", "STATE", "PLACES", "A", "MINUTE", "WAITED", "MS", "TAKEN", "GIVEN", "BACK", "AGAIN"),
        *("MODEL", "LACKS"),
    ]
    assert [line.split() for line in lines] == [
        ["press-04", "ok", "4", "90", "12", "700", "3", "1", "qwen2.5-0.5b", "c0c9", "nothing"],
        ["press-05", "ok", "4", "90", "–", "700", "3", "1", "qwen2.5-0.5b", "c0c9", "nothing"],
    ]


def test_a_task_that_one_board_lacks_is_a_failure_that_names_it_also_as_json(pool: Pool) -> None:
    pool.board("press-04", "triage", "report", "urgent")
    pool.board("press-05", "report", waited_ms=None)
    code, out, _ = pool.status()
    assert code == 1
    assert [line.split("c0c9")[1].strip() for line in out.splitlines()[2:]] == ["nothing", "triage, urgent"]
    code, out, _ = pool.status("--json")
    document = json.loads(out)
    first, second = document.pop("boards")
    assert code == 1
    assert document == {"pool": "pumps", "queue": QUEUE, "waiting": 7, "places_of_all": 0, "dead_letters": 1}
    identity = {"device": "press-04", "level": "ok", "model": "qwen2.5-0.5b", "sha256": "c0c9"}
    assert first == {**identity, "tasks": ["triage", "report", "urgent"], "lacks": [], **FIGURES}
    assert (second["lacks"], second["waited_ms"]) == (["triage", "urgent"], None)


def test_a_board_whose_tasks_are_unknown_lacks_nothing_that_is_known(pool: Pool) -> None:
    pool.board("press-04", "triage")
    pool.say("press-05", "health", boards.health(pool={"name": "pumps"}))
    code, out, _ = pool.status()
    (line,) = [text.split() for text in out.splitlines() if text.startswith("press-05")]
    assert (code, line[2:]) == (0, ["–", "–", "–", "–", "–", "–", "default", "?"])


def test_a_pool_without_a_board_is_a_failure(pool: Pool) -> None:
    pool.board("oven", "other", pool="ovens")
    code, out, err = pool.status()
    assert (code, out) == (1, "pool pumps: 7 requests wait, the boards have 0 places, 1 dead letters\n")
    assert "edge-agent: 0 of 1 boards were heard within" in err


def test_it_ends_early_once_the_boards_have_all_places(pool: Pool) -> None:
    pool.board("press-04", "triage")
    pool.patch.setattr(pool.broker, "consumers", lambda queue: 4 if queue == QUEUE else 1)
    started_at = time.monotonic()
    assert pool.run("status", "--wait", "60")[0] == 0
    assert time.monotonic() - started_at < 5


def test_what_a_board_says_cannot_move_the_cursor(pool: Pool) -> None:
    pool.board("evil\x1b[2J", "\x1b[31m", "other")
    pool.board("press-04", "other")
    code, out, _ = pool.status()
    assert (code, "\x1b" in out) == (1, False)


def test_without_a_broker_by_mqtt_no_board_can_be_heard(pool: Pool) -> None:
    pool.client.is_connected = False
    code, _, err = pool.status()
    assert (code, "no connection to the broker localhost:1883: Connection refused" in err) == (1, True)


def test_a_queue_that_is_missing_is_told_with_the_command_that_makes_it(pool: Pool) -> None:
    pool.board("press-04")
    pool.broker.queues.clear()
    code, out, err = pool.status()
    assert (code, out) == (1, "")
    assert f"NOT_FOUND - no queue '{QUEUE}' in vhost '/'; create the queues with `edge-agent pool declare`" in err


@pytest.mark.parametrize(
    "words", ["", "delete", "declare --most-waiting 0", "declare --most-waiting x", "status --wait -1"]
)
def test_options_that_cannot_be_are_a_usage_error(words: str, edge_agent: EdgeAgent) -> None:
    done = edge_agent("pool", *words.split())
    assert (done.returncode, "usage: edge-agent pool" in done.stderr) == (cli.EXIT_USAGE, True)


@pytest.mark.parametrize("action", ["declare", "status"])
def test_a_configuration_without_a_pool_is_a_bad_one(pool: Pool, action: str) -> None:
    code, _, err = pool.run(action, more="")
    assert (code, pool.broker.attempts) == (cli.EXIT_CONFIG, [])
    assert "config.toml: pool: required: a table with the pool's `name`\n" in err
