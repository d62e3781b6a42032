"""A bundle on disk is whole or not there, has the same bytes for the same input, is signed, and can be verified."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from convert.errors import CheckpointError, ConvertError
from convert.plan import make_plan
from convert.quantize.recipe import Quantization
from convert.read.checkpoint import Checkpoint
from convert.read.model import read_model
from convert.write.bundle import copied_bundle, verify_bundle
from edge_agent.gguf.model import read_model_facts
from tests.conftest import NEEDS_OPENSSL
from tests.convert.checkpoints import CheckpointFiles, make_checkpoint
from tests.convert.conversions import Cli, contents, convert, run
from tests.convert.gguf_reading import read_gguf
from tests.helpers.bundles import flip, relist
from tests.helpers.ggufs import ADAPTER_VALUES, gguf, placed
from tests.helpers.keys import NO_PRIVATE_KEYS, key_sha256, write_keys
from tests.helpers.processes import Ended

ROOT = Path(__file__).parents[2]


def small(**changes: Any) -> CheckpointFiles:
    return make_checkpoint(**{"layers": 1, "hidden": 64, "feed_forward": 96} | changes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is not to be changed, like the next fixture."""
    files = small()
    files.more["README.md"] = "---\nlanguage:\n- en\nlicense: apache-2.0\n---\nA model.\n"
    files.more["generation_config.json"] = json.dumps({"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1})
    return files.write(tmp_path_factory.mktemp("bundle") / "checkpoint")


@pytest.fixture(scope="module")
def signed(checkpoint: Path) -> Path:
    """A signed bundle beside its keys."""
    private, _ = write_keys(checkpoint.parent)
    words = ["--type", "q8_0", "--out", checkpoint.parent / "signed", "--sign", private, "--name", "pump"]
    assert run(checkpoint, *words, "--model-version", 3) == 0
    return checkpoint.parent / "signed"


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    """A copy of the signed bundle."""
    (tmp_path / "out").mkdir()
    return Path(shutil.copytree(signed, tmp_path / "out" / "b"))


def test_the_manifest_has_exactly_the_fields_of_the_contract_as_canonical_json(signed: Path, checkpoint: Path) -> None:
    stored, model = (signed / "manifest.json").read_bytes(), (signed / "model.gguf").read_bytes()
    manifest = json.loads(stored)
    assert stored == json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert str(checkpoint.parent).encode() not in stored
    assert manifest.keys() == {
        *("schema", "name", "version", "architecture", "quantization", "licence", "files", "source", "recipe", "tools"),
        *("context_length", "chat_template_sha256", "quality"),
    }
    assert (manifest["schema"], manifest["name"], manifest["version"]) == (1, "pump", 3)
    assert (manifest["architecture"], manifest["quantization"]) == ("qwen2", "Q8_0")
    assert (manifest["licence"], manifest["context_length"]) == ("apache-2.0", 512)
    assert manifest["files"] == {"model.gguf": {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}}
    assert manifest["recipe"]["imatrix_sha256"] is None
    facts = read_model_facts(signed / "model.gguf")
    assert facts.chat_template_sha256 == manifest["chat_template_sha256"] is not None
    assert manifest["recipe"]["types"] == read_gguf(signed / "model.gguf").types()
    assert manifest["quality"] is None
    assert manifest["source"]["revision"] is None
    assert manifest["source"]["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.iterdir()
    }


def test_shards_give_the_same_model_file_as_one_file(tmp_path: Path) -> None:
    convert(small(tied=False).write(tmp_path / "whole"), tmp_path / "one")
    convert(small(tied=False, shards=3).write(tmp_path / "sharded"), tmp_path / "three")
    assert (tmp_path / "one" / "model.gguf").read_bytes() == (tmp_path / "three" / "model.gguf").read_bytes()
    assert "output.weight" in read_gguf(tmp_path / "one" / "model.gguf").tensors


def test_general_keys_come_from_options_and_checkpoint(signed: Path) -> None:
    values = read_gguf(signed / "model.gguf").values()
    assert {key: value for key, value in values.items() if key.startswith("general.")} == {
        "general.architecture": "qwen2",
        "general.type": "model",
        "general.name": "pump",
        "general.license": "apache-2.0",
        "general.size_label": "52K",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "general.sampling.top_k": 20,
        "general.sampling.temp": pytest.approx(0.7),
        "general.sampling.penalty_repeat": pytest.approx(1.1),
    }


def test_what_llama_cpp_does_not_need_is_left_out(tmp_path: Path) -> None:
    files = small()
    files.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = files.tensors["model.norm.weight"]
    files.tensors["lm_head.weight"] = files.tensors["model.embed_tokens.weight"]  # of a tied model
    convert(files.write(tmp_path / "checkpoint"), tmp_path / "b")
    assert "output.weight" not in read_gguf(tmp_path / "b" / "model.gguf").tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "tensor model.norm.weight: missing"),
        (lambda t: t.pop("lm_head.weight"), "lm_head.weight: missing in the checkpoint (tie_word_embeddings is false)"),
        (lambda t: t.update({"model.layers.2.x": t["model.norm.weight"]}), "tensor model.layers.2.x is not part of"),
        (
            lambda t: t.update({"model.embed_tokens.weight": t["model.embed_tokens.weight"][:265]}),
            "model.embed_tokens.weight has shape [265, 64], config.json asks for [320, 64]",
        ),
    ],
)
def test_tensors_that_do_not_make_the_model_of_config_json_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    files = small(tied=False)
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
        ("", None),
    ],
)
def test_the_licence_is_the_one_that_the_model_card_states(tmp_path: Path, card: str, licence: str | None) -> None:
    files = small()
    files.more["README.md"] = card
    with Checkpoint(files.write(tmp_path / "checkpoint")) as checkpoint:
        model = read_model(checkpoint)
    assert make_plan(model, Quantization.BF16).licence == licence
    assert make_plan(model, Quantization.BF16, licence="mine").licence == "mine"


def test_a_bad_weight_found_late_leaves_the_older_bundle(tmp_path: Path, bundle: Path) -> None:
    files = small(tied=False)
    files.tensors["lm_head.weight"][-1, -1] = 0x7FC0  # NaN in the last tensor that is written
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"lm_head\.weight holds an infinity or NaN"):
        convert(files.write(tmp_path / "checkpoint"), bundle, replace=True)
    assert [path.name for path in bundle.parent.iterdir()] == ["b"]
    assert (bundle / "manifest.json").read_bytes() == before


def test_force_replaces_a_bundle_and_leaves_nothing_of_it(checkpoint: Path, bundle: Path) -> None:
    (bundle / "canaries.json").write_text("[]")
    with pytest.raises(ConvertError, match="already exists; --force replaces it"):
        convert(checkpoint, bundle)
    (bundle.parent / "empty").mkdir()
    for name in ("b", "empty"):
        convert(checkpoint, bundle.parent / name, replace=True)
        assert sorted(path.name for path in (bundle.parent / name).iterdir()) == ["manifest.json", "model.gguf"]
        assert verify_bundle(bundle.parent / name).bundle_name == "model"
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["b", "empty"]


def put_a_file_in_its_place(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.write_text("x")


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: (bundle / "my notes").write_text("x"),
        lambda bundle: (bundle / "model.gguf").unlink(),
        put_a_file_in_its_place,
        lambda bundle: (bundle.rename(bundle.parent / "a"), bundle.symlink_to("a")),
    ],
)
def test_force_deletes_nothing_but_a_bundle(checkpoint: Path, bundle: Path, change: Callable[[Path], object]) -> None:
    change(bundle)
    before = sorted(bundle.parent.rglob("*"))
    with pytest.raises(ConvertError, match="not a bundle alone, so --force does not replace it"):
        convert(checkpoint, bundle, replace=True)
    assert sorted(bundle.parent.rglob("*")) == before


def test_a_conversion_that_runs_is_not_disturbed_by_another(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / ".b.partial").mkdir()
    running = os.open(tmp_path / ".b.partial", os.O_RDONLY)
    try:
        fcntl.flock(running, fcntl.LOCK_EX)
        with pytest.raises(ConvertError, match="another conversion is writing it"):
            convert(checkpoint, tmp_path / "b")
    finally:
        os.close(running)
    convert(checkpoint, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ConvertError, match="only 1000 bytes are free, but the model takes"):
        convert(checkpoint, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "config", "token", "expected"),
    [
        ({}, {}, "[PAD310]", "tokenizer.ggml.tokens: should have every token once, of at most 1000 bytes"),
        ({"hidden": 96, "heads": 32}, {}, "x", "qwen2.attention.head_count: should be a divisor of the embedding's 96"),
        ({"heads_kv": 3}, {}, "x", "qwen2.attention.head_count_kv: should be a divisor of the 4 heads"),
        ({}, {"head_dim": 32}, "x", "qwen2.attention.key_length: should be "),
    ],
)
def test_a_model_that_the_agent_would_not_open_is_not_written(
    tmp_path: Path, shape: dict[str, Any], config: dict[str, int], token: str, expected: str
) -> None:
    files = small(**shape)
    files.config |= config
    added = files.tokenizer["added_tokens"]
    added.append(added[0] | {"id": 300, "content": token, "special": False})
    with pytest.raises(CheckpointError) as caught:
        convert(files.write(tmp_path / "checkpoint"), tmp_path / "b", Quantization.F16)
    assert str(caught.value).startswith(f"llama.cpp could not run the model of this checkpoint: {expected}")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_verify_says_what_it_checked(signed: Path, bundle: Path, cli: Cli) -> None:
    template = json.loads((bundle / "manifest.json").read_text("utf-8"))["chat_template_sha256"]
    code, out, _ = cli("verify", bundle, "--public-key", signed.parent / "key.pub.pem")
    assert (code, out.startswith(f"{bundle}: pump version 3, all files match the manifest\n")) == (0, True)
    assert f"template   {template}\n" in out
    assert f"signature  good, key {key_sha256(signed.parent / 'key.pub.pem')[:16]}\nexpires    never\n" in out
    assert "signature  unchecked\n" in cli("verify", bundle).stdout
    (bundle / "manifest.sig").unlink()
    assert "signature  none\n" in cli("verify", bundle).stdout
    shown = cli("verify", bundle, "--json").document
    assert [file["name"] for file in shown.pop("sbom")["components"]] == ["model.gguf"]
    assert shown == {
        "bundle": str(bundle), "ok": True, "faults": [], "signed": False, "signature_checked": False,
        "signed_by": None, "expires": None,
        "has_canaries": False, "canaries_asked": False, "chat_template_sha256": template, "score_maps": {},
        "students": [],
    }  # fmt: skip
    expected = f"edge-convert: {bundle}: the bundle has no canaries.json, so --canaries has nothing to ask\n"
    assert cli("verify", bundle, "--canaries") == Ended(1, "", expected)


def test_verify_shows_and_writes_what_a_bundle_is_made_of(bundle: Path, tmp_path: Path, cli: Cli) -> None:
    shown = cli("verify", bundle, "--sbom", tmp_path / "bundle.cdx.json").stdout
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    model_hash = manifest["files"]["model.gguf"]["sha256"]
    assert "licence    apache-2.0\nmade from  a checkpoint of revision unknown\n" in shown
    assert f"file       model.gguf, SHA-256 {model_hash}\n" in shown
    text = (tmp_path / "bundle.cdx.json").read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    written = cast("Any", Bom).from_json(json.loads(text))
    assert {file.name: next(iter(file.hashes)).content for file in written.components} == {"model.gguf": model_hash}
    model = written.metadata.component
    assert (model.name, model.version, [one.name for one in model.licenses]) == ("pump", "3", ["apache-2.0"])
    (checkpoint,) = model.pedigree.ancestors
    of_checkpoint = {file.name: next(iter(file.hashes)).content for file in checkpoint.components}
    assert of_checkpoint == manifest["source"]["files"] != {}


def test_no_sbom_is_written_into_the_bundle_or_of_one_that_does_not_open(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    assert run("verify", bundle, "--sbom", bundle / "manifest.json") == 2
    assert contents(bundle) == before
    flip(bundle / "model.gguf")
    assert run("verify", bundle, "--sbom", tmp_path / "bundle.cdx.json") == 1
    assert not (tmp_path / "bundle.cdx.json").exists()


def adapter_of_nan() -> bytes:
    tensors, nbytes = placed({"output.weight.lora_a": (32, 4)})
    return gguf(ADAPTER_VALUES, tensors, b"\xff" * nbytes)


def put(bundle: Path, name: str, data: bytes) -> None:
    """Writes a file, and its right hash into the manifest."""
    (bundle / name).write_bytes(data)
    relist(bundle)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda bundle: flip(bundle / "model.gguf"), "b/model.gguf: should have sha256 "),
        (lambda bundle: (bundle / "extra\x1b").write_text(""), r'b: the manifest does not list ["extra\u001b"]'),
        (lambda bundle: put(bundle, "model.gguf", gguf(data=b"\xff" * len(gguf()))), "should hold finite numbers only"),
        (lambda bundle: put(bundle, "adapter.gguf", adapter_of_nan()), "adapter.gguf: tensor output.weight.lora_a: "),
        (lambda bundle: put(bundle, "adapter.gguf", gguf()), 'general.type: should be "adapter" (got null)'),
    ],
)
def test_verify_refuses_what_the_agent_would_not_open(
    bundle: Path, damage: Callable[[Path], object], expected: str, cli: Cli
) -> None:
    damage(bundle)
    done = cli("verify", bundle, "--json")
    (fault,) = done.document["faults"]
    assert (done.returncode, done.document["ok"], done.stderr) == (1, False, f"edge-convert: {bundle}: {fault}\n")
    assert expected in fault


def test_with_keys_one_of_them_must_have_signed_it(signed: Path, bundle: Path, tmp_path: Path, cli: Cli) -> None:
    public, (_, other) = signed.parent / "key.pub.pem", write_keys(tmp_path, "other")
    facts = cli("verify", bundle, "--public-key", other, "--public-key", public, "--json").document
    assert (facts["signature_checked"], facts["signed_by"]) == (True, key_sha256(public)[:16])
    for key, fault in (
        (other, "b/manifest.sig: signed with another key"),
        (public, "b/manifest.sig: missing"),
        (tmp_path, "should be a file that can be read"),
    ):
        code, _, err = cli("verify", bundle, "--public-key", key)
        assert (code, fault in err) == (1, True)
        (bundle / "manifest.sig").unlink(missing_ok=True)


def test_the_manifest_says_when_it_expires_if_that_is_given(checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
    words = [checkpoint, "--out", tmp_path / "b", "--type", "q8_0"]
    assert run(*words, "--expires", "2027-06-30") == 0
    assert json.loads((tmp_path / "b" / "manifest.json").read_bytes())["expires"] == "2027-06-30"
    assert "expires    2027-06-30\n" in cli("verify", tmp_path / "b").stdout
    code, _, err = cli(*words, "--force", "--expires", "soon")
    assert (code, "--expires: should be a date or a date with a time" in err) == (2, True)


@pytest.mark.parametrize(("told", "written"), [(None, None), ("2027-06-30", "2027-06-30")])
def test_a_copy_expires_with_its_bundle_unless_told_otherwise(
    bundle: Path, tmp_path: Path, told: str | None, written: str | None
) -> None:
    for name, source, expires in (("one", bundle, told), ("two", tmp_path / "one", None)):
        with copied_bundle(source, tmp_path / name, replace=False, version=2, expires=expires, sign=None):
            pass
        assert verify_bundle(tmp_path / name).expires == written


def test_a_signature_is_the_same_each_time_and_covers_a_manifest_that_does_not_depend_on_it(
    checkpoint: Path, signed: Path, tmp_path: Path
) -> None:
    words = [checkpoint, "--type", "q8_0", "--name", "pump", "--model-version", 3, "--out"]
    assert run(*words, tmp_path / "a", "--sign", signed.parent / "key.pem") == 0
    assert run(*words, tmp_path / "b") == 0
    assert len((signed / "manifest.sig").read_bytes()) == 64
    assert (tmp_path / "a" / "manifest.sig").read_bytes() == (signed / "manifest.sig").read_bytes()
    assert (tmp_path / "b" / "manifest.json").read_bytes() == (signed / "manifest.json").read_bytes()


@pytest.mark.parametrize("kind", [*NO_PRIVATE_KEYS, "missing"])
def test_a_bad_private_key_is_refused_before_anything_is_read_or_written(kind: str, tmp_path: Path, cli: Cli) -> None:
    key = tmp_path / "k.pem"
    if kind != "missing":
        key.write_bytes(NO_PRIVATE_KEYS[kind])
    before = list(tmp_path.iterdir())
    # There is no checkpoint, which has another message and exit code.
    code, out, err = cli(tmp_path / "none", "--out", tmp_path / "b", "--type", "q8_0", "--sign", key)
    expected = "cannot be read: " if kind == "missing" else "should hold an Ed25519 private key in PEM"
    assert err.startswith(f"edge-convert: --sign: {key}: {expected}")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert list(tmp_path.iterdir()) == before


@NEEDS_OPENSSL
def test_openssl_and_the_converter_verify_each_other(checkpoint: Path, tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    openssl("pkey", "-in", "key.pem", "-pubout", "-out", "key.pub.pem")
    assert run(checkpoint, "--out", tmp_path / "b", "--type", "q8_0", "--sign", tmp_path / "key.pem") == 0
    files = ("-sigfile", "b/manifest.sig", "-in", "b/manifest.json")
    openssl("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pub.pem", *files)
    # The other way round, we verify what openssl signs.
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", "b/manifest.json", "-out", "b/manifest.sig")
    assert run("verify", tmp_path / "b", "--public-key", tmp_path / "key.pub.pem") == 0
