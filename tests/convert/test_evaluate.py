"""`edge-convert evaluate` on what cannot be compared: told before anything is measured."""

from collections.abc import Callable
from pathlib import Path

import pytest

from convert.cli import main
from tests.convert.checkpoints import make_checkpoint
from tests.ggufs import gguf


@pytest.fixture
def evaluate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr("convert.evaluation.Runner", never)

    def run(bundle: Path, against: Path) -> tuple[int, str]:
        code = main(["evaluate", str(bundle), "--against", str(against), "--work", str(tmp_path / "work")])
        return code, capsys.readouterr().err.splitlines()[-1]

    return run


def test_what_is_no_model_is_told_with_what_would_be_one(
    evaluate: Callable[..., tuple[int, str]], tmp_path: Path, demo_bundle: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.gguf").write_text("junk")
    expected = "should be a bundle, a folder with model.gguf, or a .gguf file"
    for name in ("empty", "none"):
        assert evaluate(tmp_path / name, demo_bundle) == (1, f"edge-convert: {tmp_path}/{name}: {expected}")
    junk = f"edge-convert: {tmp_path}/junk.gguf: should be a GGUF file of version 2 or 3 (it begins with 6a756e6b)"
    assert evaluate(tmp_path / "junk.gguf", demo_bundle) == evaluate(demo_bundle, tmp_path / "junk.gguf") == (1, junk)


def test_what_is_no_reference_is_told(
    evaluate: Callable[..., tuple[int, str]], tmp_path: Path, demo_bundle: Path
) -> None:
    assert evaluate(demo_bundle, tmp_path / "none") == (65, f"edge-convert: {tmp_path}/none: no such checkpoint folder")
    (tmp_path / "empty").mkdir()
    code, told = evaluate(demo_bundle, tmp_path / "empty")
    assert (code, "model.safetensors: missing" in told) == (65, True)


def test_models_of_other_vocabularies_are_not_compared(
    evaluate: Callable[..., tuple[int, str]], tmp_path: Path, demo_bundle: Path
) -> None:
    (tmp_path / "two.gguf").write_bytes(gguf())
    code, told = evaluate(tmp_path / "two.gguf", demo_bundle)
    assert code == 1
    assert f"{tmp_path}/two.gguf: has a vocabulary of 2 tokens, the reference {demo_bundle}/model.gguf one of " in told
    checkpoint = make_checkpoint(layers=1).write(tmp_path / "checkpoint")
    code, told = evaluate(demo_bundle, checkpoint)
    assert (code, "one of 320; only models of the same vocabulary can be compared" in told) == (1, True)
