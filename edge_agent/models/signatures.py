"""Ed25519: reads public keys and checks signatures of manifests and lists."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.core.extras import missing_extra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_FILE = "manifest.sig"
_SIGNATURE_BYTES = 64
# A PEM file of openssl has 113 bytes. The path may name any file.
_MAX_KEY_BYTES = 10_000


class KeyFileError(Exception):
    """The file holds no usable key; the message gives the reason without the file's name."""


class SignatureError(Exception):
    """The signature is not good; the message gives the reason without the file's name."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    key: Ed25519PublicKey
    sha256: str
    """The hash of the key's 32 bytes, in hex."""


def read_public_key(file: Path) -> PublicKey:
    """The Ed25519 public key in a PEM file, as `openssl pkey -pubout` writes it. Raises KeyFileError."""
    if missing := missing_extra("engine"):
        raise KeyFileError(f"cannot be used: {missing}")
    # 20 ms and 13 MB, only where a key is configured.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        # Reading a FIFO would block.
        if not file.is_file():
            raise KeyFileError("should be a file that can be read")
        with file.open("rb") as opened:
            pem = opened.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise KeyFileError(f"cannot be read: {error.strerror}") from error
    if b"PRIVATE KEY-----" in pem:
        hint = "`openssl pkey -in KEY.pem -pubout` writes the public one"
        raise KeyFileError(f"holds a private key, which must not be on a board; {hint}")
    if (count := pem.count(b"-----BEGIN")) > 1:
        raise KeyFileError(f"should hold one key (got {count}): `public_keys` accepts several files")
    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm:
        key = None
    except ValueError as error:
        raise KeyFileError("should be an Ed25519 public key in PEM, but none can be read from it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError("should be an Ed25519 public key, but holds a key of another kind")
    return PublicKey(key, hashlib.sha256(key.public_bytes_raw()).hexdigest())


def public_key_fault(file: Path) -> str | None:
    """Why the file holds no usable key; None if the key is usable."""
    try:
        read_public_key(file)
    except KeyFileError as error:
        return str(error)
    return None


def verifying_key(file: Path, signed: bytes, keys: Iterable[PublicKey]) -> PublicKey:
    """The first of the keys that verifies the file as a signature of these bytes. Raises SignatureError, OSError."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    if file.is_symlink() or not file.is_file():
        raise SignatureError("missing")
    size = file.stat().st_size
    if size != _SIGNATURE_BYTES:
        raise SignatureError(f"should have {_SIGNATURE_BYTES} bytes (got {size})")
    signature = file.read_bytes()
    for key in keys:
        try:
            key.key.verify(signature, signed)
        except InvalidSignature:
            continue
        return key
    raise SignatureError("signed with another key, or what it signs was changed afterwards")
