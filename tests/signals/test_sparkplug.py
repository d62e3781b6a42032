import math
import random
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals import sparkplug
from edge_agent.signals.signal_table import new_table
from edge_agent.signals.source import NotTakenError
from edge_agent.signals.sparkplug import Metric, decode
from tests.helpers.sparkplug import Payload

INT8, INT16, INT32, INT64, UINT32, FLOAT, BOOLEAN = 1, 2, 3, 4, 7, 9, 11


def single(number: float) -> float:
    """The number as 32 bits carry it."""
    return float(struct.unpack("<f", struct.pack("<f", number))[0])


def random_payload(source: random.Random) -> Any:
    payload = Payload(metrics=[random_metric(source) for _ in range(source.randrange(8))])
    if source.random() < 0.9:
        payload.timestamp = source.getrandbits(source.choice((7, 41, 64)))
    if source.random() < 0.9:
        payload.seq = source.randrange(256)
    if source.random() < 0.1:
        payload.uuid, payload.body = "a-uuid", source.randbytes(20)
    return payload


def random_metric(source: random.Random) -> dict[str, Any]:
    metric: dict[str, Any] = {}
    if source.random() < 0.7:
        metric["name"] = source.choice(("Vibration", "Motor/Temp", "Größe", "x" * 300))
    if source.random() < 0.7:
        metric["alias"] = source.getrandbits(source.choice((3, 14, 64)))
    for key in ("is_historical", "is_transient", "is_null"):
        if source.random() < 0.2:
            metric[key] = source.random() < 0.5
    metric["timestamp"], metric["datatype"] = source.getrandbits(42), source.randrange(23)
    if source.random() < 0.3:
        keys = source.sample(("Quality", "engUnit", "other"), source.randrange(4))
        metric["properties"] = {
            "keys": keys,
            "values": [{"type": 3, "int_value": source.choice((0, 192, 500))}] * len(keys),
        }
    kinds: dict[str, Any] = {
        "int_value": source.getrandbits(32),
        "long_value": source.getrandbits(64),
        "float_value": single(source.gauss(0, 1000)),
        "double_value": source.gauss(0, 1e9),
        "boolean_value": source.random() < 0.5,
        "string_value": source.choice(("", "ON", "größer")),
        "bytes_value": source.randbytes(5),
        "dataset_value": {"num_of_columns": 1, "columns": ["a"], "types": [9]},
    }
    kind = source.choice((*kinds, None))
    return metric if kind is None else {**metric, kind: kinds[kind]}


def expected_metric(metric: Any) -> Metric:
    kind = metric.WhichOneof("value")
    value: Any = None if kind is None else getattr(metric, kind)
    if kind == "float_value":
        value = float(f"{value:.7g}")
    elif kind == "dataset_value":
        value = value.SerializeToString()
    qualities = [
        value.int_value
        for key, value in zip(metric.properties.keys, metric.properties.values, strict=True)
        if key == "Quality"
    ]
    return Metric(
        name=metric.name,
        alias=metric.alias if metric.HasField("alias") else None,
        datatype=metric.datatype,
        is_historical=metric.is_historical,
        is_null=metric.is_null,
        quality=qualities[0] if qualities else None,
        value=value,
    )


def test_payloads_read_as_protocol_buffers_read_them() -> None:
    source = random.Random(42)
    metrics = 0
    for _ in range(3000):
        payload = random_payload(source)
        ours = decode(payload.SerializeToString())
        assert ours.timestamp == (payload.timestamp if payload.HasField("timestamp") else None)
        assert ours.seq == (payload.seq if payload.HasField("seq") else None)
        assert ours.metrics == [expected_metric(metric) for metric in payload.metrics]
        metrics += len(ours.metrics)
    assert metrics > 9000


def test_damaged_payloads_are_refused_without_any_other_effect() -> None:
    source = random.Random(7)
    config = {"source": "sparkplug", "values": {"vibration": {"metric": "Vibration"}, "temp": {"metric": "Motor/Temp"}}}
    table = new_table("line", SignalsTable.model_validate(config))
    for number in range(20_000):
        payload = bytearray(random_payload(source).SerializeToString() or b"\x08")
        for _ in range(source.randint(1, 4)):
            match source.randrange(3):
                case 0:
                    payload[source.randrange(len(payload))] = source.randrange(256)
                case 1:
                    payload = payload[: source.randint(1, len(payload))]
                case 2:
                    payload.insert(source.randrange(len(payload)), source.randrange(256))
        kind = source.choice(("NBIRTH/n", "NDATA/n", "NDEATH/n", "DBIRTH/n/d", "DDATA/n/d", "DDEATH/n/d"))
        list(table.receive(f"spBv1.0/g/{kind}", bytes(payload), is_retained=False, now=float(number)))
    assert table.not_taken["bad-sparkplug"] > 5000
    assert sum(table.not_taken.values()) < 20_000
    assert not table.source.take_requests(20_000.0)


def in_metric(*fields: bytes) -> bytes:
    content = b"".join(fields)
    return b"\x12" + bytes((len(content),)) + content


@pytest.mark.parametrize(
    "payload",
    [
        b"\x18" + b"\xff" * 9 + b"\x7f",  # more than 64 bits
        in_metric(b"\x50\xff\xff\xff\xff\x7f", b"\x20\x89\x80\x80\x80\x70"),  # more than 32 bits
        in_metric(b"\x0a\x01a\x0a\x01b", b"\x50\x01\x70\x01"),  # again: the last one counts
        in_metric(b"\x52\x01\x07", b"\x5d" + bytes(4), b"\x0d" + bytes(4)),  # of another kind: unknown
        in_metric(b"\xa2\x06\x03abc", b"\x08\x01", b"\x10\x03"),  # unknown fields
        in_metric(b"\x4a\x09\x0a\x07Quality", b"\x4a\x05\x12\x03\x18\xf4\x03"),  # one property set in two parts
    ],
)
def test_odd_payloads_read_as_protocol_buffers_read_them(payload: bytes) -> None:
    theirs, ours = Payload.FromString(payload), decode(payload)
    assert ours.seq == (theirs.seq if theirs.HasField("seq") else None)
    assert ours.metrics == [expected_metric(metric) for metric in theirs.metrics]


@pytest.mark.parametrize(
    ("properties", "quality"),
    [
        ({"keys": ["Quality"], "values": [{"long_value": 500}]}, 500),
        ({"keys": ["Quality"], "values": [{"int_value": 5, "is_null": True}]}, None),
        ({"keys": ["unit", "Quality"], "values": [{"int_value": 5}]}, None),
        ({"keys": ["Quality"], "values": [{"string_value": "good"}]}, None),
    ],
)
def test_a_quality_is_a_whole_number(properties: dict[str, Any], quality: int | None) -> None:
    (metric,) = decode(Payload(metrics=[{"properties": properties}]).SerializeToString()).metrics
    assert metric.quality == quality


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    with suppress(NotTakenError):
        decode(payload)


def test_a_rebirth_request_is_what_the_specification_demands() -> None:
    payload = Payload.FromString(sparkplug.encode_rebirth(1_764_500_000_123))
    assert (payload.timestamp, payload.HasField("seq"), len(payload.metrics)) == (1_764_500_000_123, False, 1)
    (metric,) = payload.metrics
    assert (metric.name, metric.datatype, metric.boolean_value) == ("Node Control/Rebirth", BOOLEAN, True)
    assert metric.timestamp == payload.timestamp
    assert not metric.HasField("alias")


@pytest.mark.parametrize(
    ("datatype", "field", "number"),
    [
        (INT8, "int_value", -12), (INT16, "int_value", -32_768), (INT32, "int_value", -1), (INT64, "long_value", -5),
        (INT8, "int_value", 127), (INT64, "long_value", 2**62), (UINT32, "int_value", 4_294_967_284),
    ],
)  # fmt: skip
def test_an_integer_has_the_sign_of_its_type(datatype: int, field: str, number: int) -> None:
    bits = 32 if field == "int_value" else 64
    (metric,) = decode(Payload(metrics=[{field: number % 2**bits}]).SerializeToString()).metrics
    assert metric.content(datatype) == number


def test_a_large_integer_without_a_type_is_not_taken() -> None:
    assert Metric(value=2**31 - 1).content(0) == 2**31 - 1
    with pytest.raises(NotTakenError, match="no-type"):
        Metric(value=2**32 - 12).content(0)


def test_a_32_bit_float_keeps_the_digits_that_were_sent() -> None:
    for text in ("7.9", "0.1", "81.53125", "1e-05", "-123456.7"):
        (metric,) = decode(Payload(metrics=[{"float_value": float(text)}]).SerializeToString()).metrics
        assert metric.content(FLOAT) == float(text)
    (metric,) = decode(Payload(metrics=[{"float_value": math.nan}]).SerializeToString()).metrics
    assert metric.content(FLOAT) != metric.content(FLOAT)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (Payload(metrics=[{}] * 5001).SerializeToString(), "too-many-metrics"),
        (b"\x48\x00" * 100_001, "too-many-fields"),
        (Payload(metrics=[{}, {"datatype": 1}]).SerializeToString() * 1000 + b"\x4a\x00" * 99_000, "too-many-fields"),
        (Payload(uuid="SPBV1.0_COMPRESSED", body=b"x").SerializeToString(), "compressed"),
        (b"\x52" + bytes(1_000_001), "too-long"),
        (b"\x13\x14", "bad-sparkplug"),
        (b"\x18" + b"\xff" * 10 + b"\x01", "bad-sparkplug"),
        (b"\x00\x00", "bad-sparkplug"),
    ],
)
def test_payloads_that_are_too_large_or_not_supported_are_refused_with_a_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(NotTakenError, match=reason):
        decode(payload)
