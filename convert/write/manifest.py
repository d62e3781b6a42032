"""manifest.json of a bundle: what is in it, from what and how it was made. It holds no times, paths or host names."""

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..report.quality import FILE as QUALITY_FILE
from ..weights import ggml

FILE = "manifest.json"
SIGNATURE_FILE = "manifest.sig"
MODEL_FILE = "model.gguf"
CANARIES_FILE = "canaries.json"
IMPORTANCE_FILE = "imatrix.gguf"
ADAPTER_FILE = "adapter.gguf"
REPAIR_FILE = "repair.gguf"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class BundleFile:
    """Hex SHA-256 and size in bytes of one file of the bundle."""

    sha256: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The fields of contract section 6; `quality` is None where nothing was measured."""

    name: str
    version: int
    architecture: str
    quantization: str
    licence: str | None
    files: dict[str, BundleFile]
    source_files: dict[str, str]
    revision: str | None
    types: dict[str, str]
    context_length: int
    chat_template_sha256: str | None
    quality: dict[str, Any] | None = None
    imatrix_sha256: str | None = None

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8. Equal manifests have equal bytes; these get signed."""
        value = {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "architecture": self.architecture,
            "quantization": self.quantization,
            "licence": self.licence,
            "files": {name: {"sha256": file.sha256, "bytes": file.nbytes} for name, file in self.files.items()},
            "source": {"files": self.source_files, "revision": self.revision},
            "recipe": {"types": self.types, "imatrix_sha256": self.imatrix_sha256},
            "tools": tools(),
            "context_length": self.context_length,
            "chat_template_sha256": self.chat_template_sha256,
            "quality": self.quality,
        }
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")


def sha256_of(path: Path) -> str:
    """Hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measured(folder: Path) -> dict[str, Any] | None:
    """Of the quality.json in a bundle's folder what tells of the whole model; None if there is none."""
    path = folder / QUALITY_FILE
    if not path.is_file():
        return None
    quality = json.loads(path.read_bytes())
    return {name: quality[name] for name in ("reference", "texts", "divergence", "perplexity", "tasks")}


def tools() -> dict[str, str]:
    """Versions of what shaped the bytes.

    The quantizers' rounding depends on how they were compiled (fused multiply-add differs between x86 and ARM builds),
    so equal bytes are promised only for an equal library on an equal machine type.
    """
    return {
        "edge-convert": __version__,
        "gguf": importlib.metadata.version("gguf"),
        "libggml-base-sha256": sha256_of(ggml.library_path()),
        "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        "machine": platform.machine(),
    }
