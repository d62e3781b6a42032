"""A small sound bundle with all that one may hold, signed; and copies of it with something wrong."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.models.signatures import SIGNATURE_FILE
from rigs.fuzz.checkpoints import make_sound
from rigs.fuzz.damage import damage_bytes, damage_json, is_plain, json_text, replace_file
from rigs.fuzz.mutations import Parts, mutated, read_parts
from tests.helpers.keys import public_pem
from tests.models.test_canaries import CANARIES as SOUND_CANARIES

MANIFEST, MODEL, ADAPTER, REPAIR, CANARIES = (
    "manifest.json",
    "model.gguf",
    "adapter.gguf",
    "repair.gguf",
    "canaries.json",
)
_TRICKS = (
    *("../x", "/etc/passwd", "a/b", "..", ".", "", "\\", "a\\b", "a\0b", "x" * 300, "é", "\x1b[2J", MANIFEST),
    *(SIGNATURE_FILE, "Model.gguf", "model.gguf ", "nul", "\ud800", "-rf", "../bundle/model.gguf", "./model.gguf"),
)
_TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='x') %}{% for a in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{{ input.__class__.__mro__ }}",
    "{% for a in range(9999) %}{{ input }}{% endfor %}",
)
_SIZES: tuple[Any, ...] = (-1, 0, 1, 2**31, 2**63, 2**70, 1.0, True, "1", None, 10**400)


@dataclass(frozen=True, slots=True)
class Sound:
    """A bundle's folder, the GGUF parts of its model and adapter, and whose it is."""

    folder: Path
    model: Parts
    adapter: Parts
    key: Ed25519PrivateKey


def make_bundle(folder: Path) -> Sound:
    """Converted by a process of its own: what is forked from this one must not have loaded llama.cpp."""
    sound = make_sound()
    checkpoint, lora, bundle = sound.plain.write(folder / "ck"), sound.adapter.write(folder / "lora"), folder / "bundle"
    key = Ed25519PrivateKey.generate()
    words = [sys.executable, "-m", "edge_convert", str(checkpoint), "--out", str(bundle), "--type", "q8_0"]
    words += ["--lora", str(lora), "--no-canaries"]
    subprocess.run(words, check=True, capture_output=True)
    shutil.copyfile(bundle / ADAPTER, bundle / REPAIR)
    # Nothing here compares answers.
    (bundle / CANARIES).write_bytes(SOUND_CANARIES.encode())
    _relist(bundle, {REPAIR, CANARIES})
    _sign(bundle, key)
    return Sound(bundle, read_parts(bundle / MODEL), read_parts(bundle / ADAPTER), key)


@dataclass(slots=True)
class _Copy:
    """What is changed. is_signed: again, behind all changes."""

    folder: Path
    sound: Sound
    dice: random.Random
    is_signed: bool


def write_damaged(sound: Sound, number: int, folder: Path) -> tuple[Path, Path | None]:
    """The bundle below `folder`, always the same for the same number; and the file of the key to open it with."""
    dice = random.Random(number)
    bundle = folder / "bundle"
    shutil.copytree(sound.folder, bundle)
    for name in (REPAIR, ADAPTER, CANARIES):
        if dice.random() < 0.3:
            (bundle / name).unlink()
            _relist(bundle, {name})
    copy = _Copy(bundle, sound, dice, is_signed=dice.random() < 0.7)
    if copy.is_signed:
        _sign(bundle, sound.key)
    for _ in range(dice.choice((1, 1, 1, 2))):
        dice.choice(_CHANGES)(copy)
    if copy.is_signed:
        _sign(bundle, sound.key)
    return _renamed(bundle, dice), _key_file(folder, sound.key, dice)


def _renamed(bundle: Path, dice: random.Random) -> Path:
    if dice.random() < 0.95:
        return bundle
    link = bundle.with_name(dice.choice(["bundle.gguf", "by-link", "loop"]))
    link.symlink_to(link.name if link.name == "loop" else "bundle")
    return link


def _key_file(folder: Path, key: Ed25519PrivateKey, dice: random.Random) -> Path | None:
    file = folder / "key.pub.pem"
    chance = dice.random()
    if chance < 0.5:
        return None
    file.write_bytes(public_pem(key))
    if chance > 0.97:
        replace_file(file, dice)
    elif chance > 0.94:
        file.write_bytes(damage_bytes(file.read_bytes(), dice))
    elif chance > 0.9:
        file.write_bytes(public_pem(Ed25519PrivateKey.generate()))
    return file


def _sign(bundle: Path, key: Ed25519PrivateKey) -> None:
    manifest, signature = bundle / MANIFEST, bundle / SIGNATURE_FILE
    if is_plain(manifest) and (not signature.exists() or is_plain(signature)):
        signature.unlink(missing_ok=True)
        signature.write_bytes(key.sign(manifest.read_bytes()))


def _manifest(bundle: Path) -> dict[str, Any] | None:
    found = _object(bundle / MANIFEST)
    return found if found is not None and isinstance(found.get("files"), dict) else None


def _object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes()) if is_plain(path) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _relist(bundle: Path, names: set[str]) -> None:
    """The manifest has these as they are now."""
    manifest = _manifest(bundle)
    if manifest is None:
        return
    for name in names:
        path = bundle / name
        if is_plain(path):
            data = path.read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        else:
            manifest["files"].pop(name, None)
    (bundle / MANIFEST).write_text(json.dumps(manifest), "utf-8")


def _change_manifest(copy: _Copy) -> None:
    manifest: Any = _manifest(copy.folder)
    if manifest is not None:
        for _ in range(copy.dice.choice((1, 1, 3))):
            manifest = damage_json(manifest, copy.dice)
        (copy.folder / MANIFEST).write_bytes(json_text(manifest, copy.dice))


def _change_field(copy: _Copy) -> None:
    """What the agent reads of it, rather than the recipe's hundreds of types."""
    manifest = _manifest(copy.folder)
    if manifest is None:
        return
    key = copy.dice.choice(["schema", "name", "version", "architecture", "quantization", "licence", "context_length"])
    manifest[key] = damage_json([manifest.get(key)], copy.dice)
    if isinstance(manifest[key], list) and copy.dice.random() < 0.9:
        manifest[key] = (manifest[key] or [None])[0]
    (copy.folder / MANIFEST).write_bytes(json_text(manifest, copy.dice))


def _change_manifest_text(copy: _Copy) -> None:
    path = copy.folder / MANIFEST
    if is_plain(path):
        huge = [
            b'{"files":{' + b",".join(b'"%d":[]' % n for n in range(300_000)) + b"}}",
            b" " * 4_000_001,
            b"[]," * 10**6,
        ]
        dice = copy.dice
        path.write_bytes(dice.choice(huge) if dice.random() < 0.05 else damage_bytes(path.read_bytes(), dice))


def _change_listed(copy: _Copy) -> None:
    manifest = _manifest(copy.folder)
    if manifest is None or not manifest["files"]:
        return
    files, dice = manifest["files"], copy.dice
    name = dice.choice(list(files))
    match dice.randrange(4):
        case 0:
            trick = dice.choice(_TRICKS)
            files[trick] = files[name] if dice.random() < 0.5 else files.pop(name)
        case 1 if isinstance(files[name], dict):
            files[name]["bytes"] = dice.choice(_SIZES)
        case 2 if isinstance(files[name], dict):
            files[name]["sha256"] = dice.choice(["", "0" * 64, "A" * 64, "g" * 64, "0" * 63 + "\n", None, 0])
        case _:
            files[name] = dice.choice([None, [], {}, "x", dict(files)])
    (copy.folder / MANIFEST).write_bytes(json_text(manifest, dice))


def _change_signature(copy: _Copy) -> None:
    path, copy.is_signed = copy.folder / SIGNATURE_FILE, False
    if is_plain(path):
        signature = path.read_bytes()
        path.write_bytes(copy.dice.choice([damage_bytes(signature, copy.dice), signature + b"\n", bytes(64)]))


def _change_canaries(copy: _Copy) -> None:
    path = copy.folder / CANARIES
    if not is_plain(path):
        return
    data, document = path.read_bytes(), _object(path)
    if document is not None and copy.dice.random() < 0.7:
        for _ in range(copy.dice.choice((1, 1, 3))):
            document = damage_json(document, copy.dice)
        if isinstance(document, dict) and isinstance(tasks := document.get("tasks"), dict) and copy.dice.random() < 0.2:
            for task in tasks.values():
                if isinstance(task, dict):
                    task["template"] = copy.dice.choice(_TEMPLATES)
        path.write_bytes(json_text(document, copy.dice))
    else:
        path.write_bytes(damage_bytes(data, copy.dice))
    _listed(copy, CANARIES)


def _change_gguf(copy: _Copy) -> None:
    """The model or an adapter: damaged, or in another's place."""
    dice = copy.dice
    name = dice.choice([MODEL, MODEL, ADAPTER, REPAIR])
    path = copy.folder / name
    if not is_plain(path):
        return
    match dice.randrange(4):
        case 0:
            shutil.copyfile(copy.sound.folder / dice.choice([MODEL, ADAPTER, CANARIES]), path)
        case 1:
            path.write_bytes(damage_bytes(path.read_bytes(), dice))
        case _:
            parts = copy.sound.model if name == MODEL else copy.sound.adapter
            path.write_bytes(mutated(parts, dice.randrange(1 << 30)))
    _listed(copy, name)


def _listed(copy: _Copy, name: str) -> None:
    """Mostly as it is now: else its hash is all that is looked at."""
    if copy.dice.random() < 0.8:
        _relist(copy.folder, {name})


def _change_file(copy: _Copy) -> None:
    found = sorted(path for path in copy.folder.iterdir() if is_plain(path))
    if not found:
        return
    path = copy.dice.choice(found)
    what = replace_file(path, copy.dice)
    if path.name == SIGNATURE_FILE:
        copy.is_signed = False
    if what in ("gone", "empty", "link") and path.name not in (MANIFEST, SIGNATURE_FILE):
        _listed(copy, path.name)


def _add_file(copy: _Copy) -> None:
    name = copy.dice.choice(["x", ".hidden", "\x1b[2J", "model.gguf.bak", "é" * 100, "config.json"])
    path = copy.folder / name
    if not path.exists():
        path.write_bytes(b"x")
        if copy.dice.random() < 0.5:
            _listed(copy, name)


_CHANGES: tuple[Callable[[_Copy], None], ...] = (
    *(_change_manifest, _change_field, _change_field, _change_manifest_text, _change_listed, _change_listed),
    *(_change_signature, _change_canaries, _change_canaries, _change_gguf, _change_gguf, _change_gguf),
    *(_change_file, _change_file, _add_file),
)
