"""For all forms of the family, llama.cpp computes what Qwen2's definition in numpy computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.measure.runner import Runner
from convert.measure.texts import TextDocument, Texts, chunks
from tests.convert import qwen2
from tests.convert.checkpoints import CheckpointFiles, make_checkpoint, to_bf16
from tests.convert.conversions import run
from tests.convert.gguf_reading import read_gguf
from tests.convert.test_tokenizer import R1_BOS, added, r1_distill

R1_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<think>' + m.content }}"
    "{% else %}{{ '<｜User｜>' + m.content }}{% endif %}{% endfor %}"
)


def add_rows(files: CheckpointFiles) -> CheckpointFiles:
    """Adds two tokens, each with a row of the embedding."""
    for at, text in enumerate(("<pump>", "<valve>")):
        token = {"id": 318 + at, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
        files.tokenizer["added_tokens"].append(token | {"normalized": False, "special": False})
    return files


def stretch(files: CheckpointFiles) -> CheckpointFiles:
    files.config["rope_scaling"] = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    return files


def distill(files: CheckpointFiles) -> CheckpointFiles:
    r1_distill(files).tokenizer_config["chat_template"] = R1_TEMPLATE
    files.config["rope_theta"] = 10000.0
    return files


def same(files: CheckpointFiles) -> CheckpointFiles:
    return files


# Heads and widths are in the models' proportions. Most have columns in multiples of 256, too, which K types need.
FORMS: dict[str, tuple[dict[str, Any], Callable[[CheckpointFiles], CheckpointFiles]]] = {
    "0.5B": ({"heads": 14, "heads_kv": 2, "hidden": 224}, same),
    "7B, untied": ({"heads": 28, "heads_kv": 4, "hidden": 448, "tied": False}, same),
    "R1-Distill, untied": ({"heads": 12, "heads_kv": 2, "hidden": 192, "tied": False}, distill),
    "added tokens, odd rows": ({"vocab_size": 321}, add_rows),
    "YaRN": ({"heads": 4, "heads_kv": 2}, stretch),
    "nothing fits a block": ({"heads": 5, "heads_kv": 1, "hidden": 80, "feed_forward": 144}, same),
}


def lively(files: CheckpointFiles) -> CheckpointFiles:
    """Gives norms near 1, and attention that is not spread evenly, because otherwise positions would hardly matter."""
    random = np.random.default_rng(3)
    for name, bits in files.tensors.items():
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        if "norm" in name:
            files.tensors[name] = to_bf16(1 + 0.1 * random.standard_normal(values.shape, np.float32))
        elif ".q_proj." in name or ".k_proj." in name:
            width = np.float32(files.config["hidden_size"])
            files.tensors[name] = to_bf16(values * np.float32(32) / np.sqrt(width))
    return files


@pytest.mark.parametrize("form", FORMS)
def test_a_model_computes_what_its_checkpoint_says(form: str, tmp_path: Path) -> None:
    shape, change = FORMS[form]
    files = change(lively(make_checkpoint(**shape)))
    checkpoint = files.write(tmp_path / "checkpoint")
    every = [int(token) for token in np.random.default_rng(5).permutation(files.config["vocab_size"])[:256]]
    expected = qwen2.logits(files.config, files.tensors, every)
    for kind, most in (("bf16", 1e-4), ("q8_0", 0.01)):
        assert run(checkpoint, "--type", kind, "--out", tmp_path / kind) == 0
        with Runner(tmp_path / kind / "model.gguf") as runner:
            assert qwen2.divergence(expected, runner.logits(every)) < most
    types = read_gguf(tmp_path / "bf16" / "model.gguf").types()
    assert ("output.weight" in types) != files.config["tie_word_embeddings"]


def test_r1_distill_begins_once_and_thinks_in_one_token(tmp_path: Path) -> None:
    files = distill(make_checkpoint(layers=1, tied=False))
    assert run(files.write(tmp_path / "c"), "--type", "bf16", "--out", tmp_path / "b") == 0
    stored = read_gguf(tmp_path / "b" / "model.gguf").values()
    assert stored["tokenizer.ggml.add_bos_token"] is True
    begin, think = added(files, R1_BOS)["id"], added(files, "<think>")["id"]
    talk = TextDocument(messages=(("user", "a" * 600), ("assistant", "b" * 600)))

    with Runner(tmp_path / "b" / "model.gguf") as runner:
        first, second = chunks(Texts("t", "0", [talk]), runner, seed=0, max_chunks=2)

    assert first[:2] == [begin, added(files, "<｜User｜>")["id"]]
    assert [*first, *second].count(begin) == [*first, *second].count(think) == 1
