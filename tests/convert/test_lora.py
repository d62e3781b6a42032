"""`--lora`: a PEFT adapter becomes adapter.gguf, or is refused by name, field and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from convert.cli import main
from tests.convert.adapters import PREFIX, AdapterFiles, make_adapter
from tests.convert.checkpoints import CheckpointFiles, make_checkpoint
from tests.convert.gguf_reading import Gguf, read_gguf

Q0 = "model.layers.0.self_attn.q_proj"


def shapes(files: CheckpointFiles) -> dict[str, tuple[int, ...]]:
    return {name: values.shape for name, values in files.tensors.items()}


@pytest.fixture
def checkpoint() -> CheckpointFiles:
    return make_checkpoint(tied=False)


@pytest.fixture
def adapter(checkpoint: CheckpointFiles) -> AdapterFiles:
    return make_adapter(shapes(checkpoint))


def convert(tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles, *more: str) -> int:
    words = [str(checkpoint.write(tmp_path / "base")), "--out", str(tmp_path / "b"), "--type", "q8_0", "--no-canaries"]
    return main([*words, "--lora", str(adapter.write(tmp_path / "lora")), *more])


def converted(tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles) -> Gguf:
    assert convert(tmp_path, checkpoint, adapter) == 0
    return read_gguf(tmp_path / "b" / "adapter.gguf")


def numbers(gguf: Gguf, name: str) -> np.ndarray:
    tensor = gguf.tensors[name]
    halves = np.frombuffer(tensor.data, np.float16).reshape(tensor.shape[::-1])
    return halves.astype(np.float32)


def stored(adapter: AdapterFiles, name: str) -> np.ndarray:
    return np.asarray((adapter.tensors[f"{PREFIX}{name}"].astype(np.uint32) << 16).view(np.float32))


def product(gguf: Gguf, name: str) -> np.ndarray:
    """What llama.cpp adds to the matrix: alpha / rank · B·A."""
    a, b = numbers(gguf, f"{name}.lora_a"), numbers(gguf, f"{name}.lora_b")
    scale = float(gguf.values()["adapter.lora.alpha"]) / len(a)
    return np.asarray(scale * (b @ a))


def test_the_adapter_file_is_as_upstream_writes_it(
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
    matrices = [f"blk.{layer}.{part}.weight" for layer in range(2) for part in parts]
    assert set(gguf.tensors) == {f"{name}.lora_{side}" for name in matrices for side in "ab"}
    assert gguf.tensors["blk.0.ffn_down.weight.lora_a"].shape == (512, 4)
    assert gguf.tensors["blk.0.ffn_down.weight.lora_b"].shape == (4, 256)
    np.testing.assert_allclose(
        numbers(gguf, "blk.0.attn_q.weight.lora_a"), stored(adapter, f"{Q0}.lora_A.weight"), rtol=1e-3, atol=1e-7
    )


def test_the_manifest_lists_the_adapter_and_its_sources(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles
) -> None:
    converted(tmp_path, checkpoint, adapter)

    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text("utf-8"))
    assert set(manifest["files"]) == {"model.gguf", "adapter.gguf"}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(manifest["source"]["files"])
    assert main(["verify", str(tmp_path / "b")]) == 0
    (tmp_path / "b" / "adapter.gguf").write_bytes(b"")
    assert main(["verify", str(tmp_path / "b")]) == 1


def test_equal_adapters_give_equal_bytes(tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles) -> None:
    converted(tmp_path, checkpoint, adapter)
    first = (tmp_path / "b" / "adapter.gguf").read_bytes()

    assert convert(tmp_path, checkpoint, adapter, "--force") == 0

    assert (tmp_path / "b" / "adapter.gguf").read_bytes() == first


def test_the_output_matrix_of_its_own_is_adapted(tmp_path: Path, checkpoint: CheckpointFiles) -> None:
    gguf = converted(tmp_path, checkpoint, make_adapter(shapes(checkpoint), modules=("lm_head",)))

    assert gguf.tensors["output.weight.lora_b"].shape == (4, 320)


@pytest.mark.parametrize("name", [f"{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_A.default.weight"])
def test_names_without_prefix_or_with_the_adapters_name_are_read(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles, name: str
) -> None:
    expected = stored(adapter, f"{Q0}.lora_A.weight")
    adapter.tensors[name] = adapter.tensors.pop(f"{PREFIX}{Q0}.lora_A.weight")

    gguf = converted(tmp_path, checkpoint, adapter)

    np.testing.assert_allclose(numbers(gguf, "blk.0.attn_q.weight.lora_a"), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "ranks", "scales"),
    [
        ({}, {}, {"q": 8 / 4, "down": 8 / 4}),
        ({"use_rslora": True}, {}, {"q": 8 / sqrt(4), "down": 8 / sqrt(4)}),
        ({}, {"down_proj": 2}, {"q": 8 / 4, "down": 8 / 2}),
        ({"use_rslora": True}, {"down_proj": 2}, {"q": 8 / sqrt(4), "down": 8 / sqrt(2)}),
        ({"alpha_pattern": {"q_proj": 2.0}}, {}, {"q": 2 / 4, "down": 8 / 4}),
        ({"alpha_pattern": {f"^{Q0}": 3, "q_proj": 2}}, {}, {"q": 3 / 4, "down": 8 / 4}),
        ({"alpha_pattern": {"^q_proj": 2, "proj": 2}}, {}, {"q": 8 / 4, "down": 8 / 4}),
    ],
)
def test_the_scale_is_pefts(
    tmp_path: Path,
    checkpoint: CheckpointFiles,
    config: dict[str, object],
    ranks: dict[str, int],
    scales: dict[str, float],
) -> None:
    adapter = make_adapter(shapes(checkpoint), ranks=ranks)
    adapter.config |= config

    gguf = converted(tmp_path, checkpoint, adapter)

    for part, module in (("q", Q0), ("down", "model.layers.0.mlp.down_proj")):
        a, b = (stored(adapter, f"{module}.lora_{side}.weight") for side in "AB")
        name = {"q": "blk.0.attn_q.weight", "down": "blk.0.ffn_down.weight"}[part]
        np.testing.assert_allclose(product(gguf, name), scales[part] * (b @ a), rtol=5e-3, atol=1e-4)


def drop(name: str) -> Callable[[AdapterFiles], object]:
    return lambda files: files.tensors.pop(f"{PREFIX}{name}")


def put(name: str, values: np.ndarray) -> Callable[[AdapterFiles], object]:
    return lambda files: files.tensors.__setitem__(f"{PREFIX}{name}", values)


def say(**fields: object) -> Callable[[AdapterFiles], object]:
    return lambda files: files.config.update(fields)


def holding(value: float) -> np.ndarray:
    values = np.zeros((4, 256), np.float32)
    values[1, 7] = value
    return values


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (say(peft_type="IA3"), "adapter_config.json: peft_type is 'IA3', allowed is LORA"),
        (say(r=0), "adapter_config.json: r is 0, allowed is an integer from 1 to"),
        (say(r="8"), "adapter_config.json: r is '8'"),
        (say(lora_alpha=0), "adapter_config.json: lora_alpha is 0, allowed is a number from 1e-06 to 1e+06"),
        (say(lora_alpha=1e-50), "adapter_config.json: lora_alpha is 1e-50, allowed is a number from 1e-06 to 1e+06"),
        (say(lora_alpha=3e38), "adapter_config.json: lora_alpha is 3e+38"),
        (say(lora_alpha=float("nan")), "adapter_config.json: "),
        (say(lora_alpha=None), "adapter_config.json: lora_alpha is None"),
        (say(bias="lora_only"), "adapter_config.json: bias is 'lora_only', allowed is none"),
        (say(use_dora=True), "adapter_config.json: use_dora is True, allowed is false"),
        (say(lora_bias=True), "adapter_config.json: lora_bias is True"),
        (say(use_rslora=1), "adapter_config.json: use_rslora is 1, allowed is true or false"),
        (say(modules_to_save=["lm_head"]), "adapter_config.json: modules_to_save is ['lm_head']"),
        (say(layer_replication=[[0, 2]]), "adapter_config.json: layer_replication is"),
        (say(init_lora_weights="pissa"), "adapter_config.json: init_lora_weights is 'pissa'"),
        (say(rank_pattern={".*q_proj": 2}), "adapter_config.json: rank_pattern's key is '.*q_proj'"),
        (say(rank_pattern={"q_proj": 2}), "has shape [4, 256], allowed is [2, 256]"),
        (say(alpha_pattern={"q_proj": -1}), "adapter_config.json: alpha_pattern.q_proj is -1"),
        (say(target_modules=["q_proj"]), "target_modules has q_proj only"),
        (say(target_modules=3), "adapter_config.json: target_modules is 3"),
        (say(r=8), "has shape [4, 256], allowed is [8, 256]"),
        (drop(f"{Q0}.lora_A.weight"), f"{Q0}: lora_A.weight is missing"),
        (drop(f"{Q0}.lora_B.weight"), f"{Q0}: lora_B.weight is missing"),
        (put(f"{Q0}.lora_A.weight", holding(np.nan)), "holds an infinity or NaN in row 1, column 7"),
        (put(f"{Q0}.lora_A.weight", holding(1e6)), "holds 1e+06, allowed is what F16 holds, 65504"),
        (put(f"{Q0}.lora_A.weight", holding(1e-9)), "holds nothing above 1e-09, allowed is what F16 holds, from 5.96"),
        (say(lora_alpha=1e-6, alpha_pattern={"q_proj": 1e6}), "allowed is what F16 holds, 65504"),
        (put(f"{Q0}.lora_A.weight", np.zeros((4, 128), np.float32)), "has shape [4, 128], allowed is [4, 256]"),
        (put(f"{Q0}.lora_B.weight", np.zeros((64, 4), np.float32)), "has shape [64, 4], allowed is [256, 4]"),
        (put(f"{Q0}.lora_A.weight", np.zeros(4, np.float32)), "has shape [4], allowed is [4, 256]"),
        (put(f"{Q0}.lora_B.bias", np.zeros(4, np.float32)), "no biases"),
        (put(f"{Q0}.lora_magnitude_vector", np.zeros(4, np.float32)), "no magnitudes (DoRA)"),
        (put("model.layers.0.input_layernorm.weight", np.zeros(4, np.float32)), "no modules saved whole"),
        (put("model.layers.9.self_attn.q_proj.lora_A.weight", holding(0)), "the base model has no such matrix"),
        (put("model.embed_tokens.lora_embedding_A", holding(0)), "an adapter of the embedding is not supported"),
        (put("model.embed_tokens.lora_A.weight", holding(0)), "an adapter of the embedding is not supported"),
        (put("../x\x1b.lora_A.weight", holding(0)), "../x\\x1b"),
        (lambda files: files.tensors.clear(), "adapter_model.safetensors: holds no tensors"),
    ],
)  # fmt: skip
def test_an_unsupported_or_damaged_adapter_is_refused(
    tmp_path: Path,
    checkpoint: CheckpointFiles,
    adapter: AdapterFiles,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[AdapterFiles], object],
    expected: str,
) -> None:
    damage(adapter)

    assert convert(tmp_path, checkpoint, adapter) == 65

    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_missing_modules_that_were_trained_are_named(
    tmp_path: Path, checkpoint: CheckpointFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(shapes(checkpoint), modules=("q_proj",))
    adapter.config["target_modules"] = ["q_proj", "v_proj", "of_another_family"]

    assert convert(tmp_path, checkpoint, adapter) == 65
    assert "holds nothing of v_proj" in capsys.readouterr().err


def test_an_output_matrix_that_is_the_embedding_is_not_adapted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(shapes(make_checkpoint(tied=False)), modules=("lm_head",))

    assert convert(tmp_path, make_checkpoint(tied=True), adapter) == 65
    assert "tie_word_embeddings is true" in capsys.readouterr().err


def test_a_tensor_that_is_there_twice_is_refused(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter.tensors[f"{Q0}.lora_A.weight"] = holding(0)

    assert convert(tmp_path, checkpoint, adapter) == 65
    assert "appears twice" in capsys.readouterr().err


def test_an_adapter_of_another_size_of_model_is_refused(
    tmp_path: Path, checkpoint: CheckpointFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(tmp_path, checkpoint, make_adapter(shapes(make_checkpoint(hidden=128)))) == 65
    assert "is it of another model?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "warned"), [("Qwen/Qwen2.5-7B", True), ("somewhere/base/", False), ("x/of-config", False), (None, False)]
)
def test_an_adapter_that_names_another_base_is_warned_about(
    tmp_path: Path,
    checkpoint: CheckpointFiles,
    adapter: AdapterFiles,
    base: str | None,
    *,
    warned: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint.config["_name_or_path"] = "org/of-config"
    adapter.config["base_model_name_or_path"] = base

    assert convert(tmp_path, checkpoint, adapter) == 0
    assert ("base_model_name_or_path" in capsys.readouterr().err) is warned


def test_a_folder_that_is_no_adapter_is_refused(
    tmp_path: Path, checkpoint: CheckpointFiles, adapter: AdapterFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        str(checkpoint.write(tmp_path / "base")),
        "--out",
        str(tmp_path / "b"),
        "--type",
        "q8_0",
        "--no-canaries",
        "--lora",
    ]
    folder = adapter.write(tmp_path / "lora")

    assert main([*words, str(tmp_path / "nowhere")]) == 65
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert main([*words, str(folder)]) == 65
    (folder / "adapter_model.bin").unlink()
    assert main([*words, str(folder)]) == 65
    (folder / "adapter_config.json").unlink()
    assert main([*words, str(folder)]) == 65

    nowhere, pickled, gone, without_config = capsys.readouterr().err.splitlines()
    assert "no such adapter folder" in nowhere
    assert "adapter_model.bin: not supported" in pickled
    assert "adapter_model.safetensors: the file is missing" in gone
    assert "adapter_config.json: missing in" in without_config
