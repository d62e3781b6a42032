"""Which bundles may open: the configured public keys, the signed list of revocations, the lowest version.

The kept list is the copy in `state_dir` of the newest list that was read. It is used where the configured one is
faulty, missing or older.
"""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge_agent.core.config import ModelConfig, Sha256
from edge_agent.core.files import TooLongError, read_bounded, read_if_exists, write_atomically
from edge_agent.core.model import ModelError
from edge_agent.core.strict_json import parse_json
from edge_agent.core.wording import first_fault, printable, shown_path
from edge_agent.models.signatures import KeyFileError, PublicKey, SignatureError, read_public_key, verifying_key

log = logging.getLogger(__name__)

FILE = "revocations-1.json"
_MAX_BYTES = 1_000_000
_KNOWN = ("schema", "number", "manifests", "keys", "reason")
_writing = threading.Lock()


class RevocationsError(Exception):
    """The list cannot be used; the message gives the reason without the file's name."""


class Revocations(BaseModel):
    # A field that is misspelt would revoke nothing.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1] = Field(alias="schema")
    number: Annotated[int, Field(ge=1, lt=1 << 53)]
    manifests: Annotated[tuple[Sha256, ...], Field(strict=False)]
    """The hashes of manifest.json files."""
    keys: Annotated[tuple[Sha256, ...], Field(strict=False)]
    """The hashes of the 32 bytes of public keys."""
    reason: Annotated[str, StringConstraints(max_length=200)] | None = None


@dataclass(frozen=True, slots=True)
class Trust:
    """What a bundle is checked against when it is opened."""

    keys: tuple[PublicKey, ...] = ()
    """Without keys, signatures are not checked."""
    revocations: Revocations | None = None
    """The list that is used."""
    fault: str | None = None
    """What is wrong with the configured or the kept list, and which of them is used."""
    min_version: int = 0
    """Where there are keys, a bundle of an older version does not open."""

    def revocation(self, manifest_sha256: str | None, key_sha256: str | None) -> str | None:
        """Why a bundle with this manifest, signed with this key, must not be used; None if it may be."""
        listed = self.revocations
        if listed is None:
            return None
        why = f"revoked by list {listed.number}" + (f": {printable(listed.reason)}" if listed.reason else "")
        if manifest_sha256 in listed.manifests:
            return why
        return f"signed with a key that is {why}" if key_sha256 in listed.keys else None


def read_keys(files: Iterable[tuple[str, Path]]) -> tuple[PublicKey, ...]:
    """The keys in these files, each given after the field that names it. Raises ModelError."""
    keys = list[PublicKey]()
    for name, file in files:
        try:
            keys.append(read_public_key(file))
        except KeyFileError as error:
            raise ModelError(f"{name}: {error} (got {shown_path(file)})") from error
    return tuple(keys)


def read_trust(configured: ModelConfig, state_dir: Path | None = None) -> Trust:
    """What the configuration names; without `state_dir`, no kept list counts. Raises ModelError for a faulty key."""
    keys = read_keys((f"models.default.{name}", file) for name, file in configured.key_files.items())
    if configured.revocations is None:
        return Trust(keys)
    kept, fault = None, None
    try:
        kept = None if state_dir is None else _read_kept(state_dir / FILE)
    except RevocationsError as error:
        fault = f"models.default.revocations: {error}; the configured list is used, whatever its number"
    try:
        return Trust(keys, read_revocations(configured.revocations, keys, kept), fault)
    except RevocationsError as error:
        used = "no list is used" if kept is None else f"the kept list with number {kept.number} is used"
        return Trust(
            keys, kept, f"models.default.revocations: {error} (got {shown_path(configured.revocations)}); {used}"
        )


def read_revocations(file: Path, keys: Iterable[PublicKey], kept: Revocations | None) -> Revocations:
    """A list that one of these keys signed, and that is not older than `kept`. Raises RevocationsError."""
    revoked = () if kept is None else kept.keys
    try:
        if not file.is_file():
            raise RevocationsError("should be a file that can be read")
        data = read_bounded(file, _MAX_BYTES)
        # Before these bytes are parsed.
        signer = verifying_key(signature_of(file), data, [key for key in keys if key.sha256 not in revoked])
        listed = Revocations.model_validate(parse_json(data.decode()))
    except OSError as error:
        raise RevocationsError(f"cannot be read: {error.strerror}") from error
    except SignatureError as error:
        raise RevocationsError(f"its signature {signature_of(file).name}: {error}") from error
    except ValidationError as error:
        raise RevocationsError(first_fault(error, allowed_keys=_KNOWN)) from error
    except TooLongError as error:
        raise RevocationsError(str(error)) from error
    except ValueError as error:
        raise RevocationsError(f"is not JSON: {error}") from error
    if signer.sha256 in listed.keys:
        raise RevocationsError("revokes the key that signed it: sign it with another one")
    if kept is not None and listed.number < kept.number:
        raise RevocationsError(f"number should be at least {kept.number}, the kept list's (got {listed.number})")
    if kept is not None and listed.number == kept.number and listed != kept:
        raise RevocationsError(f"number should be above {kept.number}, because another list has that number")
    return listed


def signature_of(file: Path) -> Path:
    """The signature of a list is beside it."""
    return file.with_name(f"{file.name}.sig")


def keep_revocations(state_dir: Path, trust: Trust) -> None:
    """From now on, no older list is used. A write error is logged, not raised."""
    path = state_dir / FILE
    with _writing:
        if trust.revocations is None or not _is_newer(trust.revocations, path):
            return
        try:
            write_atomically(path, trust.revocations.model_dump_json(by_alias=True).encode() + b"\n")
        except OSError as error:
            log.error("%s cannot be written, so an older list may count later: %s", path, error)  # noqa: TRY400 - no fault of ours


def _is_newer(listed: Revocations, kept: Path) -> bool:
    """Whether this list is newer than the kept one, which another thread may have replaced since this one was read."""
    try:
        before = _read_kept(kept)
    except RevocationsError:
        return True
    return before is None or before.number < listed.number


def _read_kept(path: Path) -> Revocations | None:
    """Raises RevocationsError."""
    try:
        content = read_if_exists(path)
        return None if content is None else Revocations.model_validate_json(content)
    except OSError as error:
        raise RevocationsError(f"{shown_path(path)} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RevocationsError(f"{shown_path(path)} is damaged: {first_fault(error, allowed_keys=_KNOWN)}") from error
