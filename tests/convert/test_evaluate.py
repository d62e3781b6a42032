"""`edge-convert evaluate` refuses what cannot be compared, before anything is measured."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.gguf.header import ARRAY, STRING, read_header
from tests.convert.checkpoints import make_checkpoint
from tests.convert.conversions import Cli
from tests.helpers.ggufs import MODEL_VALUES, gguf

Evaluate = Callable[..., tuple[int, str]]


@pytest.fixture
def evaluate(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Evaluate:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr("convert.evaluate.comparison.Runner", never)

    def run(bundle: Path, against: Path) -> tuple[int, str]:
        code, _, err = cli("evaluate", bundle, "--against", against, "--work", tmp_path / "work")
        return code, err.splitlines()[-1]

    return run


def test_a_path_without_a_model_is_refused_with_advice(evaluate: Evaluate, tmp_path: Path, demo_bundle: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.gguf").write_text("junk")
    expected = "neither a bundle with model.gguf nor a .gguf file"
    for name in ("empty", "none"):
        assert evaluate(tmp_path / name, demo_bundle) == (1, f"edge-convert: {tmp_path}/{name}: {expected}")
    junk = f"edge-convert: {tmp_path}/junk.gguf: should be a GGUF file of version 2 or 3 (it begins with 6a756e6b)"
    assert evaluate(tmp_path / "junk.gguf", demo_bundle) == evaluate(demo_bundle, tmp_path / "junk.gguf") == (1, junk)


def test_a_path_without_a_reference_is_refused(evaluate: Evaluate, tmp_path: Path, demo_bundle: Path) -> None:
    code, err = evaluate(demo_bundle, tmp_path / "none")
    assert (code, f"{tmp_path}/none: no such checkpoint folder; " in err) == (65, True)
    (tmp_path / "empty").mkdir()
    code, err = evaluate(demo_bundle, tmp_path / "empty")
    assert (code, "only safetensors checkpoints are supported" in err) == (65, True)


def test_models_of_other_vocabularies_are_not_compared(evaluate: Evaluate, tmp_path: Path, demo_bundle: Path) -> None:
    (tmp_path / "two.gguf").write_bytes(gguf())
    code, err = evaluate(tmp_path / "two.gguf", demo_bundle)
    assert code == 1
    assert f"{tmp_path}/two.gguf: its vocabulary of 2 tokens is not that of the reference " in err
    assert f"that of the reference {demo_bundle}/model.gguf, of " in err
    # Two parts of one vocabulary may be like that.
    (tmp_path / "other.gguf").write_bytes(gguf(MODEL_VALUES | {"tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "c"]))}))
    code, err = evaluate(tmp_path / "two.gguf", tmp_path / "other.gguf")
    assert (code, "its vocabulary of 2 tokens is not that" in err) == (1, True)
    checkpoint = make_checkpoint(layers=1).write(tmp_path / "checkpoint")
    code, err = evaluate(demo_bundle, checkpoint)
    assert (code, "of 320; only models with the same vocabulary can be compared" in err) == (1, True)


def test_a_model_with_infinite_logits_is_refused_by_name(tmp_path: Path, demo_bundle: Path, cli: Cli) -> None:
    large = tmp_path / "large.gguf"
    large.write_bytes((demo_bundle / "model.gguf").read_bytes())
    (norm,) = (tensor for tensor in read_header(large).tensors if tensor.name == "output_norm.weight")
    with large.open("r+b") as file:
        file.seek(norm.offset)
        file.write(struct.pack("<f", 3e38) * (norm.nbytes // 4))

    texts = tmp_path / "texts.txt"
    texts.write_text("Pump 3 draws 4.2 A at 57 degrees. " * 100)
    words = ["evaluate", large, "--against", demo_bundle, "--eval", texts, "--work", tmp_path / "work", "--json"]
    code, _, err = cli(*words)
    assert (code, err.splitlines()[-1]) == (1, f"edge-convert: {large}: computes logits that are not finite")
