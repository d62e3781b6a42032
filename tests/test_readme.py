"""The README is true: its samples run, its tables name what the code has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from edge_agent import cli
from edge_agent.commands.authority import Authority
from edge_agent.commands.fields import SwitchFields, fields_of
from edge_agent.core.codes import Code, Status
from edge_agent.core.config import OPERATIONS, ClassifyTask, Config, ExtractTask, GenerateTask, ModelConfig, TlsConfig
from edge_agent.core.envelope import Options
from edge_agent.core.topics import Topics
from edge_agent.loader import load_config
from edge_agent.requests.replies import reply_document
from edge_agent.tools.demo.broker import free_port
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.engine.adapters import demo_adapter
from tests.helpers.processes import wait_until
from tests.helpers.support import request
from tests.tools.watch.scenes import mixed_site, plain

PACKAGE = Path(__file__).parents[1] / "edge_agent"
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NEEDS_OPENSSL = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the program openssl: apt-get install openssl"
)


def samples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("text", samples("toml"))
def test_configuration_sample_loads(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    load_config(path)


def test_every_configuration_key_is_in_a_sample() -> None:
    shown = set(re.findall(r"^(?:\[(?:tasks\.)?)?([a-z_]+)", "\n".join(samples("toml")), flags=re.MULTILINE))
    shown |= set(re.findall(r"^\[(?:[a-z]+\.)?([a-z-]+)", "\n".join(samples("toml")), flags=re.MULTILINE))
    models: list[type[BaseModel]] = [Config, ModelConfig, TlsConfig, ClassifyTask, ExtractTask, GenerateTask]
    tables = [field.annotation for field in Config.model_fields.values()]
    models += [table for table in tables if isinstance(table, type) and issubclass(table, BaseModel)]
    known = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert known - {"device", "models", "tasks", "schema"} <= shown


def test_every_command_that_is_shown_parses() -> None:
    shown = re.findall(r"`edge-agent command ([a-z-]+) '([^`']*)'`", README)
    assert shown
    for operation, fields in shown:
        assert cli._parser().parse_args(["command", operation, fields]).fields == json.loads(fields)
        assert operation in OPERATIONS


def test_the_table_of_topics_is_complete() -> None:
    shown = set(re.findall(r"^\| `<base>/([^`]+)`", section("Topics"), flags=re.MULTILINE))
    topics = Topics("r", "s", "d")
    ours = {
        topics.request("<task>"),
        topics.response("<task>"),
        topics.state,
        topics.info,
        topics.health,
        topics.alarm("<name>"),
        topics.event("<name>"),
        topics.command("<op>"),
        topics.command_result("<op>"),
    }
    assert {f"{topics.base}/{name}" for name in shown} == ours


def test_allowed_reply_topics_are_named_beside_the_first_requests() -> None:
    text = section("One request")
    assert all(f"`{topic}`" in text for topic in Topics("<root>", "<site>", "<device>").default_reply_topics)
    assert "reply_topic_refused" in text


def test_the_sample_of_a_switch_parses_and_its_errors_are_named() -> None:
    text = section("Commands")
    (sample,) = re.findall(r"`([^`]+)` on `cmd/model-switch`", text)
    assert fields_of(SwitchFields, json.loads(sample)).bundle == "pumps-2"
    code = (PACKAGE / "models" / "switch.py").read_text("utf-8")
    codes = set(re.findall(r"""SwitchError\("(\w+)\"""", code))
    assert "downgrade" in codes
    assert not {name for name in codes if f"`{name}`" not in text}


def test_every_error_code_of_commands_is_named() -> None:
    code = "".join(path.read_text("utf-8") for path in (PACKAGE / "commands").glob("*.py"))
    codes = set(re.findall(r"""CommandError\("(\w+)\"""", code))
    assert "too_long" in codes
    assert not {name for name in codes if f"`{name}`" not in section("Commands")}


def test_every_error_code_and_option_is_named() -> None:
    text = section("A request, field by field")
    assert all(f"`{code.value}`" in text for code in Code)
    assert all(f"`{status.value}`" in text for status in Status if status is not Status.PARTIAL)
    assert all(f"`{name}`" in text for name in Options.model_fields)


def test_reply_sample_has_the_fields_of_a_reply() -> None:
    (sample,) = samples("json")
    shown: dict[str, Any] = json.loads(sample)
    real = reply_document(request(), Status.OK, 0.0, "d")
    assert set(shown) == set(real)


@pytest.mark.skipif(
    shutil.which("mosquitto_rr") is None, reason="needs mosquitto_rr: apt-get install mosquitto-clients"
)
@pytest.mark.parametrize(("protocol", "clients"), [("5", "mosquitto_rr mosquitto_pub"), ("3.1.1", "mosquitto_pub")])
def test_request_samples_are_answered_by_the_demonstration(tmp_path: Path, protocol: str, clients: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "edge_agent", "demo", "--keep", "--protocol", protocol, "--port", str(port)]
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        demo = subprocess.Popen([*command, "--work", str(tmp_path)], stdout=output, stderr=output)
    try:
        wait_until(lambda: "until Ctrl-C" in log.read_text("utf-8") or demo.poll() is not None, "the demo is up", 120)
        for client in clients.split():
            (sample,) = (text for text in samples("sh") if client in text)
            # The samples use the default port, and the version of the demonstration's broker.
            script = re.sub(r"\b(mosquitto_\w+)", rf"\1 -p {port}", sample)
            script = script if protocol == "5" else script.replace("-V 5", "-V 311")
            done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True, timeout=60)
            reply = json.loads(done.stdout)
            assert reply["status"] == "ok", reply
    finally:
        demo.send_signal(2)
        assert demo.wait(60) in (0, 1), log.read_text("utf-8")


@pytest.mark.parametrize(
    ("wanted", "bundle", "told"),
    [
        ("--type iq4_nl --name", "qwen2.5-0.5b-iq4_nl", "IQ4_NL"),
        ("--budget", "qwen2.5-0.5b", "KL divergence"),
        ("--lora", "pumps", "Q4_0"),
        pytest.param("--sign", "qwen2.5-0.5b-signed", "signature  good", marks=NEEDS_OPENSSL),
    ],
)
def test_converter_samples_write_a_bundle(
    wanted: str, bundle: str, told: str, tmp_path: Path, converter_cache: Path
) -> None:
    (sample,) = (text for text in samples("sh") if "edge-convert" in text and wanted in text)
    (tmp_path / "Qwen2.5-0.5B-Instruct").symlink_to(checkpoint_folder())
    demo_adapter().write(tmp_path / "my-adapter")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(converter_cache)}
    done = subprocess.run(
        ["bash", "-ec", sample],
        cwd=tmp_path,
        check=True,
        env=environment,
        timeout=120,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert told in done.stdout
    assert (tmp_path / bundle / "manifest.json").is_file()


def test_commands_for_a_board_exist() -> None:
    (sample,) = (text for text in samples("sh") if "pip install .   #" in text)
    for command in re.findall(r"bin/edge-agent (\w+)", sample):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0


def test_signing_sample_is_accepted() -> None:
    (sample,) = samples("python")
    names: dict[str, Any] = {"key": b"secret"}
    exec("import hashlib, hmac, json, secrets\nfrom datetime import UTC, datetime\n" + sample, names)
    Authority(b"secret").check("ping", names["body"], time.time())


def test_the_sample_of_watch_is_its_output() -> None:
    (sample,) = samples("text")
    assert sample.splitlines() == plain(mixed_site())


def test_every_command_is_in_the_table() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", section("Commands"), flags=re.MULTILINE) == list(OPERATIONS)


def test_make_targets_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
