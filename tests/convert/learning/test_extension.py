"""`edge-convert extend`: maps from the feedback of boards, and trained models, in a copy of a bundle."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from convert.learning.commands import EXTENSION
from edge_agent.core.score_map import score_map_for
from edge_agent.learning.maths.export import Export
from edge_agent.models.bundle import open_model
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import Cli, convert
from tests.engine.prompt.test_field_prompts import trained
from tests.helpers.keys import trusting, write_keys
from tests.helpers.processes import Ended
from tests.learning.maths.test_shared_maps import answers

__all__ = ["trained"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is not to be changed."""
    folder = tmp_path_factory.mktemp("extended")
    checkpoint = make_checkpoint(layers=1, hidden=64, feed_forward=96).write(folder / "checkpoint")
    convert(checkpoint, folder / "bundle", version=3)
    return folder / "bundle"


def export(
    bundle: Path,
    path: Path,
    *,
    device: str,
    number: int = 20,
    first_audit: int = 1_000,
    confirmed: bool = True,
    **more: Any,
) -> Path:
    """The corrections of a board whose model prefers "a"; each is confirmed if the model was right."""
    seed = int(device[-1])
    rows = answers(number, only=more.pop("only", "abc"), seed=seed)
    kept = [
        {
            "number": place,
            "at": None,
            "scores": scores,
            "output": max(scores, key=scores.__getitem__) if confirmed else "?",
            "label": right,
            "is_marked": True,
            "is_audit": place >= first_audit,
        }
        for place, (scores, right) in enumerate(rows, 1)
    ]
    facts = {"schema": 1, "site": "plant", "device": device, "task": "triage", "definition": "d1", "map": None}
    model = open_model("default", bundle).weights_sha256
    document = {**facts, "model": model, "prior": None, "since": 0, "answers": kept, **more}
    path.write_bytes(Export.model_validate(document).encode())
    return path


def test_the_maps_of_five_boards_are_in_a_signed_copy_of_the_bundle(bundle: Path, tmp_path: Path, cli: Cli) -> None:
    exports = [export(bundle, tmp_path / f"{number}.json", device=f"b{number}") for number in range(4)]
    exports.append(export(bundle, tmp_path / "5.json", device="b9", number=60, only="c"))
    private, public = write_keys(tmp_path)
    out = cli("extend", bundle, "--feedback", *exports, "--out", tmp_path / "new", "--sign", private).stdout
    assert f"{tmp_path / 'new'}: version 4, signed\n" in out
    assert "triage d1: 140 corrections of 5 boards" in out
    assert "biases of their own: plant/b9\n" in out

    model = open_model("default", tmp_path / "new", trusting(public))
    assert model.weights_sha256 == open_model("default", bundle).weights_sha256
    entry = model.score_maps["d1"]
    assert (entry["task"], [*entry["map"]], [*entry["boards"]]) == ("triage", ["a", "b", "c"], ["plant/b9"])
    # The model's preference for "a" is taken back.
    assert score_map_for(entry, "plant/b1", "abc").apply({"a": 0.5, "b": 0.4, "c": 0.1})["b"] > 0.5
    assert "score maps triage\n" in cli("verify", tmp_path / "new", "--public-key", public).stdout

    # A later round of another task leaves this one as it is.
    more = export(bundle, tmp_path / "more.json", device="b1", number=40, task="other", definition="d2")
    words = ("--out", tmp_path / "newer", "--model-version", 9, "--json")
    done = cli("extend", tmp_path / "new", "--feedback", more, *words)
    assert (done.returncode, "its copy is not; --sign signs it" in done.stderr) == (0, True)
    assert done.document["tasks"][0]["boards"] == {"plant/b1": 40}
    assert open_model("default", tmp_path / "newer").score_maps["d1"] == entry
    assert open_model("default", tmp_path / "newer").version == 9


def test_audits_that_measure_are_not_learnt_from(bundle: Path, tmp_path: Path, cli: Cli) -> None:
    path = export(bundle, tmp_path / "e.json", device="b1", number=60, first_audit=41)
    done = cli("extend", bundle, "--feedback", path, "--out", tmp_path / "new", "--json")
    assert done.document["tasks"][0]["boards"] == {"plant/b1": 40}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"model": "f00"}, "triage of plant/b1: its answers are from model f00, but the bundle has "),
        ({"number": 19}, "triage: at least 20 corrections are needed (got 19)"),
        ({"confirmed": False}, "triage: none of 20 answers with feedback is confirmed"),
    ],
)
def test_feedback_that_cannot_be_used_is_refused(
    bundle: Path, tmp_path: Path, cli: Cli, change: dict[str, Any], fault: str
) -> None:
    path = export(bundle, tmp_path / "e.json", device="b1", **change)
    done = cli("extend", bundle, "--feedback", path, "--out", tmp_path / "new")
    assert (done.returncode, fault in done.stderr) == (1, True)
    assert not (tmp_path / "new").exists()


def test_a_board_counts_once_and_a_file_has_to_be_an_export(bundle: Path, tmp_path: Path, cli: Cli) -> None:
    path, other = export(bundle, tmp_path / "e.json", device="b1"), tmp_path / "other.json"
    other.write_text("{}")
    for paths, fault in (((path, path), "triage of plant/b1: given twice"), ((other,), f"{other}: ")):
        done = cli("extend", bundle, "--feedback", *paths, "--out", tmp_path / "new")
        assert (done.returncode, fault in done.stderr) == (1, True)


def named(student: Path, folder: Path, name: str, *, version: int = 1) -> Path:
    """A copy of its bundle with this name."""
    shutil.copytree(student.parent, folder)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "name": name, "version": version}), "utf-8")
    return folder


def test_a_trained_model_stands_beside_the_larger_one_in_a_signed_copy(
    bundle: Path, trained: Path, tmp_path: Path, cli: Cli
) -> None:
    private, public = write_keys(tmp_path)
    # A board that runs the student alone would refuse a lower version as a downgrade.
    student = named(trained, tmp_path / "trained", "Pump, hall 1", version=6)
    out = cli("extend", bundle, "--students", student, "--out", tmp_path / "new", "--sign", private).stdout
    assert f"{tmp_path / 'new'}: version 7, signed\nstudent-pump-hall-1: sound\n" in out
    model = open_model("default", tmp_path / "new", trusting(public))
    assert [one.name for one in model.students] == ["student-pump-hall-1"]
    assert model.weights_sha256 == open_model("default", bundle).weights_sha256
    assert "students   student-pump-hall-1\n" in cli("verify", tmp_path / "new", "--public-key", public).stdout
    # It replaces the copy itself, as any bundle.
    feedback = export(bundle, tmp_path / "e.json", device="b1", number=40)
    words = ("--students", student, "--feedback", feedback, "--out", tmp_path / "new", "--force", "--json")
    facts = cli("extend", bundle, *words).document
    assert (facts["students"], facts["tasks"][0]["is_written"]) == ({"student-pump-hall-1": ["sound"]}, True)
    assert {"score_maps.json", "student-pump-hall-1.gguf"} <= {path.name for path in (tmp_path / "new").iterdir()}


def test_what_cannot_be_a_student_is_refused(bundle: Path, trained: Path, tmp_path: Path, cli: Cli) -> None:
    one, other = (named(trained, tmp_path / name, name) for name in ("one", "other"))
    for students, fault in (
        ((bundle,), "should be a bundle that `edge-convert train` made"),
        ((one, one), "should have another name"),
        ((one, other), "each task should have one student; sound would have several"),
    ):
        done = cli("extend", bundle, "--students", *students, "--out", tmp_path / "new")
        assert (done.returncode, fault in done.stderr) == (1, True)
        assert not (tmp_path / "new").exists()


def test_a_missing_bundle_is_named(bundle: Path, tmp_path: Path, cli: Cli) -> None:
    none = tmp_path / "none"
    words = (("extend", none, "--students", bundle), ("extend", bundle, "--students", none))
    for command in (("verify", none), *((*given, "--out", tmp_path / "new") for given in words)):
        assert cli(*command) == Ended(1, "", f"edge-convert: {none}: not the folder of a bundle\n")


@pytest.mark.parametrize("alias", ["maps", "students"])
def test_an_alias_runs_extend(bundle: Path, tmp_path: Path, cli: Cli, alias: str) -> None:
    done = cli(alias, bundle, "--out", tmp_path / "new")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"usage: edge-convert extend {EXTENSION.usage}",
        "edge-convert extend: error: --feedback or --students is required",
    ]
