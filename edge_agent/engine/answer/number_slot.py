"""PURE: a JSON number digit by digit: whether what is written can still become one between the bounds.

Numbers are written without exponents, with at most 16 digits, and at most 15 with a fraction: so many a float keeps, so
that comparing what is written is comparing what it is read as.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

_MAX_DIGITS = 16
_MAX_DIGITS_WITH_FRACTION = 15
_WRITTEN = re.compile(r"(?P<minus>-?)(?P<whole>0|[1-9][0-9]*)?(?:(?P<point>\.)(?P<fraction>[0-9]*))?")
_TERMINATORS = frozenset(b",}] \t\r\n")
_MAX_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class NumberRules:
    """Bounds as the text of the schema says them, None = unbounded; multiple_of only of integers."""

    is_integer: bool
    low: Fraction | None = None
    high: Fraction | None = None
    is_low_open: bool = False
    is_high_open: bool = False
    multiple_of: int = 1
    _kept: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def can_become(self, text: str) -> bool:
        """Whether a number within the bounds begins with this text."""
        found = self._kept.get(text)
        if found is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            found = self._kept[text] = self._can_become(text)
        return found

    def is_whole(self, text: str) -> bool:
        """Whether this is such a number."""
        if not text[-1:].isdecimal() or not self.can_become(text):
            return False
        value = Fraction(text)
        # One digit too many for the span of what it may become was refused before: only the value itself is left.
        return (value != 0 or text[0] != "-") and self._is_within(value)

    @property
    def least_length(self) -> int:
        """Characters of the number that is nearest to zero, about."""
        if self.low is not None and self.low > 0:
            nearest = str(math.floor(self.low) + 1 if self.is_low_open else math.ceil(self.low))
        elif self.high is not None and self.high < 0:
            nearest = str(math.ceil(self.high) - 1 if self.is_high_open else math.floor(self.high))
        else:
            nearest = "0"
        return len(nearest) + len(str(self.multiple_of - 1)) - 1 + 2 * (not self.is_whole(nearest))

    def _is_within(self, value: Fraction) -> bool:
        is_high_enough = self.low is None or value > self.low or (value == self.low and not self.is_low_open)
        is_low_enough = self.high is None or value < self.high or (value == self.high and not self.is_high_open)
        is_multiple = not self.is_integer or value % self.multiple_of == 0
        return is_high_enough and is_low_enough and is_multiple

    def _can_become(self, text: str) -> bool:
        written = _WRITTEN.fullmatch(text)
        if written is None or (written["point"] and (self.is_integer or not written["whole"])):
            return False
        is_negative, whole, fraction = bool(written["minus"]), written["whole"] or "", written["fraction"]
        if not whole:
            return any(self._can_become(f"{text}{digit}") for digit in "0123456789")
        if fraction is not None:
            decimals = _MAX_DIGITS_WITH_FRACTION - len(whole)
            missing = decimals - len(fraction)
            is_short = missing > 0 or (fraction and missing == 0)
            return bool(is_short) and self._reaches(whole + fraction, missing, decimals, is_negative=is_negative)
        for more in range(1 if whole == "0" else _MAX_DIGITS + 1 - len(whole)):
            decimals = 0 if self.is_integer else max(_MAX_DIGITS_WITH_FRACTION - len(whole) - more, 0)
            if self._reaches(whole, more + decimals, decimals, is_negative=is_negative):
                return True
        return False

    def _reaches(self, digits: str, missing: int, decimals: int, *, is_negative: bool) -> bool:
        """Whether these digits become a number within the bounds by so many more; `decimals` of all are a fraction."""
        scale: int = 10**decimals
        spread: int = 10**missing
        first = int(digits) * spread
        last = first + spread - 1
        if is_negative:
            # Zero has no sign.
            first, last = -last, min(-first, -1)
        if self.low is not None:
            bound = self.low * scale
            first = max(first, math.floor(bound) + 1 if self.is_low_open else math.ceil(bound))
        if self.high is not None:
            bound = self.high * scale
            last = min(last, math.ceil(bound) - 1 if self.is_high_open else math.floor(bound))
        return last - last % self.multiple_of >= first


@dataclass(frozen=True, slots=True)
class NumberSlot:
    """A Slot."""

    rules: NumberRules
    text: str = ""

    @property
    def can_end(self) -> bool:
        return self.rules.is_whole(self.text)

    @property
    def must_end(self) -> bool:
        return self.can_end and not any(self.rules.can_become(self.text + char) for char in "0.123456789")

    @property
    def least_characters(self) -> int:
        return 0 if self.can_end else max(self.rules.least_length - len(self.text), 1)

    def feed(self, data: bytes) -> tuple[Self, int] | None:
        text = self.text
        for at, byte in enumerate(data):
            if byte in _TERMINATORS:
                return (type(self)(self.rules, text), at) if self.rules.is_whole(text) else None
            text += chr(byte)
            if not self.rules.can_become(text):
                return None
        return type(self)(self.rules, text), len(data)
