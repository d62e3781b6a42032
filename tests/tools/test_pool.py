from __future__ import annotations

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
from tests.helpers.rabbit import DEAD, QUEUE, REFUSED, FakeBroker, FakeChannel, Waiting, fake_broker
from tests.helpers.support import CONFIG
from tests.tools.watch import boards

POOL = '[pool]\nname = "pumps"\n'
FIGURES = {"places": 4, "per_minute": 90, "waited_ms": 12.4, "claimed_total": 700, "given_back_total": 3}
FIGURES |= {"repeated_total": 1}


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    return fake_broker(monkeypatch)


def run(folder: Path, *words: str, more: str = POOL) -> int:
    """`edge-agent pool`, with a configuration of this board."""
    path = folder / "config.toml"
    path.write_text(CONFIG + more, encoding="utf-8")
    return cli.main(["pool", *words, "--config", str(path)])


ADVICE = "check mqtt.host, pool.port, and that a RabbitMQ listens there for AMQP"


class TestDeclare:
    """`edge-agent pool declare`: the pool's queues and their binding."""

    def test_it_makes_queues_and_binding(
        self, broker: FakeBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broker.queues.clear()
        for _ in range(2):
            assert run(tmp_path, "declare") == 0
        assert {*broker.queues} == {QUEUE, DEAD}
        assert {*broker.bindings} == {(QUEUE, "amq.topic", f"{QUEUE}.infer.*.request")}
        words = f"{QUEUE}: declared, bound to amq.topic as {QUEUE}.infer.*.request\n"
        assert capsys.readouterr().out == 2 * words

    def test_the_bound_of_the_queue_is_an_option(
        self, broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bounds: list[Any] = []
        declare = FakeChannel.queue_declare

        def note(channel: FakeChannel, queue: str, *, arguments: dict[str, Any], **options: Any) -> Any:
            bounds.append(arguments.get("x-max-length"))
            return declare(channel, queue, arguments=arguments, **options)

        monkeypatch.setattr(FakeChannel, "queue_declare", note)
        assert run(tmp_path, "declare", "--most-waiting", "77") == run(tmp_path, "declare") == 0
        assert bounds == [None, 77, None, 10_000]
        assert broker.accounts == [None, None]

    def test_another_account_may_declare(self, broker: FakeBroker, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("of admin\n", encoding="ascii")
        assert run(tmp_path, "declare", "--username", "admin", "--password-file", str(tmp_path / "secret")) == 0
        assert broker.accounts == [("admin", "of admin")]

    @pytest.mark.parametrize("option", ["--username", "--password-file"])
    def test_an_account_has_a_name_and_a_password(self, broker: FakeBroker, tmp_path: Path, option: str) -> None:
        assert run(tmp_path, "declare", option, "admin") == 64
        assert broker.attempts == []

    def test_a_password_that_cannot_be_read_is_named(
        self, broker: FakeBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path, "declare", "--username", "admin", "--password-file", str(tmp_path / "none")) == 1
        assert f"{tmp_path}/none" in capsys.readouterr().err
        assert broker.attempts == []

    def test_a_broker_that_is_not_there_is_told(
        self, broker: FakeBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broker.refusals["localhost"] = REFUSED
        assert run(tmp_path, "declare") == 1
        words = f"edge-agent: the pool cannot be declared: localhost:5672: Connection refused; {ADVICE}\n"
        assert capsys.readouterr().err == words

    def test_a_queue_that_is_another_one_is_told_in_the_brokers_words(
        self,
        broker: FakeBroker,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise ChannelClosedByBroker(406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length'")

        monkeypatch.setattr(FakeChannel, "queue_declare", refuse)
        assert run(tmp_path, "declare") == 1
        assert "PRECONDITION_FAILED - inequivalent arg 'x-max-length'; the queue exists" in capsys.readouterr().err
        assert not broker.connection.is_open


class FakeClient:
    """Stands in for the connection by MQTT: `said` is what the bus brings."""

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

    def connect(self, _timeout_s: float) -> bool:
        return self.is_connected

    def receive(self, timeout_s: float) -> Message | None:
        if self._left:
            return self._left.pop(0)
        threading.Event().wait(timeout_s)
        return None


class Bus:
    """What boards of the site say by MQTT."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.client: type[FakeClient] = type("Client", (FakeClient,), {"said": []})
        patch.setattr(watch_module, "Client", self.client)

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
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    return Bus(monkeypatch)


@pytest.fixture
def waiting(broker: FakeBroker) -> FakeBroker:
    """Seven requests wait, and a dead letter."""
    for _ in range(7):
        broker.publish(b"x")
    broker.queues[DEAD].append(Waiting(DEAD, DEAD, b"x", BasicProperties()))
    return broker


def status(folder: Path, *words: str, more: str = POOL) -> int:
    return run(folder, "status", "--wait", "0.1", *words, more=more)


@pytest.mark.usefixtures("waiting")
class TestStatus:
    """`edge-agent pool status`: the queue, the boards, and what they lack."""

    def test_boards_with_the_same_tasks_are_a_good_pool(
        self, bus: Bus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.board("press-04", "triage", "report")
        bus.board("press-05", "report", "triage", waited_ms=None)
        bus.board("oven", "other", pool="ovens")
        bus.say("lathe", "state", boards.state())
        assert status(tmp_path) == 0
        head, titles, *lines = capsys.readouterr().out.splitlines()
        assert head == "pool pumps: 7 requests wait, the boards have 0 places, 1 dead letters"
        assert titles.split() == [
            *("BOARD", "STATE", "PLACES", "A", "MINUTE", "WAITED", "MS", "TAKEN", "GIVEN", "BACK", "AGAIN"),
            *("MODEL", "LACKS"),
        ]
        assert [line.split() for line in lines] == [
            ["press-04", "ok", "4", "90", "12", "700", "3", "1", "qwen2.5-0.5b", "c0c9", "nothing"],
            ["press-05", "ok", "4", "90", "–", "700", "3", "1", "qwen2.5-0.5b", "c0c9", "nothing"],
        ]

    def test_a_task_that_one_board_lacks_is_a_failure_that_names_it(
        self, bus: Bus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.board("press-04", "triage", "report", "urgent")
        bus.board("press-05", "report")
        assert status(tmp_path) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("c0c9")[1].strip() for line in lines[2:]] == ["nothing", "triage, urgent"]

    def test_json_has_the_same(self, bus: Bus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bus.board("press-04", "triage", "report")
        bus.board("press-05", "report", waited_ms=None)
        assert status(tmp_path, "--json") == 1
        document = json.loads(capsys.readouterr().out)
        first, second = document.pop("boards")
        assert document == {"pool": "pumps", "queue": QUEUE, "waiting": 7, "places_of_all": 0, "dead_letters": 1}
        identity = {"device": "press-04", "level": "ok", "model": "qwen2.5-0.5b", "sha256": "c0c9"}
        assert first == {**identity, "tasks": ["triage", "report"], "lacks": [], **FIGURES}
        assert (second["lacks"], second["waited_ms"]) == (["triage"], None)

    def test_a_board_whose_tasks_are_unknown_lacks_nothing_that_is_known(
        self, bus: Bus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.board("press-04", "triage")
        bus.say("press-05", "health", boards.health(pool={"name": "pumps"}))
        assert status(tmp_path) == 0
        (line,) = [one.split() for one in capsys.readouterr().out.splitlines() if one.startswith("press-05")]
        assert line[2:] == ["–", "–", "–", "–", "–", "–", "default", "?"]

    def test_a_pool_without_a_board_is_a_failure(
        self, bus: Bus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.board("oven", "other", pool="ovens")
        assert status(tmp_path) == 1
        told = capsys.readouterr()
        assert told.out == "pool pumps: 7 requests wait, the boards have 0 places, 1 dead letters\n"
        assert "edge-agent: 0 of 1 boards are heard within" in told.err

    def test_it_ends_early_once_the_boards_have_all_places(
        self, bus: Bus, broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bus.board("press-04", "triage")
        monkeypatch.setattr(broker, "consumers", lambda queue: 4 if queue == QUEUE else 1)
        started_at = time.monotonic()
        assert run(tmp_path, "status", "--wait", "60") == 0
        assert time.monotonic() - started_at < 5

    def test_what_a_board_says_cannot_move_the_cursor(
        self, bus: Bus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.board("evil\x1b[2J", "\x1b[31m", "other")
        bus.board("press-04", "other")
        assert status(tmp_path) == 1
        assert "\x1b" not in capsys.readouterr().out

    def test_without_a_broker_by_mqtt_no_board_can_be_heard(
        self, bus: Bus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.client.is_connected = False
        assert status(tmp_path) == 1
        assert "no connection to the broker localhost:1883: Connection refused" in capsys.readouterr().err

    def test_a_queue_that_is_missing_is_told_with_the_command_that_makes_it(
        self, bus: Bus, broker: FakeBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.board("press-04")
        broker.queues.clear()
        assert status(tmp_path) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert (
            f"NOT_FOUND - no queue '{QUEUE}' in vhost '/'; make the queues with `edge-agent pool declare`" in told.err
        )

    def test_a_broker_that_is_not_there_is_told(
        self, bus: Bus, broker: FakeBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bus.board("press-04")
        broker.refusals["localhost"] = REFUSED
        assert status(tmp_path) == 1
        words = f"edge-agent: the pool's queue cannot be read: localhost:5672: Connection refused; {ADVICE}\n"
        assert capsys.readouterr().err == words


@pytest.mark.parametrize(
    "words",
    [
        ["pool"],
        ["pool", "delete"],
        ["pool", "declare", "--most-waiting", "0"],
        ["pool", "declare", "--most-waiting", "x"],
        ["pool", "status", "--wait", "-1"],
    ],
)
def test_options_that_cannot_be_are_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == cli.EXIT_USAGE
    assert "usage: edge-agent pool" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["declare", "status"])
def test_a_configuration_without_a_pool_is_a_bad_one(
    broker: FakeBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    assert run(tmp_path, action, more="") == cli.EXIT_CONFIG == 78
    assert "config.toml: pool: required: a table with the pool's `name`\n" in capsys.readouterr().err
    assert broker.attempts == []


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.core.extras.find_spec", lambda name: None if name == "pika" else object())
    assert run(tmp_path, "status") == 1
    assert "pip install '.[pool]' in a copy of the repository" in capsys.readouterr().err
