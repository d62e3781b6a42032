from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.loader import file_faults, load_config
from tests.helpers.certificates import CERTIFICATE, KEY, KEY_WITH_PASSPHRASE, OTHER_KEY
from tests.helpers.keys import write_keys

NO_CERTIFICATES = "should be a file of certificates in PEM, but none can be read from it"
NO_KEY = "should be the private key of mqtt.tls.cert_file, in PEM and without a passphrase"
FILES = {
    "certificate": CERTIFICATE,
    "key": KEY,
    "both": CERTIFICATE + KEY,
    "other": OTHER_KEY,
    "locked": KEY_WITH_PASSPHRASE,
    "text": "hello\n",
    "empty": "",
}


def told(folder: Path, text: str, *, model: str = "") -> list[str]:
    """The faults of files, each without its folder."""
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    path = folder / "config.toml"
    top = '[device]\nsite = "s"\nid = "d"\n[models.default]\npath = "echo:"\n'
    path.write_text(f"{top}{model}\n{text}\n", encoding="utf-8")
    return [fault.partition(" (got ")[0] for fault in file_faults(load_config(path))]


@pytest.mark.parametrize(
    ("keys", "faults"),
    [
        ('ca_file = "certificate"', []),
        ('ca_file = "text"', [f"mqtt.tls.ca_file: {NO_CERTIFICATES}"]),
        ('ca_file = "empty"', [f"mqtt.tls.ca_file: {NO_CERTIFICATES}"]),
        ('ca_file = "key"', [f"mqtt.tls.ca_file: {NO_CERTIFICATES}"]),
        ('cert_file = "certificate"\nkey_file = "key"', []),
        ('cert_file = "both"', []),
        ('cert_file = "text"\nkey_file = "key"', [f"mqtt.tls.cert_file: {NO_CERTIFICATES}"]),
        ('cert_file = "certificate"\nkey_file = "text"', [f"mqtt.tls.key_file: {NO_KEY}"]),
        ('cert_file = "certificate"\nkey_file = "locked"', [f"mqtt.tls.key_file: {NO_KEY}"]),
        ('cert_file = "certificate"\nkey_file = "none"', ["mqtt.tls.key_file: should be a file that can be read"]),
        (
            'cert_file = "certificate"\nkey_file = "other"',
            ["mqtt.tls.key_file: is not the key of the certificate in mqtt.tls.cert_file"],
        ),
        (
            'cert_file = "certificate"',
            ["mqtt.tls.cert_file: should hold the private key too, in PEM and without a passphrase; or name it as "],
        ),
        ('ca_file = "text"\ncert_file = "none"', ["mqtt.tls.ca_file", "mqtt.tls.cert_file"]),
    ],
)
def test_what_is_wrong_with_certificates_and_keys_is_told_by_key(tmp_path: Path, keys: str, faults: list[str]) -> None:
    found = told(tmp_path, f"[mqtt.tls]\n{keys}")
    assert len(found) == len(faults)
    assert all(one.startswith(other) for one, other in zip(found, faults, strict=True)), found


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("key.pub.pem", None),
        ("none", "should be a file that can be read"),
        ("key.pem", "holds a private key, which belongs on no board; `openssl pkey -in KEY.pem -pubout` writes the "),
        ("key", "holds a private key"),
        ("certificate", "should be an Ed25519 public key in PEM, but none can be read from it"),
    ],
)
def test_the_key_for_signatures_is_a_public_one(tmp_path: Path, name: str, fault: str | None) -> None:
    write_keys(tmp_path)
    found = told(tmp_path, "", model=f'public_key = "{name}"')
    assert len(found) == (fault is not None)
    assert all(one.startswith(f"models.default.public_key: {fault}") for one in found)


def test_a_password_is_text(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    assert told(tmp_path, '[mqtt]\npassword_file = "password"') == ["mqtt.password_file: should be UTF-8 text"]


@pytest.mark.parametrize("content", ["", "\n", " \n"])
@pytest.mark.parametrize(("table", "key"), [("mqtt", "password_file"), ("commands", "key_file")])
def test_a_blank_secret_is_none(tmp_path: Path, table: str, key: str, content: str) -> None:
    (tmp_path / "secret").write_text(content, encoding="ascii")
    assert told(tmp_path, f'[{table}]\n{key} = "secret"') == [f"{table}.{key}: should hold a secret, but is blank"]
