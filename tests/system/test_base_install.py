"""Without the extra `engine`, what asks and watches boards works, and what runs a model says what is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.bundles import flip
from tests.helpers.client import Client
from tests.helpers.keys import write_keys
from tests.helpers.processes import BrokerPort, EdgeAgent, Ended
from tests.helpers.site import online, written_config

ROOT = Path(__file__).parents[2]
PACKAGES = {"llama-cpp-python", "llguidance", "numpy", "cryptography"}
# A sitecustomize.py by which a Python, and those that it starts, run as if these packages were not installed.
HIDING = """
from importlib.machinery import PathFinder
find_module, find_packages = PathFinder.find_spec, PathFinder.find_distributions
def find_spec(name, *more):
    hidden = ("llama_cpp", "llguidance", "numpy", "cryptography")
    return None if name.partition(".")[0] in hidden else find_module(name, *more)
def find_distributions(context):
    return [] if context.name == "llama-cpp-python" else find_packages(context)
PathFinder.find_spec, PathFinder.find_distributions = find_spec, find_distributions
"""
MISSING = (
    r"packages are missing \(llama_cpp, llguidance, numpy, cryptography\): "
    r"pip install '\.\[{}\]' in a copy of the repository(?:, or 'edge-agent\[engine\]' from a release's wheelhouse)?"
)


@pytest.fixture
def base(tmp_path: Path) -> tuple[str, ...]:
    """What starts a Python module in such an installation."""
    (tmp_path / "hiding").mkdir()
    (tmp_path / "hiding" / "sitecustomize.py").write_text(HIDING, "utf-8")
    return ("env", f"PYTHONPATH={tmp_path / 'hiding'}{os.pathsep}{ROOT}", sys.executable, "-m")


@pytest.fixture
def run(base: tuple[str, ...]) -> EdgeAgent:
    def ended(module: str, *words: str | Path) -> Ended:
        done = subprocess.run([*base, module, *words], capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    return ended


def test_an_agent_without_a_model_and_its_clients_work(
    tmp_path: Path, base: tuple[str, ...], run: EdgeAgent, broker_port: BrokerPort
) -> None:
    port = broker_port("5")
    config = tmp_path / "config.toml"
    given = f"--host 127.0.0.1 --port {port} --site alone --device base --task diagnosis --kind extract"
    written = run("edge_agent", "init", "--out", config, *given.split())
    client = Client(port, "5")
    client.subscribe("edgeai/v1/alone/base/#")
    with closing(client), online(config, client, "edgeai/v1/alone/base", program=(*base, "edge_agent")) as agent:
        schema = run("edge_agent", "schema", "config")
        asked = run("edge_agent", "ask", "--config", config, "diagnosis", "hot")
        commanded = run("edge_agent", "command", "--config", config, "ping")
        watched = run("edge_agent", "watch", "--config", config, "--once")
        examined = run("edge_agent", "doctor", "--config", config)
        reached = run("edge_agent", "doctor", "--config", config, "--broker")
        info = client.on("edgeai/v1/alone/base/info")[-1].json
        log = agent.log

    assert json.loads(schema.stdout)["type"] == "object"
    assert json.loads(asked.stdout)["output"] == {"fault": "none", "stop": False}
    assert json.loads(commanded.stdout)["status"] == "ok"
    assert re.search(r"^base +ok ", watched.stdout, re.MULTILINE)
    assert [ended.returncode for ended in (written, schema, asked, commanded, watched, examined, reached)] == [0] * 7
    assert info["versions"]["llama_cpp_python"] is None
    assert not re.search("^(WARNING|ERROR|Traceback)", log, re.MULTILINE), log


def test_what_needs_a_model_names_what_is_missing_on_a_line(tmp_path: Path, demo_bundle: Path, run: EdgeAgent) -> None:
    config = written_config(tmp_path, demo_bundle)
    for words, extra in (
        (("edge_agent", "run", "--config", config), "engine"),
        (("edge_agent", "bench", "--config", config), "engine"),
        (("edge_agent", "probe", "--bundle", demo_bundle), "engine"),
        (("edge_agent", "demo", "--work", tmp_path), "demo"),
        (("edge_convert", "--help"), "convert"),
    ):
        ended = run(*words)
        assert ended.returncode == 1
        assert re.fullmatch(f"edge-(agent|convert): {MISSING.format(extra)}\n", ended.stderr)


def test_checks_go_as_far_as_they_can(tmp_path: Path, demo_bundle: Path, run: EdgeAgent) -> None:
    config = written_config(tmp_path, demo_bundle)
    checked, examined = run("edge_agent", "check-config", config), run("edge_agent", "doctor", "--config", config)
    assert (checked.returncode, checked.stdout) == (0, f"{config}: good\n")
    assert re.fullmatch(rf"\S+: hint: tasks: .*: {MISSING.format('engine')}\n", checked.stderr)
    assert examined.returncode == 1
    assert re.search(r"^good +model ", examined.stdout, re.MULTILINE)
    assert re.search(rf"^failed +engine +{MISSING.format('engine')}$", examined.stdout, re.MULTILINE)


def test_a_bundle_is_checked_without_the_engine_and_the_converter_says_how(
    tmp_path: Path, demo_bundle: Path, run: EdgeAgent
) -> None:
    copy = shutil.copytree(demo_bundle, tmp_path / "copy")
    refused = run("edge_convert", "verify", copy)
    assert (refused.returncode, "`edge-agent doctor --bundle DIR`" in refused.stderr) == (1, True)
    whole = run("edge_agent", "doctor", "--bundle", copy)
    assert whole.returncode == 0
    words = "only the bundle's files were checked; its model was not loaded"
    assert re.search(rf"^skipped +engine +{words}: {MISSING.format('engine')}$", whole.stdout, re.MULTILINE)
    flip(copy / "model.gguf")
    damaged = run("edge_agent", "doctor", "--bundle", copy)
    assert (damaged.returncode, "should have sha256" in damaged.stdout) == (1, True)


def test_a_signature_that_cannot_be_checked_is_a_key_fault(tmp_path: Path, demo_bundle: Path, run: EdgeAgent) -> None:
    write_keys(tmp_path)
    config = written_config(tmp_path, f'{demo_bundle}"\npublic_key = "key.pub.pem')
    ended = run("edge_agent", "run", "--config", config)
    assert ended.returncode == 78
    assert re.fullmatch(
        rf"\S+: models.default.public_key: cannot be used: {MISSING.format('engine')} .*\n", ended.stderr
    )


def test_the_base_requires_no_package_of_the_engine() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    base, engine = (
        {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
        for requirements in (project["dependencies"], project["optional-dependencies"]["engine"])
    )
    assert (base & PACKAGES, engine) == (set(), PACKAGES)
