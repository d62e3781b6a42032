"""PURE. JSON objects read field by field; every refusal names the field, the value found and what is allowed."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import CheckpointError, printable

MAX_TEXT_LENGTH = 200
MAX_COUNT = 1 << 53  # the integers that every JSON reader keeps
_SHA256 = re.compile(r"[0-9a-f]{64}")
Value = TypeVar("Value")


class Fields:
    """One JSON object, whose path within its file is `where`. Every method raises CheckpointError."""

    def __init__(self, value: Any, where: str, names: tuple[str, ...], later: tuple[str, ...] = ()) -> None:
        """`names` are all fields that the object has to hold, and with `later` the only ones it may.

        later: what older files do not have, which is then null.
        """
        allowed = ", ".join((*names, *later))
        self.where = where
        if not isinstance(value, dict):
            raise CheckpointError(f"{where} is {_shown(value)}, allowed is an object with {allowed}")
        self._value = {**dict.fromkeys(later), **value}
        for name in names:
            if name not in value:
                raise CheckpointError(f"{where}.{name} is missing; what is unknown is null")
        for name in value:
            if name not in names and name not in later:
                raise CheckpointError(f"{where}.{printable(name)} is unknown, allowed is {allowed}")

    def text(self, name: str) -> str:
        """Printable text, not empty."""
        value = self._value[name]
        if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= MAX_TEXT_LENGTH:
            raise self.wrong(name, value, f"printable text of 1 to {MAX_TEXT_LENGTH} characters")
        return value

    def sha256(self, name: str) -> str:
        """A hex SHA-256."""
        value = self._value[name]
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise self.wrong(name, value, "a SHA-256 as 64 lower-case hex digits")
        return value

    def count(self, name: str) -> int:
        """An integer of 0 or more."""
        value = self._value[name]
        if type(value) is not int or not 0 <= value <= MAX_COUNT:
            raise self.wrong(name, value, f"an integer from 0 to {MAX_COUNT}")
        return value

    def number(self, name: str) -> float:
        """A number of 0 or more."""
        value = self._value[name]
        # Comparing takes integers that no float can hold too.
        if type(value) not in (int, float) or not 0 <= value <= 1e300:
            raise self.wrong(name, value, "a number of 0 or more")
        return float(value)

    def positive(self, name: str) -> float:
        """A number above 0."""
        value = self.number(name)
        if value == 0:
            raise self.wrong(name, value, "a number above 0")
        return value

    def share(self, name: str) -> float:
        """A number from 0 to 1."""
        value = self._value[name]
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise self.wrong(name, value, "a share from 0 to 1")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._value[name]
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def optional(self, name: str, read: Callable[[str], Value]) -> Value | None:
        """What `read`, another method, reads there; None for null."""
        return None if self._value[name] is None else read(name)

    def part(self, name: str, read: Callable[[Any, str], Value]) -> Value | None:
        """The object of that name as `read(value, where)` makes it; None for null."""
        value = self._value[name]
        return None if value is None else read(value, f"{self.where}.{name}")

    def parts(self, name: str, read: Callable[[Any, str], Value]) -> tuple[Value, ...]:
        """The objects of a list, as `read(value, where)` makes each of them."""
        value = self._value[name]
        if not isinstance(value, list | tuple):
            raise self.wrong(name, value, "a list")
        return tuple(read(item, f"{self.where}.{name}[{index}]") for index, item in enumerate(value))

    def wrong(self, name: str, value: Any, allowed: str) -> CheckpointError:
        """The refusal of one field's value."""
        return CheckpointError(f"{self.where}.{name} is {_shown(value)}, allowed is {allowed}")


def _shown(value: Any) -> str:
    return "null" if value is None else printable(repr(value))
