"""PURE: the characters of a JSON string one by one, from bytes that may end inside of one.

A character is UTF-8, an escape, or a pair of escapes for what UTF-16 writes as two surrogates (RFC 8259 §7). Half of a
pair is no character.
"""

from __future__ import annotations

import re

from edge_agent.engine.answer.code_points import EVERYTHING, Ranges, intersection, union

BACKSLASH = 0x5C
_FIRST_PRINTABLE = 0x20
_SHORT = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))
_HIGH, _LOW = ((0xD800, 0xDBFF),), ((0xDC00, 0xDFFF),)
_ASTRAL = 0x10000
_ESCAPE = re.compile(
    rb"\\(?:(?P<short>[\"\\/bfnrt])|u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|u(?P<plain>(?![dD][89a-fA-F])[0-9a-fA-F]{4}))"
)
_BEGUN_ESCAPE = re.compile(rb"\\(?:u(?P<digits>[0-9a-fA-F]{0,4})(?P<second>\\(?:u(?P<low>[0-9a-fA-F]{0,3}))?)?)?")
# Code points by the number of bytes in UTF-8.
_BY_SIZE: dict[int, Ranges] = {
    2: ((0x80, 0x7FF),),
    3: ((0x800, 0xD7FF), (0xE000, 0xFFFF)),
    4: ((_ASTRAL, 0x10FFFF),),
}


def read_character(data: bytes, at: int) -> tuple[int, int] | None:
    """The code point of the character that begins at `at` and where the next begins; None if none is whole there."""
    first = data[at]
    if first == BACKSLASH:
        found = _ESCAPE.match(data, at)
        return None if found is None else (_escaped(found), found.end())
    if first < 0x80:
        return (first, at + 1) if first >= _FIRST_PRINTABLE else None
    size = _utf8_size(first)
    try:
        char = data[at : at + size].decode()
    except UnicodeDecodeError:
        return None
    return (ord(char), at + size) if char else None


def possible_characters(begun: bytes) -> Ranges:
    """What these bytes, not a whole character yet, may become by more of them; nothing = they are wrong."""
    return _possible_escapes(begun) if begun[0] == BACKSLASH else _possible_utf8(begun)


def _escaped(escape: re.Match[bytes]) -> int:
    if escape["short"]:
        return _SHORT[escape["short"][0]]
    if escape["plain"]:
        return int(escape["plain"], 16)
    return _pair(int(escape["high"], 16), int(escape["low"], 16))


def _pair(high: int, low: int) -> int:
    return _ASTRAL + ((high - _HIGH[0][0]) << 10) + low - _LOW[0][0]


def _possible_escapes(begun: bytes) -> Ranges:
    found = _BEGUN_ESCAPE.fullmatch(begun)
    if found is None:
        return ()
    if found["digits"] is None:
        return EVERYTHING
    units = _hexadecimal(found["digits"])
    highs = intersection(units, _HIGH)
    if len(found["digits"]) == 4 and not highs:
        return ()
    if found["second"] is not None:
        lows = intersection(_hexadecimal(found["low"] or b""), _LOW)
        # The second half is only asked for when the first is whole.
        is_whole = len(found["digits"]) == 4
        return union((_pair(high, low), _pair(high, last)) for high, _ in highs for low, last in lows if is_whole)
    pairs = ((_pair(first, _LOW[0][0]), _pair(last, _LOW[0][1])) for first, last in highs)
    return union([*intersection(units, EVERYTHING), *pairs])


def _hexadecimal(digits: bytes) -> Ranges:
    """The numbers of four digits that begin so."""
    missing = 4 * (4 - len(digits))
    first = int(digits or b"0", 16) << missing
    return ((first, first + (1 << missing) - 1),)


def _utf8_size(first: int) -> int:
    """0 = no character begins with this byte."""
    if 0xC2 <= first <= 0xDF:
        return 2
    if 0xE0 <= first <= 0xEF:
        return 3
    return 4 if 0xF0 <= first <= 0xF4 else 0


def _possible_utf8(begun: bytes) -> Ranges:
    size = _utf8_size(begun[0])
    if len(begun) >= size or any(byte >> 6 != 0b10 for byte in begun[1:]):
        return ()
    value = begun[0] & (0x7F >> size)
    for byte in begun[1:]:
        value = value << 6 | byte & 0x3F
    missing = 6 * (size - len(begun))
    return intersection(((value << missing, ((value + 1) << missing) - 1),), _BY_SIZE[size])
