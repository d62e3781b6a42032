"""Models with adapters are measured with them, on the demonstration model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from convert.cli import main
from convert.errors import ConvertError
from convert.evaluate.canaries import differences
from convert.evaluate.worker import Adapted
from convert.measure.runner import Runner
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.convert.adapters import AdapterFiles
from tests.convert.conversions import ignore_progress
from tests.engine.adapters import bundle_with, demo_adapter, merged_bundle

TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 500, 60)]


@pytest.fixture(scope="module")
def adapters() -> list[AdapterFiles]:
    return [demo_adapter(), demo_adapter(seed=4, strength=0.04)]


@pytest.fixture(scope="module")
def bundle(adapters: list[AdapterFiles], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_with(adapters[0], tmp_path_factory.mktemp("adapted"))


def logits(model: Path, *adapters: Path) -> np.ndarray:
    with Runner(model / "model.gguf", adapters) as runner:
        return runner.logits(TOKENS).copy()


def divergence(bundle: Path, against: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> float:
    capsys.readouterr()
    assert main(["evaluate", str(bundle), "--against", str(against), "--work", str(work), "--json"]) == 0
    return float(json.loads(capsys.readouterr().out)["divergence"]["mean"])


def test_a_model_runs_with_all_adapters_that_are_given(
    adapters: list[AdapterFiles], bundle: Path, tmp_path: Path
) -> None:
    other = bundle_with(adapters[1], tmp_path)

    adapted = logits(bundle, bundle / "adapter.gguf", other / "adapter.gguf")

    np.testing.assert_allclose(adapted, logits(merged_bundle(adapters, tmp_path)), atol=0.05)
    assert np.abs(adapted - logits(bundle)).max() > 1


def test_a_file_that_is_not_an_adapter_is_refused(bundle: Path) -> None:
    with pytest.raises(ConvertError, match=r"model\.gguf: general\.type: should be \"adapter\""):
        logits(bundle, bundle / "model.gguf")


def test_a_bundle_is_evaluated_with_its_adapters(
    adapters: list[AdapterFiles], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = merged_bundle(adapters[:1], tmp_path)

    assert divergence(bundle, merged, tmp_path, capsys) < 1e-3
    assert divergence(bundle, checkpoint_folder(), tmp_path, capsys) < 1e-3, "the checkpoint gets the adapter too"
    assert divergence(bundle / "model.gguf", bundle, tmp_path, capsys) > 0.02, "a file is taken as it is"


def test_answers_are_recorded_with_the_adapter(tmp_path: Path) -> None:
    bundle, lora = tmp_path / "b", demo_adapter(strength=0.2).write(tmp_path / "lora")
    assert main([str(checkpoint_folder()), "--out", str(bundle), "--type", "f16", "--lora", str(lora)]) == 0
    model = Adapted.from_bundle(bundle, bundle / "model.gguf")

    assert differences(bundle, model, ignore_progress) == []

    (bundle / "adapter.gguf").unlink()
    assert differences(bundle, Adapted(bundle / "model.gguf"), ignore_progress)
