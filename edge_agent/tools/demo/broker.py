"""The demonstration's broker: mosquitto where it is installed, else rumqttd. The only importer of iotcore."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_agent.core.config import MqttConfig
from edge_agent.core.wording import end_of_log

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
    port: int
    stop: Callable[[], object]


def start_broker(port: int | None, folder: Path) -> Broker:
    """A broker for MQTT 5 at `port`, or at a free one. Raises BrokerError."""
    port = port or free_port()
    program = shutil.which("mosquitto", path=SEARCH_PATH)
    return start_embedded_broker("5", port, folder) if program is None else _start_mosquitto(program, port, folder)


def local_mqtt(port: int) -> MqttConfig:
    return MqttConfig.model_validate({"host": "127.0.0.1", "port": port})


def _start_mosquitto(program: str, port: int, folder: Path) -> Broker:
    _require_free(port)
    config = folder / "mosquitto.conf"
    config.write_text(_MOSQUITTO.format(port=port), encoding="utf-8")
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        # In a session of its own, because a terminal's Ctrl-C would end it before the agent has said goodbye.
        command = (program, "-c", str(config))
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)  # noqa: S603

    def stop() -> None:
        process.kill()  # Nothing of it is kept.
        process.wait()

    give_up_at = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < give_up_at:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return Broker("mosquitto", port, stop)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    stop()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    raise BrokerError(f"{program} does not start: {end_of_log(lines)}")


def _require_free(port: int) -> None:
    """Raises BrokerError if the port is in use. When its package is installed, Debian starts a mosquitto at 1883."""
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
    return Broker("an embedded rumqttd", port, broker.stop)


def free_port(wish: int = 0) -> int:
    """The port that is wished for if it is free, otherwise any free one."""
    with socket.socket() as listener:
        # As a server does, also soon after the last one.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", wish))
        except OSError:
            listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
