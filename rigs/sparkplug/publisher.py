"""A node of Sparkplug B with the package pysparkplug, in an environment of its own: `publisher.py PORT NODE`.

Each line of standard input is a command, and each line of standard output says that it is done.
"""

import json
import socket
import sys
import threading
from typing import Any

from pysparkplug import DataType, Device, EdgeNode, Metric, get_current_timestamp


def metric(fields: dict[str, Any]) -> Metric:
    datatype = DataType[fields["type"].upper()]
    value = fields["value"]
    return Metric(get_current_timestamp(), fields["name"], datatype, value=value, alias=fields["alias"])


class Node:
    def __init__(self, port: int, name: str) -> None:
        rebirth = Metric(get_current_timestamp(), "Node Control/Rebirth", DataType.BOOLEAN, value=False)
        self._port = port
        self._node = EdgeNode("Plant", name, (rebirth,), cmd_callback=self._on_command)
        self._lock = threading.Lock()

    def run(self, command: dict[str, Any]) -> None:
        with self._lock:
            match command:
                case {"do": "connect"}:
                    self._node.connect("127.0.0.1", port=self._port)
                case {"do": "birth", "device": device, "metrics": metrics}:
                    self._node.register(Device(device, map(metric, metrics)))
                case {"do": "data", "device": device, "metrics": metrics}:
                    self._node.update_device(device, [metric(fields) for fields in metrics])
                case {"do": "death", "device": device}:
                    self._node.deregister(device)
                case {"do": "skip"}:
                    self._node._seq  # noqa: B018 - counts on
                case {"do": "drop"}:
                    self._node._client._client.socket().shutdown(socket.SHUT_RDWR)
                case {"do": "stop"}:
                    self._node.disconnect()

    def _on_command(self, _node: EdgeNode, message: Any) -> None:
        """The package has no birth but that of a connection. This is its network's thread, which ends with that."""
        if any(sent.name == "Node Control/Rebirth" and sent.value for sent in message.payload.metrics):
            threading.Thread(target=self._connect_again).start()

    def _connect_again(self) -> None:
        with self._lock:
            self._node.disconnect()
            self._node.connect("127.0.0.1", port=self._port)


def main() -> None:
    node = Node(int(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        node.run(json.loads(line))
        print("done", flush=True)


if __name__ == "__main__":
    main()
