"""Ed25519: the public key that a configuration names, and whether a manifest was signed with its other half."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_FILE = "manifest.sig"
SIGNATURE_BYTES = 64
# A key as openssl writes it has 113 bytes; no more is read of what may be anything.
MAX_KEY_BYTES = 10_000


class KeyFileError(Exception):
    """The file holds no key that can be used; the message tells why, but not the file's name."""


def read_public_key(file: Path) -> Ed25519PublicKey:
    """The Ed25519 public key in a file. Raises KeyFileError."""
    return parse_public_key(_read(file))


def parse_public_key(pem: bytes) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM, as `openssl pkey -pubout` writes it. Raises KeyFileError."""
    # 20 ms and 13 MB that only those pay who configure a key.
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    if b"PRIVATE KEY-----" in pem:
        hint = "`openssl pkey -in KEY.pem -pubout` writes the public one"
        raise KeyFileError(f"holds a private key, which belongs on no board; {hint}")
    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm:
        key = None
    except ValueError as error:
        raise KeyFileError("should be an Ed25519 public key in PEM, but none can be read from it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError("should be an Ed25519 public key, but holds a key of another kind")
    return key


def public_key_fault(file: Path) -> str | None:
    """What is wrong with the file; None = it holds a key that can be used."""
    try:
        read_public_key(file)
    except KeyFileError as error:
        return str(error)
    return None


def signature_fault(file: Path, signed: bytes, key: Ed25519PublicKey) -> str | None:
    """What is wrong with a signature; None = `key`'s other half made it of these very bytes. Raises OSError."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    if file.is_symlink() or not file.is_file():
        return "not there as a file"
    size = file.stat().st_size
    if size != SIGNATURE_BYTES:
        return f"should have {SIGNATURE_BYTES} bytes (got {size})"
    try:
        key.verify(file.read_bytes(), signed)
    except InvalidSignature:
        return "signed with another key, or the manifest is not the one that was signed"
    return None


def _read(file: Path) -> bytes:
    try:
        # A pipe would never end.
        if not file.is_file():
            raise KeyFileError("should be a file that can be read")
        with file.open("rb") as opened:
            return opened.read(MAX_KEY_BYTES)
    except OSError as error:
        raise KeyFileError(f"cannot be read: {error.strerror}") from error
