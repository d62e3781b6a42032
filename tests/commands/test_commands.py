"""How a command is answered, and what is logged of it. tests/contract/test_commands.py has the rest."""

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.commands.authority import sign
from edge_agent.commands.commands import Commands
from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.config import Config
from edge_agent.core.messages import Publication
from edge_agent.models.switch import ModelSwitch, Switched, SwitchFailed
from edge_agent.status.presence import Presence
from edge_agent.status.publisher import StatusPublisher
from tests.helpers.facts import READY
from tests.helpers.support import BASE, Desk, config, inbound


class Switch:
    """Stands for the ModelSwitch."""

    def __init__(self) -> None:
        self.is_started: bool | CommandError = True
        self.by: str | None = None

    def start(self, _bundle: str, *, allow_downgrade: bool, by: str | None) -> bool:
        assert not allow_downgrade
        self.by = by
        if isinstance(self.is_started, CommandError):
            raise self.is_started
        return self.is_started


class Status:
    """Stands for the StatusPublisher."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def publish_event(self, name: str, document: dict[str, Any]) -> None:
        self.events.append((name, document))


class Office:
    """Commands and what they answered, without anything else of an agent."""

    def __init__(self, settings: Config, path: Path = Path("config.toml")) -> None:
        self.published: list[Publication] = []
        self.applied: list[Config] = []
        self.switch = Switch()
        self.status = Status()
        self.desk = Desk()
        self.commands = Commands(
            settings,
            path,
            publish=self.published.append,
            apply_config=self.applied.append,
            presence=Presence(settings.topics),
            dispatcher=self.desk.dispatcher,
            model_switch=cast("ModelSwitch", self.switch),
            status=cast("StatusPublisher", self.status),
        )

    def send(self, operation: str, payload: Any) -> None:
        self.commands.receive(inbound(f"{BASE}/cmd/{operation}", payload))

    @property
    def results(self) -> list[tuple[Any, str]]:
        documents = [json.loads(one.payload) for one in self.published]
        return [(one["id"], one["error"]["code"] if one["error"] else one["status"]) for one in documents]


ALLOWED = config('[commands]\nallow = ["ping", "drain", "resume", "model-switch"]\n')
SWITCH = {"model": "default", "bundle": "b"}


@pytest.mark.parametrize("payload", ['{"SECRET": 1, "SECRET": 2}', '"SECRET"', "SECRET"])
def test_a_refused_command_is_logged_without_its_content(payload: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    office = Office(config())
    office.send("ping", payload)
    assert json.loads(office.published[0].payload)["status"] == "failed"
    (line,) = caplog.messages
    assert line.startswith("command refused op='ping' code=bad_")
    assert "SECRET" not in line


def test_a_switch_is_answered_once_at_its_end() -> None:
    office = Office(ALLOWED)
    office.send("model-switch", {"id": 1, **SWITCH})
    assert office.results == []
    office.commands.on_switch_ended(Switched(READY, {}, {"changed": True}))
    office.send("model-switch", {"id": 2, **SWITCH})
    office.commands.on_switch_ended(SwitchFailed(CommandError(CommandCode.CANARIES_DIFFER, "m"), {}))
    # This is one that no command has asked for.
    office.commands.on_switch_ended(SwitchFailed(CommandError(CommandCode.STOPPING, "m"), {}))
    office.switch.is_started = False
    office.send("model-switch", {"id": 3, **SWITCH})
    office.switch.is_started = CommandError(CommandCode.SWITCHING, "m")
    office.send("model-switch", {"id": 4, **SWITCH})
    assert office.results == [(1, "ok"), (2, "canaries_differ"), (3, "ok"), (4, "switching")]


def test_an_event_says_who_changed_what_a_board_does() -> None:
    office = Office(ALLOWED)
    office.send("ping", {"by": "ana"})
    office.send("drain", {"by": "ana"})
    office.send("resume", {"id": 1})
    office.send("drain", {"by": ""})
    assert office.status.events == [
        ("command", {"op": "drain", "by": "ana"}),
        ("command", {"op": "resume", "by": None}),
    ]
    assert office.results[-1] == (None, "bad_field")
    office.send("model-switch", {"by": "ana", **SWITCH})
    assert office.switch.by == "ana"


def test_a_drain_is_answered_at_its_end_or_by_the_next_one() -> None:
    office = Office(ALLOWED)
    office.desk.ask({"input": "x", "id": "x"})
    for number in (1, 2):
        office.send("drain", {"id": number, "timeout_s": 5})
    office.commands.tick(0.0)
    assert office.results == [(1, "ok")]
    office.send("model-switch", {"id": 3, **SWITCH})
    assert office.commands.drain_ends_at is not None
    office.commands.tick(office.commands.drain_ends_at)
    assert office.results[1:] == [(3, "draining"), (2, "ok")]
    assert json.loads(office.published[-1].payload)["data"] == {"cancelled": 1}
    assert office.commands.drain_ends_at is None
    assert not office.commands.is_stopped


def test_a_stop_is_a_drain_that_cannot_be_called_off() -> None:
    office = Office(ALLOWED)
    office.desk.ask({"input": "x", "id": "x"})
    office.commands.stop(0.0)
    office.send("resume", {"id": 1})
    office.send("model-switch", {"id": 2, **SWITCH})
    assert office.results == [(1, "stopping"), (2, "stopping")]
    office.commands.tick(0.1)
    assert not office.commands.is_stopped
    office.commands.tick(1e9)
    assert office.commands.is_stopped


@pytest.mark.expects_warning
def test_a_reload_reads_the_key_file_anew_and_forgets_no_nonce_that_the_disk_did_not_take(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"a key")
    path = tmp_path / "config.toml"
    text = '[device]\nsite = "hall1"\nid = "board1"\n[models.default]\npath = "echo:"\n'
    path.write_text(text + f'[commands]\nkey_file = "{tmp_path}/key"\n', "utf-8")
    settings = config()
    commands_config = settings.commands.model_copy(update={"key_file": tmp_path / "key"})
    (tmp_path / "nonces-1").mkdir()
    office = Office(settings.model_copy(update={"commands": commands_config, "state_dir": tmp_path}), path)

    def ping(key: bytes, nonce: str | None = None) -> str:
        fields = {"ts": datetime.now(UTC).isoformat(), "nonce": nonce or secrets.token_hex(4)}
        office.send("ping", {**fields, "hmac": sign(key, "ping", fields)})
        return office.results[-1][1]

    (tmp_path / "key").write_bytes(b"another")
    assert [ping(b"a key"), ping(b"another")] == ["ok", "unauthorized"]
    office.commands.reload()
    assert office.applied == [office.commands.config]
    assert [ping(b"a key"), ping(b"another", "n")] == ["unauthorized", "ok"]
    office.commands.reload()
    assert ping(b"another", "n") == "unauthorized"
