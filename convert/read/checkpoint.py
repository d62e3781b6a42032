"""A Hugging Face checkpoint folder: its files, its tensors and its hashes.

Reads nothing but plain file names inside the folder. Symbolic links are followed, because the Hugging Face cache is
made of them. Pickle formats (pytorch_model.bin) are never opened: loading one runs its code.
"""

import hashlib
import re
import shlex
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..errors import CheckpointError, escaped
from .files import parse_object, read_small_file
from .safetensors import SafetensorsFile, StoredTensor

SHARDS = "model*.safetensors"
_REVISION = re.compile(r"[0-9a-f]{40}")
# OWNER/MODEL, as the Hugging Face hub names models.
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


class Checkpoint:
    """An open checkpoint: `tensors` by checkpoint name over all shards, small files through `read` and `read_object`.

    Raises CheckpointError if there is no shard, if one is damaged, or if a tensor is in two of them.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(f"{escaped(str(folder))}: {_missing(folder)}")
        self.folder = folder
        self._small_files: dict[str, str] = {}
        with ExitStack() as stack:
            # The index is not read; upstream does not read it either.
            self._shards = [stack.enter_context(SafetensorsFile(path)) for path in sorted(folder.glob(SHARDS))]
            if not self._shards:
                is_converted = any(folder.glob("*.gguf"))
                why = "its model is already converted" if is_converted else "only safetensors checkpoints are supported"
                raise CheckpointError(f"{escaped(str(folder))}: holds no {SHARDS}; {why}")
            self.tensors: dict[str, StoredTensor] = {}
            for shard in self._shards:
                if twice := self.tensors.keys() & shard.tensors.keys():
                    name = min(twice)
                    other = self.tensors[name].file.name
                    raise CheckpointError(f"{shard.name}: tensor {escaped(name)} is in {other} too")
                self.tensors |= shard.tensors
            self._close = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def read(self, name: str) -> bytes | None:
        """Content of a small file; None if there is none. Once read, it is one of the source files of the manifest."""
        data = read_small_file(self.folder / name)
        if data is None:
            return None
        self._small_files[name] = hashlib.sha256(data).hexdigest()
        return data

    def read_text(self, name: str) -> str | None:
        data = self.read(name)
        if data is None:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{escaped(name)}: not UTF-8 at byte {error.start}") from None

    def read_object(self, name: str) -> dict[str, Any] | None:
        data = self.read(name)
        return None if data is None else parse_object(data, name)

    @cached_property
    def shard_hashes(self) -> dict[str, str]:
        """Hex SHA-256 of every shard. Reads them whole."""
        return {shard.name: shard.sha256() for shard in self._shards}

    def source_hashes(self) -> dict[str, str]:
        """Hex SHA-256 of every file read so far and of every shard."""
        return self._small_files | self.shard_hashes

    def revision(self) -> str | None:
        """The commit of a snapshot in a Hugging Face cache (`snapshots/<commit>`); None for any other folder."""
        folder = self.folder.resolve()
        return folder.name if folder.parent.name == "snapshots" and _REVISION.fullmatch(folder.name) else None


def _missing(folder: Path) -> str:
    """Why a path is no checkpoint, and the command that downloads one."""
    if folder.suffix == ".gguf" and folder.is_file():
        return "a GGUF file is already converted: name it as models.default.path of an agent; or give its checkpoint"
    if folder.exists():
        return "not a checkpoint folder, which would hold config.json and safetensors files"
    path = str(folder)
    model, where = (path, folder.name) if _HUB_ID.fullmatch(path) else ("OWNER/MODEL", path)
    download = f"hf download {model} --local-dir {shlex.quote(escaped(where))}"
    return f"no such checkpoint folder; `{download}` downloads one (pip install huggingface_hub)"
