"""`edge-convert verify` on damaged and odd folders: one printable line for each fault."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.cli import main
from convert.errors import ConvertError
from convert.write.bundle import verify_bundle
from edge_agent.core.model import ModelError
from edge_agent.models.bundle import open_model
from tests.helpers.ggufs import MODEL_TENSORS, STRING, U32, changed_model, gguf

MODEL = gguf()


def listed(data: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(MODEL)
    write_manifest(folder)
    return folder


def write_manifest(bundle: Path, *more: str) -> None:
    files = dict.fromkeys(("model.gguf", *more), listed(MODEL))
    manifest = {"schema": 1, "name": "n", "version": 1, "architecture": "qwen2", "quantization": "Q8_0", "files": files}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda manifest: manifest.unlink(), "manifest.json: cannot be read: No such file or directory"),
        (link, "manifest.json: not a regular file"),
        (pipe, "manifest.json: not a regular file"),
        (lambda manifest: os.truncate(manifest, 1 << 40), "manifest.json: longer than the 4000000 bytes allowed"),
        (lambda manifest: manifest.write_bytes(b"{\xff"), "manifest.json: not UTF-8 at byte 1"),
        (lambda manifest: manifest.write_bytes(b"[" * 100_000), "manifest.json: nested too deeply"),
        (
            lambda manifest: manifest.write_bytes(b"{}"),
            "manifest.json: not a manifest of schema 1 that lists model.gguf",
        ),
    ],
)
def test_a_folder_without_a_manifest_to_go_by_is_named(
    bundle: Path, change: Callable[[Path], object], expected: str
) -> None:
    change(bundle / "manifest.json")
    with pytest.raises(ConvertError) as caught:
        verify_bundle(bundle)
    assert str(caught.value) == f"{bundle}: {expected}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", "none: missing, or not a regular file"),
        ("a\0b", r"a\x00b: missing, or not a regular file"),
        ("../x", "../x: not a plain file name"),
        ("a\\b", r"a\b: not a plain file name"),
        ("..", "..: not a plain file name"),
        ("", ": not a plain file name"),
    ],
)
def test_a_file_that_is_listed_but_cannot_be_there_is_a_fault(bundle: Path, name: str, expected: str) -> None:
    write_manifest(bundle, name)
    assert verify_bundle(bundle)[1] == [expected]


def test_half_a_surrogate_pair_is_no_name(bundle: Path) -> None:
    write_manifest(bundle, "\ud800")
    assert verify_bundle(bundle)[1] == [
        "manifest.json: is not JSON: a string holds half of a surrogate pair",
        r"\ud800: missing, or not a regular file",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda manifest: manifest | {"version": int("9" * 400)}, "the number "),
        (lambda manifest: manifest | {"version": 0}, "version: should be greater than or equal to 1"),
        (lambda manifest: manifest | {"version": (1 << 31) + 1}, "version: should be less than or equal to 2147483648"),
        (lambda manifest: manifest | {"context_length": -1}, "context_length: should be greater than or equal to 1"),
        (lambda manifest: manifest | {"context_length": 1 << 32}, "context_length: should be less than 4294967296"),
        (lambda manifest: manifest | {"architecture": "llama"}, "architecture: should be 'qwen2'"),
        (lambda manifest: {**manifest, "files": manifest["files"] | {"x": 1}}, "files.x: should be "),
        (lambda manifest: manifest | {"version": 1 << 31, "context_length": None}, None),
        (lambda manifest: manifest | {"context_length": (1 << 32) - 1}, None),
    ],
)
def test_verify_and_the_agent_agree_on_manifests(
    bundle: Path, change: Callable[[dict[str, Any]], dict[str, Any]], expected: str | None
) -> None:
    (bundle / "model.gguf").write_bytes(gguf())
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text()) | {"context_length": 2048}
    manifest["files"]["model.gguf"] = {"sha256": hashlib.sha256(gguf()).hexdigest(), "bytes": len(gguf())}
    path.write_text(json.dumps(change(manifest)))
    faults = verify_bundle(bundle)[1]
    if expected is None:
        assert faults == []
        open_model("default", bundle)
        return
    assert expected in faults[0]
    with pytest.raises(ModelError, match=r"manifest\.json: ") as caught:
        open_model("default", bundle)
    assert expected in str(caught.value)


def test_a_manifest_with_a_byte_order_mark_is_read_by_neither(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "manifest.json: is not JSON" in verify_bundle(bundle)[1][0]
    with pytest.raises(ModelError, match="is not JSON"):
        open_model("default", bundle)


def test_pipes_folders_links_and_strangers_are_faults(bundle: Path) -> None:
    write_manifest(bundle, "folder", "link", "pipe")
    (bundle / "folder").mkdir()
    (bundle / "link").symlink_to("model.gguf")
    os.mkfifo(bundle / "pipe")
    (bundle / os.fsdecode(b"\xff\x1b[2J")).write_bytes(b"")
    assert verify_bundle(bundle)[1] == [
        *(f"{name}: missing, or not a regular file" for name in ("folder", "link", "pipe")),
        r"\udcff\x1b[2J: not listed in manifest.json",
    ]


def test_a_whole_bundle_has_no_faults(bundle: Path) -> None:
    assert verify_bundle(bundle)[1] == []


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        (
            "model.gguf",
            changed_model({"qwen2.block_count": (U32, 600)}),
            "qwen2.block_count: should be an integer from 1",
        ),
        (
            "model.gguf",
            gguf(data=b"\xff" * len(gguf())),
            f"tensor {MODEL_TENSORS[0][0]}: should hold finite numbers only",
        ),
        ("adapter.gguf", MODEL, 'general.type: should be "adapter" (got null)'),
        ("repair.gguf", b"junk", "should be a GGUF file"),
    ],
)
def test_a_file_that_the_agent_would_not_open_is_a_fault_even_with_the_right_hash(
    bundle: Path, name: str, data: bytes, expected: str
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = listed(data)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / name).write_bytes(data)

    (fault,) = verify_bundle(bundle)[1]
    assert fault.startswith(f"{name}: {expected}")


def test_verify_prints_the_hash_of_the_chat_template(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = changed_model({"tokenizer.chat_template": (STRING, "{{ messages }}")})
    (bundle / "model.gguf").write_bytes(model)
    document = json.loads((bundle / "manifest.json").read_text())
    document["files"]["model.gguf"] = listed(model)
    (bundle / "manifest.json").write_text(json.dumps(document))
    wanted = hashlib.sha256(b"{{ messages }}").hexdigest()

    assert main(["verify", str(bundle)]) == 0
    assert f"template   {wanted}\n" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chat_template_sha256"] == wanted
