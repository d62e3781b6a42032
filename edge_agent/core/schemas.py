"""JSON Schemas of `extract` tasks: which ones a configuration may hold, and the validation of answers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from referencing import Registry

Path = tuple[str | int, ...]

_MAX_CHARACTERS = 100_000
_MAX_DEPTH = 32
# The meta-schema takes about 0.5 ms for each object.
_MAX_OBJECTS = 2000


class SchemaError(ValueError):
    """A schema that no task can use; the message names the place in the schema."""


def check_schema(schema: object) -> str | None:
    """What is wrong with a task's schema, and where; None = nothing.

    It is a JSON Schema 2020-12 of bounded size. Its root describes an object, and each `$ref` is local.
    """
    if not isinstance(schema, dict):
        return f"schema: must be a table (a JSON object), not {type(schema).__name__}"
    try:
        _check_size(schema)
        with warnings.catch_warnings():
            # Python warns of patterns whose meaning may change in a later version.
            warnings.simplefilter("ignore", FutureWarning)
            jsonschema.Draft202012Validator.check_schema(schema)
        if schema.get("type") != "object":
            return f'schema.type: must be "object", not {json.dumps(schema.get("type"))}'
        for path, reference in _references(schema, ()):
            resolve(schema, reference, path)
    except jsonschema.SchemaError as error:
        return f"{_place(tuple(error.absolute_path))}: {error.message[:200]}"
    except SchemaError as error:
        return str(error)
    except (OverflowError, RecursionError) as error:
        # `re` raises these for some patterns, for example "a{4294967296}".
        return f"schema: has a pattern that is not a regular expression: {error}"
    return None


def validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    """A validator that never fetches a reference: its registry is empty."""
    return jsonschema.Draft202012Validator(schema, registry=Registry())


def resolve(root: Mapping[str, Any], reference: str, path: Path = ("$ref",)) -> Any:
    """The part of `root` that a local reference names. path: the reference's own place. Raises SchemaError."""
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaError(f'{_place(path)}: must be local ("#/…"), not {reference!r}')
    found: Any = root
    for raw in reference.removeprefix("#").split("/")[1:]:
        step = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise SchemaError(f"{_place(path)}: {reference!r} is not in the schema")
    return found


def _check_size(schema: Mapping[str, Any]) -> None:
    objects = 0
    for path, value in _values(schema, ()):
        if len(path) > _MAX_DEPTH:
            raise SchemaError(f"{_place(path[:6])}.…: is nested deeper than {_MAX_DEPTH} levels")
        objects += isinstance(value, Mapping)
    try:
        characters = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:  # dates, NaN, integers of thousands of digits, lone surrogates
        raise SchemaError(f"schema: is not JSON: {error}") from None
    if characters > _MAX_CHARACTERS:
        raise SchemaError(f"schema: is {characters} bytes of JSON, more than {_MAX_CHARACTERS}")
    if objects > _MAX_OBJECTS:
        raise SchemaError(f"schema: has {objects} objects in it, more than {_MAX_OBJECTS}")


def _values(value: object, path: Path) -> Iterator[tuple[Path, object]]:
    """The value and all inside it, to one level below the greatest depth."""
    yield path, value
    if len(path) > _MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _values(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _values(inner, (*path, index))


def _references(schema: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str]]:
    for place, value in _values(schema, path):
        if place and place[-1] == "$ref" and isinstance(value, str):
            yield place, value


def _place(path: Path) -> str:
    return ".".join(["schema", *map(str, path)])
