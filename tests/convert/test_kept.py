"""What is kept of a checkpoint: damaged, or wanted by two at once, it makes no other bundle."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.kept import read_json, sole_use, write_json
from edge_agent.tools.demo.readings import checkpoint_folder

Damage = Callable[[Path], object]
TEXTS = Path(__file__).parents[2] / "convert" / "texts"


def on_short_texts(work: Path, *words: object) -> list[str]:
    """A conversion that takes a second or two, where the default texts take ten."""
    for name, source in (("calibration", "general_en"), ("evaluation", "technical_en")):
        lines = (TEXTS / name / f"{source}.jsonl").read_text("utf-8").splitlines(keepends=True)
        (work.parent / f"{name}.jsonl").write_text("".join(lines[:8]), "utf-8")
    texts = ["--calibration", work.parent / "calibration.jsonl", "--eval", work.parent / "evaluation.jsonl"]
    return [sys.executable, "-m", "convert", *map(str, (checkpoint_folder(), *words, "--work", work, *texts))]


def command(work: Path, out: Path) -> list[str]:
    return on_short_texts(work, "--type", "q4_0", "--no-canaries", "--force", "--out", out)


def digest(bundle: Path) -> str:
    return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "work"


@pytest.fixture(scope="module")
def expected(work: Path) -> str:
    """Two conversions at once."""
    bundles = [work.parent / name for name in ("first", "second")]
    running = [subprocess.Popen(command(work, bundle), stderr=subprocess.PIPE) for bundle in bundles]
    told = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    found = {digest(bundle) for bundle in bundles}
    assert len(found) == 1
    return found.pop()


def each(pattern: str, damage: Damage) -> Damage:
    def on(work: Path) -> None:
        paths = sorted(work.rglob(pattern))
        assert paths
        for path in paths:
            damage(path)

    return on


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_bit(path: Path) -> None:
    """Its size stays, and the times that a copy keeps."""
    data, times = bytearray(path.read_bytes()), path.stat()
    data[-len(data) // 3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def turn_a_figure(path: Path) -> None:
    text = path.read_text("utf-8")
    at = text.rindex("0.") + 2
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :], encoding="utf-8")


def put(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def test_two_at_once_make_the_same_bundle(expected: str) -> None:
    assert expected


@pytest.mark.parametrize(
    "damage",
    [
        each("measured.json", put(b"[" * 100_000)),
        each("measured.json", put(b'{"losses": {"blk.0.attn_q.weight": {"Q4_0": NaN}}, "divergences": {}}')),
        each("tools.json", put(b"\xff")),
        each("*.npz", cut),
        each("*.npz", put(b"")),
        each("plain-*.json", put(b'{"q4_0": ' + b"9" * 400 + b"}")),
        each("blk.1.ffn_down.weight.Q4_0", cut),
        each("blk.1.ffn_down.weight.Q4_0", Path.unlink),
        each("imatrix.gguf", Path.unlink),
        each("reference/model.gguf", cut),
        each("blk.1.ffn_down.weight.Q4_0", turn_a_bit),
        each("token_embd.weight.*", turn_a_bit),
        each("plain-*.json", turn_a_figure),
        each("imatrix.gguf", turn_a_bit),
        each("*.npz", turn_a_bit),
        each("reference/model.gguf", turn_a_bit),
        each("reference/manifest.json", cut),
    ],
)
def test_what_is_damaged_is_made_anew(work: Path, expected: str, tmp_path: Path, damage: Damage) -> None:
    damage(work)
    done = subprocess.run(command(work, tmp_path / "b"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "b") == expected


def budget_types(work: Path) -> list[str]:
    words = ["--budget", "2MB", "--target", "armv8.6-i8mm", "--dry-run"]
    done = subprocess.run(on_short_texts(work, *words), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_no_divergence_is_measured_of_a_damaged_matrix(work: Path, expected: str, tmp_path: Path) -> None:
    assert expected
    shutil.copytree(work, tmp_path / "work")
    each("*ffn_*.weight.Q4_0", lambda path: path.write_bytes(b"\x7b" * path.stat().st_size))(tmp_path / "work")
    assert budget_types(tmp_path / "work") == budget_types(work)


def test_who_waits_is_told_so(tmp_path: Path) -> None:
    told: list[str] = []
    program = (
        "import sys, convert.kept, pathlib; "
        "held = convert.kept.sole_use(pathlib.Path(sys.argv[1]), lambda what, _: print(what, flush=True)); "
        "held.__enter__(); print('has it', flush=True)"
    )
    with sole_use(tmp_path, lambda what, _: told.append(what)):
        other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline().startswith("waiting for another conversion")
    assert other.communicate(timeout=30)[0] == "has it\n"
    assert told == []


def test_what_cannot_be_read_is_not_there(tmp_path: Path) -> None:
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "x").write_bytes(content)
        assert read_json(tmp_path / "x") is None
    assert read_json(tmp_path) is None
    write_json(tmp_path / "x", {"a": [1.5, None, "ü"]})
    assert read_json(tmp_path / "x") == {"a": [1.5, None, "ü"]}
    (tmp_path / "x").write_text((tmp_path / "x").read_text("utf-8").replace("1.5", "1.6"), encoding="utf-8")
    assert read_json(tmp_path / "x") is None
