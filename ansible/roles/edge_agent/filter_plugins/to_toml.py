"""The filter `to_toml` writes a mapping as TOML 1.0, tables two deep, and inline what lies deeper, in its own order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_TABLES_DEPTH = 2
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(value: Mapping[str, Any]) -> str:
    """Raises ValueError, which names the key, for what TOML cannot hold, such as null."""
    return "\n".join(_lines(value, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    # A key behind the header of a sub-table would belong to that one.
    below = {key: item for key, item in table.items() if isinstance(item, Mapping) and len(path) < _TABLES_DEPTH}
    own = {key: item for key, item in table.items() if key not in below}
    if path and (own or not below):
        yield f"[{'.'.join(map(_key, path))}]"
    for key, item in own.items():
        yield f"{_key(key)} = {_inline(item, (*path, key))}"
    for key, item in below.items():
        yield from _lines(item, (*path, key))


def _key(key: str) -> str:
    return str(key) if _BARE_KEY.fullmatch(str(key)) else _string(str(key))


def _string(text: str) -> str:
    # A JSON string is one of TOML, but for DEL, which TOML wants escaped.
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(value: Any, path: tuple[str, ...]) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_inline(item, (*path, key))}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_inline(item, path) for item in value)}]"
    raise ValueError(f"{'.'.join(map(str, path))}: should be a string, number, boolean, list or table (got {value!r})")


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"to_toml": to_toml}
