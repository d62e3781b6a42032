"""Opens a bundle or a bare .gguf. Every file must be as the manifest lists it and, with a key, signed."""

import hashlib
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge_agent.core.clock import expiry
from edge_agent.core.files import TooLongError, read_bounded, sha256_of
from edge_agent.core.model import Model, ModelError, RevokedError, Signature, file_stamps
from edge_agent.core.pipe import Adapter, Student, is_echo, weights_sha256
from edge_agent.core.score_map import SCORE_MAPS_FILE, read_score_maps
from edge_agent.core.strict_json import parse_json
from edge_agent.core.wording import first_fault, printable, shown, shown_path
from edge_agent.gguf.header import HeaderError
from edge_agent.gguf.model import MODELS, ModelFacts, read_model_facts
from edge_agent.gguf.usual_readings import MAX_BYTES, read_usual_readings
from edge_agent.models.signatures import SIGNATURE_FILE, SignatureError, verifying_key
from edge_agent.models.trust import Trust

MODEL_FILE = "model.gguf"
MANIFEST_FILE = "manifest.json"
# A user's LoRA, and the repair of quantization losses.
ADAPTER_FILE, REPAIR_FILE = ADAPTER_FILES = ("adapter.gguf", "repair.gguf")
# A small trained model that is asked first, or what usual readings look like.
STUDENT_FILE = re.compile(r"(student-[a-z0-9][a-z0-9_-]{0,31})\.(?:gguf|json)")
_MAX_SCORE_MAPS_BYTES = 1_000_000
# Files that the manifest does not list.
_UNLISTED = frozenset((MANIFEST_FILE, SIGNATURE_FILE))
_EXPECTED = f"the folder of a bundle, as edge-convert makes it, or a .gguf file, of {MODELS}"
_MAX_MANIFEST_BYTES = 4_000_000
# No board has the memory for more. A sparse file of this size takes hours to hash.
_MAX_FILE_BYTES = 1 << 36
# As long as edge-convert allows; it is published in `info`.
_ShortText = Annotated[str, StringConstraints(max_length=128)]
_TRUST_ANY = Trust()
# The facts of a bundle without a large model.
_NO_MODEL = ModelFacts(
    quantization="none", context_length=0, tokens=0, all_tokens=0, chat_template_sha256=None, bytes_per_token=0
)


def _check_expiry(text: str) -> str:
    expiry(text)
    return text


class _ListedFile(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, le=_MAX_FILE_BYTES)]


class Manifest(BaseModel):
    """The fields of manifest.json that the agent uses."""

    model_config = ConfigDict(extra="ignore", strict=True)

    # 2 marks a trained model, so that release 0.1.0, which would prompt it wrongly, refuses it.
    schema_version: Literal[1, 2] = Field(alias="schema")
    name: _ShortText
    version: Annotated[int, Field(ge=1, le=1 << 31)]
    architecture: Literal["qwen2", "none"]  # "none": there is no large model.
    quantization: _ShortText
    licence: _ShortText | None = None
    files: dict[str, _ListedFile]
    context_length: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None
    expires: Annotated[str, AfterValidator(_check_expiry)] | None = None


@dataclass(frozen=True, slots=True)
class _CheckedManifest:
    """A checked manifest."""

    manifest: Manifest
    sha256: str
    signature: Signature | None
    signed_by: str | None
    """The SHA-256 of the key that verified it."""


def open_model(key: str, path: Path, trust: Trust = _TRUST_ANY, chat_templates: Sequence[str] | None = None) -> Model:
    """Checks every byte of a bundle folder or a bare .gguf. Raises ModelError, RevokedError.

    Args:
        trust: With keys, only bundles that one of them signed open.
        chat_templates: The hashes of the allowed chat templates; without it, any is allowed.
    """
    try:
        if fault := path_fault(path) or _unsigned_fault(path, trust):
            raise ModelError(f"models.{key}.path: {fault}")
        if is_echo(path):
            return _echo_model(key, path)
        return _open_path(key, path.resolve() if path.is_dir() else path, trust, chat_templates)
    except OSError as error:
        raise ModelError(f"models.{key}.path: cannot be read: {error.strerror}") from error


def path_fault(path: Path) -> str | None:
    """Why there can be no model at this path; None if there may be a sound one. Reads no file."""
    if is_echo(path):
        return None
    try:
        reason = _path_reason(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no file can have such a name
        reason = f"does not exist; should be {_EXPECTED}"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    return f"{shown_path(path)} {reason}" if reason else None


def _path_reason(path: Path) -> str | None:
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) and path.suffix == ".gguf":
        path.open("rb").close()
        return None
    if not stat.S_ISDIR(mode):
        return f"should be {_EXPECTED}"
    if (path / MANIFEST_FILE).is_file():
        (path / MANIFEST_FILE).open("rb").close()
        return None
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return "is a Hugging Face checkpoint; make a bundle of it: edge-convert FOLDER --out BUNDLE --type q4_0"
    return f"is a folder without {MANIFEST_FILE}; should be {_EXPECTED}"


def content_fault(path: Path, trust: Trust = _TRUST_ANY, chat_templates: Sequence[str] | None = None) -> str | None:
    """Why a model at a good path does not open, apart from its hashes: reads manifest, signature and header only."""
    if (fault := _unsigned_fault(path, trust)) or is_echo(path):
        return fault
    try:
        _check_content(path, trust, chat_templates)
    except ModelError as error:
        return str(error)
    except OSError as error:
        return f"{shown_path(path)} cannot be read: {error.strerror}"
    return None


def _unsigned_fault(path: Path, trust: Trust) -> str | None:
    """With a key, only a bundle can open, because nothing else has a signature."""
    if not trust.keys or (path.is_dir() and not is_echo(path)):
        return None
    return f"{shown_path(path)} should be a signed bundle, because `public_key` is set"


def _echo_model(key: str, path: Path) -> Model:
    return Model(
        key=key,
        source=path,
        path=path,
        bundle_name="echo",
        sha256=hashlib.sha256(b"").hexdigest(),
        quantization="none",
        size_bytes=0,
        warning="no model: a deterministic engine to try the agent with",
    )


def _open_path(key: str, path: Path, trust: Trust, chat_templates: Sequence[str] | None) -> Model:
    checked, facts = _check_content(path, trust, chat_templates)
    if checked is None:
        return Model(
            key=key,
            source=path,
            path=path,
            bundle_name=path.stem,
            sha256=sha256_of(path),
            quantization=facts.quantization,
            reads_fields=facts.fields is not None,
            size_bytes=path.stat().st_size,
            context_length=facts.context_length,
            chat_template_sha256=facts.chat_template_sha256,
            tokens=facts.tokens,
            all_tokens=facts.all_tokens,
            bytes_per_token=facts.bytes_per_token,
            warning="a bare .gguf: there is no manifest to check it against",
            stamps=file_stamps(path, ()),
        )
    manifest = checked.manifest
    model_file = _model_file(manifest)
    for name, listed in manifest.files.items():
        found = sha256_of(path / name)
        if found != listed.sha256:
            raise ModelError(f"{path.name}/{name}: should have sha256 {listed.sha256} (got {found})")
    adapters, students = _adapters(path, manifest), _students(path, manifest)
    trained = {} if facts.fields is None else facts.fields.tasks
    return Model(
        key=key,
        source=path,
        path=path / model_file,
        bundle_name=manifest.name,
        version=manifest.version,
        sha256=manifest.files[model_file].sha256,
        quantization=manifest.quantization.upper(),
        reads_fields=facts.fields is not None,
        size_bytes=manifest.files[model_file].bytes,
        licence=manifest.licence,
        context_length=manifest.context_length,
        signature=checked.signature,
        signed_by=checked.signed_by,
        manifest_sha256=checked.sha256,
        expires=manifest.expires,
        adapters=adapters,
        students=students,
        score_maps=_read_score_maps(path, manifest),
        label_sets={} if facts.fields is None else facts.fields.label_sets,
        templates={} if facts.fields is None else facts.fields.templates,
        held_out={name: task.held_out for name, task in trained.items()},
        held_out_odd={name: task.held_out_odd for name, task in trained.items() if task.held_out_odd is not None},
        learnt_from={} if facts.fields is None else facts.fields.fingerprints,
        chat_template_sha256=facts.chat_template_sha256,
        tokens=facts.tokens or None,
        all_tokens=facts.all_tokens or None,
        bytes_per_token=facts.bytes_per_token or None,
        stamps=file_stamps(path / model_file, (*adapters, *students)),
    )


def listed_weights(path: Path) -> str | None:
    """The hashes of a bundle's weights as its manifest lists them; None if the path holds no sound bundle."""
    try:
        manifest = _check_manifest(path.resolve(), _TRUST_ANY).manifest
    except (ModelError, OSError):
        return None
    return weights_sha256(manifest.files[_model_file(manifest)].sha256, _adapters(path, manifest))


def _model_file(manifest: Manifest) -> str:
    """Where there is no large model, the first file that says what usual readings look like stands for it."""
    usual = (name for name in sorted(manifest.files) if STUDENT_FILE.fullmatch(name) and name.endswith(".json"))
    return MODEL_FILE if MODEL_FILE in manifest.files else next(usual, MODEL_FILE)


def trained_tasks(path: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The labels and the template of each task that a bundle's models were trained with, as far as they are known.

    Both are empty if the bundle is unsound. No hash is checked.
    """
    try:
        checked, facts = _check_content(path.resolve(), _TRUST_ANY, None)
        students = () if checked is None else _students(path, checked.manifest)
    except (ModelError, OSError):
        return {}, {}
    label_sets, templates = ({}, {}) if facts.fields is None else (facts.fields.label_sets, facts.fields.templates)
    for student in students:
        label_sets |= {task: labels for task, labels in student.tasks.items() if labels}
        templates |= student.templates
    return label_sets, templates


def trained_fields(path: Path) -> dict[str, tuple[str, ...]]:
    """The fields that a bundle's small model reads, by task; none if the bundle is unsound. Checks no hashes."""
    try:
        _, facts = _check_content(path.resolve(), _TRUST_ANY, None)
    except (ModelError, OSError):
        return {}
    return {} if facts.fields is None else {name: task.fields for name, task in facts.fields.tasks.items()}


def _adapters(folder: Path, manifest: Manifest) -> tuple[Adapter, ...]:
    return tuple(
        Adapter(path=str(folder / name), sha256=manifest.files[name].sha256)
        for name in ADAPTER_FILES
        if name in manifest.files
    )


def _students(folder: Path, manifest: Manifest) -> tuple[Student, ...]:
    """The small models of a bundle, whose hashes are not checked. Raises ModelError, OSError."""
    students = list[Student]()
    for name, listed in sorted(manifest.files.items()):
        if (match := STUDENT_FILE.fullmatch(name)) is None:
            if name.startswith("student-"):
                rule = "should be student-NAME.gguf or .json, with a NAME of at most 32 characters a to z, 0 to 9, _, -"
                raise ModelError(f"{folder.name}/{printable(name)}: {rule}")
            continue
        try:
            tasks, templates, quantization = (_usual_tasks if name.endswith(".json") else _trained_tasks)(folder / name)
        except (HeaderError, ValueError) as error:
            fault = first_fault(error) if isinstance(error, ValidationError) else str(error)
            raise ModelError(f"{folder.name}/{name}: {fault}") from error
        if repeated := {task for student in students for task in student.tasks} & tasks.keys():
            raise ModelError(f"{folder.name}/{name}: another student already has the task {shown(min(repeated))}")
        path = str(folder / name)
        student = Student(
            name=match[1],
            path=path,
            sha256=listed.sha256,
            quantization=quantization,
            tasks=tasks,
            templates=templates,
        )
        students.append(student)
    return tuple(students)


# The labels and the template of each task, and the type of the weights.
_StudentFacts = tuple[dict[str, tuple[str, ...]], dict[str, str], str]


def _trained_tasks(path: Path) -> _StudentFacts:
    """Raises HeaderError, OSError."""
    facts = read_model_facts(path)
    if facts.fields is None:
        raise HeaderError("should be a model that `edge-convert train` made")
    return facts.fields.label_sets, facts.fields.templates, facts.quantization


def _usual_tasks(path: Path) -> _StudentFacts:
    """The facts of tasks of the kind `unusual`, which have no labels. Raises ValueError, OSError."""
    with path.open("rb") as file:
        tasks = read_usual_readings(file.read(MAX_BYTES + 1)).tasks
    return dict.fromkeys(tasks, ()), {name: task.template for name, task in tasks.items()}, "none"


def _check_content(
    path: Path, trust: Trust, chat_templates: Sequence[str] | None
) -> tuple[_CheckedManifest | None, ModelFacts]:
    """Checks everything except the hashes; a bare .gguf has no manifest. Raises ModelError, OSError."""
    checked = _check_manifest(path, trust) if path.is_dir() else None
    model, name = (path, path.name) if checked is None else (path / MODEL_FILE, f"{path.name}/{MODEL_FILE}")
    has_model = checked is None or MODEL_FILE in checked.manifest.files
    try:
        facts = read_model_facts(model) if has_model else _NO_MODEL
    except HeaderError as error:
        raise ModelError(f"{name}: {error}") from error
    if checked is not None:
        _read_score_maps(path, checked.manifest)
        _students(path, checked.manifest)
    # A model without a template of its own uses the default one.
    sha256 = facts.chat_template_sha256
    if sha256 is not None and chat_templates is not None and sha256 not in chat_templates:
        allowed = ", ".join(chat_templates) or "none"
        raise ModelError(f"{path.name}: its chat template has sha256 {sha256}; `chat_templates` allows {allowed}")
    return checked, facts


def _check_manifest(folder: Path, trust: Trust) -> _CheckedManifest:
    """Raises ModelError unless the signature holds and the folder has just the listed files, of the listed sizes."""
    where = f"{folder.name}/{MANIFEST_FILE}"
    data = _read_manifest(folder / MANIFEST_FILE, where)
    sha256 = hashlib.sha256(data).hexdigest()
    # Before these bytes are parsed.
    signature, signed_by = _check_signature(folder / SIGNATURE_FILE, data, trust)
    if revocation := trust.revocation(sha256, signed_by):
        raise RevokedError(f"{where}: {revocation}")
    try:
        manifest = Manifest.model_validate(parse_json(data.decode()))
    except ValidationError as error:
        raise ModelError(f"{where}: {first_fault(error)}") from error
    except ValueError as error:
        raise ModelError(f"{where}: is not JSON: {error}") from error
    if trust.keys and manifest.version < trust.min_version:
        rule = f"should be at least {trust.min_version}, the version of the last switch"
        raise ModelError(f"{where}: version: {rule} (got {manifest.version})")
    for name in manifest.files:
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise ModelError(f"{where}: files: should be plain names in the folder (got {shown(name)})")
    if _model_file(manifest) not in manifest.files:
        raise ModelError(f"{where}: files: {MODEL_FILE} is required, but missing")
    unlisted = sorted(p.name for p in folder.iterdir() if p.name not in _UNLISTED and p.name not in manifest.files)
    if unlisted:
        raise ModelError(f"{folder.name}: the manifest does not list {shown(unlisted)}")
    for name, listed in manifest.files.items():
        _check_size(folder / name, listed)
    return _CheckedManifest(manifest, sha256, signature, signed_by)


def _read_score_maps(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Empty without the file. Raises ModelError, OSError."""
    listed = manifest.files.get(SCORE_MAPS_FILE)
    if listed is None:
        return {}
    where = f"{folder.name}/{SCORE_MAPS_FILE}"
    if listed.bytes > _MAX_SCORE_MAPS_BYTES:
        raise ModelError(f"{where}: should be at most {_MAX_SCORE_MAPS_BYTES} bytes (got {listed.bytes})")
    data = (folder / SCORE_MAPS_FILE).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != listed.sha256:
        raise ModelError(f"{where}: should have sha256 {listed.sha256} (got {found})")
    try:
        return read_score_maps(data)
    except ValueError as error:
        raise ModelError(f"{where}: cannot be used: {error}") from error


def _read_manifest(path: Path, where: str) -> bytes:
    try:
        return read_bounded(path, _MAX_MANIFEST_BYTES)
    except OSError as error:
        raise ModelError(f"{where}: cannot be read: {error.strerror}") from error
    except TooLongError as error:
        raise ModelError(f"{where}: {error}") from error


def _check_signature(path: Path, manifest: bytes, trust: Trust) -> tuple[Signature | None, str | None]:
    """What the signature is worth, and the SHA-256 of the key that made it. Raises ModelError, OSError."""
    if not trust.keys:
        return ("unchecked" if path.is_file() else None), None
    try:
        return "good", verifying_key(path, manifest, trust.keys).sha256
    except SignatureError as error:
        rule = "a configured public key requires a good signature"
        raise ModelError(f"{path.parent.name}/{path.name}: {error}; {rule}") from error


def _check_size(path: Path, listed: _ListedFile) -> None:
    name = f"{path.parent.name}/{path.name}"
    if path.is_symlink() or not path.is_file():
        raise ModelError(f"{name}: listed in the manifest, but missing")
    size = path.stat().st_size
    if size != listed.bytes:
        raise ModelError(f"{name}: should have {listed.bytes} bytes (got {size})")
