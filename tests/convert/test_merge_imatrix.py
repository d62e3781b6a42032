"""`merge-imatrix` as scripts meet it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from convert.cli import main
from convert.measure.importance import Importance, read_importance
from tests.helpers.ggufs import gguf


def write(path: Path, *values: float, count: float = 512) -> Path:
    Importance({"w": np.array(values, np.float32)}, {"w": count}, (path.stem,), 1, 512).write(path)
    return path


def run(*words: object) -> int:
    return main(["merge-imatrix", *map(str, words)])


def test_several_files_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / f"{number}.gguf", number, 1) for number in range(3)]

    assert run(*files, "--out", tmp_path / "all.gguf") == 0

    assert capsys.readouterr().out == f"{tmp_path / 'all.gguf'}: 1 matrices, 1536 tokens, from 3 files\n"
    merged = read_importance(tmp_path / "all.gguf")
    assert (merged.sums["w"].tolist(), merged.counts, merged.chunks) == ([3, 3], {"w": 1536}, 3)
    assert merged.datasets == ("0", "1", "2")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write(tmp_path / "a.gguf", 1), write(tmp_path / "b.gguf", 2)

    assert run(first, second, "--out", first) == 1
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert run(first, second, "--out", first, "--force") == 0
    assert read_importance(first).sums["w"].tolist() == [3]


def test_files_that_cannot_be_merged_are_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, wider = write(tmp_path / "a.gguf", 1), write(tmp_path / "b.gguf", 1, 2)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model.gguf").write_bytes(gguf())
    for files, expected in (
        ((first, wider), f"{wider}: does not fit {first}: w has 2 columns here and 1 columns there"),
        ((first, first), "named twice"),
        ((first, tmp_path / "none.gguf"), "none.gguf: cannot be read: No such file or directory"),
        ((first, tmp_path), f"{tmp_path}: not a regular file"),
        ((first, tmp_path / "pipe"), "pipe: not a regular file"),
        ((first, tmp_path / "model.gguf"), "model.gguf: not an importance matrix: it holds no importance matrix"),
    ):
        assert run(*files, "--out", tmp_path / "c.gguf") == 1
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "c.gguf").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "c"
    assert run(write(tmp_path / "a", 1), write(tmp_path / "b", 2), "--out", out) == 1
    assert f"{out}: cannot be written: " in capsys.readouterr().err
