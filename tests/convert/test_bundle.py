"""The bundle on disk: whole or not there, the same bytes for the same input, and verifiable."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from convert.errors import CheckpointError, ConvertError
from convert.plan import make_plan
from convert.quantize.recipe import Quantization
from convert.read.checkpoint import Checkpoint
from convert.read.model import read_model
from convert.write.bundle import new_bundle, verify_bundle
from edge_agent.gguf.model import read_model_facts
from tests.convert.checkpoints import CheckpointFiles, make_checkpoint
from tests.convert.conversions import convert
from tests.convert.gguf_reading import read_gguf


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    files = make_checkpoint()
    files.more["README.md"] = "---\nlanguage:\n- en\nlicense: apache-2.0\n---\nA model.\n"
    files.more["generation_config.json"] = json.dumps({"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1})
    return files.write(tmp_path / "checkpoint")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to put bundles into."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_the_manifest_has_exactly_the_fields_of_the_contract(checkpoint: Path, folder: Path) -> None:
    manifest = convert(checkpoint, folder / "b", name="pump", version=3)
    model = (folder / "b" / "model.gguf").read_bytes()
    assert manifest.keys() == {
        *("schema", "name", "version", "architecture", "quantization", "licence", "files", "source", "recipe", "tools"),
        *("context_length", "chat_template_sha256", "quality"),
    }
    assert (manifest["schema"], manifest["name"], manifest["version"]) == (1, "pump", 3)
    assert (manifest["architecture"], manifest["quantization"]) == ("qwen2", "Q8_0")
    assert (manifest["licence"], manifest["context_length"]) == ("apache-2.0", 512)
    assert manifest["files"] == {"model.gguf": {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}}
    assert manifest["recipe"]["imatrix_sha256"] is None
    facts = read_model_facts(folder / "b" / "model.gguf")
    assert facts.chat_template_sha256 == manifest["chat_template_sha256"] is not None
    assert manifest["recipe"]["types"] == read_gguf(folder / "b" / "model.gguf").types()
    assert manifest["quality"] is None
    assert manifest["source"]["revision"] is None
    assert manifest["source"]["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.iterdir()
    }


def test_the_manifest_is_canonical_json_without_paths(checkpoint: Path, folder: Path) -> None:
    manifest = convert(checkpoint, folder / "b")
    stored = (folder / "b" / "manifest.json").read_bytes()
    assert stored == json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert str(checkpoint).encode() not in stored


def test_the_same_checkpoint_gives_the_same_bytes_in_another_place(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "one")
    checkpoint.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    convert(tmp_path / "moved", tmp_path / "elsewhere" / "two")
    for name in ("model.gguf", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "elsewhere" / "two" / name).read_bytes()


def test_shards_give_the_same_model_file_as_one_file(tmp_path: Path) -> None:
    convert(make_checkpoint(tied=False).write(tmp_path / "whole"), tmp_path / "one")
    convert(make_checkpoint(tied=False, shards=3).write(tmp_path / "sharded"), tmp_path / "three")
    assert (tmp_path / "one" / "model.gguf").read_bytes() == (tmp_path / "three" / "model.gguf").read_bytes()


def test_general_keys_come_from_options_and_checkpoint(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b")
    values = read_gguf(folder / "b" / "model.gguf").values()
    assert {key: value for key, value in values.items() if key.startswith("general.")} == {
        "general.architecture": "qwen2",
        "general.type": "model",
        "general.name": "model",
        "general.license": "apache-2.0",
        "general.size_label": "1.3M",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "general.sampling.top_k": 20,
        "general.sampling.temp": pytest.approx(0.7),
        "general.sampling.penalty_repeat": pytest.approx(1.1),
    }


def test_named_chat_templates_are_written_under_their_names(tmp_path: Path) -> None:
    files = make_checkpoint(layers=1)
    named = [
        {"name": "default", "template": "a"},
        {"name": "tool-use", "template": "b"},
        {"name": "rag", "template": "c"},
    ]
    files.tokenizer_config["chat_template"] = named
    convert(files.write(tmp_path / "checkpoint"), tmp_path / "b")
    values = read_gguf(tmp_path / "b" / "model.gguf").values()
    assert values["tokenizer.chat_template"] == "a"
    assert values["tokenizer.chat_template.tool_use"] == "b"
    assert values["tokenizer.chat_templates"] == ["rag", "tool_use"]


def test_llama_cpp_loads_the_model_and_tokenizes_by_its_merges(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b")
    model = llama_cpp.Llama(str(folder / "b" / "model.gguf"), n_ctx=64, verbose=False)
    try:
        ids = model.tokenize(b"<|im_start|>hello w", add_bos=True, special=True)
        assert [model.detokenize([token], special=True) for token in ids] == [b"<|im_start|>", b"hello", b" w"]
        assert model.eval(ids) is None
    finally:
        model.close()


def test_an_untied_model_has_an_output_matrix_and_a_tied_one_has_none(tmp_path: Path) -> None:
    convert(make_checkpoint(tied=True).write(tmp_path / "tied"), tmp_path / "b1")
    convert(make_checkpoint(tied=False).write(tmp_path / "untied"), tmp_path / "b2")
    assert "output.weight" not in read_gguf(tmp_path / "b1" / "model.gguf").tensors
    assert "output.weight" in read_gguf(tmp_path / "b2" / "model.gguf").tensors


@pytest.mark.parametrize("differs", [True, False])
def test_a_stray_output_matrix_of_a_tied_model_is_left_out_with_a_warning_if_it_differs(
    tmp_path: Path, *, differs: bool
) -> None:
    files = make_checkpoint()
    head = files.tensors["model.embed_tokens.weight"].copy()
    head[-1, -1] ^= 1 if differs else 0
    files.tensors["lm_head.weight"] = head
    with Checkpoint(files.write(tmp_path / "checkpoint")) as checkpoint:
        model = read_model(checkpoint)
    assert "output.weight" not in [tensor.name for tensor in model.tensors]
    assert [warning.startswith("lm_head.weight differs") for warning in model.warnings] == [True] * differs


def test_a_rotary_buffer_is_ignored(tmp_path: Path) -> None:
    files = make_checkpoint()
    files.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = files.tensors["model.norm.weight"]
    convert(files.write(tmp_path / "checkpoint"), tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "tensor model.norm.weight: missing"),
        (lambda t: t.pop("lm_head.weight"), "lm_head.weight: missing in the checkpoint (tie_word_embeddings is false)"),
        (lambda t: t.update({"model.layers.2.x": t["model.norm.weight"]}), "tensor model.layers.2.x is not part of"),
        (
            lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:-1]}),
            "has shape [255], config.json asks for",
        ),
        (
            lambda t: t.update({"model.embed_tokens.weight": t["model.embed_tokens.weight"][:265]}),
            "model.embed_tokens.weight has shape [265, 256], config.json asks for [320, 256]",
        ),
    ],
)
def test_tensors_that_do_not_make_the_model_of_config_json_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    files = make_checkpoint(tied=False)
    change(files.tensors)
    with Checkpoint(files.write(tmp_path / "checkpoint")) as checkpoint, pytest.raises(CheckpointError) as caught:
        read_model(checkpoint)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: 'mit'  # as upstream\n---\n", "mit"),
        ("---\nlicense:\n- mit\n---\n", None),
        ("---\ntags: x\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\nlicense: mit and more\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_is_the_one_that_the_model_card_states(tmp_path: Path, card: str, licence: str | None) -> None:
    files = make_checkpoint(layers=1)
    files.more["README.md"] = card
    with Checkpoint(files.write(tmp_path / "checkpoint")) as checkpoint:
        model = read_model(checkpoint)
    assert make_plan(model, Quantization.BF16).licence == licence
    assert make_plan(model, Quantization.BF16, licence="mine").licence == "mine"


def test_a_failure_in_the_middle_leaves_nothing(folder: Path) -> None:
    def fail() -> None:
        with new_bundle(folder / "b", replace=False) as temporary:
            (temporary / "model.gguf").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(folder.iterdir()) == []


def test_a_bad_weight_found_late_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    files = make_checkpoint(tied=False)
    files.tensors["lm_head.weight"][-1, -1] = 0x7FC0  # NaN in the last tensor that is written
    with pytest.raises(CheckpointError, match="row 319, column 255"):
        convert(files.write(tmp_path / "checkpoint"), folder / "b")
    assert list(folder.iterdir()) == []


def test_an_existing_bundle_is_not_touched_without_force(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b", name="old")
    with pytest.raises(ConvertError, match="exists already; --force replaces it"):
        convert(checkpoint, folder / "b", name="new")
    assert json.loads((folder / "b" / "manifest.json").read_bytes())["name"] == "old"


def test_force_replaces_a_bundle_and_leaves_nothing_of_it(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b", name="old")
    manifest = json.loads((folder / "b" / "manifest.json").read_bytes())
    manifest["files"]["canaries.json"] = {"sha256": hashlib.sha256(b"[]").hexdigest(), "bytes": 2}
    (folder / "b" / "manifest.json").write_text(json.dumps(manifest))
    (folder / "b" / "canaries.json").write_text("[]")
    (folder / "b" / "manifest.sig").write_bytes(bytes(64))
    convert(checkpoint, folder / "b", name="new", replace=True)
    assert json.loads((folder / "b" / "manifest.json").read_bytes())["name"] == "new"
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert sorted(path.name for path in (folder / "b").iterdir()) == ["manifest.json", "model.gguf"]


def test_a_failed_replacement_leaves_the_older_bundle(tmp_path: Path, checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b", name="old")
    files = make_checkpoint()
    files.tensors["model.norm.weight"][3] = 0x7F80
    with pytest.raises(CheckpointError, match="infinity"):
        convert(files.write(tmp_path / "bad"), folder / "b", replace=True)
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert verify_bundle(folder / "b")[1] == []


def test_force_deletes_nothing_that_is_not_a_bundle(checkpoint: Path, folder: Path) -> None:
    (folder / "home").mkdir()
    (folder / "home" / "letter.txt").write_text("dear")
    (folder / "file").write_text("text")
    (folder / "link").symlink_to(folder / "home")
    for name in ("home", "file", "link"):
        with pytest.raises(ConvertError, match="not a bundle"):
            convert(checkpoint, folder / name, replace=True)
    assert (folder / "home" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"name": "pwa"}',
        '{"schema": 1, "files": {}}',
        '{"schema": 1, "files": {"precious": {}}}',
        '{"schema": true, "files": {"model.gguf": {}, "precious": {}}}',
    ],
)
def test_force_spares_a_folder_with_another_kind_of_manifest(checkpoint: Path, folder: Path, text: str) -> None:
    (folder / "web").mkdir()
    (folder / "web" / "manifest.json").write_text(text)
    (folder / "web" / "precious").write_text("x")
    with pytest.raises(ConvertError, match=r"web: not a bundle \(manifest\.json: .*\), so --force does not replace it"):
        convert(checkpoint, folder / "web", replace=True)
    assert (folder / "web" / "precious").read_text() == "x"


def test_force_spares_a_bundle_with_other_files(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b", name="old")
    (folder / "b" / "my\x1bnotes").write_text("x")
    with pytest.raises(ConvertError, match=r"b: holds my\\x1bnotes, which manifest\.json does not list"):
        convert(checkpoint, folder / "b", replace=True)
    assert (folder / "b" / "my\x1bnotes").read_text() == "x"


def test_force_spares_a_folder_under_the_name_of_a_listed_file(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b", name="old")
    (folder / "b" / "model.gguf").unlink()
    (folder / "b" / "model.gguf").mkdir()
    (folder / "b" / "model.gguf" / "precious").write_text("x")
    with pytest.raises(ConvertError, match=r"holds model\.gguf, which manifest\.json does not list"):
        convert(checkpoint, folder / "b", replace=True)
    assert (folder / "b" / "model.gguf" / "precious").read_text() == "x"


def test_force_replaces_a_damaged_bundle_and_an_empty_folder(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b", name="old")
    (folder / "b" / "model.gguf").unlink()
    (folder / "empty").mkdir()
    for name in ("b", "empty"):
        convert(checkpoint, folder / name, replace=True)
        assert verify_bundle(folder / name)[1] == []


def test_leftovers_of_a_killed_conversion_are_removed_and_those_of_a_running_one_are_not(
    checkpoint: Path, folder: Path
) -> None:
    for name in (".b.partial-00000000", ".b.partial-11111111"):
        (folder / name).mkdir()
        (folder / name / "model.gguf").write_bytes(b"half")
    running = os.open(folder / ".b.partial-11111111", os.O_RDONLY)
    try:
        fcntl.flock(running, fcntl.LOCK_EX)
        convert(checkpoint, folder / "b")
    finally:
        os.close(running)
    assert sorted(path.name for path in folder.iterdir()) == [".b.partial-11111111", "b"]


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ConvertError, match="1000 bytes free, the model takes"):
        convert(checkpoint, folder / "b")
    assert list(folder.iterdir()) == []


def test_a_bundle_that_is_whole_has_no_faults(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b")
    (folder / "b" / "manifest.sig").write_bytes(bytes(64))
    assert verify_bundle(folder / "b")[1] == []


def test_a_changed_byte_a_missing_file_and_an_unlisted_file_are_faults(checkpoint: Path, folder: Path) -> None:
    convert(checkpoint, folder / "b")
    model = folder / "b" / "model.gguf"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    (folder / "b" / "extra\x1b").write_text("")
    first, second = verify_bundle(folder / "b")[1]
    assert first.startswith("model.gguf: SHA-256 ")
    assert second == r"extra\x1b: not listed in manifest.json"
    model.unlink()
    assert verify_bundle(folder / "b")[1][0] == "model.gguf: missing, or not a regular file"


@pytest.mark.parametrize("name", ["../model.gguf", "a/b", "..", ""])
def test_a_listed_name_that_leaves_the_bundle_is_a_fault(folder: Path, name: str) -> None:
    entry = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "files": {name: entry, "model.gguf": entry}}))
    assert any("not a plain file name" in fault for fault in verify_bundle(folder)[1])


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2, "files": {}}', '{"schema": 1, "files": {}}'])
def test_a_folder_without_a_usable_manifest_cannot_be_verified(folder: Path, text: str) -> None:
    with pytest.raises(ConvertError, match=r"manifest\.json"):
        verify_bundle(folder)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ConvertError, match=r"manifest\.json"):
        verify_bundle(folder)


def name_a_token_like_padding(files: CheckpointFiles) -> None:
    token = dict(files.tokenizer["added_tokens"][0])
    files.tokenizer["added_tokens"].append(token | {"id": 300, "content": "[PAD310]", "special": False})


@pytest.mark.parametrize(
    ("shape", "change", "expected"),
    [
        ({}, name_a_token_like_padding, "tokenizer.ggml.tokens: should have every token once, of at most 1000 bytes"),
        (
            {"hidden": 96, "heads": 32, "heads_kv": 2},
            lambda _files: None,
            "qwen2.attention.head_count: should be a divisor of the embedding's 96 that leaves heads of an even length",
        ),
        (
            {},
            lambda files: files.config.update(rope_theta=0.5),
            "qwen2.rope.freq_base: should be a number from 2 to 1e+30 as F32 (got 0.5)",
        ),
    ],
)
def test_a_model_that_the_agent_would_not_open_is_not_written(
    tmp_path: Path, folder: Path, shape: dict[str, Any], change: Callable[[CheckpointFiles], None], expected: str
) -> None:
    files = make_checkpoint(**shape)
    change(files)
    checkpoint = files.write(tmp_path / "checkpoint")

    with pytest.raises(CheckpointError) as caught:
        convert(checkpoint, folder / "b", Quantization.F16)

    assert str(caught.value).startswith(f"llama.cpp could not run the model of this checkpoint: {expected}")
    assert not list(folder.iterdir())
