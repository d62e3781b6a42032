"""Reads the numbers that a table asks for from one payload."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

from edge_agent.core.clock import parse_device_time
from edge_agent.core.signal_tables import JsonPath, ValueTable
from edge_agent.core.strict_json import MAX_NUMBER, NotJsonError, number_of, parse_json
from edge_agent.core.wording import shown
from edge_agent.signals.source import NotTakenError

MAX_PAYLOAD_BYTES = 1_000_000
# Bounds the work, because each value of a table may search an array.
MAX_COMMAS = 50_000
GOOD_QUALITY = 192
# The reasons of a value beyond its `minimum` or `maximum`, and of one whose `quality` is bad.
OUT_OF_RANGE, BAD_QUALITY = "out-of-range", "bad-quality"
# What is wrong with a message, by reason, as the rest of a sentence.
REASONS = {
    "not-a-number": "is not a number, and `map` has none for it",
    "decimal-comma": "has a decimal comma",
    "bad-json": "is not JSON",
    "not-text": "is not UTF-8 text",
    "empty": "is empty",
    "too-long": "is too long",
    "too-large": "is too large a number",
    OUT_OF_RANGE: "is below `minimum` or above `maximum`",
    BAD_QUALITY: "has a bad quality",
    "late": "was measured more than `max_age_s` ago",
    "bad-time": "has no time at `time` that can be read",
    "absent": "has nothing at `path`",
}


class Absent(Enum):
    """Stands for a value that a payload does not have, which leaves it unchanged. None would make it missing."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


def parse(payload: bytes) -> Any:
    """The payload as JSON, or as text if it is not JSON. Raises NotTakenError."""
    if len(payload) > MAX_PAYLOAD_BYTES or payload.count(b",") > MAX_COMMAS:
        raise NotTakenError("too-long")
    try:
        text = payload.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise NotTakenError("not-text") from error
    if not text:
        raise NotTakenError("empty")
    try:
        return parse_json(text)
    except NotJsonError as error:
        if text[0] in "{[":
            raise NotTakenError("bad-json") from error
        return text


def read(value: ValueTable, document: Any, now: float, max_age_s: float) -> float | Absent | None:
    """The number that the document has for a value; None if it says that there is none, ABSENT if it does not say.

    `now` is in seconds since 1970, if the clock is set. Raises NotTakenError.
    """
    if value.path and not isinstance(document, dict | list):
        # A sensor without a number often sends a bare `ERR` or -999 instead of its object.
        if document is None:
            return None
        raise NotTakenError("not-a-number", content=document)
    content = _follow(value.path, document)
    if isinstance(content, Absent):
        return ABSENT
    if value.time and _is_late(_follow(value.time, document), now, max_age_s):
        raise NotTakenError("late")
    if value.quality and not _is_good(quality := _follow(value.quality, document)):
        raise bad_quality(quality)
    return number(content, value)


def number(content: Any, value: ValueTable) -> float | None:
    """The content as a number of the value, whose table may map texts to numbers. Raises NotTakenError."""
    result = _number(content, value)
    if result is not None and value.minimum is not None and result < value.minimum:
        raise NotTakenError(OUT_OF_RANGE, content=content, fault=f"below the minimum {value.minimum:g}")
    if result is not None and value.maximum is not None and result > value.maximum:
        raise NotTakenError(OUT_OF_RANGE, content=content, fault=f"above the maximum {value.maximum:g}")
    return result


def _number(content: Any, value: ValueTable) -> float | None:
    if content is None:
        return None
    text = content.strip() if isinstance(content, str) else str(content).lower() if isinstance(content, bool) else None
    if text is not None and text in value.map:
        return value.map[text]
    if isinstance(content, bool):
        return float(content)
    # float() accepts 1_000, which no sensor means as a number.
    if value.decimal_comma and text is not None and text.count(",") == 1 and "." not in text:
        content = text.replace(",", ".")
    result = None if text is not None and "_" in text else number_of(content)
    if result is None:
        raise NotTakenError("decimal-comma" if has_decimal_comma(text) else "not-a-number", content=content)
    if abs(result) > MAX_NUMBER:
        raise NotTakenError("too-large", content=content)
    return result


def bad_quality(quality: Any) -> NotTakenError:
    return NotTakenError(BAD_QUALITY, content=quality, fault="a bad quality")


def has_decimal_comma(content: Any) -> bool:
    return isinstance(content, str) and re.fullmatch(r"[-+]?\d+,\d+", content, re.ASCII) is not None


def shown_path(path: JsonPath) -> str:
    """A path for people: its steps, joined by dots."""
    return ".".join(step if isinstance(step, str) else shown(step) for step in path)


def _follow(path: JsonPath, document: Any) -> Any:
    """The content at a path; ABSENT if the document does not have it."""
    for step in path:
        if isinstance(step, dict) and isinstance(document, list):
            elements = (
                element
                for element in document
                if isinstance(element, dict) and all(element.get(key) == expected for key, expected in step.items())
            )
            document = next(elements, ABSENT)
        elif isinstance(step, str) and isinstance(document, dict):
            document = document.get(step, ABSENT)
        elif isinstance(step, int) and isinstance(document, list) and -len(document) <= step < len(document):
            document = document[step]
        else:
            return ABSENT
    return document


def _is_good(quality: Any) -> bool:
    if isinstance(quality, bool):
        return quality
    level = number_of(quality)
    return level is None or level >= GOOD_QUALITY


def _is_late(time: Any, now: float, max_age_s: float) -> bool:
    """Whether the value was measured too long ago; the arrival counts if the document has no time."""
    if time is None or isinstance(time, Absent):
        return False
    seconds = parse_device_time(time)
    if seconds is None:
        raise NotTakenError("bad-time")
    return now - seconds > max_age_s
