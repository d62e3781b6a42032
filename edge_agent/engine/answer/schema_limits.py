"""PURE: what a schema must be before anything walks through it: JSON, of a bounded size, ending wherever it begins.

jsonschema, the converter and the grammar of llama.cpp all follow a schema without asking where it leads: a reference
that leads back to itself ends in their recursion, and a pattern is matched by Python's backtracking on the only thread
that steps the model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]

_MAX_DEPTH = 32
_MAX_CHARACTERS = 100_000
_MAX_SUBSCHEMAS = 1000
_MAX_ENUM = 1000
_MAX_INTEGER = 2**63
# A path through references; the converter and the validator need a few Python frames for each step.
_MAX_STEPS = 64
_MAX_PATTERN = 200
# Ways to match that a pattern may have on a text of some thousand characters, where `*` and the like count as so many.
_MAX_WAYS = 2_000_000
_UNBOUNDED = 1000

# Keywords whose value holds schemas, and among them those that look at the same value as the schema that has them.
_ONE = frozenset(
    (
        *("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"),
        *("unevaluatedItems", "unevaluatedProperties"),
    )
)
_LIST = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_TABLE = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))
_SAME_VALUE = frozenset(("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"))


class SchemaError(ValueError):
    """A schema that cannot hold an answer; the message names the place in the schema."""


def place(path: Sequence[str | int]) -> str:
    return ".".join(["schema", *map(str, path)])


def check_json(schema: object) -> None:
    """Raises SchemaError for what JSON cannot say, or not within bounds: NaN, dates, lone surrogates, depth."""
    _check_value(schema, ())
    characters = len(json.dumps(schema, ensure_ascii=False))
    if characters > _MAX_CHARACTERS:
        raise SchemaError(f"schema: is {characters} characters of JSON; at most {_MAX_CHARACTERS} can be taken")
    found = list(_subschemas(schema, ()))
    # The validation against the meta-schema takes a millisecond for each, and compiles the patterns.
    if len(found) > _MAX_SUBSCHEMAS:
        raise SchemaError(f"schema: has more than {_MAX_SUBSCHEMAS} schemas in it")
    for path, inner in found:
        for pattern, keyword in _patterns(inner):
            if isinstance(pattern, str):
                _check_measure(pattern, (*path, keyword))


def check_subschemas(root: Mapping[str, Any]) -> None:
    """Patterns are quick to match, references end. Raises SchemaError.

    root: valid by the meta-schema and by `check_json`.
    """
    found = list(_subschemas(root, ()))
    known = {id(schema) for _, schema in found}
    for path, schema in found:
        for pattern, keyword in _patterns(schema):
            _check_pattern(pattern, (*path, keyword))
        if len(schema.get("enum", ())) > _MAX_ENUM:
            raise SchemaError(f"{place((*path, 'enum'))}: at most {_MAX_ENUM} values can be taken")
        if "$dynamicRef" in schema:
            raise SchemaError(f'{place((*path, "$dynamicRef"))}: is not supported; use a local "$ref"')
        if "$ref" in schema and id(resolve(root, schema["$ref"], (*path, "$ref"))) not in known:
            raise SchemaError(f"{place((*path, '$ref'))}: {schema['$ref']!r} is not the place of a schema")
    ended: set[int] = set()
    for path, schema in found:
        _check_end(root, schema, path, frozenset(), ended)


def resolve(root: Mapping[str, Any], reference: str, path: Path) -> Any:
    """What a local reference names. Raises SchemaError."""
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaError(f'{place(path)}: must be local ("#/…"), not {reference!r}')
    found: Any = root
    for raw in reference.removeprefix("#").split("/")[1:]:
        step = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise SchemaError(f"{place(path)}: {reference!r} is not in the schema")
    return found


def check_steps(path: Path) -> None:
    """Raises SchemaError for a path on which recursion would come too deep."""
    if len(path) > _MAX_STEPS:
        raise SchemaError(f"{place(path[:6])}.…: leads through more than {_MAX_STEPS} keywords and references")


def _check_value(value: object, path: Path) -> None:
    if len(path) > _MAX_DEPTH:
        raise SchemaError(f"{place(path[:6])}.…: is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise SchemaError(f"{place(path)}: the key {key!r} is no string")
            _check_text(key, path)
            _check_value(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_value(inner, (*path, index))
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise SchemaError(f"{place(path)}: {value} is not a number in JSON")
    elif isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise SchemaError(f"{place(path)}: is an integer of more than 64 bits")
    elif value is not None:
        raise SchemaError(f"{place(path)}: is a {type(value).__name__}, which JSON does not have")


def _check_text(text: str, path: Path) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SchemaError(f"{place(path)}: {text[:40]!a} has half of a character (a lone surrogate)") from None


def _subschemas(schema: Any, path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The schema and all inside it, with their places; references are not followed."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for inner_path, inner, _ in _parts(schema, path):
        yield from _subschemas(inner, inner_path)


def _parts(schema: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Any, bool]]:
    """The schemas right inside this one, their places, and whether they look at the same value."""
    for keyword, value in schema.items():
        is_same = keyword in _SAME_VALUE
        if keyword in _ONE:
            yield (*path, keyword), value, is_same
        elif keyword in _LIST and isinstance(value, list):
            for index, inner in enumerate(value):
                yield (*path, keyword, index), inner, is_same
        elif keyword in _TABLE and isinstance(value, Mapping):
            for key, inner in value.items():
                yield (*path, keyword, key), inner, is_same


def _check_end(root: Mapping[str, Any], schema: Any, path: Path, entered: frozenset[int], ended: set[int]) -> None:
    """Follow whatever looks at the same value; `entered` are the schemas on the way here."""
    if not isinstance(schema, Mapping) or id(schema) in ended:
        return
    if id(schema) in entered:
        raise SchemaError(f"{place(path)}: leads back to itself with no object or array between")
    check_steps(path)
    entered |= {id(schema)}
    if "$ref" in schema:
        inner_path = (*path, "$ref")
        _check_end(root, resolve(root, schema["$ref"], inner_path), inner_path, entered, ended)
    for inner_path, inner, is_same in _parts(schema, path):
        if is_same:
            _check_end(root, inner, inner_path, entered, ended)
    ended.add(id(schema))


def _patterns(schema: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """With their keywords."""
    if "pattern" in schema:
        yield schema["pattern"], "pattern"
    table = schema.get("patternProperties")
    for pattern in table if isinstance(table, Mapping) else ():
        yield pattern, "patternProperties"


def _check_measure(pattern: str, path: Path) -> None:
    """Whether it can be compiled, be it by who takes only its own kind of error for a fault of the pattern's."""
    if len(pattern) > _MAX_PATTERN:
        raise SchemaError(f"{place(path)}: is {len(pattern)} characters long; at most {_MAX_PATTERN} can be taken")
    try:
        re.compile(pattern)
    except re.error:
        pass  # the validation against the meta-schema tells
    except (OverflowError, RecursionError) as error:
        raise SchemaError(f"{place(path)}: {pattern!r} is not a regular expression: {error}") from error


def _check_pattern(pattern: str, path: Path) -> None:
    try:
        re.compile(pattern)
        ways = _PatternReader(pattern).ways()
    except (re.error, OverflowError, RecursionError) as error:
        raise SchemaError(f"{place(path)}: {pattern!r} is not a regular expression: {error}") from error
    # Without an anchor the match is tried from every character.
    ways *= 1 if pattern.startswith("^") else _UNBOUNDED
    if ways > _MAX_WAYS:
        raise SchemaError(
            f"{place(path)}: {pattern!r} could take very long to match: begin with ^, have at most two "
            "of *, + and {n,}, and repeat no group that has | or a repetition in it"
        )


class _PatternReader:
    """How many ways to match a pattern could have at most: repetitions multiply, in a repeated group to its power."""

    _TOKENS = re.compile(
        r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:P?<\w+>|<?[=!]|\(\w+\)|P=\w+|#[^)]*|[aiLmsux-]*:|[aiLmsux-]+|>))?"
        r"|\{(?P<low>\d*)(?P<comma>,?)(?P<high>\d*)\}|.",
        re.DOTALL,
    )

    def __init__(self, pattern: str) -> None:
        self._tokens = list(self._TOKENS.finditer(pattern))
        self._at = 0

    def ways(self) -> int:
        """Of the alternatives up to the end of the group."""
        total, here, last = 0, 1, 1
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            self._at += 1
            text = token.group()
            if text == ")":
                break
            if text == "|":
                total, here, last = total + here * last, 1, 1
            elif text.startswith("("):
                here, last = here * last, self.ways()
            elif (times := _times(token)) is not None:
                last = _repeated(last, *times)
            else:
                here, last = here * last, 1
        return total + here * last


def _times(token: re.Match[str]) -> tuple[int, int] | None:
    """Least and most times of a quantifier."""
    text = token.group()
    if text in {"*", "+"}:
        return (0, _UNBOUNDED)
    if text == "?":
        return (0, 1)
    if not text.startswith("{") or not (token["low"] or token["high"]):
        return None
    low = int(token["low"] or 0)
    if not token["comma"]:
        return (low, low)
    return (low, int(token["high"])) if token["high"] else (low, low + _UNBOUNDED)


def _repeated(ways: int, low: int, high: int) -> int:
    if high == 1:
        return ways + 1 - low
    # Beyond the limit it does not matter how far.
    return min(ways, 1000) ** min(high, 100) if ways > 1 else high - low + 1
