"""The broker and the site to watch: from a configuration, or from options on a PC that has none."""

from __future__ import annotations

import argparse
import re
from typing import Any

from pydantic import ValidationError

from edge_agent.core.config import MqttConfig
from edge_agent.core.errors import fault_text, field_name, shown
from edge_agent.core.topics import NAME_PATTERN
from edge_agent.loader import broker_file_faults, load_config
from edge_agent.mqtt.credentials import credential_faults

_TLS = ("ca_file", "cert_file", "key_file")
_PLAIN = ("port", "protocol", "root", "username", "password_file")


class BrokerError(Exception):
    """The options cannot be used. Each of `faults` names the option, its value and what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def broker_and_site(options: argparse.Namespace) -> tuple[MqttConfig, str]:
    """The broker and the site. Raises BrokerError, ConfigError."""
    site: str | None = options.site
    if site is not None and not re.match(NAME_PATTERN, site):
        raise BrokerError([f"--site: should be 1 to 64 letters, digits, _ or - (got {shown(site)})"])
    given = {name: value for name in _PLAIN if (value := getattr(options, name)) is not None}
    tls = {name: value for name in _TLS if (value := getattr(options, name)) is not None}
    if options.host is not None:
        if site is None:
            raise BrokerError(["--site: required with --host"])
        return _mqtt_of(options.host, given, tls if tls or options.tls else None), site
    if unused := [*given, *tls, *(["tls"] if options.tls else [])]:
        raise BrokerError([f"{_flag(name)}: requires --host" for name in unused])
    config = load_config(options.config, broker_file_faults)
    return config.mqtt, site or config.device.site


def _mqtt_of(host: str, given: dict[str, Any], tls: dict[str, str] | None) -> MqttConfig:
    try:
        mqtt = MqttConfig.model_validate({"host": host, "tls": tls, **given})
    except ValidationError as error:
        names = [(field_name(details["loc"]), details) for details in error.errors(include_url=False)]
        raise BrokerError([_with_flags(fault_text(details, f"mqtt.{name}")) for name, details in names]) from error
    if faults := credential_faults(mqtt):
        raise BrokerError([_with_flags(fault) for fault in faults])
    return mqtt


def _with_flags(fault: str) -> str:
    """A fault with the names of options in place of the configuration's keys."""
    return re.sub(r"\bmqtt\.(?:tls\.)?(\w+)", lambda found: _flag(found.group(1)), fault)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
