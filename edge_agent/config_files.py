"""The files that a configuration names, and what is wrong with them.

On a board they may come later than the configuration: they are no faults of it, and `run` asks at its start.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from edge_agent.core.config import Config, MqttConfig, TlsConfig
from edge_agent.core.errors import field_name, shown_path
from edge_agent.models.bundle import content_fault, path_fault
from edge_agent.models.record import in_force
from edge_agent.models.signatures import public_key_fault
from edge_agent.store.journal_file import FILE


def file_faults(config: Config) -> list[str]:
    """A fault for each file of keys, certificates and passwords, and for the model, that `run` could not use."""
    return [*broker_file_faults(config.mqtt), *command_file_faults(config), *_model_faults(config)]


def model_hints(config: Config) -> list[str]:
    """Why models that can be read would not be opened, as far as a glance tells; `run` reads every byte of them."""
    return [
        f"{field_name(('models', name, 'path'))}: {fault}"
        for name, model in config.models.items()
        if path_fault(path := in_force(config)) is None
        and (fault := content_fault(path, model.public_key, model.chat_templates))
    ]


def state_hints(config: Config) -> list[str]:
    """What lies in `state_dir` that the configuration does not make one think of."""
    return [hint for hint in (switched_hint(config), journal_hint(config)) if hint]


def switched_hint(config: Config) -> str | None:
    """That another model runs than the configuration names, be it by a link; None = it does not."""
    path, configured = in_force(config), config.models["default"].path
    if path == configured or path == configured.resolve():
        return None
    if fault := path_fault(path):
        return f"models.default.path: does not count since a model-switch, but {fault}: the bundle before it runs"
    return (
        f"models.default.path: {shown_path(path)} runs instead, since a model-switch; "
        "another path here, or model-rollback, ends that"
    )


def journal_hint(config: Config) -> str | None:
    """That a record of requests lies there which nobody keeps any more; None = none does."""
    file = config.state_dir / FILE
    if config.queue.journal == "disk" or not file.exists():
        return None
    return (
        f"queue.journal: {shown_path(file)} is of before, and stays with its requests and answers until it is removed"
    )


def broker_file_faults(mqtt: MqttConfig) -> list[str]:
    """Those of the files that a connection to the broker takes."""
    tls = mqtt.tls or TlsConfig()
    password = _fault("mqtt.password_file", mqtt.password_file, _no_password)
    ca = _fault("mqtt.tls.ca_file", tls.ca_file, _no_certificates)
    certificate = _fault("mqtt.tls.cert_file", tls.cert_file, _no_certificates)
    key = _fault("mqtt.tls.key_file", tls.key_file)
    if tls.cert_file is not None and certificate is None and key is None:
        name = "mqtt.tls.cert_file" if tls.key_file is None else "mqtt.tls.key_file"
        key = _fault(name, tls.key_file or tls.cert_file, partial(_no_key, tls))
    return [fault for fault in (password, ca, certificate, key) if fault]


def command_file_faults(config: Config) -> list[str]:
    """That of the file of the key that commands are signed with."""
    fault = _fault("commands.key_file", config.commands.key_file, _no_secret)
    return [fault] if fault else []


def _model_faults(config: Config) -> Iterator[str]:
    for name, model in config.models.items():
        # The configured one may have been removed since a switch.
        if (fault := path_fault(model.path)) and path_fault(in_force(config)):
            yield f"{field_name(('models', name, 'path'))}: {fault}"
        if key := _fault(field_name(("models", name, "public_key")), model.public_key, public_key_fault):
            yield key


def _fault(key: str, file: Path | None, look: Callable[[Path], str | None] = lambda _file: None) -> str | None:
    """look: what is wrong with a file that can be read. Without a file there is no fault."""
    if file is None:
        return None
    fault = look(file) if _is_readable(file) else "should be a file that can be read"
    return f"{key}: {fault} (got {shown_path(file)})" if fault else None


def _is_readable(file: Path) -> bool:
    try:
        return file.is_file() and os.access(file, os.R_OK)
    except OSError:  # a folder on the way to it may not be entered
        return False


def _no_secret(file: Path) -> str | None:
    try:
        # systemd has a blank one for whom it was given none (systemd/edge-agent.service).
        return None if file.read_bytes().strip() else "should hold a secret, but is blank"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _no_password(file: Path) -> str | None:
    if fault := _no_secret(file):
        return fault
    try:
        file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "should be UTF-8 text"
    return None


def _no_certificates(file: Path) -> str | None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError:  # ssl.SSLError is one
        return "should be a file of certificates in PEM, but none can be read from it"
    return None


def _no_key(tls: TlsConfig, _file: Path) -> str | None:
    assert tls.cert_file is not None
    try:
        # Without a password here, OpenSSL asks for one at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls.cert_file, tls.key_file, password="")
    except OSError as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            return "is not the key of the certificate in mqtt.tls.cert_file"
        if tls.key_file is None:
            return "should hold the private key too, in PEM and without a passphrase; or name it as mqtt.tls.key_file"
        return "should be the private key of mqtt.tls.cert_file, in PEM and without a passphrase"
    return None
