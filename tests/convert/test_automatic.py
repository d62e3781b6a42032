"""`--budget`, `--calibration`, `evaluate`: one bundle of the demonstration model with all options, and tiny models."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from threadpoolctl import threadpool_info, threadpool_limits

from convert.conversion import Job, Tuning, decide_types, open_source
from convert.errors import ConvertError
from convert.measure import divergence, sensitivity
from convert.measure.sensitivity import Sensitivities
from convert.measure.texts import Texts
from convert.quantize.error_feedback import ErrorFeedback
from convert.quantize.ggml import GgmlType
from convert.quantize.recipe import Quantization
from convert.read.tensors import ModelTensor
from convert.stopping import StoppedError
from edge_agent.models.bundle import open_model
from edge_agent.tools.demo.readings import checkpoint_folder
from tests.convert.checkpoints import make_checkpoint, to_bf16
from tests.convert.conversions import Cli, contents, ignore_progress, run
from tests.convert.gguf_reading import read_gguf
from tests.engine.adapters import demo_adapter
from tests.helpers.bundles import DEMO_TASKS, demo_examples
from tests.helpers.keys import trusting, write_keys

pytestmark = pytest.mark.usefixtures("few_texts")
FAST = {"IQ4_NL", "Q8_0", "Q5_K", "Q6_K"}
# The bundle is as large as with `--type iq4_nl`.
BUDGET = 1_546_976


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("automatic")


@pytest.fixture(scope="module")
def examples(work: Path) -> Path:
    """Two readings for each of two tasks of the demonstration."""
    return demo_examples(work / "labelled.jsonl", 2)


@pytest.fixture(scope="module")
def bundle(work: Path, examples: Path) -> Path:
    """A signed bundle with an adapter, canaries and task accuracy; the measurements are in `work`."""
    private, _ = write_keys(work)
    lora = demo_adapter().write(work / "lora")
    words = ["--tasks", DEMO_TASKS, "--labelled", examples, "--canaries", examples, "--lora", lora, "--sign", private]
    code = run(checkpoint_folder(), "--budget", BUDGET, "--out", work / "b", "--work", work / "cache", *words)
    assert code == 0
    return work / "b"


@pytest.fixture(scope="module")
def quality(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "quality.json").read_bytes())
    return found


def test_a_budget_is_kept_and_used_by_types_with_fast_kernels(bundle: Path, quality: dict[str, Any]) -> None:
    size = (bundle / "model.gguf").stat().st_size
    assert 0.97 * BUDGET < size <= BUDGET
    (own,) = (size for size in quality["sizes"] if size["is_own"])
    assert own["bytes"] == size
    types = {tensor["name"]: tensor["type"] for tensor in quality["tensors"]}
    assert {kind for name, kind in types.items() if name.startswith("blk.")} <= FAST
    stored = read_gguf(bundle / "model.gguf").types()
    assert all(stored[name] == kind for name, kind in types.items())


def test_it_diverges_less_than_the_usual_mixes_of_the_same_size(quality: dict[str, Any]) -> None:
    sizes = {size["name"]: size for size in quality["sizes"]}
    assert list(sizes) == ["--type auto", *(f"--type {kind}" for kind in ("q4_0", "iq4_nl", "q4_k_m", "q8_0"))]
    usual, own = sizes["--type iq4_nl"], sizes["--type auto"]
    assert own["bytes"] <= usual["bytes"]
    assert 0 < own["divergence"] == quality["divergence"]["mean"] < 0.5 * usual["divergence"]


def test_the_bundle_is_whole_and_signed_and_opens(work: Path, bundle: Path, quality: dict[str, Any]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    files = manifest["files"]
    assert sorted(files) == [
        *("adapter.gguf", "canaries.json", "imatrix.gguf", "model.gguf", "quality.html", "quality.json")
    ]
    model = open_model("default", bundle, trusting(work / "key.pub.pem"))
    assert (model.signature, len(model.adapters)) == ("good", 1)
    nbytes = Counter[str]()
    for tensor in quality["tensors"]:
        nbytes[tensor["type"]] += tensor["bytes"]
    assert model.quantization == manifest["quantization"] == f"{nbytes.most_common(1)[0][0]}-MIX"
    assert manifest["recipe"]["imatrix_sha256"] == files["imatrix.gguf"]["sha256"]
    assert manifest["quality"] == {name: quality[name] for name in manifest["quality"]}
    assert quality["bundle"]["adapter_sha256"] == files["adapter.gguf"]["sha256"]
    assert quality["bundle"]["canaries"] == len(json.loads((bundle / "canaries.json").read_bytes())["canaries"]) == 4
    reader = GGUFReader(bundle / "imatrix.gguf")
    stored = {tensor.name: tensor.data for tensor in reader.tensors}
    assert {"token_embd.weight.in_sum2", "blk.3.ffn_down.weight.in_sum2"} <= stored.keys()
    assert all(np.min(sums) >= 0 for name, sums in stored.items() if name.endswith(".in_sum2"))
    assert {float(count.item()) for name, count in stored.items() if name.endswith(".counts")} == {1024.0}
    assert run("verify", bundle, "--public-key", work / "key.pub.pem") == 0


def test_task_accuracy_is_in_the_report_and_printed_by_evaluate(
    work: Path, bundle: Path, quality: dict[str, Any], examples: Path, cli: Cli
) -> None:
    fields = ("name", "kind", "examples", "gained", "lost")
    assert [tuple(task[field] for field in fields) for task in quality["tasks"]] == [
        ("machine-triage", "classify", 2, 0, 0),
        ("machine-diagnosis", "extract", 2, 0, 0),
    ]
    assert "Right answers, in brackets" in (bundle / "quality.html").read_text("utf-8")
    words = ["--tasks", DEMO_TASKS, "--labelled", examples, "--work", work / "cache"]
    out = cli("evaluate", bundle, "--against", checkpoint_folder(), *words).stdout
    assert "machine-triage    2 of 2 answers right, 100 % (15.8 to 100.0)\n" in out
    assert "the reference: 100 %, difference in points: +0.0 (-49.0 to +49.0): no measurable difference\n" in out
    assert len([path for path in (work / "cache").iterdir() if path.is_dir()]) == 1, "a checkpoint is kept once"
    assert [path for path in work.rglob("plain-*") if path.is_dir()] == []


@pytest.mark.usefixtures("bundle")
def test_a_second_budget_costs_no_measurement(work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.measure.runner.Runner.__init__", lambda *_, **__: pytest.fail("a model was run"))
    words = (checkpoint_folder(), "--dry-run", "--json", "--work", work / "cache", "--budget")
    plans = [cli(*words, budget).document for budget in ("2MB", "2.2MB")]
    assert plans[0]["bits_per_weight"] < plans[1]["bits_per_weight"] < 8.6
    assert plans[0]["tensor_bytes"] < plans[1]["tensor_bytes"] <= 2_200_000


@pytest.mark.usefixtures("bundle")
def test_a_named_type_keeps_its_mix_and_diverges_less_when_its_matrices_are_rounded_for_texts(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convert.evaluate.comparison.PLAIN", (Quantization.Q4_0,))
    words = [checkpoint_folder(), "--type", "q4_0", "--out"]
    assert run(*words, tmp_path / "plain") == 0
    assert run(*words, tmp_path / "tuned", "--calibration", "--work", work / "cache") == 0
    plain, tuned = (read_gguf(tmp_path / name / "model.gguf") for name in ("plain", "tuned"))
    assert tuned.types() == plain.types()
    assert tuned.values() == plain.values()
    quality = json.loads((tmp_path / "tuned" / "quality.json").read_bytes())
    assert {tensor["divergence"] for tensor in quality["tensors"]} == {None}
    sizes = {size["name"]: size for size in quality["sizes"]}
    assert sizes["--type q4_0"]["bytes"] == (tmp_path / "plain" / "model.gguf").stat().st_size
    assert sizes["--type q4_0 --calibration"]["divergence"] < 0.7 * sizes["--type q4_0"]["divergence"]
    assert open_model("default", tmp_path / "tuned").warning is None


def test_a_dry_run_of_a_named_type_measures_nothing(tmp_path: Path, cli: Cli) -> None:
    words = ["--type", "q4_0", "--calibration", "--dry-run", "--work", tmp_path / "none"]
    assert "Q4_0" in cli(checkpoint_folder(), *words).stdout
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--budget", "100kB"], 2, "must be a number of bytes, or a number with MB, MiB, GB or GiB"),
        (["--budget", "100000"], 1, "--budget: 100000 bytes are too few, at least "),
        (["--budget", "2MB", "--target", "avr"], 2, "invalid choice: 'avr'"),
        (["--budget", "2MB", "--calibration", "nothing.txt"], 1, "nothing.txt: No such file"),
    ],
)
def test_bad_options_are_refused(words: list[str], code: int, expected: str, tmp_path: Path, cli: Cli) -> None:
    done = cli(checkpoint_folder(), *words, "--out", tmp_path / "b", "--work", tmp_path / "work")
    assert (done.returncode, expected in done.stderr) == (code, True)
    assert not (tmp_path / "b").exists()


def test_a_weight_that_the_types_cannot_hold_is_named(tmp_path: Path, cli: Cli) -> None:
    checkpoint = make_checkpoint(layers=1, hidden=64, feed_forward=96)
    checkpoint.tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = to_bf16(np.array([1e9], np.float32))[0]
    checkpoint.write(tmp_path / "c")
    done = cli(tmp_path / "c", "--budget", "60000", "--out", tmp_path / "b", "--work", tmp_path / "work")
    fault = "tensor model.layers.0.mlp.up_proj.weight: numbers too large for "
    assert (done.returncode, fault in done.stderr) == (1, True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of one layer, its bundle and the measurements for it."""
    folder = tmp_path_factory.mktemp("tiny")
    make_checkpoint(layers=1, hidden=64, feed_forward=96).write(folder / "checkpoint")
    assert convert_tiny(folder, folder / "b", folder / "work") == 0
    return folder


def convert_tiny(folder: Path, bundle: Path, work: Path, *more: str) -> int:
    return run(folder / "checkpoint", "--budget", "60000", "--out", bundle, "--work", work, *more)


def test_the_bytes_do_not_depend_on_threads(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blas_threads: set[int] = set()

    def encode(*arguments: Any) -> Any:
        blas_threads.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return rounded(*arguments)

    rounded = ErrorFeedback.encode
    monkeypatch.setattr("convert.quantize.error_feedback.ErrorFeedback.encode", encode)
    for module in ("plan", "measure.sensitivity", "measure.runner", "measure.moments"):
        monkeypatch.setattr(f"convert.{module}.processors", lambda: 3)
    with threadpool_limits(3, "blas"):  # as many as numpy takes, if it was imported before the converter
        assert convert_tiny(tiny, tmp_path / "b", tmp_path / "work") == 0
    assert contents(tmp_path / "b") == contents(tiny / "b")
    # Not every machine's kernels round differently with several threads.
    assert blas_threads == {1}


def test_a_run_stopped_while_measuring_goes_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = divergence.compare
    measured = 0

    def stop_at_the_third(*arguments: Any) -> Any:
        nonlocal measured
        measured += 1
        if measured == 3:
            raise StoppedError("SIGINT")
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "compare", stop_at_the_third)
        assert convert_tiny(tiny, tmp_path / "b", tmp_path / "work") == 1
    (figures,) = (tmp_path / "work").rglob("measured.json")
    assert len(json.loads(figures.read_bytes())["divergences"]) == 2
    monkeypatch.setattr(sensitivity, "_round", lambda *_, **__: pytest.fail("rounded again"))
    assert convert_tiny(tiny, tmp_path / "b", tmp_path / "work") == 0
    assert contents(tmp_path / "b") == contents(tiny / "b")


def test_a_run_that_is_stopped_while_it_rounds_keeps_what_is_rounded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = sensitivity._encode
    encoded: list[tuple[str, str]] = []
    most = 9

    def encode_some(*arguments: Any) -> None:
        if len(encoded) == most:
            raise StoppedError("SIGINT")
        encoded.append((arguments[2].name, arguments[3].name))
        encode(*arguments)

    monkeypatch.setattr(sensitivity, "processors", lambda: 1)
    monkeypatch.setattr(sensitivity, "_encode", encode_some)
    assert convert_tiny(tiny, tmp_path / "b", tmp_path / "work") == 1
    most = 1000
    assert convert_tiny(tiny, tmp_path / "b", tmp_path / "work") == 0
    assert 9 < len(encoded) < most
    assert len(set(encoded)) == len(encoded)
    assert contents(tmp_path / "b") == contents(tiny / "b")


def test_a_bundle_holds_what_was_trained_after_rounding(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix and a vector are replaced by others; PyTorch, which trains them, is not here."""
    before = read_gguf(tiny / "b" / "model.gguf").tensors
    matrix, vector = "blk.0.attn_output.weight", "blk.0.attn_norm.weight"
    trained: dict[str, np.ndarray[Any, Any]] = {
        matrix: np.ascontiguousarray(
            np.frombuffer(before[matrix].data, np.uint8).reshape(before[matrix].shape[1], -1)[::-1]
        ),
        vector: np.full(before[vector].shape, 0.5, np.float32),
    }
    monkeypatch.setattr("convert.cli.missing_extra", lambda _extra: None)
    monkeypatch.setattr("convert.write.manifest.torch_versions", lambda: {"torch": "1"})
    monkeypatch.setattr("convert.cli.recover", lambda _plan, tuned, _progress: replace(tuned, recovered=trained))

    assert convert_tiny(tiny, tmp_path / "b", tiny / "work", "--recover") == 0

    found = read_gguf(tmp_path / "b" / "model.gguf").tensors
    changed = {name for name, tensor in found.items() if bytes(tensor.data) != bytes(before[name].data)}
    assert changed == set(trained)
    assert all(bytes(found[name].data) == array.tobytes() for name, array in trained.items())
    assert json.loads((tmp_path / "b" / "quality.json").read_bytes())["bundle"]["recovered"] is True
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_bytes())
    assert (manifest["recipe"]["recovered"], manifest["tools"]["torch"]) == (True, "1")


def test_training_needs_its_packages(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.cli.missing_extra", lambda extra: f"no {extra}")
    assert convert_tiny(tiny, tmp_path / "b", tmp_path / "work", "--recover") == 1
    assert not any(tmp_path.iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("measured.json", cut),
        ("*.npz", cut),
        ("*-plain.json", cut),
        ("blk.0.ffn_down.weight.*", cut),
        ("imatrix.gguf", Path.unlink),
        ("imatrix.gguf", cut),
        ("reference.gguf", Path.unlink),
    ],
)
def test_damaged_files_of_the_cache_are_made_again(
    tiny: Path, tmp_path: Path, pattern: str, damage: Callable[[Path], object]
) -> None:
    work = Path(shutil.copytree(tiny / "work", tmp_path / "work"))
    paths = sorted(work.rglob(pattern))
    assert paths
    for path in paths:
        damage(path)
    assert convert_tiny(tiny, tmp_path / "b", work) == 0
    assert contents(tmp_path / "b") == contents(tiny / "b")


def measured(reference: Path, matrices: list[ModelTensor], kinds: dict[str, list[GgmlType]]) -> Sensitivities:
    """Losses and divergences of random size."""
    random = np.random.default_rng(2)
    found = Sensitivities(reference.parent)
    for tensor in matrices:
        falling = sorted(random.random(len(kinds[tensor.name])), reverse=True)
        found.losses[tensor.name] = {
            kind.name: float(loss) for kind, loss in zip(kinds[tensor.name], falling, strict=True)
        }
        found.divergences[tensor.name] = {kinds[tensor.name][0].name: float(random.random())}
    return found


@pytest.mark.parametrize(("name", "licence"), [("m", None), ("ü" * 63, "x" * 100)], ids=("short", "long"))
def test_a_file_is_within_the_budget_and_a_step_more_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, licence: str | None
) -> None:
    """This holds whatever else is in the file. Matrices have odd rows, and columns of which some fit no block."""
    checkpoint = make_checkpoint(hidden=96, heads=3, heads_kv=1, feed_forward=145, vocab_size=321).write(tmp_path / "c")
    monkeypatch.setattr("convert.conversion.write_reference", lambda *_: tmp_path / "reference.gguf")
    monkeypatch.setattr("convert.conversion.LoadedVocabulary", lambda _path: nullcontext())
    monkeypatch.setattr("convert.conversion.chunks", lambda *_, **_more: [])
    monkeypatch.setattr("convert.measure.sensitivity.measure_sensitivities", lambda *given, **_: measured(*given[:3]))
    texts = Texts("t", "0", [])

    def job(budget: int) -> Job:
        tuning = Tuning(budget=budget, calibration=texts, evaluation=texts, seed=0, work=tmp_path)
        return Job(checkpoint=checkpoint, quantization=Quantization.AUTO, name=name, licence=licence, tuning=tuning)

    with open_source(job(1)) as source:
        with pytest.raises(ConvertError, match="at least") as caught:
            decide_types(job(1000), source, ignore_progress)
        smallest = int(str(caught.value).partition("at least ")[2].split()[0])
        for budget in range(smallest, smallest + 140_000, 10_407):
            plan, tuned = decide_types(job(budget), source, ignore_progress)
            assert tuned is not None
            size = plan.file_bytes
            assert size <= budget
            assert decide_types(job(size), source, ignore_progress)[0].file_bytes == size
        plan.write(tmp_path / "model.gguf")
        assert (tmp_path / "model.gguf").stat().st_size == size
