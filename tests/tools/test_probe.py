"""`edge-agent probe`: a model that answers as where its bundle was made, and those that do not."""

import json
import re
import shutil
from pathlib import Path

import pytest

from edge_agent.cli import main
from tests.helpers.bundles import changed
from tests.helpers.keys import sign, write_keys
from tests.helpers.site import written_config
from tests.helpers.support import CONFIG


@pytest.mark.parametrize(
    ("bundle", "out", "err"),
    [
        # It loads, and its answers are nonsense.
        (
            "damaged",
            r"pump-demo: \d of 6 canaries .*\n",
            r"(?s).*\(machine-explanation\): the text is .*recorded beginning: .*",
        ),
        ("unloadable", r"", r"edge-agent: [^\n]*unloadable/adapter\.gguf[^\n]*\n"),
        ("wrong-hash", r"", r"edge-agent: wrong-hash/model\.gguf: should have sha256 .*\n"),
        ("bad-canaries", r"", r"edge-agent: .*canaries\.json.*\n"),
    ],
)
def test_a_bundle_is_judged_by_its_files_and_its_answers(
    model_bundles: Path, capsys: pytest.CaptureFixture[str], bundle: str, out: str, err: str
) -> None:
    assert main(["probe", "--bundle", str(model_bundles / bundle)]) == 1
    printed = capsys.readouterr()
    assert re.fullmatch(out, printed.out), printed.out
    assert re.fullmatch(err, printed.err), printed.err


@pytest.mark.parametrize(
    ("bundle", "code", "found"),
    [
        ("one", 0, r"good     canaries       6 of 6 answered"),
        ("bad-canaries", 1, r"failed   engine         .*canaries\.json"),
    ],
)
def test_doctor_checks_a_bundle_as_a_switch_would(
    model_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bundle: str, code: int, found: str
) -> None:
    path = written_config(
        tmp_path, "echo:", "[engine]\nmax_active = 1\nthreads = 1\nprefill_threads = 1\nbatch_tokens = 64\n"
    )
    assert main(["doctor", "--config", str(path), "--bundle", str(model_bundles / bundle)]) == code
    printed = capsys.readouterr().out
    assert re.search(found, printed), printed
    assert "broker" not in printed


def test_without_canaries_nothing_is_proved(
    model_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = changed(model_bundles / "one", tmp_path / "none", lambda folder: (folder / "canaries.json").unlink())
    assert main(["probe", "--bundle", str(copy)]) == 1
    assert "the bundle has no canaries.json" in capsys.readouterr().err


def test_configuration_names_the_bundle_and_who_must_have_signed_it(
    model_bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = model_bundles / "one"
    private, _ = write_keys(tmp_path)
    config = tmp_path / "config.toml"
    table = f'[models.default]\npath = {json.dumps(str(bundle))}\npublic_key = "key.pub.pem"\n'
    config.write_text(CONFIG.split("[models.default]")[0] + table, "utf-8")
    assert main(["probe", "--config", str(config)]) == 1
    assert "manifest.sig: missing" in capsys.readouterr().err
    copy = Path(shutil.copytree(bundle, tmp_path / "signed"))
    sign(copy, private)
    assert main(["probe", "--config", str(config), "--bundle", str(copy)]) == 0
    assert capsys.readouterr().out == "pump-demo: 6 of 6 canaries answered as recorded\n"


def test_without_bundle_and_configuration_the_usual_one_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe"]) == 78
    assert "/etc/edge-agent/config.toml: cannot be read" in capsys.readouterr().err
