"""Keys that sign and check a manifest, in PEM files as openssl writes them.

The library is imported only if a key is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..agent import MAX_KEY_BYTES, KeyFileError, parse_public_key
from ..errors import ConvertError, printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def read_private_key(path: Path, option: str) -> Ed25519PrivateKey:
    """The Ed25519 private key in a PEM file, which may be a pipe.

    Raises ConvertError, which names the `option` that the file was given with.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    pem = _read(path, option)
    if b"PUBLIC KEY-----" in pem and b"PRIVATE KEY-----" not in pem:
        raise _fault(path, option, "holds a public key; signing needs the private one")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:  # it needs a password
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
    try:
        return parse_public_key(_read(path, option))
    except KeyFileError as error:
        raise _fault(path, option, str(error)) from None


def _read(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise _fault(path, option, f"cannot be read: {error.strerror}") from None


def _fault(path: Path, option: str, what: str) -> ConvertError:
    return ConvertError(f"{option}: {printable(str(path))}: {what}")
