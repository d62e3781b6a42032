"""What `edge-agent` commands print when a user runs them, and their exit codes."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.keys import NO_PUBLIC_KEYS, write_keys
from tests.helpers.processes import BrokerPort, EdgeAgent, Ended
from tests.helpers.site import StartSite, written_config


def as_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_version_and_usage_have_their_exit_codes(edge_agent: EdgeAgent) -> None:
    for words, code in ((["--version"], 0), (["fly"], 64)):
        assert as_process(*words).returncode == code
    assert edge_agent("ask", "only-a-task").returncode == edge_agent().returncode == 64


KEYED = '{}"\npublic_key = "{}'


@pytest.mark.parametrize(
    ("code", "model", "more", "fault"),
    [
        # They may come to the board later, or never be on the machine where this is checked.
        (78, "echo:", '[commands]\nkey_file = "none"\n', r"commands\.key_file: should be a file that can be read .*"),
        (78, "echo:", '[mqtt.tls]\nca_file = "html.gguf"\n', r"mqtt\.tls\.ca_file: should be a file of certificates.*"),
        *(
            (78, KEYED.format("bundle", kind), "", r'models\.default\.public_key: .*\(got ".*"\)')
            for kind in ("private", "EC", "text", "none")
        ),
        # The agent runs without a model and says so on the bus.
        (None, "html.gguf", "", r"html\.gguf: should be a GGUF file .* \(it begins with 3c68746d6c3e3c2f\)"),
        (
            *(None, KEYED.format("bundle", "key.pub.pem"), ""),
            "bundle/manifest.sig: missing; a configured public key requires a good signature",
        ),
        (
            *(None, KEYED.format("bundle/model.gguf", "key.pub.pem"), ""),
            r'models\.default\.path: ".*/bundle/model.gguf" should be a signed bundle, because `public_key` is set',
        ),
    ],
)
def test_what_run_needs_or_refuses_is_a_hint_of_a_good_configuration(
    code: int | None, model: str, more: str, fault: str, tmp_path: Path, demo_bundle: Path, edge_agent: EdgeAgent
) -> None:
    shutil.copytree(demo_bundle, tmp_path / "bundle")
    (tmp_path / "html.gguf").write_bytes(b"<html></html>")
    write_keys(tmp_path)
    for kind in ("private", "EC", "text"):
        (tmp_path / kind).write_bytes(NO_PUBLIC_KEYS[kind])
    path = written_config(tmp_path, model, more)
    last = edge_agent("run", "--config", path) if code else edge_agent("bench", "--quick", "--config", path)

    checked = edge_agent("check-config", path)

    assert (checked.returncode, checked.stdout) == (0, f"{path}: good\n")
    hint = rf"^{path}: hint: (models\.default\.path: )?{fault}; `run` {'needs' if code else 'refuses'} it$"
    assert re.search(hint, checked.stderr, re.MULTILINE)
    assert last.returncode == (code or 1)
    assert re.fullmatch(rf"\S+: {fault}", last.stderr.splitlines()[-1])


def test_an_invalid_certificate_does_not_end_doctor_early(
    tmp_path: Path, demo_bundle: Path, edge_agent: EdgeAgent
) -> None:
    path = written_config(tmp_path, demo_bundle, '[mqtt.tls]\nca_file = "config.toml"\n')
    examined = edge_agent("doctor", "--json", "--config", path)
    verdicts = {check["name"]: check["verdict"] for check in json.loads(examined.stdout)["checks"]}
    assert (examined.returncode, verdicts["broker"]) == (1, "failed")
    assert verdicts["model"] == verdicts["engine"] == "good"


@pytest.mark.parametrize("text", [None, "[device", "\xff\xfe"])
def test_configuration_that_cannot_be_read_is_78(tmp_path: Path, edge_agent: EdgeAgent, text: str | None) -> None:
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    done = edge_agent("run", "--config", path)
    assert (done.returncode, len(done.stderr.splitlines())) == (78, 1)


def test_ask_prints_the_reply_and_returns_its_exit_code(
    start_site: StartSite, protocol: str, edge_agent: EdgeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = start_site(protocol)
    monkeypatch.setattr("edge_agent.tools.ask.GRACE_S", 1.0)

    def ask(*words: str) -> Ended:
        return edge_agent("ask", "--config", site.agent.config, *words)

    good = ask("triage", '{"note":"bearing fault"}')
    assert good.returncode == 0, good.stdout
    assert '"bearing fault"' in good.stdout
    assert ask("nonsense", "x").returncode == 2
    # There is no configuration, as on a PC.
    board = ("--host", "127.0.0.1", "--port", str(site.port), "--protocol", protocol, "--site", "test")
    elsewhere = edge_agent("ask", *board, "--device", site.base.split("/")[-1], "triage", '{"note":"cavitation"}')
    assert (elsewhere.returncode, json.loads(elsewhere.stdout)["output"]) == (0, "cavitation")
    checked = edge_agent("doctor", *board, "--device", site.base.split("/")[-1])
    assert checked.returncode == 0, checked.stdout
    assert next(line.split()[1] for line in checked.stdout.splitlines()) == "broker"
    assert re.search(r"^\w+ +agent +it is online, ", checked.stdout, re.MULTILINE)
    assert "configuration" not in checked.stdout
    bad = ask("triage", '{"note": normal}')
    assert bad.returncode == 64
    assert bad.stderr.startswith("edge-agent: INPUT is not JSON: ")
    assert "--text" in bad.stderr
    assert ask("--text", "triage", '{"note": normal}').returncode == 0
    site.agent.stop()
    started_at = time.monotonic()
    alone, nobody = ask("triage", "x"), edge_agent("ask", *board, "--device", "nobody", "triage", "x")
    assert (alone.returncode, nobody.returncode) == (1, 1)
    assert re.search(r" cannot answer; it is stopped, so nothing was sent$", alone.stderr)
    assert re.search(r"the broker has no state of \S+/nobody .*: check site and device", nobody.stderr)
    # It comes long before the deadline.
    assert time.monotonic() - started_at < 30


@pytest.mark.parametrize("keys", ['username = "u"\npassword_file', "[mqtt.tls]\nca_file"])
def test_ask_names_a_file_that_its_connection_lacks(tmp_path: Path, keys: str, edge_agent: EdgeAgent) -> None:
    path = written_config(tmp_path, "no-model-is-needed-here")
    path.write_text(path.read_text("utf-8").replace("[models", f'{keys} = "missing"\n[models'), encoding="utf-8")
    done = edge_agent("ask", "--config", path, "triage", "x")
    assert done.returncode == 78
    assert re.fullmatch(r"\S+: mqtt\.\S+_file: should be a file that can be read \(got .*\)\n", done.stderr)


def test_doctor_judges_a_board_that_is_ready_and_shows_the_memory_that_agent_and_worker_will_hold(
    demo_bundle: Path, start_site: StartSite
) -> None:
    site = start_site("5", model=str(demo_bundle))
    health = site.client.wait_for(f"{site.base}/health", lambda health: health["memory"]["worker_rss_mb"] is not None)
    held_mb = health.json["memory"]["agent_rss_mb"] + health.json["memory"]["worker_rss_mb"]
    # A process of its own, whose memory stands for the agent's.
    done = as_process("doctor", "--json", "--config", site.agent.config)
    assert done.returncode == 0, done.stdout
    (found,) = (check["found"] for check in json.loads(done.stdout)["checks"] if check["name"] == "memory")
    (resident_mb,) = re.findall(r"(\d+) MB resident", found)
    assert int(resident_mb) == pytest.approx(held_mb, rel=0.15)


def test_doctor_asks_the_broker_whatever_fails(tmp_path: Path, broker_port: BrokerPort, edge_agent: EdgeAgent) -> None:
    path = written_config(tmp_path, "none", '[commands]\nkey_file = "none"\n', port=broker_port("5"))
    report = json.loads(edge_agent("doctor", "--json", "--config", path).stdout)
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    assert (verdicts["broker"], verdicts["commands"], verdicts["model"]) == ("good", "failed", "failed")


def test_doctor_tells_a_listener_without_tls_from_a_refusing_broker(tmp_path: Path, broker_port: BrokerPort) -> None:
    path = written_config(tmp_path, "none", "[mqtt.tls]\n", port=broker_port("5"))
    report = json.loads(as_process("doctor", "--broker", "--json", "--config", path).stdout)
    (check,) = (check for check in report["checks"] if check["name"] == "broker")
    assert re.search(r":\d+ can be reached, but not with TLS: .", check["found"])
    assert "mqtt.port is the broker's TLS listener" in check["advice"]
