"""The broker and the site to watch: from a configuration, or from options on a PC that has none."""

from __future__ import annotations

import argparse
import re

from pydantic import ValidationError

from edge_agent.core.config import MqttConfig
from edge_agent.core.topics import NAME_PATTERN
from edge_agent.core.wording import fault_text, field_name, shown
from edge_agent.loader import load_config
from edge_agent.mqtt.credentials import credential_faults

_TLS = ("ca_file", "cert_file", "key_file")
_PLAIN = ("port", "protocol", "root", "username", "password_file")


class BrokerError(Exception):
    """The options cannot be used; the message names each one, its value and what is allowed."""


def broker_and_site(options: argparse.Namespace) -> tuple[MqttConfig, str]:
    """Raises BrokerError, ConfigError."""
    site: str | None = options.site
    if site is not None and not re.match(NAME_PATTERN, site):
        raise BrokerError(f"--site: should be 1 to 64 letters, digits, _ or - (got {shown(site)})")
    plain, tls = (
        {name: value for name in names if (value := getattr(options, name)) is not None} for names in (_PLAIN, _TLS)
    )
    if options.host is None:
        if unused := [*plain, *tls, *(["tls"] if options.tls else [])]:
            raise BrokerError("; ".join(f"{_flag(name)}: requires --host" for name in unused))
        config = load_config(options.config, lambda config: credential_faults(config.mqtt))
        return config.mqtt, site or config.device.site
    if site is None:
        raise BrokerError("--site: required with --host")
    try:
        mqtt = MqttConfig.model_validate({"host": options.host, "tls": tls if tls or options.tls else None, **plain})
        faults = credential_faults(mqtt)
    except ValidationError as error:
        found = error.errors(include_url=False)
        faults = [fault_text(details, f"mqtt.{field_name(details['loc'])}") for details in found]
    if faults:
        # With the names of options in place of the configuration's keys.
        raise BrokerError(re.sub(r"\bmqtt\.(?:tls\.)?(\w+)", lambda key: _flag(key[1]), "; ".join(faults)))
    return mqtt, site


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
