"""PURE: sets of code points as sorted ranges, and those that the escapes of a regular expression stand for.

ECMA-262 (which JSON Schema asks for) and Python's `re` (which validates the answers) differ in what `\\d`, `\\w`, `\\s`
and their opposites mean beyond ASCII. What is written must hold for both: each escape stands for what both agree on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cache

Ranges = tuple[tuple[int, int], ...]

_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
# Beyond, both know letters and digits of scripts that only Python counts as \w and \d.
_LAST_TOLD_APART = 0x24F


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def intersection(one: Ranges, other: Ranges) -> Ranges:
    found = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    return tuple((low, high) for low, high in found if low <= high)


def complement(ranges: Ranges) -> Ranges:
    """All others but surrogates, which UTF-8 has no place for."""
    gaps, begin = [], 0
    for low, high in union([*ranges, _SURROGATES]):
        if begin < low:
            gaps.append((begin, low - 1))
        begin = high + 1
    return (*gaps, (begin, _LAST)) if begin <= _LAST else tuple(gaps)


def contains(ranges: Ranges, point: int) -> bool:
    at = bisect_right(ranges, (point, _LAST)) - 1
    return at >= 0 and point <= ranges[at][1]


def one(text: str) -> Ranges:
    return union((ord(char), ord(char)) for char in text)


EVERYTHING = complement(())
NOT_LINE_END = complement(one("\n\r\u2028\u2029"))
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD = union([*_DIGITS, (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_SPACES = union([*one("\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000"), (0x2000, 0x200A)])
_SPACES_OF_EITHER = union([*_SPACES, (0x1C, 0x1F), (0x85, 0x85), (0xFEFF, 0xFEFF)])


@cache
def escape_class(letter: str) -> Ranges | None:
    """What `\\d`, `\\D`, `\\w`, `\\W`, `\\s` or `\\S` stands for; None for any other letter."""
    if letter in "dDwW":
        told_apart = range(_LAST_TOLD_APART + 1)
        inside = _DIGITS if letter in "dD" else _WORD
        if letter in "dw":
            return inside
        is_inside = str.isdecimal if letter == "D" else _is_word
        return union((point, point) for point in told_apart if not is_inside(chr(point)))
    if letter == "s":
        return _SPACES
    return complement(_SPACES_OF_EITHER) if letter == "S" else None


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"
