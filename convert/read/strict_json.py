"""Small files from outside, and strict JSON in them."""

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, printable

# Three times the largest tokenizer.json of Qwen. JSON of nothing but brackets takes 26 bytes of memory for each.
MAX_JSON_BYTES = 32_000_000


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Parsers differ in which of two equal keys they keep.
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


def read_small_file(path: Path) -> bytes | None:
    """Its content, None if there is none. Raises CheckpointError, which names the file, for one that is too long."""
    if not path.exists():
        return None
    if not path.is_file():
        raise CheckpointError(f"{printable(path.name)}: not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{printable(path.name)}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_JSON_BYTES:
        raise CheckpointError(f"{printable(path.name)}: longer than the {MAX_JSON_BYTES} bytes allowed")
    return data


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`: UTF-8, with or without a byte order mark, no duplicate keys, no NaN or Infinity.

    Raises CheckpointError, which names `where`, for anything else, however deeply nested.
    """
    if len(data) > MAX_JSON_BYTES:
        raise CheckpointError(f"{where}: {len(data)} bytes of JSON, at most {MAX_JSON_BYTES} are allowed")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deeply") from None
    except MemoryError:
        raise CheckpointError(f"{where}: {len(data)} bytes of JSON take more memory than there is") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: not valid JSON: {printable(str(error))}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: holds a JSON {type(value).__name__}, an object is expected")
    return value
