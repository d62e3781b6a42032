"""The same checkpoint gives the same bytes: whoever converts it, where, and with how many threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convert.quantize.recipe import Quantization
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import NAMED, convert

ROOT = Path(__file__).parents[2]


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


@pytest.mark.parametrize("quantization", NAMED)
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, quantization: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint(vocab_size=1030, tied=False, shards=2).write(tmp_path / "checkpoint")
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr("convert.plan.processors", lambda threads=threads: threads)
        convert(folder, tmp_path / str(threads), quantization)
        found.append(contents(tmp_path / str(threads)))
    assert found[0] == found[1] == found[2]


def test_the_bytes_do_not_depend_on_user_and_place(tmp_path: Path) -> None:
    files = make_checkpoint(layers=1)
    files.more["README.md"] = "---\nlicense: apache-2.0\n---\nPrüfstand\n"
    first, second = (files.write(tmp_path / name) for name in ("Qwen2.5-0.5B-Instruct", "elsewhere/ünd"))
    plain = convert_as(first, tmp_path / "one", ROOT, {}, umask=0o022)
    other = {"LC_ALL": "tr_TR.UTF-8", "LANG": "C", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    (tmp_path / "home").mkdir()
    other |= {"HOME": str(tmp_path / "home"), "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "20"}
    odd = convert_as(second, tmp_path / "two", tmp_path / "home", other, umask=0o077)
    assert plain == odd
    assert plain.keys() == {"canaries.json", "manifest.json", "model.gguf"}


def convert_as(
    checkpoint: Path, bundle: Path, folder: Path, changes: dict[str, str], *, umask: int
) -> dict[str, bytes]:
    command = [sys.executable, "-m", "convert", str(checkpoint), "--out", os.path.relpath(bundle, folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | changes
    subprocess.run(
        [*command, "--type", "q4_k_m"], cwd=folder, env=environment, umask=umask, stdout=subprocess.DEVNULL, check=True
    )
    return contents(bundle)
