"""Ed25519 keys in PEM, as openssl writes them, and files that are taken for such keys."""

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edge_agent.models.trust import Trust, read_keys

# A curve that the library does not know, while openssl does.
UNKNOWN_PRIVATE = b"""\
-----BEGIN PRIVATE KEY-----
ME4CAQAwEAYHKoZIzj0CAQYFK4EEAAYENzA1AgEBBA5zhV1GnwJQoKzC6fLv1qEg
Ax4ABK6R0GaUSvyHGMPBG9ZMAWYN+I18RqbTS0zWVWA=
-----END PRIVATE KEY-----
"""
UNKNOWN_PUBLIC = b"""\
-----BEGIN PUBLIC KEY-----
MDIwEAYHKoZIzj0CAQYFK4EEAAYDHgAErpHQZpRK/IcYw8Eb1kwBZg34jXxGptNL
TNZVYA==
-----END PUBLIC KEY-----
"""


def private_pem(
    key: Ed25519PrivateKey | EllipticCurvePrivateKey | X25519PrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey | X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def write_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """Writes a new pair, NAME.pem and NAME.pub.pem."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(private_pem(key))
    public.write_bytes(public_pem(key))
    return private, public


def trusting(*public: Path) -> Trust:
    """A trust that opens what one of these keys signed, or everything if there are none."""
    return Trust(read_keys(("models.default.public_key", file) for file in public))


def sign(bundle: Path, private: Path) -> None:
    """Signs a bundle's manifest as it is now."""
    (bundle / "manifest.sig").write_bytes(signature(bundle / "manifest.json", private))


def signature(file: Path, private: Path) -> bytes:
    """The signature as `openssl pkeyutl -sign -rawin` makes it."""
    key = load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key.sign(file.read_bytes())


def key_sha256(public: Path) -> str:
    """The hash of the key's 32 bytes, by which lists of revocations name it."""
    return trusting(public).keys[0].sha256


def write_revocations(file: Path, private: Path, number: int = 1, **fields: Any) -> Path:
    """Writes a signed list, which revokes what is in `fields`."""
    file.write_text(json.dumps({"schema": 1, "number": number, "manifests": [], "keys": [], **fields}), "utf-8")
    file.with_name(f"{file.name}.sig").write_bytes(signature(file, private))
    return file


def _mistakes() -> tuple[dict[str, bytes], dict[str, bytes]]:
    key, ec, exchange = Ed25519PrivateKey.generate(), generate_private_key(SECP256R1()), X25519PrivateKey.generate()
    pkcs8, spki = PrivateFormat.PKCS8, PublicFormat.SubjectPublicKeyInfo
    private = {
        "public": public_pem(key),
        "encrypted": private_pem(key, BestAvailableEncryption(b"secret")),
        "EC": private_pem(ec),
        "X25519": private_pem(exchange),
        "unknown": UNKNOWN_PRIVATE,
        "DER": key.private_bytes(Encoding.DER, pkcs8, NoEncryption()),
        "OpenSSH": key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        "cut short": private_pem(key)[:60],
        "empty": b"",
        "text": b"hello\n",
    }
    public = {
        "private": private_pem(key),
        "both": public_pem(key) + private_pem(key),
        "two": public_pem(key) + public_pem(Ed25519PrivateKey.generate()),
        "EC": public_pem(ec),
        "X25519": public_pem(exchange),
        "unknown": UNKNOWN_PUBLIC,
        "DER": key.public_key().public_bytes(Encoding.DER, spki),
        "OpenSSH": key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "cut short": public_pem(key)[:60],
        "empty": b"",
        "text": b"hello\n",
    }
    return private, public


# What is given by mistake where a private or a public key is expected.
NO_PRIVATE_KEYS, NO_PUBLIC_KEYS = _mistakes()
