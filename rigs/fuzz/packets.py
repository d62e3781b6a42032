"""MQTT by hand: packets that no client library sends, and a client that sees how the broker answers each."""

from __future__ import annotations

import socket
import struct
from typing import Self

TIMEOUT_S = 10.0
_CONNECT, _PUBLISH, _DISCONNECT = 0x10, 0x30, 0xE0
_FAILED_FROM = 0x80


def text(value: str | bytes) -> bytes:
    """A string of MQTT with its length; bytes need not be UTF-8. Raises ValueError for what has no length there."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    if len(data) > 0xFFFF:
        raise ValueError("longer than MQTT can tell")
    return struct.pack(">H", len(data)) + data


def variable(number: int) -> bytes:
    """A variable byte integer."""
    digits = bytearray()
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(digits)


def connect(protocol: str) -> bytes:
    level, properties = (5, variable(0)) if protocol == "5" else (4, b"")
    body = text("MQTT") + bytes((level, 0x02)) + struct.pack(">H", 0) + properties + text("")
    return _packet(_CONNECT, body)


def publish(
    protocol: str, number: int, topic: str, payload: bytes, *, qos: int = 1, retain: bool, properties: bytes
) -> bytes:
    """number: of the packet, from 1 to 65535. properties: as they are on the wire, without their length."""
    body = text(topic) + (struct.pack(">H", number) if qos else b"")
    body += variable(len(properties)) + properties if protocol == "5" else b""
    return _packet(_PUBLISH | qos << 1 | retain, body + payload)


def _packet(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + variable(len(body)) + body


class RawClient:
    """A connection that is opened again when the broker closes it."""

    def __init__(self, port: int, protocol: str) -> None:
        self._port, self._protocol = port, protocol
        self._number = 0
        self._socket = self._connect()
        self.closed = 0

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(connect(self._protocol))
        kind, body = _read(connection)
        assert (kind, body[1]) == (0x20, 0), "the broker takes no connection"
        return connection

    def send(self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: bytes) -> bool:
        """Whether the broker took it; at QoS 0 always true."""
        self._number = self._number % 0xFFFF + 1
        packet = publish(
            self._protocol, self._number, topic, payload, qos=qos, retain=retain, properties=properties
        )  # fmt: skip
        try:
            self._socket.sendall(packet)
            if not qos:
                return True
            kind, body = _read(self._socket)
        except OSError:
            kind, body = _DISCONNECT, b""
        if kind == _DISCONNECT:
            self.closed += 1
            self._socket.close()
            self._socket = self._connect()
            return False
        return len(body) < 3 or body[2] < _FAILED_FROM

    def close(self) -> None:
        self._socket.sendall(_packet(_DISCONNECT, b""))
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(connection: socket.socket) -> tuple[int, bytes]:
    """Kind and body of one packet. Raises OSError when there comes none."""
    (kind,) = _read_bytes(connection, 1)
    size = shift = 0
    while True:
        (digit,) = _read_bytes(connection, 1)
        size |= (digit & 0x7F) << shift
        shift += 7
        if digit < 0x80:
            return kind, _read_bytes(connection, size)


def _read_bytes(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError("closed")
        data += part
    return data
