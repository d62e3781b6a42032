"""JSON Schemas of `extract` tasks: which ones a configuration may hold, and the validation of answers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

# Imported where it is used, because most processes have no `extract` task, and importing it takes a second where the
# packages for all of its formats are installed.
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    import jsonschema

Location = tuple[str | int, ...]

_MAX_BYTES = 100_000
_MAX_DEPTH = 32


class SchemaError(ValueError):
    """A schema that no task can use; the message names the place in the schema."""


def check_schema(schema: object) -> str | None:
    """What is wrong with a task's schema, and where; None if nothing is.

    It is a JSON Schema 2020-12 of bounded size. Its root describes an object, and each `$ref` is local.
    """
    import jsonschema

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
        for path, value in _values(schema, ()):
            if path[-1:] == ("$ref",) and isinstance(value, str):
                resolve(schema, value, path)
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
    import jsonschema
    from referencing import Registry

    return jsonschema.Draft202012Validator(schema, registry=Registry())


def best_error(checks: jsonschema.Draft202012Validator, value: object) -> jsonschema.ValidationError | None:
    """The error that says most about a value that does not validate."""
    from jsonschema.exceptions import best_match

    error: jsonschema.ValidationError | None = best_match(checks.iter_errors(value))
    return error


def resolve(root: Mapping[str, Any], reference: str, path: Location = ("$ref",)) -> Any:
    """The part of `root` that a local reference names; `path` is the reference's own place. Raises SchemaError."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if not reference.startswith("#"):
        raise SchemaError(f'{_place(path)}: must be local ("#/…"), not {reference!r}')
    resolver = Registry().with_resource("", DRAFT202012.create_resource(root)).resolver()
    try:
        return resolver.lookup(reference).contents
    except (Unresolvable, ValueError, TypeError):  # the latter two for steps into what is no object or array
        raise SchemaError(f"{_place(path)}: {reference!r} is not in the schema") from None


def _check_size(schema: Mapping[str, Any]) -> None:
    for path, _ in _values(schema, ()):
        if len(path) > _MAX_DEPTH:
            raise SchemaError(f"{_place(path[:6])}.…: is nested deeper than {_MAX_DEPTH} levels")
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:  # dates, NaN, integers of thousands of digits, lone surrogates
        raise SchemaError(f"schema: is not JSON: {error}") from None
    if size > _MAX_BYTES:
        raise SchemaError(f"schema: is {size} bytes of JSON, more than {_MAX_BYTES}")


def _values(value: object, path: Location) -> Iterator[tuple[Location, object]]:
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


def _place(path: Location) -> str:
    return ".".join(["schema", *map(str, path)])
