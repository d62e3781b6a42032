"""Ed25519 signatures of a manifest: the keys as openssl writes them, and whether a signature is good.

The library is imported only where a key is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConvertError, printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
# A key as openssl writes it has 120 bytes; no more is read of what may be anything.
_MAX_KEY_BYTES = 10_000


def read_private_key(path: Path, option: str) -> Ed25519PrivateKey:
    """The Ed25519 private key in a PEM file, which may be a pipe.

    Raises ConvertError, which names the `option` that the file was given with.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    pem = _read(path, option)
    if b"PUBLIC KEY-----" in pem and b"PRIVATE KEY-----" not in pem:
        raise _fault(path, option, "holds a public key; to sign takes the private one")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:  # it would take a password
        raise _fault(path, option, "is encrypted; `openssl pkey -in KEY.pem` writes it without a passphrase") from None
    except UnsupportedAlgorithm:
        key = None
    except ValueError:
        hint = "`openssl genpkey -algorithm ed25519` writes one"
        raise _fault(path, option, f"no private key in PEM can be read from it; {hint}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _fault(path, option, "holds a key of another kind than Ed25519")
    return key


def read_public_key(path: Path, option: str) -> Ed25519PublicKey:
    """The Ed25519 public key in a PEM file, which may be a pipe.

    Raises ConvertError, which names the `option` that the file was given with.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    pem = _read(path, option)
    hint = "`openssl pkey -in KEY.pem -pubout` writes one"
    if b"PRIVATE KEY-----" in pem:
        raise _fault(path, option, f"holds a private key; a public one is expected: {hint}")
    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm:
        key = None
    except ValueError:
        raise _fault(path, option, f"no public key in PEM can be read from it; {hint}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _fault(path, option, "holds a key of another kind than Ed25519")
    return key


def signature_fault(path: Path, signed: bytes, key: Ed25519PublicKey) -> str | None:
    """What is wrong with a signature; None if it was made of these very bytes with `key`'s other half."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    if path.is_symlink() or not path.is_file():
        return "missing, or not a regular file"
    size = path.stat().st_size
    if size != SIGNATURE_BYTES:
        return f"{size} bytes, a signature has {SIGNATURE_BYTES}"
    try:
        key.verify(path.read_bytes(), signed)
    except InvalidSignature:
        return "signed with another key, or the manifest is not the one that was signed"
    return None


def _read(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise _fault(path, option, f"cannot be read: {error.strerror}") from None


def _fault(path: Path, option: str, what: str) -> ConvertError:
    return ConvertError(f"{option}: {printable(str(path))}: {what}")
