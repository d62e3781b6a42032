"""The contract of answers, independent of the agent's code: their topics and their form."""

import json
import re
from typing import Any

from rigs.fuzz.malformed import MAX_PAYLOAD_BYTES, TEMPLATED, Message
from tests.helpers.support import REPLY_FIELDS

CODES: dict[str, set[str | None]] = {
    "ok": {None},
    "busy": {
        "queue_full", "deadline_unreachable", "overheated", "power_limited", "memory_low", "rate_limited", "loading",
        "draining",
    },
    "expired": {"deadline"},
    "invalid": {
        "not_utf8", "bad_json", "bad_field", "unknown_task", "too_long", "reply_topic_refused", "quarantined",
    },
    "cancelled": {"cancelled", "superseded"},
    "failed": {"engine_lost", "no_valid_output", "internal"},
}  # fmt: skip
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# A broker may refuse longer, deeper or unprintable topics: then the reply may go to the default topic.
_LONGEST_TOPIC, _DEEPEST_TOPIC = 4096, 100


def default_topic(message: Message, base: str) -> str:
    if message.topic.startswith("plant/"):
        return f"{base}/infer/{TEMPLATED}/response"
    return message.topic.removesuffix("/request") + "/response"


def topics(message: Message, base: str) -> set[str]:
    """The topics that the answer may go to."""
    default = default_topic(message, base)
    if message.topic.startswith("plant/"):
        return {f"plant/{message.topic.split('/')[1]}/triage", default}
    if message.response_topic is not None:
        return _where(message.response_topic, default, base)
    # Another fault may keep the agent from reading `reply_to`.
    return _where(_reply_to(message), default, base) | (set() if message.kind == "odd reply_to" else {default})


def _where(wanted: object, default: str, base: str) -> set[str]:
    if not isinstance(wanted, str) or not is_allowed(wanted, base):
        return {default}
    is_doubtful = len(wanted.encode("utf-8", "surrogatepass")) > _LONGEST_TOPIC or wanted.count("/") >= _DEEPEST_TOPIC
    is_doubtful = is_doubtful or not wanted.isprintable()
    return {wanted, default} if is_doubtful else {wanted}


def is_allowed(topic: str, base: str) -> bool:
    """By the default list of reply topics."""
    levels = topic.split("/")
    if topic.startswith("$") or "+" in topic or "#" in topic or levels[-1] == "request" or "cmd" in levels[:-1]:
        return False
    root = base.split("/")[:-2]
    own = [*base.split("/"), "infer"]
    is_reply = levels[: len(root) + 1] == [*root, "reply"]
    is_response = levels[: len(own)] == own and levels[len(own) + 1 : len(own) + 2] == ["response"]
    return is_reply or is_response


def _reply_to(message: Message) -> object:
    try:
        value = json.loads(message.payload)
    except (ValueError, RecursionError):
        return None
    return value.get("reply_to") if isinstance(value, dict) else None


def must_be_invalid(message: Message) -> bool:
    """Whether the contract allows nothing but `invalid`."""
    payload = message.payload
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return not payload or len(payload) > MAX_PAYLOAD_BYTES


def is_reply(document: Any) -> bool:
    return isinstance(document, dict) and {"id", "task", "status"} <= document.keys()


def fault(reply: dict[str, Any], topic: str, base: str) -> str | None:
    """What is wrong with the form of a terminal reply, or None."""
    if missing := REPLY_FIELDS - reply.keys():
        return f"fields are missing: {sorted(missing)}"
    status, error = reply["status"], reply["error"]
    code = error["code"] if isinstance(error, dict) else None
    if status not in CODES or code not in CODES[status]:
        return "status and code"
    checks = {
        "error": error is None or (isinstance(error["message"], str) and bool(error["message"])),
        "retry_after_s": status != "busy" or error["retry_after_s"] > 0,
        "id": isinstance(reply["id"], str | int) and not isinstance(reply["id"], bool),
        "device": reply["device"] == base.rsplit("/", 1)[-1],
        "ts": reply["ts"] is None or bool(_TIME.fullmatch(reply["ts"])),
        "task": isinstance(reply["task"], str) and (f"/{reply['task']}/response" in topic or "/infer/" not in topic),
        "output": (reply["output"] is None) if status != "ok" else isinstance(reply["output"], (str, dict)),
        "scores": reply["scores"] is None or abs(sum(reply["scores"].values()) - 1) <= 0.001,
        "finish": reply["finish"] in ({"stop", "length", "labels", "schema"} if status == "ok" else {None}),
        "reasoning": reply["reasoning"] is None or isinstance(reply["reasoning"], str),
        "degraded": isinstance(reply["degraded"], list),
        "repeat": isinstance(reply["repeat"], bool),
        "model": status != "ok" or {"name", "sha256", "quantization"} <= reply["model"].keys(),
        "usage": status != "ok"
        or {"prompt_tokens", "cached_tokens", "completion_tokens", "energy_j"} <= reply["usage"].keys(),
        "timing": {"queued_ms", "prefill_ms", "decode_ms", "total_ms", "batch"} <= reply["timing"].keys(),
    }
    return next((name for name, holds in checks.items() if not holds), None)
