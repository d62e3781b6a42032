"""What `ansible/` brings to boards and brokers, as far as it can be tried without a board."""

from __future__ import annotations

import fcntl
import grp
import importlib.util
import itertools
import json
import os
import queue
import re
import secrets
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.core.config import Config
from edge_agent.core.topics import Topics, ask_reply_topic
from edge_agent.models.record import FILE, open_in_force
from rigs.deploy.fleet import ANSIBLE, Broker
from tests.conftest import NO_MOSQUITTO
from tests.helpers.processes import WAIT_S, Mosquitto
from tests.models.test_bundle import bundle

ROLE = ANSIBLE / "roles" / "edge_agent"


def _module(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROLE / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # As the import system does, for dataclasses look themselves up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


to_toml: Callable[[dict[str, Any]], str] = _module("filter_plugins/to_toml.py").FilterModule().filters()["to_toml"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@given(st.dictionaries(TEXT, VALUES))
def test_what_is_written_as_toml_is_read_again(value: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(value)) == value


def test_order_of_a_schemas_properties_is_kept() -> None:
    properties = {"where": {"type": "string"}, "a.b": True, "at": {"type": "number"}}
    value = {"tasks": {"x": {"kind": "extract", "schema": {"type": "object", "properties": properties}}}}
    assert list(tomllib.loads(to_toml(value))["tasks"]["x"]["schema"]["properties"]) == list(properties)


@pytest.mark.parametrize("value", [None, {1}, b"x"])
def test_what_toml_cannot_hold_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^mqtt\.tls\.ca_file: should be "):
        to_toml({"mqtt": {"tls": {"ca_file": value}}})


def test_defaults_are_as_they_are_described() -> None:
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


def test_readme_names_the_ansible_that_the_playbooks_are_tried_with() -> None:
    readme, makefile = ((ANSIBLE.parent / name).read_text("utf-8") for name in ("README.md", "Makefile"))
    (named,), (tried,) = (re.findall(r"ansible-core==(\S+)", text) for text in (readme, makefile))
    assert named == tried


@pytest.mark.parametrize(
    ("offset_s", "told"),
    [
        (-34559997.2, "400 days behind"),
        (7260.0, "2 h ahead of"),
        (-150.0, "2 min behind"),
        (119.94, "119.9 s ahead of"),
        (-0.25, "0.2 s behind"),
    ],
)
def test_how_far_a_clock_is_off_is_told_in_words(module_utils: None, offset_s: float, told: str) -> None:
    del module_utils
    assert _module("library/edge_agent_board.py").told_offset(offset_s) == told


certificate_faults: Callable[..., list[str]] = (
    _module("filter_plugins/certificate_faults.py").FilterModule().filters()["certificate_faults"]
)
TODAY = datetime.now(UTC)
HOST = x509.SubjectAlternativeName([x509.DNSName("broker.example")])


def key_usage(*, may_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not may_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=may_sign,
        crl_sign=may_sign,
        encipher_only=False,
        decipher_only=False,
    )


def certificate(
    *extensions: x509.ExtensionType, days: tuple[int, int] = (-1, 1), issuer: str = "plant", is_critical: bool = True
) -> str:
    """Of the subject plant, in PEM, by default signed by itself; days: from today on when it is valid."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("plant", issuer))
    first, last = (TODAY + timedelta(days=day) for day in days)
    builder = x509.CertificateBuilder(signer, subject, key.public_key(), 1, first, last)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


SIGNS = (x509.BasicConstraints(ca=True, path_length=None), key_usage(may_sign=True))
KNOWN = x509.SubjectKeyIdentifier(b"plant")
AUTHORITIES = {
    "good": (certificate(*SIGNS, KNOWN), None, None),
    "as openssl makes it unasked": (certificate(SIGNS[0], KNOWN), "has no keyUsage", None),
    "without an identifier": (certificate(*SIGNS), "has no subjectKeyIdentifier", None),
    "not critical": (certificate(*SIGNS, KNOWN, is_critical=False), "has basicConstraints that are not critical", None),
    "for other ends": (certificate(SIGNS[0], key_usage(may_sign=False), KNOWN), *["lacks keyCertSign"] * 2),
    "no authority": (certificate(), *["no basicConstraints CA:TRUE"] * 2),
    "the broker's, which signs itself": (certificate(SIGNS[0], HOST), None, None),
    # It vouches for itself from 3.13 on.
    "the broker's, which another signs": (certificate(HOST, issuer="other"), None, "put that of CN=other here"),
    "of nobody": (certificate(issuer="other"), *["put that of CN=other here"] * 2),
    "expired": (certificate(*SIGNS, KNOWN, days=(-9, -2)), *["has expired on 20"] * 2),
    "to come": (certificate(*SIGNS, KNOWN, days=(2, 9)), *["is not valid before"] * 2),
    "no certificate": ("-----BEGIN CERTIFICATE-----\n", *["is no certificate in PEM"] * 2),
    "blank": ("", *["is no certificate in PEM"] * 2),
}


@pytest.mark.parametrize("name", AUTHORITIES)
@pytest.mark.parametrize("is_strict", [True, False])
def test_certificate_that_no_board_could_use_is_known_on_the_controller(name: str, *, is_strict: bool) -> None:
    text, *faults = AUTHORITIES[name]
    config = {"mqtt": {"tls": {"ca_file": "ca.pem", "cert_file": "on the board already"}}}
    found = certificate_faults(config, {"ca.pem": text, "other.pem": "x"}, is_strict=is_strict)
    expected = faults[0] if is_strict else faults[1]
    assert len(found) == (expected is not None)
    for fault in found:
        assert fault.startswith("ca.pem (mqtt.tls.ca_file) ")
        assert expected
        assert expected in fault


def test_certificate_of_a_client_needs_to_be_good_today_only() -> None:
    config = {"mqtt": {"tls": {"cert_file": "me.pem"}}}
    assert not certificate_faults(config, {"me.pem": certificate(issuer="other")}, is_strict=True)
    (fault,) = certificate_faults(config, {"me.pem": certificate(days=(-9, -2))}, is_strict=True)
    assert fault.startswith("me.pem (mqtt.tls.cert_file) has expired on ")


RECORDS = {
    "none": None,
    "a switch": {"current": "two", "previous": "one"},
    "a switch to what is gone": {"current": "gone", "previous": "one"},
    "a first switch to what is gone": {"current": "gone", "previous": None},
    "a switch from another path": {"configured": "elsewhere", "current": "one", "previous": None},
    "damaged": b'{"schema":1,',
    "no object": b"[]",
}


@pytest.mark.expects_warning
@pytest.mark.parametrize("record", RECORDS)
def test_role_and_agent_find_the_same_bundle_in_force(
    record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        bundle(tmp_path / name)
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
    places = _module("module_utils/edge_agent_places.py")
    monkeypatch.setattr(places, "MODELS", tmp_path)
    monkeypatch.setattr(places, "SWITCHED", file)
    assert places.bundle_in_force() == open_in_force(config).source.name


@pytest.mark.parametrize("is_switched", [True, False])
def test_bundle_that_the_agent_could_go_back_to_is_kept(
    module_utils: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_switched: bool
) -> None:
    """After a rollout of a bundle, and then of a version, of which the links tell only."""
    del module_utils
    places, switch = sys.modules["ansible.module_utils.edge_agent_places"], _module("library/edge_agent_switch.py")
    opt, models, record = tmp_path / "opt", tmp_path / "models", tmp_path / "model-1.json"
    for module in (places, switch):
        monkeypatch.setattr(module, "OPT", opt)
        monkeypatch.setattr(module, "MODELS", models)
    monkeypatch.setattr(places, "SWITCHED", record)
    monkeypatch.setattr(switch, "VERSIONS", opt / "versions")
    for name in ("v1", "v2", "v3"):
        (opt / "versions" / name).mkdir(parents=True)
    models.mkdir()
    for name in ("b0", "b1", "b2"):
        bundle(models / name)
    for link, target in {"current": "v3", "previous": "v2"}.items():
        (opt / link).symlink_to(f"versions/{target}")
        (models / link).symlink_to("b2")
    if is_switched:
        paths = {"configured": "current", "current": "b2", "previous": "b1"}
        record.write_text(json.dumps({key: str(models / name) for key, name in paths.items()}), "utf-8")
    switch._prune()
    assert sorted(path.name for path in (opt / "versions").iterdir()) == ["v2", "v3"]
    kept = ["b1", "b2"] if is_switched else ["b2"]
    assert sorted(path.name for path in models.iterdir()) == [*kept, "current", "previous"]


def ended(code: int, error: str = "", stderr: str = "") -> subprocess.CompletedProcess[str]:
    """`edge-agent command`, which prints a result where there is one."""
    result = json.dumps({"status": "failed", "error": {"code": error, "message": "so it is"}}) if error else ""
    return subprocess.CompletedProcess([], code, result, stderr)


NO_RESULT = ended(1, stderr="edge-agent: no result\n")


@pytest.fixture
def module_utils(monkeypatch: pytest.MonkeyPatch) -> None:
    """What modules import of Ansible, which is not installed here."""
    for name in ("ansible", "ansible.module_utils"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ansible.module_utils.basic", SimpleNamespace(AnsibleModule=None))
    for name in ("edge_agent_places", "edge_agent_former", "edge_agent_service"):
        module = _module(f"module_utils/{name}.py")
        monkeypatch.setitem(sys.modules, f"ansible.module_utils.{name}", module)
        monkeypatch.setattr(sys.modules["ansible.module_utils"], name, module, raising=False)


@pytest.fixture
def service(module_utils: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is done with the service of a board, on none."""
    del module_utils
    found = sys.modules["ansible.module_utils.edge_agent_service"]
    monkeypatch.setattr(found, "bundle_in_force", lambda: "old-1")
    seconds = itertools.count()
    clock = SimpleNamespace(sleep=lambda _seconds: None, monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr(found, "time", clock)
    return found


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([ended(0)], None),
        # The connection broke; the agent was at it, and then it was done.
        ([NO_RESULT, ended(2, "switching"), ended(0)], None),
        ([NO_RESULT, ended(2, "canaries_differ")], "was refused by the agent: canaries_differ: so it is"),
        ([ended(64, stderr="usage\nno such command")], "was refused by the agent: usage; no such command"),
        ([NO_RESULT] * 3, "new-2: edge-agent: no result"),
    ],
)
def test_agent_is_told_to_change_its_bundle_until_it_says_how_that_ended(
    service: Any, monkeypatch: pytest.MonkeyPatch, ends: list[subprocess.CompletedProcess[str]], told: str | None
) -> None:
    asked: list[list[str]] = []

    def output_of(command: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return ends[len(asked) - 1]

    monkeypatch.setattr(service, "_output_of", output_of)
    board = service.Service({"ready_timeout_s": 5})
    board.take("old-1", allow_downgrade=False)
    assert not asked
    # Who does not know how it ended deletes nothing.
    kind = service.UnsureError if ends[-1] is NO_RESULT else service.ServiceError
    with nullcontext() if told is None else pytest.raises(kind, match=f"^{re.escape(told)}$"):
        board.take("new-2", allow_downgrade=True)
    assert len(asked) == len(ends)
    assert json.loads(asked[-1][-1]) == {"model": "default", "bundle": "new-2", "allow_downgrade": True}


@pytest.mark.parametrize(("told", "expected"), [("90000000", 1_000_090.0), ("0", None), ("", None)])
def test_start_of_the_service_is_known_by_the_clock_as_it_is_now(
    service: Any, monkeypatch: pytest.MonkeyPatch, told: str, expected: float | None
) -> None:
    monkeypatch.setattr(service, "time", SimpleNamespace(time=lambda: 1_000_100.0, monotonic=lambda: 100.0))
    monkeypatch.setattr(service, "_property", lambda _name: told)
    assert service.started_s() == expected


@pytest.mark.parametrize(
    ("in_force", "record", "expected"),
    [
        ("b2", {"outcome": "committed"}, ("v1", "b1")),
        # Told by somebody else, or by a rollout that lost power before the links followed: they name what ran before.
        ("b3", {"outcome": "committed"}, ("v2", "b2")),
        # Lost power half way.
        ("b2", {"outcome": "switching", "from": {"agent": "v0", "bundle": "b0"}}, ("v0", "b0")),
    ],
)
def test_rollback_goes_to_what_ran_before_what_is_in_force(
    module_utils: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_force: str,
    record: dict[str, Any],
    expected: tuple[str, str],
) -> None:
    del module_utils
    switch = _module("library/edge_agent_switch.py")
    links = {"current": ("v2", "b2"), "previous": ("v1", "b1")}
    monkeypatch.setattr(switch, "linked_agent", lambda link="current": links[link][0])
    monkeypatch.setattr(switch, "linked_bundle", lambda link="current": links[link][1])
    monkeypatch.setattr(switch, "bundle_in_force", lambda: in_force)
    monkeypatch.setattr(switch, "RECORD", tmp_path / "last-switch.json")
    (tmp_path / "last-switch.json").write_text(json.dumps(record), "utf-8")
    wanted = switch.Switch(SimpleNamespace(params={"is_back": True}, check_mode=True)).new
    assert (wanted.agent, wanted.bundle) == expected


GONE_ON = json.dumps({"started": True, "finished": False, "ansible_job_id": "j1.2"})
CHANGED = json.dumps({"changed": True, "gap_s": 2.5})


@pytest.mark.parametrize(
    ("told", "is_under_way", "expected"),
    [
        ([GONE_ON, CHANGED], False, {"changed": True, "gap_s": 2.5}),
        # However long it takes, as long as there is somebody at it.
        ([GONE_ON] * 50 + [CHANGED], True, {"changed": True, "gap_s": 2.5}),
        ([GONE_ON] * 50 + [CHANGED], False, "something on the board ended the switch"),
        ([None] * 50, False, "the switch died with the board, which was restarted,"),
        ([None, GONE_ON, CHANGED], False, {"changed": True, "gap_s": 2.5}),
    ],
)
def test_end_of_a_switch_is_heard_whatever_became_of_it(
    module_utils: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: list[str | None],
    expected: object,
    *,
    is_under_way: bool,
) -> None:
    del module_utils
    module = _module("library/edge_agent_outcome.py")
    job, lock = tmp_path / "j1.2", tmp_path / "lock"
    monkeypatch.setattr(module, "SWITCH_LOCK", lock)
    contents, seconds = iter(told), itertools.count()

    def come(_seconds: float = 0.0) -> None:
        content = next(contents)
        job.unlink(missing_ok=True)
        if content is not None:
            job.write_text(content, "utf-8")

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=come, monotonic=lambda: float(next(seconds))))
    come()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if is_under_way else fcntl.LOCK_UN)
        if isinstance(expected, dict):
            assert module.outcome(job) == expected
        else:
            with pytest.raises(module.EndedError, match=f"^{expected}$"):
                module.outcome(job)


def check(name: str, verdict: str, found: str = "so it is", advice: str | None = None) -> dict[str, str | None]:
    """As `edge-agent doctor --broker --json` has it."""
    return {"name": name, "verdict": verdict, "found": found, "advice": advice}


TAKEN = check("broker", "good")
REFUSING = check("broker", "failed", "b:8883 refuses the connection: Not authorized", "check mqtt.username")
TOLD = "b:8883 refuses the connection: Not authorized → check mqtt.username"


@pytest.mark.parametrize(
    ("checks", "refused", "warned"),
    [
        ([TAKEN, check("topics", "good")], None, []),
        ([REFUSING], TOLD, []),
        # Several brokers are tried in turn.
        ([REFUSING, TAKEN], None, [TOLD]),
        ([TAKEN, check("topics", "failed")], "so it is", []),
        ([TAKEN, check("name", "warning", "somebody is online")], None, ["somebody is online"]),
        ([check("configuration", "failed", "x.toml: no; none")], "x.toml: no; none", []),
    ],
)
def test_configuration_is_refused_where_no_broker_takes_it(
    configure: Any, checks: list[dict[str, str | None]], refused: str | None, warned: list[str]
) -> None:
    with nullcontext() if refused is None else pytest.raises(configure.RefusedError, match=f"^{re.escape(refused)}$"):
        assert configure.judged(checks) == warned


@pytest.fixture
def configure(module_utils: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that changes a board's configuration, here in a folder, as whoever this is."""
    del module_utils
    found = _module("library/edge_agent_configure.py")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "command_key").write_text("nobody else knows it", "ascii")
    (tmp_path / "config.toml").write_text("old", "ascii")
    monkeypatch.setattr(found, "ETC", tmp_path)
    monkeypatch.setattr(found.edge_agent_former, "keep", lambda: None)
    monkeypatch.setattr(found, "GROUP", grp.getgrgid(os.getgid()).gr_name)
    monkeypatch.setattr(found.os, "chown", lambda *_words: None)
    monkeypatch.setattr(found.File, "is_there", lambda file: _text(tmp_path / file.name) == file.content)
    return found


def _text(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


NEW = {"config": "new", "files": {"ca.pem": "who signs"}, "credentials": {"mqtt_password": 12345}}
OLD = {"config.toml": "old", "credentials/command_key": "nobody else knows it"}


@pytest.mark.parametrize(
    ("given", "is_dry", "refused", "then"),
    [
        (NEW, False, None, {"config.toml": "new", "ca.pem": "who signs", "credentials/mqtt_password": "12345"}),
        (NEW, False, "no", OLD),
        (NEW, True, "no", OLD),
        # Without a configuration, what is there is tried.
        ({"config": None, "files": {}, "credentials": {}}, False, "no", OLD),
        ({"config": "old", "files": {}, "credentials": {"command_key": "nobody else knows it"}}, False, "no", OLD),
    ],
)
def test_nothing_of_a_configuration_is_replaced_before_it_was_tried(
    configure: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], refused: str, then: Any, *, is_dry: bool
) -> None:
    tried: list[Any] = []

    def ask(_program: str, *changes: Any) -> list[str]:
        tried.append(changes)
        assert _files(configure.ETC) == OLD
        if refused:
            raise configure.RefusedError(refused)
        return []

    monkeypatch.setattr(configure, "_tried", ask)
    module = SimpleNamespace(params={"program": "edge-agent", **given}, check_mode=is_dry, warn=None)
    is_same = given["config"] == "old"
    is_refused = refused is not None and not is_dry and not is_same
    with pytest.raises(configure.RefusedError) if is_refused else nullcontext():
        told = configure.configure(module)
        assert told["changed"] == (given["config"] == "new")
    assert len(tried) == (not is_dry and not is_same)
    assert _files(configure.ETC) == then


def test_configuration_is_put_back_as_it_was_when_the_service_last_answered(
    module_utils: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del module_utils
    former = sys.modules["ansible.module_utils.edge_agent_former"]
    etc, kept = tmp_path / "etc", tmp_path / "kept"
    monkeypatch.setattr(former, "ETC", etc)
    monkeypatch.setattr(former, "KEPT", kept)
    (etc / "credentials").mkdir(parents=True)
    former.keep()
    assert not former.restore()  # a fresh board
    for name, content in OLD.items():
        (etc / name).write_text(content, "ascii")
        (etc / name).chmod(0o600)
        os.utime(etc / name, (1, 1))
    os.utime(etc, (1, 1))
    former.keep()
    (etc / "config.toml").write_text("new", "ascii")
    former.keep()
    (etc / "config.toml").write_text("newer", "ascii")
    (etc / "credentials" / "command_key").unlink()
    (etc / "ca.pem").write_text("who signs", "ascii")
    assert former.restore()
    assert _files(etc) == OLD
    assert {path.stat().st_mode & 0o777 for path in etc.rglob("*") if path.is_file()} == {0o600}
    assert etc.stat().st_mtime == (etc / "config.toml").stat().st_mtime == 1
    assert not kept.exists()


BOARD, OTHER = Topics("edgeai/v1", "hall1", "press-04"), Topics("edgeai/v1", "hall2", "lathe-01")
ASKED = ask_reply_topic("edgeai/v1", "0123456789abcdef")
SENSORS = "edgeai/v1/reply/sensors/7"
# Who publishes what, who hears it, and whether it comes.
ACCESS = [
    ("press-04", BOARD.state, "monitoring", True),
    ("press-04", BOARD.health, "lathe-01", False),
    ("press-04", OTHER.state, "monitoring", False),
    ("press-04", SENSORS, "sensors", True),
    ("press-04", BOARD.request("generate"), "press-04", True),
    ("press-04", ASKED, "press-04", True),
    ("press-04", "homeassistant/device/x/config", "press-04", False),
    ("sensors", BOARD.request("triage"), "press-04", True),
    ("sensors", BOARD.request("triage"), "lathe-01", False),
    ("sensors", BOARD.command("drain"), "press-04", False),
    ("sensors", BOARD.state, "monitoring", False),
    ("monitoring", BOARD.request("triage"), "press-04", False),
    ("operator", BOARD.command("drain"), "press-04", True),
    ("press-04", BOARD.command("model-switch"), "press-04", True),
    ("press-04", BOARD.command_result("model-switch"), "press-04", True),
    ("press-04", OTHER.command("model-switch"), "lathe-01", False),
    ("operator", BOARD.command_result("drain"), "press-04", False),
    ("press-04", BOARD.command_result("drain"), "operator", True),
    ("press-04", BOARD.alarm("overheating"), "operator", True),
]


class User:
    """Connected over TLS with a password of its own."""

    def __init__(self, name: str, port: int, ca_file: Path) -> None:
        self.heard: list[bytes] = []
        self._ends: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set(ca_certs=str(ca_file))
        self._client.username_pw_set(name, f"of {name}")
        self._client.on_connect = lambda *words: self._ends.put(words[3].value)
        self._client.on_subscribe = lambda *words: self._ends.put(words[3][0].value)
        self._client.on_publish = lambda *words: self._ends.put(words[3].value)
        self._client.on_message = lambda _client, _data, message: self.heard.append(bytes(message.payload))
        self._client.connect("localhost", port)
        self._client.loop_start()
        assert self._ends.get(timeout=WAIT_S) == 0

    def publish(self, topic: str, payload: bytes) -> None:
        """Until the broker has taken it, or refused it."""
        self._client.publish(topic, payload, qos=1)
        self._ends.get(timeout=WAIT_S)

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, qos=1)
        self._ends.get(timeout=WAIT_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, User]]:
    if not Mosquitto.is_installed():
        pytest.skip(NO_MOSQUITTO)
    folder = tmp_path_factory.mktemp("broker") / "broker"
    names = ("press-04", "lathe-01", "sensors", "monitoring", "operator")
    with Broker(folder, {name: f"of {name}" for name in names}) as broker:
        users = {name: User(name, broker.port, folder / "ca.pem") for name in names}
        yield users
        for user in users.values():
            user.close()


@pytest.mark.mosquitto
@pytest.mark.parametrize(("speaker", "topic", "listener", "is_heard"), ACCESS)
def test_broker_sample_lets_everybody_say_and_hear_what_is_theirs(
    users: dict[str, User], speaker: str, topic: str, listener: str, *, is_heard: bool
) -> None:
    payload = secrets.token_bytes(8)
    users[listener].subscribe(topic)
    users[speaker].publish(topic, payload)
    # What was to be delivered comes before the answer to what is asked after it.
    users[listener].subscribe(f"{topic}/x")
    assert (payload in users[listener].heard) == is_heard


@pytest.mark.mosquitto
def test_nobody_without_a_password_is_let_in(users: dict[str, User], tmp_path: Path) -> None:
    del users
    with Broker(tmp_path / "broker", {"press-04": "x"}) as broker:
        command = [
            "mosquitto_pub",
            "-h",
            "localhost",
            "-p",
            str(broker.port),
            "--cafile",
            str(tmp_path / "broker/ca.pem"),
        ]
        done = subprocess.run([*command, "-t", "x", "-n"], capture_output=True, text=True, check=False)
    assert "ot authori" in done.stderr
