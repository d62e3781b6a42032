"""The demonstration's broker: mosquitto where it is installed, else rumqttd. The only importer of iotcore."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Publication
from edge_agent.core.topics import wildcard_values
from edge_agent.core.wording import end_of_log
from edge_agent.mqtt.link import LinkEvent, MqttLink, Received

# Debian keeps servers out of an ordinary account's PATH.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
_START_S = 10.0
_MOSQUITTO = "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
_RUMQTTD = """\
id = 0
[router]
id = 0
max_connections = 200
max_outgoing_packet_count = 200
max_segment_size = 10485760
max_segment_count = 10
[{listener}.1]
name = "{listener}-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[{listener}.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
"""
_LISTENERS = {"5": "v5", "3.1.1": "v4"}


class BrokerError(Exception):
    """There is no broker, or it does not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker on 127.0.0.1 that runs until `stop()`."""

    name: str
    ports: Mapping[str, int]  # By MQTT version.
    stop: Callable[[], object]


def start_broker(port: int | None, folder: Path, to_agent: Collection[str]) -> Broker:
    """A broker for both MQTT versions: at `port`, an embedded one for 3.1.1 at the next port. Raises BrokerError.

    An agent at MQTT 5 receives what matches the filters `to_agent`: the embedded listener for 3.1.1 carries these to
    it, and all else from it.
    """
    program = shutil.which("mosquitto", path=SEARCH_PATH)
    if program is not None:
        return _start_mosquitto(program, port or free_port(), folder)
    ports = {"5": port or free_port(), "3.1.1": port + 1 if port else free_port()}
    with ExitStack() as stack:
        for protocol, number in ports.items():
            stack.callback(start_embedded_broker(protocol, number, folder).stop)
        stack.enter_context(_bridge(ports, to_agent))
        return Broker("an embedded rumqttd", ports, stack.pop_all().close)


@contextmanager
def _bridge(ports: Mapping[str, int], to_agent: Collection[str]) -> Iterator[None]:
    """Joins two rumqttd: in a single one, a message with MQTT 5 properties ends the 3.1.1 listener."""

    def forward(event: LinkEvent) -> None:
        if isinstance(event, Received):
            event.link.acknowledge(event)
            topic, is_from_agent = event.message.topic, event.link is modern
            if is_from_agent != any(wildcard_values(text, topic) is not None for text in to_agent):
                (plain if is_from_agent else modern).publish(Publication(topic=topic, payload=event.message.payload))

    modern, plain = (MqttLink("bridge", local_mqtt(port, protocol), forward) for protocol, port in ports.items())
    modern.subscriptions.replace(["#"])
    plain.subscriptions.replace(to_agent)
    for link in (modern, plain):
        link.start()
    yield
    for link in (modern, plain):
        link.stop(1.0)


def local_mqtt(port: int, protocol: str) -> MqttConfig:
    """The settings of a client of a broker on this machine."""
    return MqttConfig.model_validate({"host": "127.0.0.1", "port": port, "protocol": protocol})


def _start_mosquitto(program: str, port: int, folder: Path) -> Broker:
    _require_free(port)
    config = folder / "mosquitto.conf"
    config.write_text(_MOSQUITTO.format(port=port), encoding="utf-8")
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        # In a session of its own: a terminal's Ctrl-C would end it before the agent has said goodbye.
        command = (program, "-c", str(config))
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)  # noqa: S603

    def stop() -> None:
        process.kill()  # nothing of it is kept
        process.wait()

    give_up_at = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < give_up_at:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return Broker("mosquitto", {"5": port, "3.1.1": port}, stop)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    stop()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    raise BrokerError(f"{program} does not start: {end_of_log(lines)}")


def _require_free(port: int) -> None:
    """Debian starts a mosquitto of its own at 1883 when the package is installed."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise BrokerError(f"127.0.0.1:{port} is in use: name another port with --port") from error


def start_embedded_broker(protocol: str, port: int, folder: Path) -> Broker:
    """A rumqttd in this process for one MQTT version, not for production. Raises BrokerError."""
    try:
        from iotcore import Broker as Rumqttd  # noqa: PLC0415 - an extra that boards do not have
    except ImportError as error:
        hint = "apt-get install mosquitto, or pip install '.[demo]' in a copy of the repository for an embedded one"
        raise BrokerError(f"there is no broker: {hint}") from error
    _require_free(port)
    path = folder / f"broker-{protocol}.toml"
    path.write_text(_RUMQTTD.format(listener=_LISTENERS[protocol], port=port), encoding="utf-8")
    broker = Rumqttd(config_path=str(path))
    broker.start()
    return Broker("an embedded rumqttd", {protocol: port}, broker.stop)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
