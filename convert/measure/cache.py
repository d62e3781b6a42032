"""Files in the cache folder. A damaged one counts as missing."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ..agent import HeaderError, atomic_writer, read_header, write_atomically
from ..plan import make_plan
from ..progress import OnProgress, named
from ..quantize.recipe import Quantization
from ..read.checkpoint import Checkpoint
from ..read.model import SourceModel
from ..write.manifest import tools

# Rises with every change of what is measured or how, so that older results are not used.
_CACHE_VERSION = 4


def user_cache() -> Path:
    """The cache folder where no other one is given."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-agent" / "convert"


def write_reference(checkpoint: Checkpoint, model: SourceModel, work: Path, progress: OnProgress) -> Path:
    """The file of the checkpoint as BF16, written once; its folder in `work` also keeps what is measured with it.

    Raises ConvertError.
    """
    made_from = [checkpoint.source_hashes(), tools(), _CACHE_VERSION]
    if model.config.vocab_size < model.checkpoint_tokens:
        made_from.append(model.tokenizer.tokens)
    path = work / hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16] / "reference.gguf"
    if not is_whole_gguf(path):
        progress("writing the reference", 0.0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as draft:
            plan = make_plan(model, Quantization.BF16)
            plan.write(Path(draft.name), progress=named(progress, "writing the reference"))
    return path


def is_whole_gguf(path: Path) -> bool:
    """False if the file is missing, or if its header is damaged."""
    try:
        read_header(path)
    except (OSError, HeaderError):
        return False
    return True


def read_cached(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_cached(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def read_arrays(path: Path) -> dict[str, Any] | None:
    """The arrays in a file, by name; None if it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    # A damaged header of the archive may also name a method or a password that zipfile does not know.
    except (OSError, EOFError, ValueError, KeyError, BadZipFile, RuntimeError):
        return None


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    write_atomically(path, data.getvalue())
