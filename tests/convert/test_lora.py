"""`--lora`: a PEFT adapter becomes adapter.gguf, is measured with the model, or is refused by name and field."""

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from convert.errors import ConvertError
from convert.evaluate.canaries import differences
from convert.evaluate.worker import AdaptedModel
from convert.measure.runner import Runner
from edge_agent.tools.demo.readings import checkpoint_folder, held_out
from tests.convert.adapters import PREFIX, AdapterFiles, make_adapter, to_f32
from tests.convert.checkpoints import CheckpointFiles, make_checkpoint
from tests.convert.conversions import Cli, ignore_progress, run
from tests.convert.gguf_reading import Gguf, read_gguf
from tests.engine.adapters import bundle_with, demo_adapter, merged_bundle
from tests.helpers.bundles import DEMO_TASKS, write_lines

Q0 = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def checkpoint() -> CheckpointFiles:
    return make_checkpoint(layers=1, tied=False)


@pytest.fixture
def adapter(checkpoint: CheckpointFiles) -> AdapterFiles:
    return make_adapter(checkpoint.tensors)


def words_for(tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles) -> tuple[object, ...]:
    words = (checkpoint.write(tmp_path / "base"), "--out", tmp_path / "b", "--type", "q8_0")
    return (*words, "--lora", adapter.write(tmp_path / "lora"))


def converted(tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles) -> Gguf:
    assert run(*words_for(tmp_path, checkpoint, adapter), "--force") == 0
    return read_gguf(tmp_path / "b" / "adapter.gguf")


def numbers(gguf: Gguf, name: str) -> np.ndarray:
    tensor = gguf.tensors[name]
    return np.frombuffer(tensor.data, np.float16).reshape(tensor.shape[::-1]).astype(np.float32)


def test_the_adapter_file_is_as_upstream_writes_it_and_the_manifest_lists_it(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles
) -> None:
    gguf = converted(tmp_path, checkpoint, adapter)

    assert gguf.values() == {
        "general.architecture": "qwen2",
        "general.type": "adapter",
        "general.name": "model",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert set(gguf.tensors) == {f"blk.0.{part}.weight.lora_{side}" for part in parts for side in "ab"}
    assert gguf.tensors["blk.0.ffn_down.weight.lora_a"].shape == (512, 4)
    assert gguf.tensors["blk.0.ffn_down.weight.lora_b"].shape == (4, 256)
    expected = to_f32(adapter.tensors[f"{PREFIX}{Q0}.lora_A.weight"])
    np.testing.assert_allclose(numbers(gguf, "blk.0.attn_q.weight.lora_a"), expected, rtol=1e-3, atol=1e-7)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text("utf-8"))
    assert set(manifest["files"]) == {"model.gguf", "adapter.gguf"}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(manifest["source"]["files"])


def test_the_output_matrix_of_its_own_is_adapted(tmp_path: Path, checkpoint: CheckpointFiles) -> None:
    gguf = converted(tmp_path, checkpoint, make_adapter(checkpoint.tensors, modules=("lm_head",)))
    assert gguf.tensors["output.weight.lora_b"].shape == (4, 320)


def test_names_without_prefix_or_with_the_adapters_name_are_read(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles
) -> None:
    first = (converted(tmp_path, checkpoint, adapter), (tmp_path / "b" / "adapter.gguf").read_bytes())[1]
    for name in (f"{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_A.default.weight"):
        other = AdapterFiles(adapter.config, dict(adapter.tensors))
        other.tensors[name] = other.tensors.pop(f"{PREFIX}{Q0}.lora_A.weight")
        converted(tmp_path, checkpoint, other)
        assert (tmp_path / "b" / "adapter.gguf").read_bytes() == first


def test_a_rank_stabilized_adapter_has_pefts_scale(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles
) -> None:
    adapter.config["use_rslora"] = True
    alpha = converted(tmp_path, checkpoint, adapter).values()["adapter.lora.alpha"]
    # llama.cpp divides it by the rank, which is 4.
    assert alpha / 4 == pytest.approx(8 / sqrt(4))


Damage = Callable[[AdapterFiles], object]


def drop(name: str) -> Damage:
    return lambda files: files.tensors.pop(f"{PREFIX}{name}")


def put(name: str, values: np.ndarray) -> Damage:
    return lambda files: files.tensors.__setitem__(f"{PREFIX}{name}", values)


def say(**fields: object) -> Damage:
    return lambda files: files.config.update(fields)


def holding(value: float) -> np.ndarray:
    values = np.zeros((4, 256), np.float32)
    values[1, 7] = value
    return values


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (say(peft_type="IA3"), "adapter_config.json: peft_type: should be 'LORA'"),
        (say(r=0), "adapter_config.json: r: should be "),
        (say(lora_alpha=0), "adapter_config.json: lora_alpha: should be "),
        (say(lora_alpha=None), "adapter_config.json: lora_alpha: should be "),
        (say(bias="lora_only"), "adapter_config.json: bias: should be 'none'"),
        (say(use_dora=True), "adapter_config.json: use_dora is True; only plain LoRA"),
        (say(use_rslora=1), "adapter_config.json: use_rslora: should be a valid boolean"),
        (say(modules_to_save=["lm_head"]), "adapter_config.json: modules_to_save is ['lm_head']"),
        (say(init_lora_weights="pissa"), "adapter_config.json: init_lora_weights: should be "),
        (say(rank_pattern={"q_proj": 2}), "adapter_config.json: rank_pattern is {'q_proj': 2}"),
        (say(r=8), "has shape [4, 256], allowed is [8, 256]"),
        (drop(f"{Q0}.lora_A.weight"), f"{Q0}: lora_A.weight is missing"),
        (put(f"{Q0}.lora_A.weight", holding(np.nan)), "holds an infinity, NaN or more than F16 can hold"),
        (put(f"{Q0}.lora_A.weight", holding(1e6)), "holds an infinity, NaN or more than F16 can hold"),
        (put(f"{Q0}.lora_B.weight", np.zeros((64, 4), np.float32)), "has shape [64, 4], allowed is [256, 4]"),
        (put(f"{Q0}.lora_A.weight", np.zeros(4, np.float32)), "has shape [4], allowed is [4, 256]"),
        (put(f"{Q0}.lora_B.bias", np.zeros(4, np.float32)), "no biases"),
        (put("model.layers.0.input_layernorm.weight", np.zeros(4, np.float32)), "no modules saved whole"),
        (put("model.layers.9.self_attn.q_proj.lora_A.weight", holding(0)), "of this model's matrices"),
        (put("model.embed_tokens.lora_A.weight", holding(0)), "matrices but the embedding"),
        (put("../x\x1b.lora_A.weight", holding(0)), "../x\\x1b"),
        (lambda files: files.tensors.clear(), "adapter_model.safetensors: holds no tensors"),
    ],
)  # fmt: skip
def test_an_unsupported_or_damaged_adapter_is_refused(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles, cli: Cli, damage: Damage, expected: str
) -> None:
    damage(adapter)
    done = cli(*words_for(tmp_path, checkpoint, adapter))
    assert (done.returncode, done.stderr.count("\n")) == (65, 1)
    assert expected in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_matrix_that_is_the_embedding_is_not_adapted(tmp_path: Path, checkpoint: CheckpointFiles, cli: Cli) -> None:
    adapter = make_adapter(checkpoint.tensors, modules=("lm_head",))
    done = cli(*words_for(tmp_path, make_checkpoint(layers=1, tied=True), adapter))
    assert (done.returncode, "lm_head.lora_A.weight: allowed are" in done.stderr) == (65, True)


def test_a_folder_that_is_no_adapter_is_refused(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles, cli: Cli
) -> None:
    *words, folder = words_for(tmp_path, checkpoint, adapter)
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    for path, fault in ((folder, "adapter_model.safetensors: the file is"), (tmp_path, "adapter_config.json: missing")):
        done = cli(*words, path)
        assert (done.returncode, fault in done.stderr) == (65, True)


TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 500, 60)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration model with an adapter."""
    return bundle_with(demo_adapter(), tmp_path_factory.mktemp("adapted"))


def logits(model: Path, *adapters: Path) -> np.ndarray:
    with Runner(model / "model.gguf", adapters) as runner:
        return runner.logits(TOKENS).copy()


def test_a_model_runs_with_all_adapters_that_are_given(bundle: Path, tmp_path: Path) -> None:
    adapters = [demo_adapter(), demo_adapter(seed=4, strength=0.04)]
    other = bundle_with(adapters[1], tmp_path)
    adapted = logits(bundle, bundle / "adapter.gguf", other / "adapter.gguf")
    np.testing.assert_allclose(adapted, logits(merged_bundle(adapters, tmp_path)), atol=0.05)
    assert np.abs(adapted - logits(bundle)).max() > 1
    with pytest.raises(ConvertError, match=r"model\.gguf: general\.type: should be \"adapter\""):
        logits(bundle, bundle / "model.gguf")


@pytest.mark.usefixtures("few_texts")
def test_a_bundle_is_evaluated_with_its_adapter(bundle: Path, tmp_path: Path, cli: Cli) -> None:
    texts = tmp_path / "readings.txt"
    texts.write_text("\n".join(json.dumps(reading.payload) for reading in held_out()), "utf-8")

    def divergence(model: Path, against: Path) -> float:
        words = ["evaluate", model, "--against", against, "--work", tmp_path / "work", "--eval", texts, "--json"]
        return float(cli(*words).document["divergence"]["mean"])

    assert divergence(bundle, merged_bundle([demo_adapter()], tmp_path)) < 1e-3
    assert divergence(bundle, checkpoint_folder()) < 1e-3, "the checkpoint gets the adapter too"
    assert divergence(bundle / "model.gguf", bundle) > 0.02, "a file is taken as it is"


def test_answers_are_recorded_with_the_adapter(tmp_path: Path) -> None:
    lora = demo_adapter(strength=0.2).write(tmp_path / "lora")
    lines = [{"task": "machine-triage", "input": reading.payload} for reading in held_out()[:2]]
    requests = write_lines(tmp_path / "requests.jsonl", *lines)
    words = ["--tasks", DEMO_TASKS, "--canaries", requests, "--lora", lora]
    assert run(checkpoint_folder(), "--out", tmp_path / "b", "--type", "f16", *words) == 0
    assert differences(tmp_path / "b", AdaptedModel.from_path(tmp_path / "b"), ignore_progress) == []
    assert differences(tmp_path / "b", AdaptedModel(tmp_path / "b" / "model.gguf"), ignore_progress)
