"""A small sound checkpoint, with an adapter where it is meant to have one, and something wrong in it."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rigs.fuzz.damage import damage_bytes, damage_json, is_plain, json_text, replace_file
from tests.convert.adapters import AdapterFiles, make_adapter
from tests.convert.checkpoints import CheckpointFiles, make_checkpoint

_TYPES = ("bf16", "f16", "q8_0", "q4_0", "q4_k_m", "iq4_nl")
_INDEX = "model.safetensors.index.json"
_PICKLE = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0dtouch /pwned \x85R."
_CARD = "---\nlicense: apache-2.0\n---\n# A model\n"
_GENERATION = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1, "eos_token_id": [264, 262]}
_DTYPES = ("BF16", "F16", "F32", "F64", "I8", "BOOL", "F8_E4M3", "", None, 16)
# What most memory is made of.
_LARGE = b'{"a":[' + b"{}," * 10_000_000 + b"{}]}"
_NUMBERS = (-1, 0, 1, 2, 7, 2**31, 2**32, 2**53, 2**63, 2**64, 1.5, True, "8", None, 10**40)


@dataclass(frozen=True, slots=True)
class Sound:
    """What everything starts from."""

    plain: CheckpointFiles
    sharded: CheckpointFiles
    adapter: AdapterFiles


def make_sound() -> Sound:
    sizes: dict[str, Any] = {"layers": 1, "hidden": 64, "feed_forward": 128, "heads": 2, "heads_kv": 1, "tied": False}
    plain = make_checkpoint(**sizes)
    plain.more = {"generation_config.json": json.dumps(_GENERATION), "README.md": _CARD}
    shapes = {name: values.shape for name, values in plain.tensors.items()}
    return Sound(plain, make_checkpoint(**sizes, shards=2), make_adapter(shapes))


def write_damaged(sound: Sound, number: int, folder: Path) -> list[str]:
    """Below `folder`, always the same for the same number; gives the words that convert it into `folder/bundle`."""
    dice = random.Random(number)
    checkpoint, lora = folder / "checkpoint", folder / "lora"
    (sound.sharded if dice.random() < 0.4 else sound.plain).write(checkpoint)
    words = [str(checkpoint), "--out", str(folder / "bundle"), "--type", dice.choice(_TYPES), "--no-canaries"]
    is_adapted = dice.random() < 0.35
    if is_adapted:
        sound.adapter.write(lora)
        words += ["--lora", str(lora)]
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        place = lora if is_adapted and dice.random() < 0.7 else checkpoint
        dice.choice(_CHANGES)(place, dice)
    return words


def _files(place: Path, ending: str, dice: random.Random) -> Path | None:
    found = sorted(path for path in place.iterdir() if path.name.endswith(ending) and is_plain(path))
    return dice.choice(found) if found else None


def _change_json(place: Path, dice: random.Random) -> None:
    path = _files(place, ".json", dice)
    if path is None:
        return
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return
    for _ in range(dice.choice((1, 1, 2, 4))):
        document = damage_json(document, dice)
    path.write_bytes(json_text(document, dice))


def _change_text(place: Path, dice: random.Random) -> None:
    path = _files(place, dice.choice([".json", ".json", ".md"]), dice)
    if path is not None:
        path.write_bytes(_LARGE if dice.random() < 0.03 else damage_bytes(path.read_bytes(), dice))


def _split(path: Path) -> tuple[dict[str, Any], bytes] | None:
    data = path.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", data)
        return json.loads(data[8 : 8 + length]), data[8 + length :]
    except (struct.error, ValueError, RecursionError, OverflowError):
        return None


def _change_header(place: Path, dice: random.Random) -> None:
    path = _files(place, ".safetensors", dice)
    if path is None or (found := _split(path)) is None or not isinstance(found[0], dict) or not found[0]:
        return
    header, data = found
    name = dice.choice(list(header))
    entry = header[name]
    match dice.randrange(8):
        case 0 if isinstance(entry, dict):
            entry["dtype"] = dice.choice(_DTYPES)
        case 1 if isinstance(entry, dict) and entry.get("shape"):
            shape = entry["shape"]
            shape[dice.randrange(len(shape))] = dice.choice(_NUMBERS)
        case 2 if isinstance(entry, dict):
            entry["shape"] = dice.choice([[], [0], [1] * 9, entry.get("shape", [])[::-1], "8", None, [[8]]])
        case 3 if isinstance(entry, dict):
            entry["data_offsets"] = dice.choice([[0, 0], [8, 0], [0], [0, dice.choice(_NUMBERS)], None, [0, len(data)]])
        case 4:
            header[dice.choice(["../x", "\x1b[2J", "", "lm_head.weight", "model.layers.9.x", name + "s"])] = entry
        case 5:
            del header[name]
        case 6:
            header["__metadata__"] = dice.choice([{"a": 1}, [], None, {"a": "b" * 100_000}, "x"])
        case _:
            header = damage_json(header, dice)
    text = json_text(header, dice)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _change_length(place: Path, dice: random.Random) -> None:
    path = _files(place, ".safetensors", dice)
    if path is not None:
        data = path.read_bytes()
        lengths = [
            0,
            1,
            2,
            7,
            len(data),
            len(data) - 8,
            len(data) - 7,
            10**8,
            10**8 + 1,
            2**31,
            2**32,
            2**63,
            2**64 - 1,
        ]
        path.write_bytes(struct.pack("<Q", dice.choice(lengths)) + data[8:])


def _change_weights(place: Path, dice: random.Random) -> None:
    """Infinities, NaN, the largest and smallest numbers, or noise."""
    path = _files(place, ".safetensors", dice)
    if path is None or (found := _split(path)) is None or len(found[1]) < 128:
        return
    data = bytearray(path.read_bytes())
    begin = len(data) - len(found[1])
    for _ in range(dice.choice((1, 5, 500))):
        at = begin + 2 * dice.randrange(len(found[1]) // 2)
        data[at : at + 2] = dice.choice(
            [b"\x80\x7f", b"\xc0\x7f", b"\x80\xff", b"\x7f\x7f", b"\1\0", dice.randbytes(2)]
        )
    path.write_bytes(data)


def _change_raw(place: Path, dice: random.Random) -> None:
    path = _files(place, ".safetensors", dice)
    if path is not None:
        path.write_bytes(damage_bytes(path.read_bytes(), dice))


def _change_index(place: Path, dice: random.Random) -> None:
    path = place / _INDEX
    document = _object(path)
    map_ = document.get("weight_map")
    if not isinstance(map_, dict) or not map_:
        document = {"weight_map": {"lm_head.weight": "model.safetensors"}}
        map_ = document["weight_map"]
    name = dice.choice(list(map_))
    files = [
        "../model.safetensors",
        "/etc/passwd",
        "",
        "x.bin",
        "model.safetensors",
        _INDEX,
        "a" * 250 + ".safetensors",
    ]
    map_[name] = dice.choice([*files, "\0.safetensors", ".safetensors", None, 1, *map_.values()])
    if dice.random() < 0.3:
        del map_[dice.choice(list(map_))]
    _write(path, json_text(document, dice))


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes()) if is_plain(path) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _change_template(place: Path, dice: random.Random) -> None:
    """In each of the three places where a checkpoint may have one."""
    template: Any = dice.choice(
        [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            *("{{ 'x' * 10 ** 10 }}", "{% if %}", "{{ messages.__class__ }}", "", " ", "a\0b", "{{ '\ud800' }}", 7, []),
            *([{"name": "default", "template": 1}], [{"name": "a\nb", "template": "x"}], {"default": "x"}),
            "{% include '/etc/passwd' %}" + "{" * 200,
        ]
    )
    config = _object(place / "tokenizer_config.json")
    match dice.randrange(3):
        case 0:
            config["chat_template"] = template
        case 1:
            config.pop("chat_template", None)
            _write(place / "chat_template.jinja", str(template).encode(errors="surrogatepass"))
        case _:
            config.pop("chat_template", None)
            _write(place / "chat_template.json", json_text({"chat_template": template}, dice))
    _write(place / "tokenizer_config.json", json_text(config, dice))


def _write(path: Path, data: bytes) -> None:
    if is_plain(path) or not (path.exists() or path.is_symlink()):
        path.write_bytes(data)


def _change_file(place: Path, dice: random.Random) -> None:
    if (path := _files(place, "", dice)) is not None:
        replace_file(path, dice)


def _add_file(place: Path, dice: random.Random) -> None:
    name = dice.choice(
        ["pytorch_model.bin", "adapter_model.bin", "model.safetensors", "model-00009-of-00009.safetensors"]
    )
    if not (place / name).exists():
        (place / name).write_bytes(_PICKLE)


_CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(_change_json, _change_json, _change_json, _change_text, _change_header, _change_header, _change_header),
    *(_change_length, _change_weights, _change_raw, _change_index, _change_template, _change_file, _add_file),
)
