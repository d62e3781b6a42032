"""Damage that a stranger, a bad disk or a bad program may do to JSON, to bytes, and to the file itself."""

import copy
import json
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_VALUES: tuple[Any, ...] = (
    *(None, True, False, -(2**63), -1, 0, 1, 2, 3, 7, 255, 4096, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30),
    10**400,
    *(0.0, -0.0, 0.5, 1e-300, 1e38, 1e39, 1e308, float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None]),
    *({"": None}, {"a": {"b": []}}, [0] * 5000, ["a", "a"], [1, "1"], "", " ", "\0", "a\nb", "\x1b[2J", "\ud800"),
    *("../x", "/etc/passwd", "é", "\u202e", "null", "x" * 5000, "{{ 7*7 }}", "{{ input.__class__.__mro__ }}", "F64"),
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
)
_KEYS = ("", "a/b", "..", "../x", "\0", "x" * 300, "manifest.json", "__metadata__", "\ud800", "lm_head.weight")
_FILES = (
    *(b"", b"{}", b"[]", b"null", b"0", b'"x"', b"{", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b'{"a":NaN}'),
    *(b"[" * 100_000, b'{"a":' * 50_000, b'{"a":' + b"9" * 6000 + b"}", b"\0" * 4096, b" " * 4_000_001, b'{"a":1e999}'),
)
_OTHER_THINGS = ("gone", "empty", "folder", "pipe", "loop", "nowhere", "/dev/zero", "/proc/self/environ", "sparse")
_SPARSE_BYTES = 1 << 40
_MAX_BYTES = 1 << 27


def damage_json(document: Any, dice: random.Random) -> Any:
    """A copy with one to four values changed, removed, added or exchanged with others."""
    document = copy.deepcopy(document)
    for _ in range(dice.choice((1, 1, 2, 4))):
        place: Any = document
        while place and isinstance(place, dict | list):
            key = dice.choice(list(place)) if isinstance(place, dict) else dice.randrange(len(place))
            if isinstance(place[key], dict | list) and place[key] and dice.random() < 0.7:
                place = place[key]
                continue
            _damage_value(place, key, dice)
            break
        else:
            return _copied(_VALUES, dice)
    return document


def _copied(values: Sequence[Any], dice: random.Random) -> Any:
    """A copy of one of the values, as later damage must change neither the list nor another place of the document."""
    return copy.deepcopy(dice.choice(values))


def _damage_value(place: Any, key: Any, dice: random.Random) -> None:
    match dice.randrange(6):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[dice.choice((*_KEYS, str(key).upper(), f"{key} "))] = _copied((place[key], *_VALUES), dice)
        case 1:
            place.insert(key, _copied((place[key], *_VALUES), dice))
        case 2 if isinstance(place, dict):
            other = dice.choice(list(place))
            place[key], place[other] = place[other], place[key]
        case 3 if type(place[key]) is int:
            place[key] += dice.choice((-1, 1, 2**16, 2**32, -(2**40)))
        case _:
            place[key] = _copied(_VALUES, dice)


def json_text(document: Any, dice: random.Random) -> bytes:
    """The document as JSON, sometimes with a key that occurs twice."""
    text = json.dumps(document, ensure_ascii=dice.random() < 0.5, indent=dice.choice((None, None, 1)))
    if dice.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text = '{"name": 1, ' + text[1:]
    return text.encode(errors="surrogatepass")


def damage_bytes(data: bytes, dice: random.Random) -> bytes:
    """The data cut, longer, with other bytes, or replaced by another file."""
    if not data or dice.random() < 0.2:
        return dice.choice(_FILES)
    changed = bytearray(data)
    at = dice.randrange(len(data))
    match dice.randrange(5):
        case 0:
            del changed[at:]
        case 1:
            changed += dice.choice((b"\0", b"}", data, dice.randbytes(64)))
        case 2:
            del changed[at : at + dice.choice((1, 4, 100))]
        case 3:
            changed[at:at] = dice.choice((b"\0", b"\xff", b'"', b"{", b",", dice.randbytes(8)))
        case _:
            for _ in range(dice.choice((1, 1, 3, 20))):
                changed[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(changed)


def damage_file(path: Path, dice: random.Random) -> None:
    """Damages mostly the values of JSON, the bytes of other files, and sometimes the file itself."""
    if dice.random() < 0.15:
        _replace_file(path, dice)
        return
    data = path.read_bytes()
    if path.suffix == ".json" and dice.random() < 0.7:
        try:
            path.write_bytes(json_text(damage_json(json.loads(data), dice), dice))
        except (ValueError, RecursionError):
            path.write_bytes(damage_bytes(data, dice))
    else:
        path.write_bytes(damage_bytes(data, dice))


def plain_files(folder: Path) -> list[Path]:
    """The small regular files of a folder, which damage may read and write."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink() and path.stat().st_size < _MAX_BYTES
    )


def _replace_file(path: Path, dice: random.Random) -> None:
    what = dice.choice(_OTHER_THINGS)
    other = path.with_name(f"{path.name}.other")
    path.rename(other)
    match what:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "sparse":
            shutil.copyfile(other, path)
            os.truncate(path, _SPARSE_BYTES)
        case "nowhere" | "/dev/zero" | "/proc/self/environ":
            path.symlink_to(what)
    if dice.random() < 0.9:
        other.unlink()
