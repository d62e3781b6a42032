import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.model import ModelError
from edge_agent.core.wording import shown_path
from edge_agent.models.bundle import content_fault, open_model, path_fault
from edge_agent.models.signatures import PublicKey, verifying_key
from edge_agent.models.trust import Trust
from tests.helpers.bundles import flip
from tests.helpers.ggufs import MODEL_VALUES, STRING, WEIGHTS, changed_model, gguf
from tests.helpers.keys import key_sha256, sign, trusting, write_keys

GGUF = gguf()
OTHER_WEIGHTS = gguf(data=WEIGHTS.replace(b"w", b"W", 1))


def listed(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def bundle(folder: Path, contents: dict[str, bytes] | None = None, **manifest: Any) -> Path:
    """A good bundle, unless other contents or manifest fields are given."""
    contents = {"model.gguf": GGUF} if contents is None else contents
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    document = {
        "schema": 1, "name": "pump-demo", "version": 3, "architecture": "qwen2", "quantization": "q8_0",
        "licence": "Apache-2.0", "files": {name: listed(data) for name, data in contents.items()},
        "context_length": 2048, "recipe": {"types": {}}, **manifest,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def refusal(path: Path, *public_keys: Path) -> str:
    """Why the bundle does not open; `content_fault` finds the same, but for hashes and paths."""
    trust = trusting(*public_keys)
    with pytest.raises(ModelError) as caught:
        open_model("default", path, trust)
    told = str(caught.value)
    if "should have sha256" not in told and path_fault(path) is None:
        assert content_fault(path, trust) == told.removeprefix("models.default.path: ")
    return told


def test_a_bundle_whose_files_are_as_listed_opens(tmp_path: Path) -> None:
    contents = {"model.gguf": GGUF, "canaries.json": b"[]", "repair.gguf": b"r", "adapter.gguf": b"a"}
    path = bundle(tmp_path / "demo", {**contents, "more.gguf": b"m"})
    (path / "manifest.sig").write_bytes(b"x" * 64)
    model = open_model("default", path)
    assert [Path(adapter.path) for adapter in model.adapters] == [path / "adapter.gguf", path / "repair.gguf"]
    assert model.path == path / "model.gguf"
    assert model.describe() == {
        "name": "default", "bundle": "pump-demo", "folder": "demo", "version": 3,
        "sha256": hashlib.sha256(GGUF).hexdigest(), "quantization": "Q8_0", "size": len(GGUF), "licence": "Apache-2.0",
        "context_length": 2048, "vocabulary": {"tokens": 2, "of": 2}, "signature": "unchecked", "signed_by": None,
        "expires": None, "chat_template_sha256": None,
        "adapters": [
            {"file": f"{name}.gguf", "sha256": hashlib.sha256(name[:1].encode()).hexdigest()}
            for name in ("adapter", "repair")
        ],
        "students": [], "warning": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["model.gguf", "adapter.gguf"])
def test_a_file_that_is_another_one_now_is_noticed(tmp_path: Path, name: str) -> None:
    path = bundle(tmp_path / "demo", {"model.gguf": GGUF, "adapter.gguf": b"a"})
    model = open_model("default", path)
    assert model.is_unchanged()
    (tmp_path / "new").write_bytes((path / name).read_bytes())
    (tmp_path / "new").rename(path / name)
    assert not model.is_unchanged()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda path: (path / "model.gguf").write_bytes(OTHER_WEIGHTS), "model.gguf: should have sha256"),
        (lambda path: (path / "canaries.json").write_bytes(b"{}"), "canaries.json: should have sha256"),
        (
            lambda path: (path / "model.gguf").write_bytes(GGUF[:-1]),
            f"model.gguf: should have {len(GGUF)} bytes (got {len(GGUF) - 1})",
        ),
        (lambda path: (path / "model.gguf").unlink(), "model.gguf: listed in the manifest, but missing"),
        (
            lambda path: (path / "model.gguf").rename(path.parent / "m") and (path / "model.gguf").symlink_to("../m"),
            "model.gguf: listed in the manifest, but missing",
        ),
    ],
    ids=["model", "other file", "cut", "missing", "link"],
)
def test_a_file_that_is_not_as_listed_is_refused(tmp_path: Path, change: Callable[[Path], Any], fault: str) -> None:
    path = bundle(tmp_path / "demo", {"model.gguf": GGUF, "canaries.json": b"[]"})
    change(path)
    assert refusal(path).startswith(f"demo/{fault}")


@pytest.mark.parametrize("name", ["stranger.txt", ".hidden", "model.gguf~"])
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_the_manifest_does_not_list_is_refused(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = bundle(tmp_path / "demo")
    make(path / name)
    assert f'does not list ["{name}"]' in refusal(path)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "plain names") for name in ("../model.gguf", "..", ".", "", "/etc/passwd", "a/b", "a\\b")),
        *(("a\0b", ""), ("\ud800", "")),
    ],
)
def test_a_listed_name_that_is_no_plain_file_name_is_refused(tmp_path: Path, name: str, fault: str) -> None:
    path = bundle(tmp_path / "demo")
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = listed(b"")
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert fault in refusal(path)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"schema": 3}, "schema: should be 1 or 2"),
        ({"schema": "1"}, "schema: should be 1 or 2"),
        ({"version": "3"}, "version: should be a valid integer"),
        ({"version": True}, "version: should be a valid integer"),
        ({"architecture": "llama"}, "architecture: should be 'qwen2'"),
        ({"name": None}, "name: should be a valid string"),
        ({"name": "x" * 129}, "name: should have at most 128 characters"),
        ({"quantization": "x" * 129}, "quantization: should have at most 128 characters"),
        ({"licence": "x" * 129}, "licence: should have at most 128 characters"),
        ({"files": {}}, "model.gguf is required, but missing"),
        ({"files": {"model.gguf": {"sha256": "0" * 64, "bytes": 2**36 + 1}}}, "bytes: should be less than or equal"),
        ({"files": {"model.gguf": {"sha256": "XX", "bytes": 1}}}, "sha256: should match pattern"),
        ({"files": {"model.gguf": {"sha256": "0" * 64, "bytes": -1}}}, "bytes: should be greater"),
        ({"files": {"model.gguf": {"sha256": "0" * 64}}}, "bytes: required, but missing"),
        ({"files": ["model.gguf"]}, "files: should be"),
        (b'{"schema": 1, "schema": 1}', 'is not JSON: the key "schema" occurs twice in one object'),
        ("{}".encode("utf-16"), "is not JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "is not JSON"),
        (b"5", "manifest.json: should be a table"),
        (b" " * 4_000_001, "should be at most 4000000 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_manifest_is_refused_with_its_field(tmp_path: Path, changes: dict[str, Any] | bytes, fault: str) -> None:
    path = bundle(tmp_path / "demo", **(changes if isinstance(changes, dict) else {}))
    if isinstance(changes, bytes):
        (path / "manifest.json").write_bytes(changes)
    message = refusal(path)
    assert message.startswith("demo/manifest.json: ")
    assert fault in message


@pytest.mark.parametrize(
    ("file", "model", "fault"),
    [
        ("model.gguf", "model.gguf", None),
        ("model.gguf", "echo:step_ms=2", None),
        ("bundle/manifest.json", "bundle", None),
        ("model.bin", "model.bin", "should be the folder of a bundle"),
        ("bundle/model.gguf", "bundle", "is a folder without manifest.json; should be the folder of a bundle"),
        ("checkpoint/config.json", "checkpoint", "is a folder without manifest.json; should be the folder of a bundle"),
        ("folder.gguf/model.bin", "folder.gguf", "is a folder without manifest.json; should be the folder of a bundle"),
        ("model.gguf", "none.gguf", "does not exist; should be the folder of a bundle"),
        ("model.gguf", "model.gguf/model.gguf", "does not exist; should be the folder of a bundle"),
        ("model.gguf", "a\0.gguf", "does not exist; should be the folder of a bundle"),
    ],
)
def test_path_fault_says_why_there_can_be_no_model(tmp_path: Path, file: str, model: str, fault: str | None) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"")
    found = path_fault(Path(model) if model.startswith("echo:") else tmp_path / model)
    assert (found or "").startswith("" if fault is None else f"{shown_path(tmp_path / model)} {fault}")
    assert (found is None) is (fault is None)


@pytest.mark.parametrize("weights", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_for_a_checkpoint_the_message_says_how_to_convert_it(tmp_path: Path, weights: str) -> None:
    for name in ("config.json", weights):
        (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path).startswith(
        f"models.default.path: {shown_path(tmp_path)} is a Hugging Face checkpoint; make a bundle of it: "
        "edge-convert FOLDER --out BUNDLE --type q4_0"
    )


def test_a_bare_file_opens_with_a_warning_and_what_its_header_tells(tmp_path: Path) -> None:
    path = tmp_path / "pumps-q4_0.gguf"
    path.write_bytes(GGUF)
    model = open_model("default", path)
    assert (model.bundle_name, model.quantization, model.context_length) == ("pumps-q4_0", "Q8_0", 2048)
    assert (model.sha256, model.size_bytes) == (hashlib.sha256(GGUF).hexdigest(), len(GGUF))
    assert "bare .gguf" in str(model.warning)
    assert (model.version, model.licence) == (None, None)


def test_a_model_that_native_code_should_not_see_is_refused_even_if_its_hash_is_right(tmp_path: Path) -> None:
    cut, other = GGUF[:-1], gguf({**MODEL_VALUES, "general.architecture": (STRING, "llama")})
    (tmp_path / "cut.gguf").write_bytes(cut)
    assert refusal(tmp_path / "cut.gguf").startswith('cut.gguf: tensor "output_norm.weight": ends at byte ')
    path = bundle(tmp_path / "demo", {"model.gguf": other})
    fault = 'demo/model.gguf: general.architecture: "llama" is not supported, only qwen2 is ('
    assert refusal(path).startswith(fault)


def test_content_fault_finds_no_wrong_hash(tmp_path: Path) -> None:
    good, other = (bundle(tmp_path / name) for name in ("good", "other"))
    (other / "model.gguf").write_bytes(OTHER_WEIGHTS)
    assert content_fault(good) is content_fault(other) is content_fault(Path("echo:")) is None


REQUIRED = "a configured public key requires a good signature"
NOT_SIGNED_SO = "signed with another key, or what it signs was changed afterwards"


def test_a_bundle_opens_that_was_signed_with_the_other_half_of_the_key(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    path = bundle(tmp_path / "demo")
    assert open_model("default", path).signature is None
    sign(path, private)
    assert open_model("default", path, trusting(public)).signature == "good"
    assert open_model("default", path, trusting(public)).warning is None
    assert open_model("default", path).signature == "unchecked"
    flip(path / "model.gguf")
    assert "demo/model.gguf: should have sha256" in refusal(path, public)


def test_a_new_key_takes_the_place_of_an_old_one_and_no_board_refuses_all_bundles_on_the_way(tmp_path: Path) -> None:
    (old, old_public), (new, new_public) = write_keys(tmp_path, "old"), write_keys(tmp_path, "new")
    path = bundle(tmp_path / "demo")
    for private, public in ((old, old_public), (new, new_public)):
        sign(path, private)
        for keys in ((old_public, new_public), (new_public, old_public)):
            model = open_model("default", path, trusting(*keys))
            assert model.describe()["signed_by"] == key_sha256(public)[:16]
    # The old key is taken out.
    assert open_model("default", path, trusting(new_public)).signature == "good"
    assert NOT_SIGNED_SO in refusal(path, old_public)


@pytest.mark.parametrize(
    "taken", [["model.gguf"], ["manifest.json"], ["manifest.sig"], ["manifest.json", "manifest.sig"]]
)
def test_files_of_two_signed_bundles_do_not_mix(tmp_path: Path, taken: list[str]) -> None:
    private, public = write_keys(tmp_path)
    path, other = bundle(tmp_path / "demo"), bundle(tmp_path / "other", {"model.gguf": OTHER_WEIGHTS}, version=4)
    for one in (path, other):
        sign(one, private)
        assert open_model("default", one, trusting(public)).signature == "good"
    for name in taken:
        (path / name).write_bytes((other / name).read_bytes())
    assert refusal(path, public).startswith("demo/")


@pytest.mark.parametrize("expires", ["2027-06-30", "2027-06-30T12:00:00Z", "2027-06-30t12:00:00.5+02:00"])
def test_a_bundle_says_until_when_it_may_be_switched_to(tmp_path: Path, expires: str) -> None:
    assert open_model("default", bundle(tmp_path / "demo", expires=expires)).describe()["expires"] == expires


@pytest.mark.parametrize("expires", ["", "tomorrow", "2027-06", "20270630", "2027-02-30", "2027-06-30T12:00", 1])
def test_an_end_that_is_no_date_is_refused(tmp_path: Path, expires: object) -> None:
    assert refusal(bundle(tmp_path / "demo", expires=expires)).startswith("demo/manifest.json: expires: ")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: flip(path / "manifest.json", 40), NOT_SIGNED_SO),
        (lambda path: (path / "manifest.json").write_bytes(b"not even JSON"), NOT_SIGNED_SO),
        (lambda path: flip(path / "manifest.sig", 0), NOT_SIGNED_SO),
        (lambda path: sign(path, write_keys(path.parent, "other")[0]), NOT_SIGNED_SO),
        (lambda path: (path / "manifest.sig").write_bytes(bytes(63)), "should have 64 bytes (got 63)"),
        (lambda path: (path / "manifest.sig").unlink(), "missing"),
        (
            lambda path: (
                (path / "manifest.sig").rename(path.parent / "s") and (path / "manifest.sig").symlink_to("../s")
            ),
            "missing",
        ),
    ],
)
def test_a_bundle_without_a_good_signature_is_refused(tmp_path: Path, damage: Callable[[Path], Any], told: str) -> None:
    private, public = write_keys(tmp_path)
    path = bundle(tmp_path / "demo")
    sign(path, private)
    damage(path)
    assert refusal(path, public) == f"demo/manifest.sig: {told}; {REQUIRED}"


def test_the_manifest_is_read_once_and_what_was_signed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = write_keys(tmp_path)
    path = bundle(tmp_path / "demo")
    sign(path, private)

    def and_then_it_changes(*arguments: Any) -> PublicKey:
        found = verifying_key(*arguments)
        (path / "manifest.json").write_bytes(b"{}")
        return found

    monkeypatch.setattr("edge_agent.models.bundle.verifying_key", and_then_it_changes)
    assert open_model("default", path, trusting(public)).bundle_name == "pump-demo"


def test_with_a_key_nothing_opens_but_a_bundle(tmp_path: Path) -> None:
    _, public = write_keys(tmp_path)
    (tmp_path / "model.gguf").write_bytes(GGUF)
    rule = "should be a signed bundle, because `public_key` is set"
    for path in (tmp_path / "model.gguf", Path("echo:")):
        assert refusal(path, public) == f"models.default.path: {shown_path(path)} {rule}"
    assert "does not exist" in refusal(tmp_path / "none", public)


def test_a_key_that_cannot_be_used_opens_nothing(tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path)
    with pytest.raises(ModelError, match=r"^models\.default\.public_key: holds a private key.*key\.pem\"\)$"):
        trusting(private)


TEMPLATE = "{{ messages[0].content }}"
TEMPLATE_SHA256 = hashlib.sha256(TEMPLATE.encode()).hexdigest()


@pytest.mark.parametrize("name", ["demo", "demo.gguf"])
def test_only_models_with_an_allowed_chat_template_open(tmp_path: Path, name: str) -> None:
    data, path = changed_model({"tokenizer.chat_template": (STRING, TEMPLATE)}), tmp_path / name
    if path.suffix:
        path.write_bytes(data)
    else:
        bundle(path, {"model.gguf": data})
    others = ("0" * 64, "1" * 64)

    assert open_model("default", path).chat_template_sha256 == TEMPLATE_SHA256
    assert open_model("default", path, Trust(), (*others, TEMPLATE_SHA256)).describe()["chat_template_sha256"]
    assert content_fault(path, Trust(), (TEMPLATE_SHA256,)) is None
    for allowed, told in ((others, ", ".join(others)), ((), "none")):
        fault = f"{name}: its chat template has sha256 {TEMPLATE_SHA256}; `chat_templates` allows {told}"
        with pytest.raises(ModelError) as caught:
            open_model("default", path, Trust(), allowed)
        assert str(caught.value) == content_fault(path, Trust(), allowed) == fault


MAPS = b'{"schema":1,"maps":{"d":{"task":"t","map":{"a":[1,0],"b":[1,1]},"boards":{}}}}'


def test_score_maps_of_a_bundle_are_read(tmp_path: Path) -> None:
    assert open_model("default", bundle(tmp_path / "plain")).score_maps == {}
    path = bundle(tmp_path / "demo", {"model.gguf": GGUF, "score_maps.json": MAPS})
    assert open_model("default", path).score_maps == json.loads(MAPS)["maps"]
    assert content_fault(path) is None


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (MAPS.replace(b"[1,0]", b"[1,1e9]"), 'maps: "d": a score map\'s scales and biases are finite'),
        (b"{", "cannot be used: Expecting"),
        (MAPS + b" " * 1_000_000, "should be at most 1000000 bytes"),
    ],
)
def test_score_maps_that_cannot_be_used_are_refused(tmp_path: Path, data: bytes, fault: str) -> None:
    path = bundle(tmp_path / "demo", {"model.gguf": GGUF, "score_maps.json": data})
    assert refusal(path).startswith("demo/score_maps.json: ")
    assert fault in refusal(path)


TABLE = {
    "tasks": {"pump": {"kind": "classify", "labels": ["calm", "loud"], "fields": ["rms"]}},
    "fields": [{"name": "rms", "edges": [1.0]}],
}


def trained(task: str = "pump", **more: Any) -> bytes:
    table = {**TABLE, "tasks": {task: TABLE["tasks"]["pump"]}, **more}  # type: ignore[index]
    return changed_model({"edge-agent.fields": (STRING, json.dumps(table))})


TRAINED = trained()


def test_students_of_a_bundle_are_its_small_trained_models(tmp_path: Path) -> None:
    path = bundle(tmp_path / "demo", {"model.gguf": GGUF, "student-pump-1.gguf": TRAINED})
    model = open_model("default", path)
    [student] = model.students
    assert (student.name, student.path) == ("student-pump-1", str(path / "student-pump-1.gguf"))
    assert student.tasks == {"pump": ("calm", "loud")}
    assert model.describe()["students"] == [{"name": "student-pump-1", "sha256": hashlib.sha256(TRAINED).hexdigest()}]
    assert content_fault(path) is None
    (path / "student-pump-1.gguf").touch()
    assert not model.is_unchanged()


def test_a_trained_model_is_known_by_its_fields_also_without_a_bundle(tmp_path: Path) -> None:
    for data, reads_fields in ((TRAINED, True), (GGUF, False)):
        (tmp_path / "bare.gguf").write_bytes(data)
        paths = (tmp_path / "bare.gguf", bundle(tmp_path / f"bundle-{reads_fields}", {"model.gguf": data}))
        assert [open_model("default", path).reads_fields for path in paths] == [reads_fields] * 2


def test_a_task_has_one_student(tmp_path: Path) -> None:
    files = {"model.gguf": GGUF, "student-a.gguf": TRAINED, "student-b.gguf": TRAINED}
    fault = 'demo/student-b.gguf: another student already has the task "pump"'
    assert refusal(bundle(tmp_path / "demo", files)) == fault
    files["student-b.gguf"] = trained("other")
    assert len(open_model("default", bundle(tmp_path / "other", files)).students) == 2


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (GGUF, "should be a model that `edge-convert train` made"),
        (b"GGUF", ""),
        (trained(tasks={}), "edge-agent.fields: tasks: "),
    ],
)
def test_a_student_that_cannot_be_one_is_refused(tmp_path: Path, data: bytes, fault: str) -> None:
    path = bundle(tmp_path / "demo", {"model.gguf": GGUF, "student-x.gguf": data})
    assert refusal(path).startswith("demo/student-x.gguf: ")
    assert fault in refusal(path)
