"""manifest.json of a bundle: its files, its source and its recipe. It holds no times, paths or host names."""

import importlib.metadata
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ..agent import (
    ADAPTER_FILE,
    CANARIES_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    REPAIR_FILE,
    SCORE_MAPS_FILE,
    SIGNATURE_FILE,
    __version__,
    sha256_of,
)
from ..errors import ConvertError, escaped
from ..quantize import ggml

IMPORTANCE_FILE = "imatrix.gguf"
QUALITY_FILE = "quality.json"
PAGE_FILE = "quality.html"
BUNDLE_FILES = {
    *(MANIFEST_FILE, SIGNATURE_FILE, MODEL_FILE, CANARIES_FILE, IMPORTANCE_FILE, ADAPTER_FILE, REPAIR_FILE),
    *(QUALITY_FILE, PAGE_FILE, SCORE_MAPS_FILE),
}
SCHEMA = 1
# The format of a trained model's manifest, so that release 0.1.0 refuses the model instead of asking it as a chat.
TRAINED_SCHEMA = 2


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The `files` of the manifest: SHA-256 (hex) and size in bytes of all files in the folder."""
    return {path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in folder.iterdir()}


def canonical_json(value: dict[str, Any]) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces, so that equal values have equal bytes. A manifest's are signed."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def torch_versions() -> dict[str, str]:
    """The versions of what trains blocks after rounding."""
    return versions("torch", "transformers")


def tools() -> dict[str, str]:
    """Versions of everything that shapes the bytes.

    How the quantizers round depends on how they were compiled: fused multiply-add differs between x86 and ARM builds.
    Equal bytes are promised only for an equal library on an equal machine type.
    """
    return {
        "edge-convert": __version__,
        "libggml-base-sha256": sha256_of(ggml.library_path()),
        **versions("gguf", "llama-cpp-python"),
        "machine": platform.machine(),
    }


def signer(path: Path | None) -> Callable[[bytes], bytes] | None:
    """The function that signs a manifest with the key in a file; None without a file. Raises ConvertError."""
    if path is None:
        return None
    where = f"--sign: {escaped(str(path))}"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConvertError(f"{where}: cannot be read: {error.strerror}") from None
    except (TypeError, ValueError, UnsupportedAlgorithm):  # TypeError: it needs a password
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        hint = "as `openssl genpkey -algorithm ed25519` writes it"
        raise ConvertError(f"{where}: should hold an Ed25519 private key in PEM without a passphrase, {hint}")
    return key.sign
