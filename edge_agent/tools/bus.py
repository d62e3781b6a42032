"""Which broker and board a command line means, a configuration's or those of its options."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_agent.core.config import MqttConfig
from edge_agent.core.config_file import ConfigError
from edge_agent.core.topics import NAME_PATTERN, Topics
from edge_agent.core.wording import fault_text, field_name, file_fault, shown
from edge_agent.loader import load_config, signing_key_faults
from edge_agent.mqtt.credentials import credential_faults, secret_fault

_TLS = ("ca_file", "cert_file", "key_file")
_PLAIN = ("host", "port", "protocol", "root", "username", "password_file")


class OptionError(Exception):
    """The options cannot be used; the message names each one, its value and what is allowed."""


class NoAnswerError(Exception):
    """No broker, or no answer in time; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bus:
    """The broker and the board that a command line names."""

    mqtt: MqttConfig
    site: str
    device: str
    command_key: Path | None = None  # The file of the key that signs commands, if they are signed.

    @property
    def topics(self) -> Topics:
        return Topics(self.mqtt.root, self.site, self.device)


def add_bus_options(to: argparse._ActionsContainer, default_config: Path | None, *, has_device: bool = True) -> None:
    """The options that `bus_of` and `mqtt_table` read, for a command that may read a configuration by default."""
    group = to.add_argument_group("broker and board")
    host_help = "the broker's name or address"
    if default_config:
        broker = group.add_mutually_exclusive_group()
        config_help = "the configuration that names broker and board (default: %(default)s)"
        broker.add_argument("--config", type=Path, default=default_config, metavar="FILE", help=config_help)
        broker.add_argument("--host", metavar="HOST", help=f"{host_help}; then no configuration is read")
    else:
        group.add_argument("--host", metavar="HOST", help=f"{host_help} (default: localhost)")
    default = "required with --host, otherwise the configuration's" if default_config else ""
    group.add_argument("--site", metavar="SITE", help=default or "the site that the board belongs to")
    if has_device:
        group.add_argument("--device", metavar="DEVICE", help=default or "the board (default: the host name)")
    group.add_argument("--port", type=int, metavar="PORT", help="the broker's port (default: 1883, or 8883 with TLS)")
    group.add_argument("--protocol", choices=("5", "3.1.1"), help="MQTT version (default: 5)")
    group.add_argument("--root", metavar="TOPIC", help="the beginning of all topics (default: edgeai/v1)")
    group.add_argument("--username", metavar="NAME", help="the user name at the broker")
    group.add_argument("--password-file", metavar="FILE", help="a file that holds the user's password")
    group.add_argument("--tls", action="store_true", help="TLS, verified with the system's certificates")
    group.add_argument("--ca-file", metavar="FILE", help="TLS, verified with these certificates (PEM)")
    group.add_argument("--cert-file", metavar="FILE", help="TLS with this client certificate (PEM)")
    group.add_argument("--key-file", metavar="FILE", help="the key of --cert-file (PEM; default: it is in that file)")


def bus_of(options: argparse.Namespace) -> Bus:
    """Raises OptionError, ConfigError. Options without `device` mean all boards of the site, so that it is `+`."""
    names = {name: getattr(options, name) for name in ("site", "device") if hasattr(options, name)}
    for name, value in names.items():
        if value is not None and not re.fullmatch(NAME_PATTERN, value):
            raise OptionError(f"--{name}: should be 1 to 64 letters, digits, _ or - (got {shown(value)})")
    has_key = hasattr(options, "command_key")
    command_key = options.command_key if has_key else None
    if fault := file_fault("--command-key", command_key, secret_fault):
        raise OptionError(fault)
    if options.host is None:
        refuse_without_host(options)
        try:
            config = load_config(
                options.config,
                lambda found: [*credential_faults(found.mqtt), *(signing_key_faults(found) if has_key else ())],
            )
        except ConfigError as error:
            if error.path == options.config and isinstance(error.__cause__, FileNotFoundError):
                error.faults.append("--host and --site name broker and board without a configuration")
            raise
        known = {"site": config.device.site, "device": config.device.id}
        given = {name: value for name, value in names.items() if value is not None}
        return Bus(mqtt=config.mqtt, command_key=command_key or config.commands.key_file, **{**known, **given})
    if missing := [name for name, value in names.items() if value is None]:
        raise OptionError("; ".join(f"--{name}: required with --host" for name in missing))
    try:
        mqtt = MqttConfig.model_validate(mqtt_table(options))
        faults = credential_faults(mqtt)
    except ValidationError as error:
        found = error.errors(include_url=False)
        faults = [fault_text(details, f"mqtt.{field_name(details['loc'])}") for details in found]
    if faults:
        raise OptionError("; ".join(map(with_flags, faults)))
    return Bus(mqtt=mqtt, command_key=command_key, **{"device": "+", **names})


def refuse_without_host(options: argparse.Namespace, *names: str) -> None:
    """Raises OptionError for options of the broker, and for these, if they are given."""
    table = mqtt_table(options)
    unused = [*table.pop("tls", {}), *table, *(["tls"] if options.tls else [])]
    if unused := unused + [name for name in names if getattr(options, name) is not None]:
        raise OptionError("; ".join(f"{_flag(name)}: requires --host" for name in unused))


def mqtt_table(options: argparse.Namespace) -> dict[str, Any]:
    """The keys of `[mqtt]` that the options set."""
    plain, tls = (
        {name: value for name in names if (value := getattr(options, name)) is not None} for names in (_PLAIN, _TLS)
    )
    return {**plain, "tls": tls} if tls or options.tls else plain


def with_flags(fault: str) -> str:
    """A fault of `[mqtt]` with the names of options instead of the configuration's keys."""
    return re.sub(r"\bmqtt\.(?:tls\.)?(\w+)", lambda key: _flag(key[1]), fault)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
