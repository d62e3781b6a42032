from pathlib import Path

import pytest

from edge_agent.core.config import MqttConfig
from edge_agent.mqtt.credentials import credential_faults, secret_fault
from tests.helpers.certificates import CERTIFICATE, KEY, KEY_WITH_PASSPHRASE, OTHER_KEY

NO_CERTIFICATES = "should be a file of certificates in PEM, but none can be read from it"
NO_KEY = "should hold the private key of mqtt.tls.cert_file, in PEM and without a passphrase"
FILES = {
    "certificate": CERTIFICATE,
    "key": KEY,
    "both": CERTIFICATE + KEY,
    "other": OTHER_KEY,
    "locked": KEY_WITH_PASSPHRASE,
    "text": "hello\n",
    "empty": "",
}


def faults(folder: Path, tls: dict[str, str] | None = None, **fields: str) -> list[str]:
    """The faults, each without its value."""
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    mqtt = MqttConfig.model_validate({**fields, "tls": tls}, context={"folder": folder})
    return [fault.partition(" (got ")[0] for fault in credential_faults(mqtt)]


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ({"ca_file": "certificate"}, []),
        ({"ca_file": "text"}, [f"mqtt.tls.ca_file: {NO_CERTIFICATES}"]),
        ({"ca_file": "empty"}, [f"mqtt.tls.ca_file: {NO_CERTIFICATES}"]),
        ({"ca_file": "key"}, [f"mqtt.tls.ca_file: {NO_CERTIFICATES}"]),
        ({"cert_file": "certificate", "key_file": "key"}, []),
        ({"cert_file": "both"}, []),
        ({"cert_file": "text", "key_file": "key"}, [f"mqtt.tls.cert_file: {NO_CERTIFICATES}"]),
        ({"cert_file": "certificate", "key_file": "text"}, [f"mqtt.tls.key_file: {NO_KEY}"]),
        ({"cert_file": "certificate", "key_file": "locked"}, [f"mqtt.tls.key_file: {NO_KEY}"]),
        ({"cert_file": "certificate", "key_file": "none"}, ["mqtt.tls.key_file: should be a file that can be read"]),
        ({"cert_file": "certificate", "key_file": "other"}, [f"mqtt.tls.key_file: {NO_KEY}"]),
        ({"cert_file": "certificate"}, [f"mqtt.tls.cert_file: {NO_KEY}"]),
        ({"ca_file": "text", "cert_file": "none"}, ["mqtt.tls.ca_file", "mqtt.tls.cert_file"]),
    ],
)
def test_faults_of_certificate_or_key_name_a_setting(tmp_path: Path, tls: dict[str, str], expected: list[str]) -> None:
    found = faults(tmp_path, tls)
    assert len(found) == len(expected)
    assert all(fault.startswith(start) for fault, start in zip(found, expected, strict=True)), found


def test_a_password_file_that_is_not_text_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    assert faults(tmp_path, password_file="password") == ["mqtt.password_file: should be UTF-8 text"]


@pytest.mark.parametrize("content", ["", "\n", " \n"])
def test_a_blank_secret_is_a_fault(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content, encoding="ascii")
    assert secret_fault(tmp_path / "secret") == "should hold a secret, but is blank"
    assert faults(tmp_path, password_file="secret") == ["mqtt.password_file: should hold a secret, but is blank"]
