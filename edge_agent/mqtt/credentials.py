"""Password and certificates of a connection: read from files that may be replaced at any time."""

import ssl
from pathlib import Path

from edge_agent.core.config import MqttConfig, TlsConfig
from edge_agent.core.wording import file_fault


def read_secret(path: Path) -> str:
    """Raises OSError, ValueError."""
    return path.read_text(encoding="utf-8").rstrip("\n")


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """Always verifies. Raises OSError, ValueError."""
    context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def connection_fault(error: BaseException | None) -> str:
    """Why a connection could not be made, in plain words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    return getattr(error, "strerror", None) or str(error)


def secret_fault(file: Path) -> str | None:
    """What is wrong with a file that should hold a secret, or None."""
    try:
        # The systemd unit creates a blank file where no secret is installed.
        return None if file.read_bytes().strip() else "should hold a secret, but is blank"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def credential_faults(mqtt: MqttConfig) -> list[str]:
    """What is wrong with the files of keys, certificates and passwords that a connection needs."""
    tls = mqtt.tls or TlsConfig()
    faults = [
        file_fault("mqtt.password_file", mqtt.password_file, _password_fault),
        file_fault("mqtt.tls.ca_file", tls.ca_file, _certificate_fault),
        file_fault("mqtt.tls.cert_file", tls.cert_file, _certificate_fault),
        file_fault("mqtt.tls.key_file", tls.key_file),
    ]
    if tls.cert_file is not None and not any(faults[2:]):
        name = "mqtt.tls.cert_file" if tls.key_file is None else "mqtt.tls.key_file"
        faults.append(file_fault(name, tls.key_file or tls.cert_file, lambda _file: _key_fault(tls)))
    return [fault for fault in faults if fault]


def _password_fault(file: Path) -> str | None:
    if fault := secret_fault(file):
        return fault
    try:
        file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "should be UTF-8 text"
    return None


def _certificate_fault(file: Path) -> str | None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError:  # ssl.SSLError is one
        return "should be a file of certificates in PEM, but none can be read from it"
    return None


def _key_fault(tls: TlsConfig) -> str | None:
    assert tls.cert_file is not None
    try:
        # Without a password here, OpenSSL asks for one at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls.cert_file, tls.key_file, password="")
    except OSError:
        return "should hold the private key of mqtt.tls.cert_file, in PEM and without a passphrase"
    return None
