"""Messages as confused or hostile clients send them, always the same for the same number."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from rigs.fuzz.damage import damage_bytes, damage_json

TASKS = ("triage", "diagnosis", "generate")
TEMPLATED = "vibration"
REPLIES = "edgeai/v1/reply/fuzz"
MAX_PAYLOAD_BYTES = 65536

_ROLES = ("system", "user", "assistant", "tool", "", 5, None)
# Topics that a broker accepts as a Response Topic.
_CARRIED_TOPICS = (
    "/", "//", "$SYS/x", "$", "edgeai/v1/reply", f"{REPLIES}/request", f"{REPLIES}/cmd/x", f"{REPLIES}{'/a' * 150}",
    f"{REPLIES}/{'x' * 4500}", f"{REPLIES}/{'x' * 60000}", " ", "edgeai/v1/reply/../../etc", "homeassistant/x", "é/水",
    "edgeai/v1/test/fuzz/cmd/drain", "edgeai/v1/test/fuzz/infer/triage/request", "edgeai/v1/test/fuzz/state",
    "edgeai/v1/test/fuzz/health", "EDGEAI/v1/reply/x",
)  # fmt: skip
_ODD_TOPICS = (
    *_CARRIED_TOPICS, "", "#", "+", "a/+/b", "a/#", "$share/g/x", f"{REPLIES}/#", f"{REPLIES}/+", f"{REPLIES}/\0",
    f"{REPLIES}/\u0001", f"{REPLIES}/\ufffe", f"{REPLIES}/\ud800",
)  # fmt: skip
_ODD_TASKS = (
    "", " ", "nobody", "TRIAGE", "triage ", "generate\u00e9", "..", "a b", "水", "x" * 200, "$x", "request", "response",
    "cmd", "%n%s", "\\", "'\"",
)  # fmt: skip
_SENSORS = ("", " ", "cmd", "a b", "é", "request", "$x", "x" * 4090)
_READINGS = ('{"vibration": 3}', '{"note": 5}', "[]", "{}", "7", "", '{"vibration": {"a": []}}', '{"vibration":')
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
_CONTROLS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<think>", "\u202e", "\x1b[31m", "\r\n", "{{7*7}}")
_MAX_DAMAGED_BYTES = 300_000
KINDS = (
    *(["damaged fields"] * 5), *(["damaged bytes"] * 6), "odd text", "chat", "odd reply_to", "other task", "sensor",
    "retained", "at most once", "twice", "hopeless", "control text", "oversize",
)  # fmt: skip
V5_KINDS = ("odd Response Topic", "own topic", "odd Content Type", "expiry", "many properties", "long correlation")


@dataclass(slots=True, kw_only=True)
class Message:
    number: int
    kind: str
    """How it was made."""
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    copies: int = 1
    """How often it is sent."""
    properties: dict[str, Any] = field(default_factory=dict)
    """MQTT 5 properties by paho's names."""

    @property
    def key(self) -> bytes | str | None:
        """What its answers are recognised by, a topic of their own or their Correlation Data, if it has either."""
        own = f"{REPLIES}/{self.number}"
        return own if self.response_topic == own else self.properties.get("CorrelationData")

    @property
    def response_topic(self) -> str | None:
        topic: str | None = self.properties.get("ResponseTopic")
        return topic

    @property
    def may_vanish(self) -> bool:
        """Whether the broker may drop it before the agent hears of it."""
        return self.qos == 0 or self.properties.get("MessageExpiryInterval", 60) <= 2


def mark(number: int) -> bytes:
    return f"fuzz-{number}".encode()


def message(number: int, base: str, *, is_v5: bool) -> Message:
    """The message of this number. In MQTT 5 nearly all have Correlation Data; 3.1.1 has no properties."""
    dice = random.Random(number)
    kind, task = dice.choice((*KINDS, *V5_KINDS) if is_v5 else KINDS), dice.choice(TASKS)
    options = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 1, "stop": "x"}
    envelope: dict[str, Any] = {"id": f"fuzz-{number}", "input": f"pump {number} is hot", "deadline_ms": 60_000}
    fuzzed = Message(number=number, kind=kind, topic=f"{base}/infer/{task}/request", payload=b"")
    fuzzed.properties = {"CorrelationData": mark(number)} if is_v5 else {}
    match kind:
        case "chat":
            envelope["input"] = {"messages": [{"role": dice.choice(_ROLES), "content": "hot"}] * dice.randint(0, 5)}
            fuzzed.topic = f"{base}/infer/generate/request"
        case "other task":
            fuzzed.topic = f"{base}/infer/{dice.choice(_ODD_TASKS)}/request"
        case "sensor":
            fuzzed.topic = f"plant/{dice.choice((*_SENSORS, f's{number}'))}/{TEMPLATED}"
        case "retained":
            fuzzed.retain = True
        case "twice":
            fuzzed.copies = dice.choice((2, 3))
        case "at most once" if is_v5:  # without a mark, nobody could tell which ones are owed
            fuzzed.qos = 0
        case "odd Response Topic":
            fuzzed.properties["ResponseTopic"] = dice.choice(_CARRIED_TOPICS)
            envelope["reply_to"] = f"{REPLIES}/other"
        case "own topic":
            fuzzed.properties = {"ResponseTopic": f"{REPLIES}/{number}"}
        case "odd Content Type":
            fuzzed.properties["ContentType"] = dice.choice(_CONTENT_TYPES)
        case "expiry":
            fuzzed.properties["MessageExpiryInterval"] = dice.choice((0, 1, 2, 600, 2**32 - 1))
        case "many properties":
            fuzzed.properties["PayloadFormatIndicator"] = 1
            fuzzed.properties["UserProperty"] = dice.choice(([("k", "v")], [("k", "v" * 500)] * 40, [("", "")] * 2))
        case "long correlation":
            odd = dice.choice((b"\0", b"\xff\xfe", dice.randbytes(200), b"c" * 60_000))
            fuzzed.properties = {"ResponseTopic": f"{REPLIES}/{number}", "CorrelationData": odd}
        case "odd reply_to":
            envelope["reply_to"] = dice.choice(_ODD_TOPICS)
        case "hopeless":
            envelope["deadline_ms"] = 1
        case "control text":
            envelope["input"] = "".join(dice.choices(_CONTROLS, k=dice.randint(1, 30)))
        case "oversize":
            envelope["input"] = "y" * (MAX_PAYLOAD_BYTES + dice.choice((-200, 0, 1, 1000, 200_000)))
    document: Any = envelope
    if kind in ("damaged fields", "chat", "retained", "at most once", "own topic"):
        document = damage_json({**envelope, "priority": 5, "stream": False, "options": options}, dice)
    text = json.dumps(document, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    fuzzed.payload = _changed(text, fuzzed, dice)
    return fuzzed


def _changed(text: bytes, fuzzed: Message, dice: random.Random) -> bytes:
    match fuzzed.kind:
        case "damaged bytes":
            return damage_bytes(text, dice)[:_MAX_DAMAGED_BYTES]
        case "odd text":
            return dice.choice(_TEXTS)
        case "odd Content Type":
            return dice.choice((text, *_TEXTS))
        case "many properties" if dice.random() < 0.5:
            return b"\xff" + text
        case "sensor":
            return dice.choice(_READINGS).encode()
        case "oversize" if dice.random() < 0.5:
            return b"x" * len(text)
    return text
