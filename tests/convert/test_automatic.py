"""`--type auto` and `evaluate`, on the demonstration model."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from convert.cli import main
from convert.measure.importance import read_importance
from convert.quantize.feedback import Feedback
from edge_agent.models.bundle import open_model
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.convert.gguf_reading import read_gguf
from tests.engine.adapters import demo_adapter
from tests.helpers.keys import write_keys

FAST = {"IQ4_NL", "Q8_0", "Q5_K", "Q6_K"}


@pytest.fixture(scope="module")
def work(converter_work: Path) -> Path:
    return converter_work


def convert(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in (checkpoint_folder(), *arguments, "--no-canaries")])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else -1


def read_quality(bundle: Path) -> dict[str, Any]:
    quality: dict[str, Any] = json.loads((bundle / "quality.json").read_bytes())
    return quality


def test_a_budget_is_kept_and_used_and_more_of_it_diverges_less(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    divergences = []
    for budget in (1_700_000, 2_300_000):
        bundle = tmp_path / str(budget)
        assert convert("--budget", budget, "--out", bundle, "--work", work) == 0
        size = (bundle / "model.gguf").stat().st_size
        assert 0.97 * budget < size <= budget

        quality = read_quality(bundle)
        (own,) = (size for size in quality["sizes"] if size["is_own"])
        assert own["bytes"] == size
        divergences.append(quality["divergence"]["mean"])
        types = {tensor["name"]: tensor["type"] for tensor in quality["tensors"]}
        assert {kind for name, kind in types.items() if name.startswith("blk.")} <= FAST
        stored = read_gguf(bundle / "model.gguf").types()
        assert all(stored[name] == kind for name, kind in types.items())
        assert set(read_importance(bundle / "imatrix.gguf").sums) >= {"token_embd.weight", "blk.3.ffn_down.weight"}
        HTMLParser().feed((bundle / "quality.html").read_text("utf-8"))
        model = open_model("default", bundle)
        assert model.warning is None
        nbytes = Counter[str]()
        for tensor in quality["tensors"]:
            nbytes[tensor["type"]] += tensor["bytes"]
        (most, _), *others = nbytes.most_common()
        assert others
        assert model.quantization == quality["bundle"]["quantization"] == f"{most}-MIX"
        told = capsys.readouterr().out
        assert re.search(f"^{most}-MIX, (mostly )?{most}( and |, )", told, re.MULTILINE)
        assert f", {quality['bundle']['bits_per_weight']:.2f} bits per weight\n" in told
        assert "canaries: none\n" in told
    assert 0 < divergences[1] < divergences[0]


def test_it_diverges_less_than_the_usual_mix_of_the_same_size(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual, own = tmp_path / "usual", tmp_path / "own"
    assert convert("--type", "iq4_nl", "--out", usual) == 0
    budget = (usual / "model.gguf").stat().st_size
    assert convert("--budget", budget, "--out", own, "--work", work) == 0
    capsys.readouterr()
    found: list[float] = []
    for bundle in (usual, own):
        against: list[object] = ["evaluate", bundle, "--against", checkpoint_folder(), "--work", work, "--json"]
        assert main([str(word) for word in against]) == 0
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        found.append(told["divergence"]["mean"])

    assert found[1] < 0.5 * found[0]
    assert len([path for path in work.iterdir() if path.is_dir()]) == 1, "what is kept of a checkpoint is kept once"


def test_a_second_budget_costs_no_measurement(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert("--budget", "2MB", "--dry-run", "--json", "--work", work) == 0
    first = json.loads(capsys.readouterr().out)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr("convert.measure.runner.Runner.__init__", fail)
    assert convert("--budget", "2.2MB", "--dry-run", "--json", "--work", work) == 0
    second = json.loads(capsys.readouterr().out)

    assert {first["quantization"], second["quantization"]} <= {"IQ4_NL-MIX", "Q8_0-MIX"}
    assert first["bits_per_weight"] < second["bits_per_weight"] < 8.6
    assert first["tensor_bytes"] < second["tensor_bytes"] <= 2_200_000


def test_a_bundle_of_a_budget_is_signed_with_all_its_files(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = write_keys(tmp_path)
    assert convert("--budget", "2MB", "--out", tmp_path / "b", "--work", work, "--sign", private, "--json") == 0
    assert json.loads(capsys.readouterr().out)["signed"] is True
    assert open_model("default", tmp_path / "b", public).signature == "good"


def divergence_of(bundle: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> float:
    against: list[object] = ["evaluate", bundle, "--against", checkpoint_folder(), "--work", work, "--json"]
    capsys.readouterr()
    assert main([str(word) for word in against]) == 0
    found: float = json.loads(capsys.readouterr().out)["divergence"]["mean"]
    return found


def test_a_named_type_keeps_its_mix_and_diverges_less_when_its_matrices_are_rounded_for_texts(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, tuned = tmp_path / "plain", tmp_path / "tuned"
    assert convert("--type", "q4_0", "--out", plain) == 0
    assert convert("--type", "q4_0", "--calibration", "--out", tuned, "--work", work) == 0

    assert read_gguf(tuned / "model.gguf").types() == read_gguf(plain / "model.gguf").types()
    assert read_gguf(tuned / "model.gguf").values() == read_gguf(plain / "model.gguf").values()
    manifest = json.loads((tuned / "manifest.json").read_text())
    assert manifest["quantization"] == "Q4_0"
    assert manifest["recipe"]["imatrix_sha256"] == manifest["files"]["imatrix.gguf"]["sha256"]
    quality = read_quality(tuned)
    assert {tensor["divergence"] for tensor in quality["tensors"]} == {None}
    assert manifest["quality"] == {name: quality[name] for name in manifest["quality"]}
    assert "--type q4_0 --calibration" in (tuned / "quality.html").read_text("utf-8")
    before, after = (divergence_of(bundle, work, capsys) for bundle in (plain, tuned))
    assert after == quality["divergence"]["mean"] < 0.7 * before
    assert open_model("default", tuned).warning is None


def test_plain_types_are_measured_beside_the_bundle(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("--budget", "2MB", "--out", tmp_path / "b", "--work", work, "--name", "a name of its own") == 0
    sizes = {size["name"]: size for size in read_quality(tmp_path / "b")["sizes"]}
    assert list(sizes) == ["--type auto", *(f"--type {kind}" for kind in ("q4_0", "iq4_nl", "q4_k_m", "q8_0"))]

    assert convert("--type", "iq4_nl", "--out", tmp_path / "plain", "--name", "a name of its own") == 0
    told = sizes["--type iq4_nl"]
    assert told["bytes"] == (tmp_path / "plain" / "model.gguf").stat().st_size
    assert told["divergence"] == divergence_of(tmp_path / "plain", work, capsys)
    assert [path for path in work.rglob("plain-*") if path.is_dir()] == []


def test_matrices_are_rounded_once_for_several_conversions(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert convert("--budget", "2MB", "--target", "armv8.6-i8mm", "--dry-run", "--work", work) == 0
    assert convert("--type", "q4_0", "--calibration", "--out", tmp_path / "first", "--work", work) == 0
    capsys.readouterr()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it was rounded again")

    monkeypatch.setattr("convert.quantize.feedback.Feedback.encode", fail)
    assert convert("--type", "q4_0", "--calibration", "--out", tmp_path / "again", "--work", work) == 0
    assert convert("--budget", "2MB", "--target", "armv8.6-i8mm", "--dry-run", "--work", work) == 0
    models = [(tmp_path / name / "model.gguf").read_bytes() for name in ("first", "again")]
    assert models[0] == models[1]
    home = tmp_path / "fresh"
    monkeypatch.undo()
    assert convert("--type", "q4_0", "--calibration", "--out", tmp_path / "alone", "--work", home) == 0
    for name in ("model.gguf", "quality.json", "imatrix.gguf"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name


def test_a_dry_run_of_a_named_type_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("--type", "q4_0", "--calibration", "--dry-run", "--work", tmp_path / "none") == 0
    assert "Q4_0" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_the_bytes_do_not_depend_on_the_number_of_threads(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = []
    blas_threads: set[int] = set()

    def encode(*arguments: Any) -> Any:
        blas_threads.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return rounded(*arguments)

    rounded = Feedback.encode
    monkeypatch.setattr("convert.quantize.feedback.Feedback.encode", encode)
    # One that begins with nothing, and what was measured for other budgets with as many as this machine has.
    for threads, home in ((1, tmp_path / "work1"), (3, work)):
        for module in ("plan", "measure.sensitivity", "measure.runner", "measure.moments"):
            monkeypatch.setattr(f"convert.{module}.processors", lambda threads=threads: threads)
        bundle = tmp_path / str(threads)
        with threadpool_limits(3, "blas"):  # as many as numpy takes, if it was imported before the converter
            assert convert("--budget", "1.9MB", "--out", bundle, "--work", home) == 0
        models.append([(bundle / name).read_bytes() for name in ("model.gguf", "manifest.json", "imatrix.gguf")])
    capsys.readouterr()

    assert models[0] == models[1]
    # Not every machine's kernels round otherwise with several.
    assert blas_threads == {1}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--budget", "100kB"], 2, "must be a number of bytes, or a number with MB, MiB, GB or GiB"),
        (["--budget", "100000"], 1, "--budget 100000: too small; at least "),
        (["--type", "auto"], 2, "--type auto needs --budget"),
        (["--type", "q4_0", "--budget", "2MB"], 2, "--budget goes with --type auto, not q4_0"),
        ([], 2, "the following arguments are required: --type, or --budget"),
        (["--budget", "2MB", "--target", "avr"], 2, "invalid choice: 'avr'"),
        (["--budget", "2MB", "--calibration", "nothing.txt"], 1, "nothing.txt: No such file"),
    ],
)
def test_bad_options_are_refused(
    words: list[str], code: int, told: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(*words, "--out", tmp_path / "b", "--work", work) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_model_with_an_adapter_is_judged_beside_the_unquantized_one_with_it(work: Path, tmp_path: Path) -> None:
    lora = demo_adapter().write(tmp_path / "lora")

    assert convert("--budget", "2MB", "--out", tmp_path / "b", "--work", work, "--lora", lora) == 0

    quality = read_quality(tmp_path / "b")
    assert 0 < quality["divergence"]["mean"] < 0.02
    files = json.loads((tmp_path / "b" / "manifest.json").read_text("utf-8"))["files"]
    assert {"model.gguf", "adapter.gguf", "quality.json", "imatrix.gguf"} <= files.keys()
    assert quality["bundle"]["adapter_sha256"] == files["adapter.gguf"]["sha256"]
