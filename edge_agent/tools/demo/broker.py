"""The only importer of iotcore: a real broker (rumqttd) for machines that have none. Not for production."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

# rumqttd speaks MQTT 5 and 3.1.1 on separate listeners.
_LISTENER = {"5": "v5", "3.1.1": "v4"}
_CONFIG = """\
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


class BrokerMissingError(Exception):
    """The package with the embedded broker is not installed."""


def start_broker(protocol: str, port: int, folder: Path) -> Any:
    """A broker on 127.0.0.1 for one MQTT version; its `stop()` ends it. Raises BrokerMissingError, OSError."""
    try:
        from iotcore import Broker  # noqa: PLC0415 - an extra that boards do not have
    except ImportError as error:
        raise BrokerMissingError("the embedded broker is missing: pip install 'edge-agent[demo]'") from error
    path = folder / "broker.toml"
    path.write_text(_CONFIG.format(listener=_LISTENER[protocol], port=port), encoding="utf-8")
    broker = Broker(config_path=str(path))
    broker.start()
    return broker


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
