"""Damage that a stranger, a bad disk or a bad program may do: to JSON, to bytes, and to the file itself."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

_INTEGERS = (-(2**63), -1, 0, 1, 2, 3, 7, 255, 4096, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30)
_FLOATS = (0.0, -0.0, 0.5, 1e-300, 1e38, 1e39, 1e308, float("nan"), float("inf"), float("-inf"))
_STRINGS = (
    "",
    " ",
    "\0",
    "a\nb",
    "\x1b[2J",
    "\ud800",
    "../x",
    "/etc/passwd",
    "é",
    "\u202e",
    "{{ 7*7 }}",
    "null",
    "x" * 5000,
)
_CONTAINERS: tuple[Any, ...] = ([], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [0] * 5000, ["a", "a"], [1, "1"])
_VALUES: tuple[Any, ...] = (None, True, False, *_INTEGERS, *_FLOATS, *_STRINGS, *_CONTAINERS)
_SMALL_FILES = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b"0",
    b'"x"',
    b"{",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'{"a":1,"a":2}',
    b'{"a":NaN}',
)
_LARGE_FILES = (b"[" * 100_000, b'{"a":' * 50_000, b'{"a":' + b"9" * 6000 + b"}", b"\0" * 4096, b" " * 100_000)
_FILES = (*_SMALL_FILES, *_LARGE_FILES, b'{"a":1e999}', b'{"a":1,"a":2}')
_FAR = Path("/proc/self/environ")
_SPARSE_BYTES = 1 << 40
_MOST_BYTES = 1 << 27


def damage_json(document: Any, dice: random.Random) -> Any:
    """A copy with one value changed, removed, added or exchanged with another."""
    document = copy.deepcopy(document)
    place: Any = document
    while place:
        key = dice.choice(list(place)) if isinstance(place, dict) else dice.randrange(len(place))
        if isinstance(place[key], dict | list) and place[key] and dice.random() < 0.7:
            place = place[key]
            continue
        match dice.randrange(6):
            case 0:
                del place[key]
            case 1 if isinstance(place, dict):
                name = dice.choice(["", "a/b", "..", "\0", "x" * 300, str(key).upper(), f"{key} ", "__metadata__"])
                place[name] = dice.choice([place[key], *_VALUES])
            case 1:
                place.insert(key, dice.choice([place[key], *_VALUES]))
            case 2 if isinstance(place, dict):
                other = dice.choice(list(place))
                place[key], place[other] = place[other], place[key]
            case 3 if type(place[key]) is int:
                place[key] += dice.choice([-1, 1, 2**16, 2**32, -(2**40)])
            case _:
                place[key] = dice.choice(_VALUES)
        return document
    return dice.choice(_VALUES)


def json_text(document: Any, dice: random.Random) -> bytes:
    """Sometimes in a form that no JSON library writes."""
    text = json.dumps(document, ensure_ascii=dice.random() < 0.5, indent=dice.choice([None, None, 1]))
    if dice.random() < 0.1 and text.startswith("{") and len(text) > 2:
        # A duplicate key.
        text = '{"name": 1, ' + text[1:]
    return text.encode(errors="surrogatepass")


def damage_bytes(data: bytes, dice: random.Random) -> bytes:
    """Cut, longer, with other bytes, or replaced by another file."""
    if not data or dice.random() < 0.2:
        return dice.choice(_FILES)
    changed = bytearray(data)
    match dice.randrange(5):
        case 0:
            return data[: dice.randrange(len(data))]
        case 1:
            return data + dice.choice([b"\0", b"}", data, dice.randbytes(64)])
        case 2:
            at = dice.randrange(len(data))
            changed[at : at + dice.choice([1, 4, 100])] = b""
        case 3:
            at = dice.randrange(len(data))
            changed[at:at] = dice.choice([b"\0", b"\xff", b'"', b"{", b",", dice.randbytes(8)])
        case _:
            for _ in range(dice.choice([1, 1, 3, 20])):
                changed[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(changed)


def is_plain(path: Path) -> bool:
    """Whether it is a small regular file, which damage may read and write."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < _MOST_BYTES


def replace_file(path: Path, dice: random.Random) -> str:
    """Puts something else, or nothing, in the file's place. The name of what it is."""
    other = path.with_name(f"{path.name}.other")
    what = dice.choice(
        ["gone", "empty", "folder", "pipe", "socket", "loop", "nowhere", "device", "far", "link", "sparse"]
    )
    path.rename(other)
    match what:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
            (path / "x").touch()
        case "pipe":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, 0o140600)
        case "loop":
            path.symlink_to(path.name)
        case "nowhere":
            path.symlink_to("nowhere")
        case "device":
            path.symlink_to(dice.choice(["/dev/zero", "/dev/null", "/dev/full"]))
        case "far":
            path.symlink_to(_FAR)
        case "link":
            shutil.move(other, path.parent.parent / other.name)
            path.symlink_to(Path("..") / other.name)
        case "sparse":
            shutil.copyfile(other, path)
            os.truncate(path, _SPARSE_BYTES)
    if other.exists() and dice.random() < 0.9:
        other.unlink()
    return what
