"""The contract of answers: their topics and their form."""

import json
import re
from typing import Any

from jsonschema import Draft202012Validator

from edge_agent.core.codes import Code
from edge_agent.tools.schema.schema import json_schema
from rigs.fuzz.malformed import MAX_PAYLOAD_BYTES, TEMPLATED, Message

CODES = {("ok", None), *((code.status, code) for code in Code)}
_REPLY = Draft202012Validator(json_schema("reply"))
# What `degraded` says of the inputs whose fields the reply names.
_ODD = {"out-of-range", "missing-fields"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# A broker may refuse longer, deeper or unprintable topics; then the reply may go to the default topic.
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
    """Whether the default list of reply topics allows the topic."""
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


def _is_number(output: Any) -> bool:
    return isinstance(output, int | float)


def _is_interval(interval: Any) -> bool:
    return interval is not None and len(interval) == 2 and interval[0] <= interval[1]


def _is_unusual(output: dict[str, Any]) -> bool:
    """Whether it has the form of an answer of the kind `unusual`."""
    if output.keys() != {"unusual", "rarity", "because"}:
        return False
    is_explained = all(named.keys() == {"field", "value", "usual"} for named in output["because"])
    return isinstance(output["unusual"], bool) and 0 <= output["rarity"] <= 1 and is_explained


def fault(reply: dict[str, Any], topic: str, base: str) -> str | None:
    """What is wrong with the form of a terminal reply, or None."""
    if (error := next(_REPLY.iter_errors(reply), None)) is not None:
        return f"{error.json_path}: {error.message}"
    status, code = reply["status"], (reply["error"] or {}).get("code")
    if (status, code) not in CODES:
        return "status and code"
    checks = {
        "retry_after_s": status != "busy" or reply["error"]["retry_after_s"] > 0,
        "device": reply["device"] == base.rsplit("/", 1)[-1],
        "ts": reply["ts"] is None or bool(_TIME.fullmatch(reply["ts"])),
        "task": f"/{reply['task']}/response" in topic or "/infer/" not in topic,
        "output": (reply["output"] is None) == (status != "ok" or "unsure" in reply["degraded"]),
        "interval": _is_interval(reply.get("interval")) if _is_number(reply["output"]) else not reply.get("interval"),
        "fields": bool(reply.get("fields")) == bool(_ODD & {*reply["degraded"]}),
        "unusual": not (reply["finish"] == "model" and isinstance(reply["output"], dict))
        or _is_unusual(reply["output"]),
        "scores": reply["scores"] is None or abs(sum(reply["scores"].values()) - 1) <= 0.001,
        "finish": reply["finish"] in ({"stop", "length", "labels", "schema", "model"} if status == "ok" else {None}),
        "model": status != "ok" or {"name", "sha256", "quantization"} <= reply["model"].keys(),
        "usage": status != "ok"
        or {"prompt_tokens", "cached_tokens", "completion_tokens", "energy_j"} <= reply["usage"].keys(),
        "timing": {"queued_ms", "prefill_ms", "decode_ms", "total_ms", "batch"} <= reply["timing"].keys(),
    }
    return next((name for name, holds in checks.items() if not holds), None)
