"""`edge-convert students`: trained models in a copy of a larger model's bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_agent.models.bundle import open_model
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import convert, run
from tests.engine.prompt.test_field_prompts import trained
from tests.helpers.keys import trusting, write_keys

__all__ = ["trained"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("students")
    convert(make_checkpoint(layers=1, hidden=64, feed_forward=96).write(folder / "checkpoint"), folder / "bundle")
    return folder / "bundle"


def named(student: Path, folder: Path, name: str) -> Path:
    """A copy of its bundle with this name."""
    shutil.copytree(student.parent, folder)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "name": name}), "utf-8")
    return folder


def test_a_trained_model_stands_beside_the_larger_one_in_a_signed_copy(
    bundle: Path,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    private, public = write_keys(tmp_path)
    student = named(trained, tmp_path / "trained", "Pump, hall 1")
    assert run("students", bundle, "--students", student, "--out", tmp_path / "new", "--sign", private) == 0
    assert f"{tmp_path / 'new'}: version 2, signed\nstudent-pump-hall-1: sound\n" in capsys.readouterr().out
    model = open_model("default", tmp_path / "new", trusting(public))
    assert [one.name for one in model.students] == ["student-pump-hall-1"]
    assert model.weights_sha256 == open_model("default", bundle).weights_sha256
    assert run("verify", tmp_path / "new", "--public-key", public) == 0
    assert "students   student-pump-hall-1\n" in capsys.readouterr().out
    # It takes the place of the copy itself, as any bundle.
    words = ("--students", student, "--out", tmp_path / "new", "--force", "--json")
    assert run("students", bundle, *words) == 0
    assert json.loads(capsys.readouterr().out)["students"] == {"student-pump-hall-1": ["sound"]}


def test_what_cannot_be_a_student_is_refused(
    bundle: Path,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refusal(*students: Path) -> str:
        assert run("students", bundle, "--students", *students, "--out", tmp_path / "new") == 1
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    assert "should be a bundle that `edge-convert train` made" in refusal(bundle)
    one, other = (named(trained, tmp_path / name, name) for name in ("one", "other"))
    assert "should have another name" in refusal(one, one)
    assert "each task should have one student; sound would have several" in refusal(one, other)
