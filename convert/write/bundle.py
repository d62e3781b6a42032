"""Bundle folders on disk. Writes each next to its place and moves it there whole; verifies bundles."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..agent import (
    MANIFEST_FILE,
    MODEL_FILE,
    SIGNATURE_FILE,
    STUDENT_FILE,
    HeaderError,
    Model,
    ModelError,
    Trust,
    check_adapter,
    open_model,
    read_header,
    read_keys,
    sync_folder,
)
from ..errors import ConvertError, escaped
from ..quantize import ggml
from ..stopping import stop_deferred
from .manifest import BUNDLE_FILES, canonical_json, describe_files

_MAX_NAME_LENGTH = 32


@contextmanager
def new_bundle(target: Path, *, replace: bool) -> Iterator[Path]:
    """A folder beside `target` to write files into; on success it becomes `target`, synced.

    If the body raises, `target` stays as it was. Raises ConvertError if nothing may or can be written there.
    """
    check_target(target, replace=replace)
    parent = target.resolve().parent
    folder, old = parent / f".{target.name}.partial", parent / f".{target.name}.partial-old"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConvertError(f"{escaped(str(target))}: cannot be written there: {error.strerror}") from None
    # Held as long as this process lives, which tells a running conversion from a killed one.
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConvertError(f"{escaped(str(target))}: another conversion is writing it") from None
    try:
        for leftover in folder.iterdir():
            leftover.unlink()
        yield folder
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(folder)
        check_target(target, replace=replace)
        with stop_deferred():
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)  # of a conversion that was killed here
                target.rename(old)
            folder.rename(parent / target.name)
            shutil.rmtree(old, ignore_errors=True)
        sync_folder(parent)
    finally:
        with stop_deferred():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def copied_bundle(
    bundle: Path,
    target: Path,
    *,
    replace: bool,
    version: int,
    expires: str | None,
    sign: Callable[[bytes], bytes] | None,
) -> Iterator[Path]:
    """Like `new_bundle`, with a copy of a bundle's files in the folder, to add others to.

    On success the copy gets a manifest, and is verified. If `expires` is None, the bundle's is kept. `sign` makes the
    signature of the manifest's bytes; None leaves the copy unsigned.
    """
    document = json.loads((bundle / MANIFEST_FILE).read_bytes())
    document |= {"version": version} if expires is None else {"version": version, "expires": expires}
    with new_bundle(target, replace=replace) as folder:
        for name in document["files"]:
            shutil.copyfile(bundle / name, folder / name)
        yield folder
        document["files"] = describe_files(folder)
        data = canonical_json(document)
        (folder / MANIFEST_FILE).write_bytes(data)
        if sign is not None:
            (folder / SIGNATURE_FILE).write_bytes(sign(data))
        # A copy that no board would open, perhaps because a file is too large, must not come into being.
        verify_bundle(folder)


def check_target(target: Path, *, replace: bool) -> None:
    """With `replace`, `target` may be an empty folder or a bundle without other files; nothing else is ever deleted."""
    shown = escaped(str(target))
    if not os.path.lexists(target):
        return
    if not replace:
        raise ConvertError(f"{shown}: already exists; --force replaces it")
    names = {path.name for path in target.iterdir()} if target.is_dir() and not target.is_symlink() else {"a file"}
    students = {name for name in names if STUDENT_FILE.fullmatch(name) is not None}
    is_bundle = MANIFEST_FILE in names and (MODEL_FILE in names or students)
    if names and (names - BUNDLE_FILES - students or not is_bundle):
        raise ConvertError(f"{shown}: not an empty folder and not a bundle alone, so --force does not replace it")


def student_name(bundle_name: str) -> str:
    """The name, in another bundle, of the model that this bundle was made for."""
    return f"student-{re.sub(r'[^a-z0-9]+', '-', bundle_name.lower()).strip('-')[:_MAX_NAME_LENGTH] or 'model'}"


def verify_bundle(folder: Path, public_keys: Sequence[Path] = ()) -> Model:
    """Opens a bundle as the agent does, with one of the keys (PEM) if there are any, and checks all weights.

    Raises ConvertError with the first fault.
    """
    if not folder.is_dir():
        raise ConvertError(f"{escaped(str(folder))}: not the folder of a bundle")
    try:
        model = open_model("default", folder, Trust(read_keys(("public_key", file) for file in public_keys)))
        adapters = [Path(adapter.path) for adapter in model.adapters]
        for adapter in adapters:
            check_adapter(adapter)
        for path in (model.path, *adapters, *(Path(student.path) for student in model.students)):
            if path.suffix == ".gguf":
                _check_weights(path)
    except (ModelError, HeaderError) as error:
        # The agent names a field of its configuration; the converter has none.
        raise ConvertError(escaped(str(error).removeprefix("models.default."), limit=1000)) from None
    return model


def _check_weights(path: Path) -> None:
    for tensor in read_header(path).tensors:
        weights = np.memmap(path, np.uint8, "r", tensor.offset, (tensor.nbytes,))
        if not ggml.is_sound(weights, ggml.GgmlType[tensor.type.name]):
            raise ConvertError(f"{path.name}: tensor {escaped(tensor.name)}: should hold finite numbers only")
