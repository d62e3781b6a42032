"""Whether the broker can be reached, and takes the connection that the configuration makes."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator

from edge_agent.core.config import MqttConfig
from edge_agent.mqtt.credentials import credential_faults
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import Broken, Connected, Disconnected, LinkEvent
from edge_agent.tools.doctor.check import Check, Verdict

TIMEOUT_S = 5.0
_CA_ADVICE = (
    "make the authority's certificate (mqtt.tls.ca_file) again, by openssl req -x509 -key ca.key with the same -subj "
    "and -addext keyUsage=critical,keyCertSign,cRLSign: Python insists on that from 3.13 on; the broker's stays good"
)
_OTHER_CA_ADVICE = "put the certificate of who signed the broker's in the place of mqtt.tls.ca_file"
# By what OpenSSL says of a certificate, in small letters.
_TLS_ADVICE = {
    "key usage": _CA_ADVICE,
    "invalid ca certificate": _CA_ADVICE,
    "not valid for": "name the broker in mqtt.host as its certificate does, or have it name this one (subjectAltName)",
    "has expired": "renew the certificate of the broker, or of who signed it; if both are good, set this board's clock",
    "not yet valid": "set this board's clock",
    "self-signed": _OTHER_CA_ADVICE,
    "issuer certificate": _OTHER_CA_ADVICE,
}


def brokers(mqtt: MqttConfig, client_id: str) -> Iterator[Check]:
    """One check for each of them."""
    for host in mqtt.hosts:
        yield broker(mqtt.model_copy(update={"hosts": (host,)}), client_id)


def broker(mqtt: MqttConfig, client_id: str) -> Check:
    """Of the first one."""
    where = f"{mqtt.hosts[0]}:{mqtt.effective_port}"

    def failed(found: str, advice: str) -> Check:
        return Check(name="broker", verdict=Verdict.FAILED, found=found, advice=advice)

    if faults := credential_faults(mqtt):
        advice = (
            "mend these files, or what the configuration says of them; what lies in credentials/ only root may read"
        )
        return failed("; ".join(faults), advice)
    try:
        with socket.create_connection((mqtt.hosts[0], mqtt.effective_port), TIMEOUT_S):
            pass
    except OSError as error:
        advice = "check mqtt.host and mqtt.port, the network and the broker's listener"
        return failed(f"{where} cannot be reached: {error.strerror or error}", advice)
    events: queue.Queue[LinkEvent] = queue.Queue()
    link = MqttLink(client_id, mqtt, events.put)
    try:
        link.start()
        event = events.get(timeout=TIMEOUT_S)
    except queue.Empty:
        event = None
    finally:
        link.stop(1.0)
    tls = "with TLS" if mqtt.tls else "without TLS"
    match event:
        case Connected():
            return Check(name="broker", verdict=Verdict.GOOD, found=f"{where}, MQTT {mqtt.protocol}, {tls}")
        case Disconnected(broken=Broken.REFUSED):
            advice = "check mqtt.username, mqtt.password_file and the broker's access list"
            return failed(f"{where} refuses the connection: {event.reason}", advice)
        case Disconnected(broken=Broken.NOT_REACHED) if mqtt.tls:
            advice = (
                "check that mqtt.port is the broker's TLS listener (mostly 8883), that mqtt.tls.ca_file vouches for "
                "its certificate and that mqtt.host is a name in it; or leave [mqtt.tls] out"
            )
            told = (better for words, better in _TLS_ADVICE.items() if words in event.reason.lower())
            return failed(f"{where} can be reached, but not with TLS: {event.reason}", next(told, advice))
        case Disconnected(broken=Broken.NOT_REACHED):
            return failed(f"{where} cannot be reached: {event.reason}", "check the broker, and ask again")
        case _:
            also = "a client's certificate (mqtt.tls.cert_file)" if mqtt.tls else "TLS ([mqtt.tls], mostly port 8883)"
            return failed(
                f"{where} does not answer a CONNECT of MQTT {mqtt.protocol} {tls}",
                f"check mqtt.protocol, and whether the broker's listener wants {also}",
            )
