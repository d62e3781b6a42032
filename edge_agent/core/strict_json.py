"""JSON as it crosses every border: strict when parsed, compact when written."""

import json
import math
import re
import unicodedata
from typing import Any

from edge_agent.core.wording import shown

MAX_JSON_DEPTH = 64
# Sums of such numbers, and of their squares, are finite.
MAX_NUMBER = 1e100
# Each value is at least a token in a prompt, and a context has at most 131072 tokens.
MAX_JSON_VALUES = 200_000


class NotJsonError(ValueError):
    """The text is not strict JSON; the message says why and where."""


def _refuse_constant(text: str) -> Any:
    raise NotJsonError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJsonError(f"the number {shown(text)} is too large")
    return value


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise NotJsonError(f"the key {shown(key)} occurs twice in one object")
        value[key] = item
    return value


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=_distinct_keys
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(text: str, max_values: int = MAX_JSON_VALUES) -> Any:
    """Strict JSON (RFC 8259): no NaN, no duplicate keys, no lone surrogates, at most MAX_JSON_DEPTH levels.

    At most `max_values` values, counted by commas and brackets, also those in strings. Raises NotJsonError.
    """
    if sum(map(text.count, ",[{")) > max_values:
        raise NotJsonError(f"it has more than {max_values} values")
    try:
        value = _DECODER.decode(text)
    except ValueError as error:  # also of an integer with thousands of digits
        raise NotJsonError(str(error)) from error
    except RecursionError as error:
        raise NotJsonError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from error
    _check_value(value, MAX_JSON_DEPTH)
    return value


def _check_value(value: Any, levels: int) -> None:
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise NotJsonError("a string holds half of a surrogate pair")
    elif isinstance(value, (dict, list)):
        if levels == 0:
            raise NotJsonError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_value(item, levels - 1)


def compact_json(value: object) -> str:
    """JSON without blanks, with keys in their order and characters unescaped."""
    return _ENCODER.encode(value)


def encode(document: dict[str, Any]) -> bytes:
    """Compact UTF-8 JSON."""
    return compact_json(document).encode("utf-8")


def is_near(actual: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Equal as JSON values, with Unicode normalized; numbers may differ by this share. 1 equals 1.0, but not true."""
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual is expected
    if isinstance(actual, int | float) and isinstance(expected, int | float):
        try:
            return abs(actual - expected) <= tolerance * abs(expected)
        except OverflowError:  # an integer beyond the range of a float
            return actual == expected
    if isinstance(actual, str) and isinstance(expected, str):
        return unicodedata.normalize("NFC", actual) == unicodedata.normalize("NFC", expected)
    if isinstance(actual, list) and isinstance(expected, list):
        pairs = zip(actual, expected, strict=False)
        return len(actual) == len(expected) and all(is_near(one, other, tolerance) for one, other in pairs)
    if isinstance(actual, dict) and isinstance(expected, dict):
        is_same = actual.keys() == expected.keys()
        return is_same and all(is_near(actual[name], value, tolerance) for name, value in expected.items())
    return actual is expected


def number_of(value: Any) -> float | None:
    """The number that a value is, or that a text spells."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
