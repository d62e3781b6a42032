"""What `ansible/` brings to boards and brokers, as far as it can be tested without a board; rigs.deploy has boards."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.config import Config
from edge_agent.core.topics import Topics, ask_reply_topic, pool_topics
from edge_agent.models.record import FILE, open_in_force
from rigs.deploy.fleet import ANSIBLE, Broker, password_file
from tests.conftest import NO_MOSQUITTO
from tests.helpers.bundles import flip
from tests.helpers.client import Client
from tests.helpers.processes import Mosquitto
from tests.helpers.support import loaded
from tests.models.test_bundle import bundle

ROLE = ANSIBLE / "roles" / "edge_agent"


to_toml: Callable[[dict[str, Any]], str] = (
    loaded(ROLE / "filter_plugins/to_toml.py").FilterModule().filters()["to_toml"]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)


@settings(max_examples=40)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_toml_that_is_written_reads_back_equal(value: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(value)) == value


def test_order_of_a_schemas_properties_is_kept() -> None:
    properties = {"where": {"type": "string"}, "a.b": True, "at": {"type": "number"}}
    value = {"tasks": {"x": {"kind": "extract", "schema": {"type": "object", "properties": properties}}}}
    assert list(tomllib.loads(to_toml(value))["tasks"]["x"]["schema"]["properties"]) == list(properties)


@pytest.mark.parametrize("value", [None, {1}, b"x"])
def test_a_value_that_toml_cannot_hold_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^mqtt\.tls\.ca_file: should be "):
        to_toml({"mqtt": {"tls": {"ca_file": value}}})


def test_defaults_are_those_of_their_descriptions() -> None:
    described = (ROLE / "meta" / "argument_specs.yml").read_text("utf-8")
    options = re.split(r"^      (edge_agent_\w+):$", described, flags=re.MULTILINE)
    found = {
        name: default
        for name, text in zip(options[1::2], options[2::2], strict=True)
        for default in re.findall(r"^        default: (.*)$", text, flags=re.MULTILINE)
    }
    lines = (ROLE / "defaults" / "main.yml").read_text("utf-8")
    defaults = dict(re.findall(r"^(edge_agent_\w+): (.*)$", lines, flags=re.MULTILINE))
    assert set(defaults) <= set(options)
    assert found == {name: default for name, default in defaults.items() if "{{" not in default}


@pytest.fixture
def board_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that reads a board, without Ansible, which is not installed here."""
    for name in ("ansible", "ansible.module_utils"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ansible.module_utils.basic", SimpleNamespace(AnsibleModule=None))
    return loaded(ROLE / "library/edge_agent_board.py")


RECORDS = {
    "none": None,
    "a switch": {"current": "two", "previous": "one"},
    "a switch to what is gone": {"current": "gone", "previous": "one"},
    "a first switch to what is gone": {"current": "gone", "previous": None},
    "a switch to what is cut off": {"current": "cut", "previous": "one"},
    "a switch to what lacks a file": {"current": "lacking", "previous": "one"},
    "a switch from another path": {"configured": "elsewhere", "current": "one", "previous": None},
    "damaged": b'{"schema":1,',
    "no object": b"[]",
}


@pytest.mark.expects_warning
@pytest.mark.parametrize("record", RECORDS)
def test_role_and_agent_find_the_same_bundle_in_force(
    record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board_module: Any
) -> None:
    for name in ("one", "two", "three", "cut", "lacking"):
        bundle(tmp_path / name)
    os.truncate(tmp_path / "cut" / "model.gguf", 100)
    (tmp_path / "lacking" / "model.gguf").unlink()
    link = tmp_path / "current"
    link.symlink_to("three")
    config = Config.model_validate(
        {
            "device": {"site": "s", "id": "d"},
            "models": {"default": {"path": str(link)}},
            "state_dir": str(tmp_path / "state"),
        }
    )
    file = config.state_dir / FILE
    file.parent.mkdir()
    match RECORDS[record]:
        case dict() as fields:
            paths = {
                key: value and str(tmp_path / value) for key, value in ({"configured": "current"} | fields).items()
            }
            file.write_text(json.dumps({"schema": 1, **paths}), "utf-8")
        case bytes() as content:
            file.write_bytes(content)
    monkeypatch.setattr(board_module, "MODELS", tmp_path)
    monkeypatch.setattr(board_module, "SWITCHED", file)
    assert board_module.installed()["bundle"] == open_in_force(config).source.name


def test_damage_is_found_where_asked_or_reported_and_a_fallback_once_the_agent_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board_module: Any
) -> None:
    for name in ("new", "old"):
        bundle(tmp_path / name)
    record = {
        "configured": str(tmp_path / "current"),
        "current": str(tmp_path / "new"),
        "previous": str(tmp_path / "old"),
    }
    (tmp_path / "record").write_text(json.dumps(record), "utf-8")
    monkeypatch.setattr(board_module, "MODELS", tmp_path)
    monkeypatch.setattr(board_module, "SWITCHED", tmp_path / "record")

    def found(status: str, bundle: str, bring: str | None = None) -> tuple[str, bool]:
        """The bundle in force, and whether this one is whole."""
        shown = f"ActiveState=active\nStatusText=online, 0 running{status}"
        monkeypatch.setattr(board_module, "_output", lambda *_: shown)
        installed = board_module.installed(bring)
        return installed["bundle"], installed["bundles"][bundle]["hashes"] != []

    flip(tmp_path / "new" / "model.gguf")
    assert found("", "new") == ("new", True)
    assert found("", "new", bring="new") == found("", "new", bring="old") == ("new", False)
    assert found("; model-quality", "new") == ("new", False)
    assert found("; model-load-failed, model-not-loaded", "new") == ("old", False)
    flip(tmp_path / "new" / "model.gguf")
    assert found("; limited; model-fallback", "new") == ("old", True)


def test_what_is_on_a_board_is_read_without_an_agent_and_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board_module: Any
) -> None:
    opt, models = tmp_path / "opt", tmp_path / "models"
    for name, path in {"OPT": opt, "MODELS": models, "SWITCHING": opt / "switching.json"}.items():
        monkeypatch.setattr(board_module, name, path)
    blank = board_module.installed()
    assert (blank["agent"], blank["bundle"], blank["agents"], blank["bundles"]) == (None, None, [], {})
    for name in ("v1", "v2"):
        (opt / "versions" / name).mkdir(parents=True)
    (opt / "versions" / "v2" / "requirements.txt").touch()
    (opt / "current").symlink_to("versions/v2")
    (opt / "switching.json").write_text('{"from": {"agent": "v1", "bundle": "b1"}}', "ascii")
    models.mkdir()
    # There need not be a large model.
    bundle(models / "b1", {"student-pump.json": b"{}"})
    (models / "half").mkdir()
    (models / "current").symlink_to("b1")
    found = board_module.installed()
    assert (found["agent"], found["versions"], found["agents"]) == ("v2", ["v1", "v2"], ["v2"])
    assert found["bundle"] == "b1"
    assert found["bundles"]["half"]["hashes"] == []
    assert [len(sha256) for sha256 in found["bundles"]["b1"]["hashes"]] == [64]
    assert found["interrupted"]["from"]["agent"] == "v1"


BOARD, OTHER = Topics("edgeai/v1", "hall1", "press-04"), Topics("edgeai/v1", "hall2", "lathe-01")
POOL = pool_topics("edgeai/v1", "hall1", "presses")
ASKED = ask_reply_topic("edgeai/v1", "0123456789abcdef")
SENSORS = "edgeai/v1/reply/sensors/7"
# Publisher, topic, listener, and whether the message arrives.
ACCESS = [
    ("press-04", BOARD.state, "monitoring", True),
    ("press-04", BOARD.health, "lathe-01", False),
    ("press-04", OTHER.state, "monitoring", False),
    ("press-04", Topics("edgeai/v1", "hall2", "press-04").state, "monitoring", False),
    ("press-04", SENSORS, "sensors", True),
    ("press-04", BOARD.request("generate"), "press-04", True),
    ("press-04", ASKED, "press-04", True),
    ("press-04", SENSORS, "monitoring", False),
    ("sensors", SENSORS, "sensors", False),
    ("press-04", "homeassistant/device/x/config", "homeassistant", True),
    ("sensors", "homeassistant/device/x/config", "homeassistant", False),
    ("homeassistant", "homeassistant/status", "press-04", True),
    ("press-04", BOARD.alarm("overheating"), "homeassistant", True),
    ("homeassistant", BOARD.command("drain"), "press-04", False),
    ("sensors", "plant/7/vibration", "press-04", True),
    ("press-04", "plant/7/triage", "sensors", True),
    ("sensors", "plant/7/triage", "sensors", False),
    ("press-04", BOARD.event("model-switched"), "monitoring", True),
    ("sensors", BOARD.request("triage"), "press-04", True),
    ("sensors", BOARD.feedback("triage"), "press-04", True),
    ("press-04", BOARD.feedback_result("triage"), "sensors", True),
    ("homeassistant", BOARD.feedback("triage"), "press-04", True),
    ("press-04", BOARD.response("triage"), "homeassistant", True),
    ("monitoring", BOARD.feedback("triage"), "press-04", False),
    ("sensors", "plant/7/vibration", "operator", True),
    ("sensors", BOARD.request("triage"), "lathe-01", False),
    ("sensors", BOARD.command("drain"), "press-04", False),
    ("sensors", BOARD.state, "monitoring", False),
    ("monitoring", BOARD.request("triage"), "press-04", False),
    ("press-04", BOARD.audit("triage"), "web", True),
    ("press-04", "plant/7/triage", "web", True),
    ("web", BOARD.request("triage"), "press-04", True),
    ("web", POOL.request("triage"), "operator", True),
    ("web", BOARD.feedback("triage"), "press-04", True),
    ("web", BOARD.command("ping"), "press-04", False),
    ("web", BOARD.state, "press-04", False),
    ("operator", BOARD.command("drain"), "press-04", True),
    ("press-04", BOARD.command("model-switch"), "press-04", True),
    ("press-04", BOARD.command_result("model-switch"), "press-04", True),
    ("press-04", OTHER.command("model-switch"), "lathe-01", False),
    ("operator", BOARD.command_result("drain"), "press-04", False),
    ("press-04", BOARD.command_result("drain"), "operator", True),
]


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    if not Mosquitto.is_installed():
        pytest.skip(NO_MOSQUITTO)
    folder = tmp_path_factory.mktemp("broker") / "broker"
    names = ("press-04", "lathe-01", "sensors", "monitoring", "web", "homeassistant", "operator")
    with Broker(folder, {name: f"of {name}" for name in names}) as broker:
        users = {name: Client(broker.port, "5", (name, f"of {name}"), folder / "ca.pem") for name in names}
        yield users
        for user in users.values():
            user.close()


@pytest.mark.mosquitto
@pytest.mark.parametrize(("speaker", "topic", "listener", "is_heard"), ACCESS)
def test_broker_sample_allows_each_account_its_own_topics(
    users: dict[str, Client], speaker: str, topic: str, listener: str, *, is_heard: bool
) -> None:
    payload = secrets.token_bytes(8)
    users[listener].subscribe(topic)
    users[speaker].publish(topic, payload)
    # Messages that are due come before the acknowledgement of a later subscription.
    users[listener].subscribe(f"{topic}/x")
    assert (payload in [message.payload for message in users[listener].messages]) == is_heard


@pytest.mark.mosquitto
def test_broker_refuses_a_client_without_a_password(users: dict[str, Client], tmp_path: Path) -> None:
    del users
    with Broker(tmp_path / "broker", {"press-04": "x"}) as broker:
        command = ["mosquitto_pub", "-h", "localhost", "-p", str(broker.port)]
        command += ["--cafile", str(tmp_path / "broker/ca.pem"), "-t", "x", "-n"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ot authori" in done.stderr


def test_lines_of_a_password_file_are_kept_while_they_are_right(tmp_path: Path) -> None:
    before = password_file({"press-04": "a", "sensors": "b"}, "by-hand:$6$c2FsdA==$aGFzaA==\n")
    after = password_file({"press-04": "a", "sensors": "other", "lathe-01": "c"}, before)
    assert [line.split(":")[0] for line in after.splitlines()] == ["by-hand", "lathe-01", "press-04", "sensors"]
    assert set(before.splitlines()) - set(after.splitlines()) == {before.splitlines()[2]}
    if shutil.which("mosquitto_passwd"):
        theirs = tmp_path / "theirs"
        subprocess.run(["mosquitto_passwd", "-c", "-b", str(theirs), "press-04", "a"], check=True)
        assert password_file({"press-04": "a"}, theirs.read_text("ascii")) == theirs.read_text("ascii")
