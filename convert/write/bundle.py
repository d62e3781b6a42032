"""Bundle folders on disk: written beside their place and moved there whole, and verified."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..agent import (
    HeaderError,
    ManifestError,
    check_adapter,
    check_numbers,
    parse_manifest,
    read_header,
    read_model_facts,
    signature_fault,
)
from ..errors import CheckpointError, ConvertError, printable
from ..read.strict_json import parse_object
from ..stopping import stop_deferred
from .manifest import ADAPTER_FILE, FILE, MODEL_FILE, REPAIR_FILE, SCHEMA, SIGNATURE_FILE, sha256_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_UNLISTED = (FILE, SIGNATURE_FILE)
# The limit of the agent; the manifest of a model of 80 layers has 100 kB.
_MAX_MANIFEST_BYTES = 4_000_000


def check_target(target: Path, *, replace: bool) -> None:
    """Raises ConvertError unless a bundle may be written at `target`.

    With `replace`, `target` may be an empty folder or an older bundle, even a damaged one, that holds nothing but its
    own files. Nothing else is ever deleted.
    """
    shown = printable(str(target))
    if not os.path.lexists(target):
        return
    if not replace:
        raise ConvertError(f"{shown}: exists already; --force replaces it")
    if target.is_symlink() or not target.is_dir():
        raise ConvertError(f"{shown}: not a bundle (a folder with {FILE}), so --force does not replace it")
    found = sorted(target.iterdir())
    if not found:
        return
    try:
        files = _read_manifest(target)[1]["files"]
    except ConvertError as error:
        raise ConvertError(f"{shown}: not a bundle ({error}), so --force does not replace it") from None
    for path in found:
        if (path.name not in files and path.name not in _UNLISTED) or path.is_symlink() or not path.is_file():
            raise ConvertError(
                f"{shown}: holds {printable(path.name)}, which {FILE} does not list, so --force does not replace it"
            )


def check_writable(target: Path) -> None:
    """Raises ConvertError unless a folder can be created beside `target`; it is removed again."""
    parent = target.resolve().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with TemporaryDirectory(dir=parent, prefix=f".{target.name}.partial-", ignore_cleanup_errors=True):
            pass
    except OSError as error:
        raise ConvertError(f"{printable(str(target))}: cannot be written there: {error.strerror}") from None


@contextmanager
def new_bundle(target: Path, *, replace: bool) -> Iterator[Path]:
    """A temporary folder beside `target` to write files into; on success it becomes `target`, synced.

    If the body raises, the folder is removed and `target` stays as it was. The folder of a killed conversion to the
    same target is removed too.
    """
    check_target(target, replace=replace)
    parent = target.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    _remove_leftovers(parent, prefix)
    folder = parent / f"{prefix}{secrets.token_hex(4)}"
    folder.mkdir()
    # The lock is held as long as this process lives: it tells a running conversion from a leftover.
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
        for path in (*folder.iterdir(), folder):
            _sync(path)
        check_target(target, replace=replace)
        with stop_deferred():
            _move(folder, parent / target.name)
        _sync(parent)
    finally:
        with stop_deferred():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def verify_bundle(folder: Path, key: Ed25519PublicKey | None = None) -> tuple[dict[str, Any], list[str]]:
    """The manifest of a bundle and the list of faults, empty if it is sound.

    These are faults: a manifest, model or adapter that the agent would refuse; a file that is missing, changed or not
    listed; a listed name that leaves the folder. With `key`, the signature is checked too.
    Raises ConvertError if there is no manifest.
    """
    try:
        data, manifest = _read_manifest(folder)
    except ConvertError as error:
        raise ConvertError(f"{printable(str(folder))}: {error}") from None
    files = manifest["files"]
    faults = []
    try:
        parse_manifest(data)
    except ManifestError as error:
        faults.append(f"{FILE}: {error}")
    if key is not None and (wrong := signature_fault(folder / SIGNATURE_FILE, data, key)) is not None:
        faults.append(f"{SIGNATURE_FILE}: {wrong}")
    for name, entry in sorted(files.items()):
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            faults.append(f"{printable(name)}: not a plain file name")
        elif (fault := _file_fault(folder / name, entry) or _content_fault(folder / name)) is not None:
            faults.append(f"{printable(name)}: {fault}")
    faults += [
        f"{printable(path.name)}: not listed in {FILE}"
        for path in sorted(folder.iterdir())
        if path.name not in files and path.name not in _UNLISTED
    ]
    return manifest, faults


def _read_manifest(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Its bytes, which the signature covers, and its content."""
    path = folder / FILE
    try:
        # A pipe would never end.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ConvertError(f"{FILE}: not a regular file")
        with path.open("rb") as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
        if len(data) > _MAX_MANIFEST_BYTES:
            raise ConvertError(f"{FILE}: longer than the {_MAX_MANIFEST_BYTES} bytes allowed")
        manifest = parse_object(data, FILE)
    except OSError as error:
        raise ConvertError(f"{FILE}: cannot be read: {error.strerror}") from None
    except CheckpointError as error:
        raise ConvertError(str(error)) from None
    schema, files = manifest.get("schema"), manifest.get("files")
    if type(schema) is not int or schema != SCHEMA or not isinstance(files, dict) or MODEL_FILE not in files:
        raise ConvertError(f"{FILE}: not a manifest of schema {SCHEMA} that lists {MODEL_FILE}")
    return data, manifest


def _file_fault(path: Path, entry: Any) -> str | None:
    if not isinstance(entry, dict) or type(entry.get("bytes")) is not int or not isinstance(entry.get("sha256"), str):
        return f"{FILE} has no sha256 and bytes for it"
    if path.is_symlink() or not path.is_file():
        return "missing, or not a regular file"
    if path.stat().st_size != entry["bytes"]:
        return f"{path.stat().st_size} bytes, {FILE} says {entry['bytes']}"
    found = sha256_of(path)
    return None if found == entry["sha256"] else f"SHA-256 {found}, {FILE} says {printable(entry['sha256'])}"


def _content_fault(path: Path) -> str | None:
    try:
        if path.name == MODEL_FILE:
            read_model_facts(path)
            check_numbers(path, read_header(path).tensors)
        elif path.name in (ADAPTER_FILE, REPAIR_FILE):
            check_adapter(path)
    except HeaderError as error:
        return str(error)
    return None


def _remove_leftovers(parent: Path, prefix: str) -> None:
    for path in parent.iterdir():
        if not path.name.startswith(prefix) or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _move(folder: Path, target: Path) -> None:
    """Renames `folder` to `target`; an older bundle there is removed."""
    if not target.exists():
        folder.rename(target)
        return
    old = folder.with_name(f"{folder.name}-old")
    target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
