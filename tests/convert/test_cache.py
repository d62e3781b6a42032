"""The cache folder: damaged files are measured again, and one conversion at a time uses it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.measure.cache import read_cached, replaced_file, write_cached
from edge_agent.tools.demo.readings import checkpoint_folder

Damage = Callable[[Path], object]
TEXTS = Path(__file__).parents[2] / "convert" / "texts"


def command(work: Path, out: Path) -> list[str]:
    """A conversion with short texts, which takes a second or two."""
    for name, source in (("calibration", "general_en"), ("evaluation", "technical_en")):
        lines = (TEXTS / name / f"{source}.jsonl").read_text("utf-8").splitlines(keepends=True)
        (work.parent / f"{name}.jsonl").write_text("".join(lines[:8]), "utf-8")
    texts = ["--calibration", work.parent / "calibration.jsonl", "--eval", work.parent / "evaluation.jsonl"]
    words = ["--type", "q4_0", "--no-canaries", "--force", "--out", out, "--work", work, *texts]
    return [sys.executable, "-m", "convert", *map(str, (checkpoint_folder(), *words))]


def digest(bundle: Path) -> str:
    return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "work"


@pytest.fixture(scope="module")
def expected(work: Path) -> str:
    """The bundle of two conversions at once."""
    bundles = [work.parent / name for name in ("first", "second")]
    running = [subprocess.Popen(command(work, bundle), stderr=subprocess.PIPE) for bundle in bundles]
    errors = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    (found,) = {digest(bundle) for bundle in bundles}
    return found


def each(pattern: str, damage: Damage) -> Damage:
    def on(work: Path) -> None:
        paths = sorted(work.rglob(pattern))
        assert paths
        for path in paths:
            damage(path)

    return on


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        each("measured.json", lambda path: path.write_text('{"losses": {"blk.0.attn_q.weight": {"Q4_0": NaN}}}')),
        each("measured.json", cut),
        each("*.npz", cut),
        each("plain-*.json", cut),
        each("blk.1.ffn_down.weight.Q4_0", cut),
        each("imatrix.gguf", Path.unlink),
        each("reference.gguf", Path.unlink),
    ],
    ids=["no number", "half of the measurements", "predictions", "sizes", "a matrix", "importance", "reference"],
)
def test_damaged_files_are_made_again(work: Path, expected: str, tmp_path: Path, damage: Damage) -> None:
    damage(work)
    done = subprocess.run(command(work, tmp_path / "b"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "b") == expected


def test_a_value_comes_back_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    for content in (b"{", b"\xff"):
        (tmp_path / "x").write_bytes(content)
        assert read_cached(tmp_path / "x") is None
    assert read_cached(tmp_path) is None
    write_cached(tmp_path / "x", {"a": [1.5, None, "ü"]})
    assert read_cached(tmp_path / "x") == {"a": [1.5, None, "ü"]}


def test_a_failed_replacement_leaves_the_older_file(tmp_path: Path) -> None:
    write_cached(tmp_path / "x", 1)
    with pytest.raises(FileNotFoundError), replaced_file(tmp_path / "x") as draft:
        draft.with_name("missing").rename(draft)
    assert read_cached(tmp_path / "x") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
