"""Strict JSON for files that a stranger may have written."""

import json
from typing import Any

from ..errors import CheckpointError, printable

MAX_JSON_BYTES = (
    100_000_000  # the limit that the safetensors format sets for its header; tokenizer.json stays far below
)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two parsers that keep different ones of two equal keys see two different checkpoints.
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f'the key "{printable(key)}" appears twice')
            seen.add(key)
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not allowed in JSON")


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`: UTF-8, no duplicate keys, no NaN or Infinity.

    Raises CheckpointError, which names `where`, for anything else, however deeply nested.
    """
    if len(data) > MAX_JSON_BYTES:
        raise CheckpointError(f"{where}: {len(data)} bytes of JSON, at most {MAX_JSON_BYTES} are allowed")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: not valid JSON: {printable(str(error))}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: holds a JSON {type(value).__name__}, an object is expected")
    return value
