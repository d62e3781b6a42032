"""Checks of the broker: can it be reached, and does it accept this board?"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from edge_agent.core.config import Config, MqttConfig
from edge_agent.mqtt.credentials import credential_faults
from edge_agent.mqtt.link import FailedAt
from edge_agent.tools.client import Client
from edge_agent.tools.doctor.check import Check, Verdict, failed, good
from edge_agent.tools.doctor.traffic import traffic_checks

TIMEOUT_S = 5.0
_CA_ADVICE = (
    "create the authority's certificate (mqtt.tls.ca_file) again, by openssl req -x509 -key ca.key with the same -subj "
    "and -addext keyUsage=critical,keyCertSign,cRLSign: Python requires it since 3.13; the broker's stays valid"
)
_OTHER_CA_ADVICE = "let mqtt.tls.ca_file name the certificate of the authority that signed the broker's"
# Part of OpenSSL's message, in small letters -> advice.
_TLS_ADVICE = {
    "key usage": _CA_ADVICE,
    "invalid ca certificate": _CA_ADVICE,
    "not valid for": "name the broker in mqtt.host as its certificate does, or add this name to it (subjectAltName)",
    "has expired": "renew the certificate of the broker or its authority; if both are valid, set this board's clock",
    "not yet valid": "set this board's clock",
    "self-signed": _OTHER_CA_ADVICE,
    "issuer certificate": _OTHER_CA_ADVICE,
}
_LISTENER_ADVICE = (
    "check that mqtt.port is the broker's TLS listener (usually 8883), that mqtt.tls.ca_file is the authority of "
    "its certificate and that mqtt.host is a name in it; or leave [mqtt.tls] out"
)


def broker_checks(config: Config, *, is_running: bool) -> Iterator[Check]:
    """Each broker, then messages through the first one that accepts, beside a service that `is_running` or not."""
    client_id = f"{config.device.site}.{config.device.id}.doctor"
    is_accepted = False
    for host in config.mqtt.hosts:
        check = connection_check(config.mqtt.model_copy(update={"hosts": (host,)}), client_id)
        is_accepted |= check.verdict is Verdict.GOOD
        yield check
    if is_accepted:
        yield from traffic_checks(config, client_id, is_running=is_running)


def connection_check(mqtt: MqttConfig, client_id: str) -> Check:
    """Whether the only host of `mqtt` accepts a connection."""
    where = f"{mqtt.hosts[0]}:{mqtt.effective_port}"
    if faults := credential_faults(mqtt):
        advice = "correct these files, or their keys in the configuration; only root may read those in credentials/"
        return failed("broker", "; ".join(faults), advice)
    try:
        socket.create_connection((mqtt.hosts[0], mqtt.effective_port), TIMEOUT_S).close()
    except OSError as error:
        advice = "check mqtt.host and mqtt.port, the network and the broker's listener"
        return failed("broker", f"{where} cannot be reached: {error.strerror or error}", advice)
    tls = "with TLS" if mqtt.tls else "without TLS"
    with Client(client_id, mqtt, ()) as client:
        if client.connect(TIMEOUT_S):
            return good("broker", f"{where}, MQTT {mqtt.protocol}, {tls}")
        why = client.reason
        match client.failed_at:
            case FailedAt.REFUSED:
                advice = "check mqtt.username, mqtt.password_file and the broker's access list"
                return failed("broker", f"{where} refuses the connection: {why}", advice)
            case FailedAt.NOT_REACHED if mqtt.tls:
                advice = next((known for words, known in _TLS_ADVICE.items() if words in why.lower()), _LISTENER_ADVICE)
                return failed("broker", f"{where} can be reached, but not with TLS: {why}", advice)
            case FailedAt.NOT_REACHED:
                return failed("broker", f"{where} cannot be reached: {why}", "check the broker, and ask again")
    also = "a client's certificate (mqtt.tls.cert_file)" if mqtt.tls else "TLS ([mqtt.tls], usually port 8883)"
    found = f"{where} does not answer a CONNECT of MQTT {mqtt.protocol} {tls}"
    return failed("broker", found, f"check mqtt.protocol, and whether the broker's listener requires {also}")
