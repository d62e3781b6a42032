"""Bundle folders on disk: written beside their place and moved there whole, and verified."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edge_agent.gguf.adapter import check_adapter
from edge_agent.gguf.header import HeaderError, read_header
from edge_agent.gguf.model import read_model_facts
from edge_agent.gguf.numbers import check_numbers
from edge_agent.models.signatures import signature_fault

from ..errors import CheckpointError, ConvertError, printable
from ..read.strict_json import parse_object
from ..stopping import SIGNALS
from .manifest import ADAPTER_FILE, FILE, MODEL_FILE, REPAIR_FILE, SCHEMA, SIGNATURE_FILE, sha256_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_UNLISTED = (FILE, SIGNATURE_FILE)
# No more is read by the agent either; a model of 80 layers has 100 kB.
_MAX_MANIFEST_BYTES = 4_000_000
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


def check_target(target: Path, *, replace: bool) -> None:
    """ConvertError unless a bundle may be written at `target`.

    With `replace` an empty folder may stand there, or an older bundle, damaged or not, that holds nothing but its own
    files; nothing else is ever deleted.
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
            name = printable(path.name)
            raise ConvertError(
                f"{shown}: holds {name}, which is no file listed in {FILE}, so --force does not replace it"
            )


@contextmanager
def new_bundle(target: Path, *, replace: bool) -> Iterator[Path]:
    """A temporary folder beside `target` to write files into; on success it becomes `target` in one step, synced.

    If the body raises, whatever it is, the folder is removed and `target` is as it was. What a killed conversion of the
    same target left behind is removed too.
    """
    check_target(target, replace=replace)
    parent = target.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    _remove_leftovers(parent, prefix)
    folder = parent / f"{prefix}{secrets.token_hex(4)}"
    folder.mkdir()
    lock = -1
    try:
        # Held as long as we live: it tells a leftover from a conversion that is running.
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
        for path in folder.iterdir():
            _sync(path)
        _sync(folder)
        check_target(target, replace=replace)
        with _undisturbed():
            _move(folder, parent / target.name, replace=replace)
        _sync(parent)
    finally:
        with _undisturbed():
            # After an exchange this is the older bundle.
            shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def check_writable(target: Path) -> None:
    """ConvertError unless a folder can be made where `target` is to be; it is removed again."""
    parent = target.resolve().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with TemporaryDirectory(dir=parent, prefix=f".{target.name}.partial-", ignore_cleanup_errors=True):
            pass
    except OSError as error:
        raise ConvertError(f"{printable(str(target))}: cannot be written there: {error.strerror}") from None


def verify_bundle(folder: Path, key: Ed25519PublicKey | None = None) -> tuple[dict[str, Any], list[str]]:
    """The manifest of a bundle and the list of faults found, empty if it is whole.

    A fault is a manifest that the agent would not read; a file that is missing, changed, not listed, or listed under a
    name that leaves the folder; a model or adapter that the agent would not open; with `key` also a signature that is
    missing or not made with its other half. Raises ConvertError if there is no manifest to go by.
    """
    # It loads what only the agent needs else.
    from edge_agent.models.bundle import ManifestError, parse_manifest  # noqa: PLC0415

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
    """Its bytes, which a signature is of, and what they say."""
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
        return f"{FILE} gives no sha256 and bytes for it"
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


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore the signals that end a program for the moment that renaming and clearing up take."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _move(folder: Path, target: Path, *, replace: bool) -> None:
    """Rename `folder` to `target`; an older bundle there ends up under the name of `folder`."""
    exchange = replace and target.exists()
    if _rename_with_flags(folder, target, _RENAME_EXCHANGE if exchange else _RENAME_NOREPLACE):
        return
    # A file system or C library without these flags: two steps, and a moment without a bundle between them.
    if exchange:
        old = folder.with_name(f"{folder.name}-old")
        target.rename(old)
        try:
            folder.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(target)


def _rename_with_flags(source: Path, target: Path, flags: int) -> bool:
    """Whether Linux's renameat2 did it; False where it is not available."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):  # the file system lacks the flag, or the kernel the call
        return False
    raise OSError(code, os.strerror(code), str(target))
