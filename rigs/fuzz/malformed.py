"""Messages as confused or hostile clients send them: always the same for the same number."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rigs.fuzz.packets import text, variable

TASKS = ("triage", "diagnosis", "generate")
TEMPLATED = "vibration"
REPLIES = "edgeai/v1/reply/fuzz"
MAX_PAYLOAD_BYTES = 65536

_RESPONSE_TOPIC, _CORRELATION, _CONTENT_TYPE, _EXPIRY, _FORMAT = 0x08, 0x09, 0x03, 0x02, 0x01
_USER, _ALIAS, _SUBSCRIPTION = 0x26, 0x23, 0x0B

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 9, 10, 2**31, 2**63, -(2**64), 10**40, 0.5, -0.0, 1e308, "", " ", "x", "true", "9",
    "\0", "\ud800", "😀" * 40, "x" * 129, "x" * 5000, "<|im_start|>system\n", "{{ input }}", "../../etc/passwd",
    [], {}, [[]], [None], {"": None}, {"input": "x"}, {"a": {"b": {"c": []}}}, list(range(300)), ["x"] * 20,
)  # fmt: skip
_FIELDS = ("input", "id", "reply_to", "deadline_ms", "priority", "stream", "options", "", "INPUT", "input ", "é")
_OPTIONS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "reasoning", "max_reasoning_tokens", "wish",
)  # fmt: skip
ODD_TOPICS = (
    "", "/", "//", "#", "+", "a/+/b", "a/#", "$SYS/x", "$share/g/x", "$", "edgeai/v1/reply", f"{REPLIES}/#",
    f"{REPLIES}/+", f"{REPLIES}/request", f"{REPLIES}/cmd/x", f"{REPLIES}/\0", f"{REPLIES}/\u0001", f"{REPLIES}/\ufffe",
    f"{REPLIES}/\ud800", f"{REPLIES}{'/a' * 150}", f"{REPLIES}/{'x' * 4500}", f"{REPLIES}/{'x' * 60000}", " ",
    "edgeai/v1/reply/../../etc", "edgeai/v1/test/fuzz/cmd/drain", "edgeai/v1/test/fuzz/infer/triage/request",
    "edgeai/v1/test/fuzz/state", "edgeai/v1/test/fuzz/health", "homeassistant/x", "é/水", "EDGEAI/v1/reply/x",
)  # fmt: skip
_ODD_TASKS = (
    "", " ", "nobody", "TRIAGE", "triage ", "generate\u00e9", "..", "a b", "水", "x" * 200, "$x", "request", "response",
    "cmd", "%n%s", "\\", "'\"", "\u007f",
)  # fmt: skip
_CONTENT_TYPES = (
    "application/json", "APPLICATION/JSON; charset=utf-8", "text/plain", "text/", "application/jsonx", ";", "", " ",
    "x" * 3000, "image/png", "\u202e", "application/json;" * 50,
)  # fmt: skip
_TEXTS = (
    b"", b" ", b"\n\t", b"{", b"[", b"{}", b"[]", b'""', b"42", b"null", b"NaN", b"true", b'{"input"}', b"{'input': 1}",
    b'{"input": "x", "input": "y"}', b'{"input": NaN}', b'{"input": "x",}', b'{"input": "\\ud800"}', b"\xef\xbb\xbf{}",
    b'{"input": "x"} {"input": "y"}', b'{"input": "x"}\0', b"// x\n{}", b'{"input": 1e999}', b'{"input": -Infinity}',
    b'{"deadline_ms": 5}', b"<xml/>", b"\0", b"\xff\xfe{\0}\0", b'["input"]', b'{"input": "\\u0000"}', b"\x1b[2J",
    b'{"input": "x", "options": {"stop": "\\u0000"}}', b'{"input": {"messages": [{"role": "system"}]}}',
    b'{"input": {"messages": []}}', b'{"input": {"messages": [{"role": "tool", "content": 5}]}}',
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """kind: how it was made. is_marked: its Correlation Data is `mark` of its number. copies: how often it is sent.

    may_vanish: the broker may drop it before the agent hears of it.
    """

    number: int
    kind: str
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    properties: bytes = b""
    response_topic: str | None = None
    is_marked: bool = False
    copies: int = 1
    may_vanish: bool = False


def mark(number: int) -> bytes:
    return f"fuzz-{number}".encode()


@dataclass(slots=True)
class _Draft:
    dice: random.Random
    number: int
    task: str
    envelope: dict[str, Any]
    is_v5: bool
    payload: bytes | None = None
    retain: bool = False
    qos: int = 1
    copies: int = 1
    response_topic: str | None = None
    more: bytes = b""
    content_type: str | None = None
    sensor: str | None = None
    unmarked: bool = False
    expires_soon: bool = False


def message(number: int, base: str, *, is_v5: bool) -> Message:
    """For MQTT 5 nearly all are marked; at 3.1.1 properties do not exist."""
    dice = random.Random(number)
    task = dice.choice(TASKS)
    envelope = {"id": f"fuzz-{number}", "input": f"pump {number} is hot", "deadline_ms": 60_000}
    draft = _Draft(dice, number, task, envelope, is_v5)
    kinds = [*_KINDS, *_V5_KINDS] if is_v5 else list(_KINDS)
    make = dice.choice(kinds)
    make(draft)
    if draft.payload is None:
        draft.payload = _as_json(draft.envelope, dice)
    properties = b""
    if is_v5:
        properties = _properties(draft)
    topic = f"{base}/infer/{draft.task}/request" if draft.sensor is None else f"plant/{draft.sensor}/vibration"
    return Message(
        number=number,
        kind=make.__name__.strip("_"),
        topic=topic,
        payload=draft.payload,
        qos=draft.qos,
        retain=draft.retain,
        properties=properties,
        response_topic=draft.response_topic if is_v5 else None,
        is_marked=is_v5 and not draft.unmarked,
        copies=draft.copies,
        may_vanish=draft.qos == 0 or draft.expires_soon,
    )


def _as_json(value: Any, dice: random.Random) -> bytes:
    written = json.dumps(value, ensure_ascii=dice.random() < 0.5)
    return written.encode("utf-8", "surrogatepass")


def _properties(draft: _Draft) -> bytes:
    written = draft.more
    if not draft.unmarked:
        written += bytes((_CORRELATION,)) + text(mark(draft.number))
    if draft.response_topic is not None:
        written += bytes((_RESPONSE_TOPIC,)) + text(draft.response_topic)
    if draft.content_type is not None:
        written += bytes((_CONTENT_TYPE,)) + text(draft.content_type)
    return written


def _odd_field(draft: _Draft) -> None:
    for _ in range(draft.dice.choice((1, 1, 2))):
        draft.envelope[draft.dice.choice(_FIELDS)] = draft.dice.choice(ODD_VALUES)


def _odd_option(draft: _Draft) -> None:
    draft.envelope["options"] = {draft.dice.choice(_OPTIONS): draft.dice.choice(ODD_VALUES)}


def _missing_field(draft: _Draft) -> None:
    del draft.envelope[draft.dice.choice(list(draft.envelope))]


def _messages(draft: _Draft) -> None:
    roles = ("system", "user", "assistant", "tool", "", 5, None)
    content = draft.dice.choice(ODD_VALUES)
    draft.task = "generate"
    turn = {"role": draft.dice.choice(roles), "content": content, "name": "x"}
    draft.envelope["input"] = {"messages": [turn] * draft.dice.randint(0, 5)}


def _flipped_bytes(draft: _Draft) -> None:
    data = bytearray(json.dumps(draft.envelope).encode())
    for _ in range(draft.dice.randint(1, 4)):
        at = draft.dice.randrange(len(data))
        match draft.dice.randrange(4):
            case 0:
                data[at] = draft.dice.randrange(256)
            case 1:
                del data[at : at + draft.dice.randint(1, 8)]
            case 2:
                data[at:at] = draft.dice.randbytes(draft.dice.randint(1, 4))
            case _:
                data[at:at] = data[at : at + 12]
        data = data or bytearray(b"{")
    draft.payload = bytes(data)


def _cut_off(draft: _Draft) -> None:
    data = json.dumps(draft.envelope).encode()
    draft.payload = data[: draft.dice.randrange(len(data))]


def _random_bytes(draft: _Draft) -> None:
    draft.payload = draft.dice.randbytes(draft.dice.randrange(300))


def _odd_text(draft: _Draft) -> None:
    draft.payload = draft.dice.choice(_TEXTS)


def _broken_utf8(draft: _Draft) -> None:
    data = json.dumps(draft.envelope).encode()
    at = draft.dice.randrange(len(data))
    broken = draft.dice.choice((b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\xff"))
    draft.payload = data[:at] + broken + data[at:]


def _deep(draft: _Draft) -> None:
    opened, closed = draft.dice.choice((("[", "]"), ('{"a":', "}"), ('{"input":', "}"), ('[{"":', "}]")))
    depth = draft.dice.choice((10, 63, 64, 65, 100, 999, 1000, 5000, 9000))
    inner = opened * depth + "1" + closed * (depth if draft.dice.random() < 0.7 else 0)
    draft.payload = draft.dice.choice((inner, f'{{"id": "fuzz-{draft.number}", "input": {inner}}}')).encode()


def _huge_number(draft: _Draft) -> None:
    digits = draft.dice.choice(("1e999", "-1e999", "9" * 299, "9" * 301, "9" * 5000, "1" * 60000, "1e-400", "0.1"))
    name = draft.dice.choice(("input", "id", "deadline_ms", "priority", "more"))
    draft.payload = f'{{"input": "x", "{name}": {digits}}}'.encode()


def _odd_reply_to(draft: _Draft) -> None:
    draft.envelope["reply_to"] = draft.dice.choice(ODD_TOPICS)


def _other_task(draft: _Draft) -> None:
    draft.task = draft.dice.choice(_ODD_TASKS)


def _reading(draft: _Draft) -> None:
    draft.sensor = draft.dice.choice(("", " ", "cmd", "a b", "é", "request", "$x", f"s{draft.number}", "x" * 4090))
    readings = ('{"vibration": 3}', '{"note": 5}', "[]", "{}", "7", "", '{"vibration": {"a": []}}', '{"vibration":')
    draft.payload = draft.dice.choice(readings).encode()


def _oversize(draft: _Draft) -> None:
    size = MAX_PAYLOAD_BYTES + draft.dice.choice((-200, 0, 1, 1000, 200_000))
    if draft.dice.random() < 0.5:
        draft.payload = b"x" * size
    else:
        draft.envelope["input"] = "y" * size


def _retained(draft: _Draft) -> None:
    draft.retain = True


def _at_most_once(draft: _Draft) -> None:
    draft.qos = 0 if draft.is_v5 else 1  # of those without a mark, nobody could tell which ones are owed
    _odd_field(draft)


def _twice(draft: _Draft) -> None:
    draft.copies = draft.dice.choice((2, 3))
    if draft.dice.random() < 0.5:
        draft.envelope["priority"] = draft.dice.choice(ODD_VALUES)


def _hopeless(draft: _Draft) -> None:
    draft.envelope["deadline_ms"] = 1


def _control_text(draft: _Draft) -> None:
    tokens = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<think>", "\u202e", "\x1b[31m", "\r\n", "{{7*7}}")
    draft.envelope["input"] = "".join(draft.dice.choices(tokens, k=draft.dice.randint(1, 30)))


def _odd_response_topic(draft: _Draft) -> None:
    draft.response_topic = draft.dice.choice(ODD_TOPICS)
    draft.envelope["reply_to"] = f"{REPLIES}/other"


def _own_topic(draft: _Draft) -> None:
    draft.response_topic = f"{REPLIES}/{draft.number}"
    draft.unmarked = True
    _odd_field(draft)


def _odd_content_type(draft: _Draft) -> None:
    draft.content_type = draft.dice.choice(_CONTENT_TYPES)
    draft.payload = draft.dice.choice((draft.payload, *_TEXTS))


def _expiry(draft: _Draft) -> None:
    expiry_s = draft.dice.choice((0, 1, 2, 600, 2**32 - 1))
    draft.more = bytes((_EXPIRY,)) + struct.pack(">I", expiry_s)
    draft.expires_soon = expiry_s <= 2


def _odd_property(draft: _Draft) -> None:
    """Some of these no broker takes."""
    draft.more = draft.dice.choice(
        (
            bytes((_FORMAT, 1)), bytes((_FORMAT, 2)), bytes((_ALIAS, 0, 0)), bytes((_ALIAS, 0xFF, 0xFF)),
            bytes((_SUBSCRIPTION,)) + variable(7), bytes((0x7F, 1)), bytes((_CONTENT_TYPE,)) + text(b"\xff\xfe"),
            bytes((_USER,)) + text("k") + text("v"), (bytes((_USER,)) + text("k") + text("v" * 500)) * 40,
            bytes((_USER,)) + text("") + text(""), bytes((_USER,)) + text(b"\xff") + text(b"\0"),
            bytes((_RESPONSE_TOPIC,)) + text(b"\xc0\xaf"), bytes((_RESPONSE_TOPIC,)), b"\xff" * 9,
            (bytes((_CONTENT_TYPE,)) + text("a")) * 2, bytes((_EXPIRY, 0)),
        )
    )  # fmt: skip
    if draft.more[:2] == bytes((_FORMAT, 1)):
        draft.payload = b"\xff" + json.dumps(draft.envelope).encode()


def _long_correlation(draft: _Draft) -> None:
    draft.unmarked = True
    draft.response_topic = f"{REPLIES}/{draft.number}"
    data = draft.dice.choice((b"", b"\0", b"\xff\xfe", draft.dice.randbytes(200), b"c" * 60_000))
    draft.more = bytes((_CORRELATION,)) + text(data)


_Kind = Callable[[_Draft], None]
_KINDS: tuple[_Kind, ...] = (
    *(_odd_field, _odd_field, _odd_option, _odd_option, _missing_field, _messages, _flipped_bytes, _flipped_bytes),
    *(_cut_off, _random_bytes, _odd_text, _broken_utf8, _deep, _huge_number, _odd_reply_to, _other_task, _reading),
    *(_retained, _at_most_once, _twice, _hopeless, _control_text, _oversize),
)
_V5_KINDS: tuple[_Kind, ...] = (
    *(_odd_response_topic, _own_topic, _odd_content_type, _expiry, _odd_property, _long_correlation),
)
