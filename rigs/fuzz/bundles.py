"""Damaged bundles. The agent refuses them with a message before native code reads a byte, or they load and answer."""

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from convert.errors import ConvertError
from convert.write.bundle import verify_bundle
from edge_agent.core.model import ModelError
from edge_agent.core.pipe import Adapter, Finished, Load
from edge_agent.models.bundle import content_fault, open_model, path_fault
from edge_agent.models.canaries import CanaryError, read_canaries
from edge_agent.worker.client import WorkerError, started
from rigs.fuzz.checkpoints import SETTINGS, make_bundle
from rigs.fuzz.children import ENDED, FAILED, Outcome, try_in_child
from rigs.fuzz.damage import damage_file, plain_files
from rigs.fuzz.gguf import mutated
from tests.convert.gguf_reading import read_gguf
from tests.engine.runs import TASK, run
from tests.models.test_canaries import CANARIES as SOUND_CANARIES

CPU_S, MEMORY_BYTES = 10, 1 << 29
# The longest description in `info`, which brokers may find too long.
_MAX_DESCRIBED = 4000
_MAX_MESSAGE = 5000
_MANIFEST, _CANARIES, _ADAPTERS = "manifest.json", "canaries.json", ("adapter.gguf", "repair.gguf")


def outcomes(numbers: range, _model: Path) -> Iterator[tuple[int, Outcome]]:
    with tempfile.TemporaryDirectory() as made:
        sound = _make_bundle(Path(made))
        # What a worker did with each model that opened; each is loaded once.
        loaded: dict[str, Outcome] = {}
        for number in numbers:
            with tempfile.TemporaryDirectory() as name:
                bundle = write_damaged(sound, random.Random(number), Path(name))
                outcome, why = try_in_child(partial(_opened, bundle), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
                if outcome == "opened":
                    if why not in loaded:
                        loaded[why] = _loaded(bundle, why)
                    outcome, why = loaded[why]
                yield number, (outcome, why.replace(name, "…"))


def _make_bundle(folder: Path) -> Path:
    """A bundle with all that one may hold but a signature; `signed.py` attacks those."""
    bundle = make_bundle(folder, "q8_0")
    shutil.copyfile(bundle / "adapter.gguf", bundle / "repair.gguf")
    # Nothing here compares answers.
    (bundle / _CANARIES).write_bytes(SOUND_CANARIES.encode())
    _relist(bundle)
    return bundle


def write_damaged(sound: Path, dice: random.Random, folder: Path) -> Path:
    bundle = Path(shutil.copytree(sound, folder / "bundle"))
    for name in (*_ADAPTERS, _CANARIES):
        if dice.random() < 0.3:
            (bundle / name).unlink()
    _relist(bundle)
    for _ in range(dice.choice((1, 1, 1, 2))):
        if files := plain_files(bundle):
            path = dice.choice(files)
            if path.suffix == ".gguf" and dice.random() < 0.6:
                path.write_bytes(mutated(read_gguf(sound / path.name), dice))
            else:
                damage_file(path, dice)
    # Otherwise a hash is all that is looked at.
    if dice.random() < 0.7:
        _relist(bundle)
    return bundle


def _relist(bundle: Path) -> None:
    """Gives the manifest the files that there are, as they are now."""
    path = bundle / _MANIFEST
    files = {file.name: file.read_bytes() for file in plain_files(bundle)}
    try:
        manifest: Any = json.loads(files.get(_MANIFEST, b""))
    except (ValueError, RecursionError):
        return
    if isinstance(manifest, dict) and isinstance(listed := manifest.get("files"), dict):
        for name, data in files.items():
            if name in listed or name == _CANARIES or name in _ADAPTERS:
                listed[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name in {_CANARIES, *_ADAPTERS} - files.keys():
            listed.pop(name, None)
        path.write_text(json.dumps(manifest), "utf-8")


def _opened(bundle: Path) -> Outcome:
    """What `run`, `check-config` and `edge-convert verify` make of the bundle; they agree."""
    glance = None
    try:
        glance = path_fault(bundle) or content_fault(bundle)
        model = open_model("default", bundle)
    except ModelError as error:
        if not str(error) or len(str(error)) > _MAX_MESSAGE:
            return FAILED, f"refused in {len(str(error))} characters: {str(error)[:200]}"
        try:
            verify_bundle(bundle)
        except ConvertError:
            return "refused", str(error)
        return FAILED, f"verified, but refused: {error}"
    if glance is not None:
        return FAILED, f"opened, though check-config says: {glance}"
    if len(described := json.dumps(model.describe())) > _MAX_DESCRIBED:
        return FAILED, f"info tells {len(described)} characters of it"
    try:
        if (bundle / _CANARIES).is_file():
            read_canaries(bundle / _CANARIES)
    except CanaryError as error:
        return "refused", str(error)
    adapters = ([Path(one.path).name, one.sha256] for one in model.adapters)
    return "opened", json.dumps([[model.path.name, model.sha256], *adapters])


def _loaded(bundle: Path, weights: str) -> Outcome:
    """What becomes of the bundle in a worker, which answers once."""
    (model, _), *adapters = json.loads(weights)
    files = tuple(Adapter(path=str(bundle / name), sha256=sha256) for name, sha256 in adapters)
    load = Load(model_path=str(bundle / model), adapters=files, settings=SETTINGS, tasks=(TASK,))
    try:
        with started(load) as worker:
            worker.ready()
            answer = worker.ask(run(1, "7 mm/s, hot", max_tokens=2))
    except WorkerError as error:
        # Some faults, such as weights that are not numbers, show only when the model is loaded.
        is_refused = str(error).startswith("the model does not load: ")
        return ("not loaded" if is_refused else ENDED), str(error)
    return ("answered", "") if isinstance(answer, Finished) else ("not answered", answer.message)
