"""`edge-agent diag`: what is in it, what never is, and that nothing keeps it from being written."""

import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.core.clock import moment
from edge_agent.core.messages import Reply
from edge_agent.store.database import FILE
from edge_agent.store.store import Store
from edge_agent.tools import diag as diag_module
from edge_agent.tools.diag import LEFT_OUT, diag, safe_log_line, scrubbed
from edge_agent.tools.programs import ProgramError
from tests.helpers.boards.trees import load
from tests.helpers.client import Client
from tests.helpers.processes import BrokerPort
from tests.helpers.site import site_config
from tests.helpers.support import BASE, inbound

SECRETS = {
    "password": "hunter2-of-the-broker",
    "key": "MIIEvQIBADANBgkqTLSKEY",
    "command": "c0mmand-key-of-ours",
    "username": "board1-signs-in",
    "host": "in-the-hosts-name",
    "request": "the-customers-reading",
    "reply": "the-answer-to-it",
    "prefix": "decoded-of-a-prompt",
    "unknown": "a-password-in-a-wrong-key",
    "file": "a-password-where-a-file-belongs",
    "log": "customers-words-in-the-log",
    "environment": "a-token-of-the-unit",
    "command line": "a-token-of-the-kernel",
}
PROGRAMS = {
    "systemctl": "echo ActiveState=failed",
    "journalctl": "cat {folder}/log",
    "dmesg": "echo '[1.0] Out of memory: Killed process 7 (python)'; echo '[2.0] usb 1-1: new device'",
}


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A board with a service's files, each holding something that must not leave it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script.format(folder=tmp_path)}\n", "utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    load("pi5").write(tmp_path / "root")
    (tmp_path / "root" / "proc" / "cmdline").write_text(f"root=/dev/mmcblk0p2 token={SECRETS['command line']}", "utf-8")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "mqtt_password").write_text(SECRETS["password"], "utf-8")
    pem = f"-----BEGIN PRIVATE KEY-----\n{SECRETS['key']}\n-----END PRIVATE KEY-----\n"
    (credentials / "mqtt_key").write_text(pem, "utf-8")
    (credentials / "command_key").write_text(SECRETS["command"], "utf-8")
    keep(tmp_path / "state")
    (tmp_path / "log").write_text("".join(log_lines()), "utf-8")
    return tmp_path


def keep(state_dir: Path) -> None:
    """A request that waits, one that was answered, a prefix and a calibration."""
    store = Store(state_dir / FILE, lambda _: None)
    store.start()
    for number in range(2):
        payload = {"input": SECRETS["request"]}
        row = store.accept(inbound("edgeai/v1/hall1/board1/infer/t/request", payload), "t", moment(0.0))
        if number:
            reply = Reply(topic=f"{BASE}/infer/triage/response", document=SECRETS["reply"].encode())
            store.store_reply(row, "t", reply, b"key", moment(1.0))
    store.commit()
    store.close()
    model = state_dir / "models" / "0123456789abcdef"
    model.mkdir(parents=True)
    (model / "prefix-1.bin").write_text(SECRETS["prefix"], "utf-8")
    (model / "calibration.json").write_text('{"key": "k", "calibration": {"threads": 2}}', "utf-8")


def log_lines() -> Iterator[str]:
    words = SECRETS["log"]
    for message in (
        "INFO edge_agent.mqtt.connections: connected client=hall1.board1.data",
        f"INFO edge_agent.requests.dispatcher: request refused task='t' id='{words}' code=bad_field: id: (got {words})",
        f"DEBUG edge_agent.worker.process: worker 7: prompt {words}",
        "Traceback (most recent call last):",
        f"ValueError: {words}",
        words,
    ):
        yield f"2026-11-28T03:30:22+0000 board1 edge-agent[7]: {message}\n"
    yield "2026-11-28T03:30:23+0000 board1 systemd[1]: Started.\n"


def written(folder: Path, more: str = "") -> Path:
    path = folder / "config.toml"
    path.write_text(
        f'state_dir = "state"\nmodels_dir = "models"\n[device]\nsite = "hall1"\nid = "board1"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = 1\nusername = "{SECRETS["username"]}"\n'
        'password_file = "credentials/mqtt_password"\n[mqtt.tls]\ncert_file = "credentials/mqtt_key"\n'
        'key_file = "credentials/mqtt_key"\n[models.default]\npath = "none"\n[board]\nroot = "root"\n'
        f'[commands]\nkey_file = "credentials/command_key"\n{more}',
        encoding="utf-8",
    )
    return path


def packed(file: Path) -> dict[str, str]:
    with tarfile.open(file) as tar:
        files = {Path(member.name).name: tar.extractfile(member) for member in tar.getmembers()}
        return {name: data.read().decode() for name, data in files.items() if data is not None}


@pytest.mark.parametrize(
    ("good", "bad", "code", "named"),
    [
        ("127.0.0.1", f"user:{SECRETS['host']}@127.0.0.1", 0, '"set"'),
        ("127.0.0.1", f"mqtt://user:{SECRETS['host']}@127.0.0.1", 78, "mqtt.host: should be"),
        ("[models", f'[mqtt2]\npassword_file = "{SECRETS["unknown"]}"\n[models', 78, "mqtt2: unknown"),
        ("[commands]", f'[commands]\nkey_file = "{SECRETS["file"]}"', 78, "TOML"),  # a key twice
        ("credentials/mqtt_password", SECRETS["file"], 0, "mqtt.password_file: should be a file"),
    ],
)
def test_no_secret_and_no_word_of_a_customer_leaves_the_board(
    board: Path, good: str, bad: str, code: int, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(board)
    path.write_text(path.read_text("utf-8").replace(good, bad), "utf-8")
    assert diag(path, board / "out.tar.gz") == code
    printed = capsys.readouterr()
    files = packed(board / "out.tar.gz")
    for name, text in {**files, "stdout": printed.out, "stderr": printed.err}.items():
        found = [secret for secret in SECRETS.values() if secret in text]
        assert not found, (name, found)
    assert named in files["configuration.json"]
    assert "Killed process" in files["kernel.txt"]
    assert "edge_agent.mqtt.connections: connected" in files["log.txt"]
    assert "code=bad_field (left out)" in files["log.txt"]
    assert "systemd[1]: Started." in files["log.txt"]
    assert oct((board / "out.tar.gz").stat().st_mode) == "0o100600"


def test_what_support_needs_is_in_it(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(board)
    assert diag(written(board, '[tasks.t]\nkind = "generate"\nsystem = "Be brief."\n'), None) == 0
    (file,) = board.glob("edge-diag-board1-*Z.tar.gz")
    files = packed(file)
    contents = json.loads(files["contents.json"])
    assert contents["files"].keys() == files.keys() - {"contents.json"}
    assert set(contents["missing"]) == {"bus", "models"}, contents["missing"]
    assert json.loads(files["versions.json"])["board"].startswith("Raspberry Pi 5")
    configuration = json.loads(files["configuration.json"])["set"]
    assert configuration["mqtt"]["password_file"] == LEFT_OUT
    assert configuration["tasks"]["t"]["system"] == "Be brief."
    assert "calibration-0123456789abcdef.json" in files
    assert json.loads(files["board.json"])["thermal"]["soc_c"] == 61.15
    assert "failed   model" in files["doctor.txt"]
    assert files["unit.txt"] == "ActiveState=failed\n"
    assert FILE in files["state.txt"]
    assert "tmpfs" in files["disks.txt"]


def test_parts_that_fail_or_hang_cost_only_themselves(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def fails(*_: object) -> str:
        raise ProgramError("df: not installed")

    def hangs() -> Iterator[tuple[str, str]]:
        yield "log.txt", "the first line\n"
        release.wait(60)

    monkeypatch.setattr(diag_module, "_PART_S", 1.0)
    monkeypatch.setattr(diag_module, "_log", hangs)
    monkeypatch.setattr(diag_module, "program_output", fails)
    assert diag(written(board), board / "out.tar.gz") == 0
    release.set()
    files = packed(board / "out.tar.gz")
    missing = json.loads(files["contents.json"])["missing"]
    assert missing["unit"] == "df: not installed"
    assert missing["log"] == "not done within 1 s"
    assert files["log.txt"] == "the first line\n"
    assert "doctor.txt" in files


def test_a_place_that_cannot_be_written_is_reported(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diag(written(board), board / "none" / "out.tar.gz") == 1
    assert "name another place with --out FILE" in capsys.readouterr().err


def test_what_the_broker_retains_is_in_it(board: Path, broker_port: BrokerPort) -> None:
    path = board / "plain.toml"
    path.write_text(site_config("retained1", broker_port("5"), "5", "none"), "utf-8")
    topic = "edgeai/v1/test/retained1/state"
    with closing(Client(broker_port("5"), "5")) as client:
        client.publish(topic, {"state": "offline", "password": SECRETS["reply"]}, retain=True)
        assert diag(path, board / "out.tar.gz") == 0
        client.publish(topic, b"", retain=True)
    found = json.loads(packed(board / "out.tar.gz")["retained.json"])
    assert found[topic] == {"state": "offline", "password": LEFT_OUT}


OURS = "edge_agent.requests.answers: request"
LOG_LINES = {
    "INFO edge_agent.retained: state=online reason=None": "INFO edge_agent.retained: state=online reason=None",
    "2026-11-30T22:18:07+0000 INFO edge_agent.x: ready": "2026-11-30T22:18:07+0000 INFO edge_agent.x: ready",
    f"INFO {OURS} ended task='t' id='a b' status=failed code=internal: it said \"x\"": (
        f"INFO {OURS} ended task=(left out) id=(left out) status=failed code=internal (left out)"
    ),
    f"INFO {OURS} refused task='t' id=4915112345678 code=bad_field: input": (
        f"INFO {OURS} refused task=(left out) id=(left out) code=bad_field (left out)"
    ),
    "INFO edge_agent.dispatcher: a b code=internal: x": "INFO edge_agent.dispatcher: a b code=internal (left out)",
    'INFO edge_agent.signals.feed: not taken table=pump machine="p7" value=hz reason=bad-json content="secret': (
        'INFO edge_agent.signals.feed: not taken table=pump machine="p7" value=hz reason=bad-json content= (left out)'
    ),
    "ERROR edge_agent.worker: ended log=OSError: secret | ggml/src/ggml.c:12: GGML_ASSERT(a == b) failed | other": (
        "ERROR edge_agent.worker: ended log= (left out) ggml/src/ggml.c:12: GGML_ASSERT(a == b) failed"
    ),
    '  File "/opt/x.py", line 3, in run': '  File "/opt/x.py", line 3, in run',
    '/etc/edge-agent/config.toml: mqtt.port: should be a number (got "x")': (
        "/etc/edge-agent/config.toml: mqtt.port: should be a number (got (left out))"
    ),
    "pydantic_core.ValidationError: 1 validation error for X": "pydantic_core.ValidationError: (left out)",
    "    raise ValueError(secret)": None,
    "DEBUG edge_agent.engine.worker: prompt": None,
    "INFO foreign.library: anything": None,
    "what a caller wrote": None,
}


@pytest.mark.parametrize("line", LOG_LINES)
def test_only_log_lines_without_a_callers_words_are_kept(line: str) -> None:
    assert safe_log_line(line) == LOG_LINES[line]


@pytest.mark.parametrize(
    "text",
    [
        "mqtt://user:SECRET@broker:1883",
        "user:SECRET@broker",
        'password = "SECRET with blanks"',
        '{"api_key": "SECRET"}',
        "MQTT_PASSWORD=SECRET",
        "-----BEGIN EC PRIVATE KEY-----\nSECRET\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nSECRET and cut off",
    ],
)
def test_credentials_are_taken_out_wherever_they_stand_and_nothing_else_is(text: str) -> None:
    assert "SECRET" not in scrubbed(text)
    assert "(left out" in scrubbed(text)
    for harmless in ('"joules_per_token": 0.1', "max_tokens = 256", 'password_file = "credentials/pw"', "12:30:45"):
        assert scrubbed(harmless) == harmless
