"""Which broker, site and board the command line means."""

from pathlib import Path

import pytest

from edge_agent import cli
from edge_agent.core.config import MqttConfig
from edge_agent.tools.watch import watch as module
from tests.helpers.processes import EdgeAgent


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[MqttConfig, str]]:
    """What the command would have watched."""
    calls: list[tuple[MqttConfig, str]] = []

    def watch(mqtt: MqttConfig, site: str, **_: object) -> int:
        calls.append((mqtt, site))
        return 0

    monkeypatch.setattr(module, "watch", watch)
    return calls


def test_options_name_broker_and_site(
    tmp_path: Path, seen: list[tuple[MqttConfig, str]], edge_agent: EdgeAgent
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x", encoding="utf-8")
    plain = ["--port", "1884", "--root", "r/t", "--protocol", "3.1.1", "--username", "u"]
    for arguments in ([*plain, "--password-file", str(secret)], ["--tls"]):
        assert edge_agent("watch", "--host", "h", "--site", "s", *arguments).returncode == 0
    (mqtt, site), (secure, _) = seen
    assert (mqtt.hosts, mqtt.port, mqtt.root, mqtt.protocol, site) == (("h",), 1884, "r/t", "3.1.1", "s")
    assert (mqtt.username, mqtt.password_file, mqtt.tls) == ("u", secret, None)
    assert (secure.tls is not None, secure.effective_port) == (True, 8883)


WATCH = ("watch", "--site", "s")
ASK = ("ask", "t", "x")
COMMAND = ("command", "ping")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("watch", "--host", "h"), "--site: required with --host"),
        ((*ASK, "--host", "h", "--site", "s"), "--device: required with --host"),
        ((*COMMAND, "--host", "h"), "--site: required with --host; --device: required with --host"),
        (("watch", "--site", "hall 1"), '--site: should be 1 to 64 letters, digits, _ or - (got "hall 1")'),
        (("watch", "--site", "\x1b[2J"), '--site: should be 1 to 64 letters, digits, _ or - (got "\\u001b[2J")'),
        ((*ASK, "--device", "a/b"), '--device: should be 1 to 64 letters, digits, _ or - (got "a/b")'),
        ((*WATCH, "--host", "a b"), "--host: should be a host's name or address"),
        ((*WATCH, "--host", "h", "--root", "#"), '--root: a topic must not contain wildcards (got "#")'),
        ((*WATCH, "--host", "h", "--ca-file", "/nowhere"), "--ca-file: should be a file that can be read"),
        ((*WATCH, "--host", "h", "--key-file", "k"), "--key-file: "),
        ((*COMMAND, "--command-key", "/nowhere"), "--command-key: should be a file that can be read"),
        (("watch", "--port", "1884"), "--port: requires --host"),
        (("doctor", "--site", "s"), "--site: requires --host"),
        (("doctor", "--host", "h", "--site", "s"), "--device: required with --host"),
        ((*ASK, "--tls"), "--tls: requires --host"),
        ((*ASK, "--ca-file", "f"), "--ca-file: requires --host"),
    ],
)
def test_a_fault_names_the_option(edge_agent: EdgeAgent, words: list[str], expected: str) -> None:
    done = edge_agent(*words)
    assert done.returncode == cli.EXIT_USAGE
    assert expected in done.stderr


def test_without_a_configuration_the_options_that_do_are_named(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    (tmp_path / "file").touch()
    missing, hidden = (
        edge_agent("ask", "t", "x", "--config", tmp_path / name) for name in ("none.toml", "file/c.toml")
    )
    assert missing.returncode == hidden.returncode == cli.EXIT_CONFIG
    assert "none.toml: cannot be read: No such file" in missing.stderr
    assert "none.toml: --host and --site name broker and board without a configuration" in missing.stderr
    assert "cannot be read: Not a directory" in hidden.stderr
    assert "--host" not in hidden.stderr


@pytest.mark.parametrize("words", ["--wait 0", "--wait x", "--wait nan", "--host h --config c"])
def test_usage_errors_have_their_exit_code(edge_agent: EdgeAgent, words: str) -> None:
    assert edge_agent("watch", *words.split()).returncode == cli.EXIT_USAGE
