"""Attacks on a signed bundle. None of what they make may open, and what was signed for this board always does."""

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_agent.core.model import ModelError
from edge_agent.models.bundle import open_model
from edge_agent.models.trust import Revocations, Trust
from rigs.fuzz.checkpoints import make_bundle
from rigs.fuzz.children import FAILED, Outcome, try_in_child
from rigs.fuzz.damage import damage_bytes
from tests.helpers.keys import key_sha256, sign, trusting, write_keys

CPU_S, MEMORY_BYTES = 10, 1 << 29
_MANIFEST = "manifest.json"
# One case in this many is not attacked.
_SOUND_EVERY = 20


@dataclass(frozen=True, slots=True)
class World:
    """Two bundles of one signer, and a board that has switched to the newer one."""

    bundle: Path
    """The newer bundle, in force."""
    older: Path
    """A bundle with other weights, signed with the same key."""
    keys: dict[str, Path]
    """Private keys by the name of their holder."""
    trust: Trust
    """What the board trusts."""


def outcomes(numbers: range, _model: Path) -> Iterator[tuple[int, Outcome]]:
    with tempfile.TemporaryDirectory() as made:
        world = make_world(Path(made))
        for number in numbers:
            with tempfile.TemporaryDirectory() as name:
                bundle = Path(shutil.copytree(world.bundle, Path(name) / "bundle"))
                attack = "" if number % _SOUND_EVERY == 0 else attacked(world, bundle, random.Random(number))
                outcome, why = try_in_child(partial(_opened, bundle, world), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
                if outcome in ("opened", "refused") and (outcome == "opened") == bool(attack):
                    outcome, why = FAILED, f"{attack or 'no attack'}: {outcome} {why}"
                yield number, (outcome, why)


def make_world(folder: Path) -> World:
    pairs = {name: write_keys(folder, name) for name in ("ours", "revoked", "stranger")}
    older, newer = (
        make_bundle(folder, kind, "--model-version", version, "--sign", str(pairs["ours"][0]))
        for version, kind in (("1", "q4_0"), ("2", "q8_0"))
    )
    revoked = {"schema": 1, "number": 1, "manifests": [], "keys": [key_sha256(pairs["revoked"][1])]}
    trust = Trust(
        keys=trusting(pairs["ours"][1], pairs["revoked"][1]).keys,
        revocations=Revocations.model_validate(revoked),
        min_version=2,
    )
    return World(newer, older, {name: private for name, (private, _) in pairs.items()}, trust)


def attacked(world: World, bundle: Path, dice: random.Random) -> str:
    """Changes the bundle; returns how."""
    attack = dice.choice(_ATTACKS)
    return f"{attack.__name__.strip('_')} {attack(world, bundle, dice)}"


def _damage(_: World, bundle: Path, dice: random.Random) -> str:
    """Bits of any file change, or it is cut, gets longer or is replaced."""
    path = dice.choice(sorted(bundle.iterdir()))
    sound = path.read_bytes()
    while path.read_bytes() == sound:
        path.write_bytes(damage_bytes(sound, dice))
    return path.name


def _mix(world: World, bundle: Path, dice: random.Random) -> str:
    """Some files come from the other bundle, not all of those that differ."""
    names = [
        path.name for path in sorted(bundle.iterdir()) if path.read_bytes() != (world.older / path.name).read_bytes()
    ]
    taken = dice.sample(names, dice.randrange(1, len(names)))
    for name in taken:
        shutil.copyfile(world.older / name, bundle / name)
    return ", ".join(taken)


def _replay(world: World, bundle: Path, _: random.Random) -> str:
    """A whole older bundle takes its place."""
    shutil.rmtree(bundle)
    shutil.copytree(world.older, bundle)
    return world.older.name


def _rename(_: World, bundle: Path, dice: random.Random) -> str:
    """A file gets another's name, or a new one."""
    one, other = dice.sample(sorted(bundle.iterdir()), 2)
    target = dice.choice((other, one.with_name(f"{one.name}~"), one.with_name(f".{one.name}")))
    one.replace(target)
    return f"{one.name} to {target.name}"


def _add(world: World, bundle: Path, dice: random.Random) -> str:
    """Adds a file that the manifest does not list."""
    name = dice.choice(("repair.gguf", "student-a.gguf", "score_maps.json", "canaries.json", "run.sh", ".hidden"))
    shutil.copyfile(dice.choice(sorted(world.older.iterdir())), bundle / name)
    return name


def _sign_otherwise(world: World, bundle: Path, dice: random.Random) -> str:
    """The bundle, perhaps changed, is signed by a stranger or with a revoked key."""
    if dice.random() < 0.5:
        text = (bundle / _MANIFEST).read_text("utf-8")
        (bundle / _MANIFEST).write_text(text.replace('"version":2', '"version":3'), "utf-8")
    who = dice.choice(("stranger", "revoked"))
    sign(bundle, world.keys[who])
    return who


def _link(world: World, bundle: Path, dice: random.Random) -> str:
    """A file is a link, to the same content or to the other bundle's."""
    path = dice.choice([one for one in sorted(bundle.iterdir()) if one.name != _MANIFEST])
    path.unlink()
    path.symlink_to(dice.choice((world.bundle, world.older)) / path.name)
    return path.name


_ATTACKS: tuple[Callable[[World, Path, random.Random], str], ...] = (
    *(_damage, _damage, _damage, _damage, _damage),
    *(_mix, _replay, _rename, _add, _sign_otherwise, _link),
)


def _opened(bundle: Path, world: World) -> Outcome:
    try:
        model = open_model("default", bundle, world.trust)
    except ModelError as error:
        return "refused", str(error)
    return "opened", f"version {model.version}"
