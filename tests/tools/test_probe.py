"""`edge-agent probe`: a model that answers as where its bundle was made, and those that do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_agent.cli import main
from tests.helpers.bundles import asked_bundle, changed, not_loading, talking_nonsense
from tests.helpers.keys import sign, write_keys
from tests.helpers.support import CONFIG


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asked_bundle(tmp_path_factory.mktemp("probe"))


def test_sound_bundle_answers_as_recorded(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--bundle", str(bundle)]) == 0
    assert capsys.readouterr().out == "pump-demo: 12 of 12 canaries answered as recorded\n"


def test_a_model_that_talks_nonsense_is_told_by_what_it_says(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--bundle", str(talking_nonsense(bundle, tmp_path))]) == 1
    told = capsys.readouterr()
    assert "(machine-explanation): the text is " in told.err
    assert "recorded is" in told.err
    assert "of 12 canaries answered as recorded" in told.out


def test_a_model_that_does_not_load_is_told_in_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--bundle", str(not_loading(bundle, tmp_path))]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert told.err.startswith("edge-agent: not-loading/model.gguf: ")


def test_bytes_that_the_manifest_does_not_list_are_not_loaded(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "other"))
    data = bytearray((copy / "model.gguf").read_bytes())
    data[-1] ^= 1
    (copy / "model.gguf").write_bytes(data)
    assert main(["probe", "--bundle", str(copy)]) == 1
    assert capsys.readouterr().err.startswith("edge-agent: other/model.gguf: should have sha256 ")


def test_without_canaries_nothing_is_proved(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = changed(bundle, tmp_path / "none", lambda folder: (folder / "canaries.json").unlink())
    assert main(["probe", "--bundle", str(copy)]) == 1
    assert "canaries.json: the bundle has none" in capsys.readouterr().err


def test_configuration_names_the_bundle_and_who_must_have_signed_it(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, _ = write_keys(tmp_path)
    config = tmp_path / "config.toml"
    table = f'[models.default]\npath = {json.dumps(str(bundle))}\npublic_key = "key.pub.pem"\n'
    config.write_text(CONFIG.split("[models.default]")[0] + table, "utf-8")
    assert main(["probe", "--config", str(config)]) == 1
    assert "manifest.sig: not there" in capsys.readouterr().err
    copy = Path(shutil.copytree(bundle, tmp_path / "signed"))
    sign(copy, private)
    assert main(["probe", "--config", str(config), "--bundle", str(copy)]) == 0


def test_without_bundle_and_configuration_the_usual_one_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe"]) == 78
    assert "/etc/edge-agent/config.toml: cannot be read" in capsys.readouterr().err
