"""Sparkplug B on the wire: decodes as much of a payload as values need, and encodes the request for a rebirth.

Protocol buffers are decoded by hand, because 100 lines cost a board less than a compiled package.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from edge_agent.signals.source import NotTakenError
from edge_agent.signals.values import MAX_PAYLOAD_BYTES

MAX_METRICS = 5000
# The fields of all levels together. A whole birth of 5000 metrics with properties has 75,000.
MAX_FIELDS = 100_000
BD_SEQ = "bdSeq"
REBIRTH = "Node Control/Rebirth"
_COMPRESSED, _QUALITY = b"SPBV1.0_COMPRESSED", b"Quality"
_BOOLEAN = 11
_SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}
# The good ones of OPC's quality codes; Sparkplug itself uses 192.
_GOOD_QUALITIES = range(192, 256)
_MASK_32, _MASK_64 = (1 << 32) - 1, (1 << 64) - 1
# Wire types of protocol buffers.
_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5
_FIXED_LENGTHS = {_FIXED_64: 8, _FIXED_32: 4}
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")


@dataclass(slots=True)
class Metric:
    name: str = ""
    alias: int | None = None
    datatype: int = 0
    """It is 0 if the message does not say it; then the birth's counts."""
    is_historical: bool = False
    is_null: bool = False
    quality: int | None = None
    value: float | str | bytes | None = None
    """Integers are unsigned, as on the wire. Bytes stand for everything that is not a single value."""

    @property
    def has_bad_quality(self) -> bool:
        return self.quality is not None and self.quality not in _GOOD_QUALITIES

    @property
    def is_missing(self) -> bool:
        return self.is_null or self.value is None or self.has_bad_quality

    def content(self, datatype: int) -> float | str:
        """The value, with its sign. `datatype` is 0 if unknown. Raises NotTakenError."""
        value = self.value
        if value is None or isinstance(value, bytes):
            raise NotTakenError("not-a-number")
        if isinstance(value, int) and not isinstance(value, bool):
            if bits := _SIGNED_BITS.get(datatype):
                value &= (1 << bits) - 1
                return value - (1 << bits) if value >> (bits - 1) else value
            if not datatype and value >> 31:
                raise NotTakenError("no-type")  # It might be negative.
        return value


@dataclass(slots=True)
class Payload:
    timestamp: int | None = None
    """Milliseconds since 1970, by the node's clock."""
    seq: int | None = None
    metrics: list[Metric] = field(default_factory=list)

    @property
    def bd_seq(self) -> int | None:
        """The number of the node's session, in its birth and its death."""
        for metric in self.metrics:
            if metric.name == BD_SEQ and isinstance(metric.value, int):
                return metric.value
        return None


def decode(payload: bytes) -> Payload:
    """The message of a payload. Raises NotTakenError."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise NotTakenError("too-long")
    try:
        return _payload(payload)
    except (ValueError, IndexError) as error:
        raise NotTakenError("bad-sparkplug") from error


def encode_rebirth(timestamp: int) -> bytes:
    """The command that asks a node for a rebirth. `timestamp` is in milliseconds since 1970."""
    metric = (field_of(1, REBIRTH.encode()), field_of(3, timestamp), field_of(4, _BOOLEAN), field_of(14, 1))
    return field_of(1, timestamp) + field_of(2, b"".join(metric))


def field_of(number: int, content: float | bytes) -> bytes:
    """A field of a message. `number` is at most 15; `content` is an unsigned integer, a double (a float) or bytes."""
    if isinstance(content, float):
        return bytes((number << 3 | _FIXED_64,)) + _DOUBLE.pack(content)
    if isinstance(content, bytes):
        return bytes((number << 3 | _LENGTH_DELIMITED,)) + _as_varint(len(content)) + content
    return bytes((number << 3 | _VARINT,)) + _as_varint(content)


def _payload(data: bytes) -> Payload:
    payload, count = Payload(), itertools.count()
    for number, wire_type, content in _fields(data, count):
        if number == 2 and wire_type == _LENGTH_DELIMITED:
            if len(payload.metrics) >= MAX_METRICS:
                raise NotTakenError("too-many-metrics")
            payload.metrics.append(_metric(content, count))
        elif number == 1 and wire_type == _VARINT:
            payload.timestamp = content
        elif number == 3 and wire_type == _VARINT:
            payload.seq = content
        elif number == 4 and content == _COMPRESSED:
            raise NotTakenError("compressed")
    return payload


def _metric(data: bytes, count: Iterator[int]) -> Metric:
    metric = Metric()
    properties: list[bytes] = []
    for number, wire_type, content in _fields(data, count):
        if wire_type == _VARINT:
            match number:
                case 2:
                    metric.alias = content
                case 4:
                    metric.datatype = content & _MASK_32
                case 5:
                    metric.is_historical = content != 0
                case 7:
                    metric.is_null = content != 0
                case 10:
                    metric.value = content & _MASK_32
                case 11:
                    metric.value = content
                case 14:
                    metric.value = content != 0
        elif wire_type == _LENGTH_DELIMITED:
            match number:
                case 1:
                    metric.name = content.decode()
                case 9:
                    properties.append(content)
                case 15:
                    metric.value = content.decode()
                case 16 | 17 | 18 | 19:
                    metric.value = content
        elif number == 12 and wire_type == _FIXED_32:
            # The digits that 32 bits carry; 7.9 would read 7.900000095367432.
            metric.value = float(f"{_FLOAT.unpack(content)[0]:.7g}")
        elif number == 13 and wire_type == _FIXED_64:
            metric.value = _DOUBLE.unpack(content)[0]
    if properties:
        metric.quality = _quality(b"".join(properties), count)
    return metric


def _quality(properties: bytes, count: Iterator[int]) -> int | None:
    keys: list[bytes] = []
    values: list[bytes] = []
    for number, wire_type, content in _fields(properties, count):
        if (number, wire_type) == (1, 2):
            keys.append(content)
        elif (number, wire_type) == (2, 2):
            values.append(content)
    if _QUALITY not in keys[: len(values)]:
        return None
    quality, is_null = None, False
    for number, wire_type, content in _fields(values[keys.index(_QUALITY)], count):
        match number, wire_type:
            case 2, 0:
                is_null = content != 0
            case ((3 | 4), 0):
                quality = content
    return None if is_null else quality


def _fields(data: bytes, count: Iterator[int]) -> Iterator[tuple[int, int, Any]]:
    """Each field's number, wire type and content, an integer or bytes.

    `count` counts the fields of the whole message. Raises ValueError, IndexError or NotTakenError.
    """
    at, end = 0, len(data)
    while at < end:
        if next(count) >= MAX_FIELDS:
            raise NotTakenError("too-many-fields")
        key, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise ValueError("not a field number")
        if wire_type == _VARINT:
            content, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at)
            yield number, wire_type, content
            continue
        if wire_type == _LENGTH_DELIMITED:
            length, at = _varint(data, at)
        elif wire_type in _FIXED_LENGTHS:
            length = _FIXED_LENGTHS[wire_type]
        else:
            raise ValueError("groups are not supported")
        start, at = at, at + length
        if at > end:
            raise ValueError("ends early")
        yield number, wire_type, data[start:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The value, and the offset of what follows it."""
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & _MASK_64, at
        shift += 7
        if shift >= 70:
            raise ValueError("a varint of more than ten bytes")


def _as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
