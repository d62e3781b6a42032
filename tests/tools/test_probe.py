"""`edge-agent probe`: a model that answers as where its bundle was made, and those that do not."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.helpers.bundles import changed
from tests.helpers.keys import sign, write_keys
from tests.helpers.processes import EdgeAgent
from tests.helpers.site import written_config
from tests.helpers.support import CONFIG


@pytest.mark.parametrize(
    ("bundle", "out", "err"),
    [
        # It loads, and its answers are nonsense.
        ("damaged", r"pump-demo: \d of 6 canaries .*\n", r"(?s).*\(machine-explanation\): the text is .*recorded .*"),
        ("unloadable", r"", r"edge-agent: [^\n]*unloadable/adapter\.gguf[^\n]*\n"),
        ("wrong-hash", r"", r"edge-agent: wrong-hash/model\.gguf: should have sha256 .*\n"),
        ("bad-canaries", r"", r"edge-agent: .*canaries\.json.*\n"),
    ],
)
def test_a_bundle_is_judged_by_its_files_and_its_answers(
    model_bundles: Path, edge_agent: EdgeAgent, bundle: str, out: str, err: str
) -> None:
    done = edge_agent("probe", "--bundle", model_bundles / bundle)
    assert done.returncode == 1
    assert re.fullmatch(out, done.stdout), done.stdout
    assert re.fullmatch(err, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("bundle", "code", "found"),
    [
        ("one", 0, r"good     canaries       6 of 6 answered"),
        ("bad-canaries", 1, r"failed   engine         .*canaries\.json"),
    ],
)
def test_doctor_checks_a_bundle_as_a_switch_would(
    model_bundles: Path, tmp_path: Path, edge_agent: EdgeAgent, bundle: str, code: int, found: str
) -> None:
    narrow = "[engine]\nmax_active = 1\nthreads = 1\nprefill_threads = 1\nbatch_tokens = 64\n"
    path = written_config(tmp_path, "echo:", narrow)
    done = edge_agent("doctor", "--config", path, "--bundle", model_bundles / bundle)
    assert done.returncode == code
    assert re.search(found, done.stdout), done.stdout
    assert "broker" not in done.stdout


def test_doctor_checks_a_bundle_without_a_configuration(model_bundles: Path, edge_agent: EdgeAgent) -> None:
    done = edge_agent("doctor", "--bundle", model_bundles / "one")
    assert done.returncode == 0
    assert "skipped  configuration  /etc/edge-agent/config.toml does not exist" in done.stdout
    assert re.search(r"good     canaries       6 of 6 answered", done.stdout), done.stdout


def test_doctor_does_not_name_a_key_for_a_bundle_of_the_command_line(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    done = edge_agent("doctor", "--bundle", tmp_path / "none")
    assert (done.returncode, "models.default.path" in done.stdout) == (1, False)
    assert f'failed   model          "{tmp_path}/none" does not exist' in done.stdout
    assert "→ name an intact bundle made by edge-convert" in done.stdout


def test_without_canaries_nothing_is_proved(model_bundles: Path, tmp_path: Path, edge_agent: EdgeAgent) -> None:
    copy = changed(model_bundles / "one", tmp_path / "none", lambda folder: (folder / "canaries.json").unlink())
    done = edge_agent("probe", "--bundle", copy)
    assert (done.returncode, "the bundle has no canaries.json" in done.stderr) == (1, True)


def test_configuration_names_bundle_and_signer(model_bundles: Path, tmp_path: Path, edge_agent: EdgeAgent) -> None:
    bundle = model_bundles / "one"
    private, _ = write_keys(tmp_path)
    config = tmp_path / "config.toml"
    table = f'[models.default]\npath = {json.dumps(str(bundle))}\npublic_key = "key.pub.pem"\n'
    config.write_text(CONFIG.split("[models.default]")[0] + table, "utf-8")
    done = edge_agent("probe", "--config", config)
    assert (done.returncode, "manifest.sig: missing" in done.stderr) == (1, True)
    copy = Path(shutil.copytree(bundle, tmp_path / "signed"))
    sign(copy, private)
    done = edge_agent("probe", "--config", config, "--bundle", copy)
    assert (done.returncode, done.stdout) == (0, "pump-demo: 6 of 6 canaries answered as recorded\n")


def test_without_bundle_and_configuration_the_usual_one_is_missed(edge_agent: EdgeAgent) -> None:
    done = edge_agent("probe")
    assert (done.returncode, "/etc/edge-agent/config.toml: cannot be read" in done.stderr) == (78, True)
