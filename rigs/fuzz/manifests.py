"""Damaged bundles: the agent refuses them in words, before native code reads a byte, or they open, load and answer.

`python -m rigs.fuzz.manifests --count 1000`: exit code 1 if anything else became of one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from convert.errors import ConvertError
from convert.write.bundle import verify_bundle
from convert.write.signature import read_public_key
from edge_agent.core.model import Model, ModelError
from edge_agent.core.protocol import Adapter, EngineSettings, Finished, Load
from edge_agent.models.bundle import content_fault, open_model, path_fault
from edge_agent.models.canaries import CanaryError
from edge_agent.models.canary_file import read_questions
from edge_agent.worker.client import WorkerError, started
from rigs.fuzz.bundles import CANARIES, Sound, make_bundle, write_damaged
from rigs.fuzz.children import ENDED, FAILED, Outcome, drive, tried
from tests.engine.runs import TASK, run

CPU_S, MEMORY_BYTES = 10, 1 << 29
_SETTINGS = EngineSettings(context_tokens=256, max_active=1, threads=1, prefill_threads=1, batch_tokens=64)
# Of `info`, which brokers may find too long.
_MAX_DESCRIBED = 4000
_MAX_MESSAGE = 5000


def outcomes(count: int, first: int = 0) -> Iterator[tuple[int, Outcome]]:
    """Of each damage: its number, what became of it, and why."""
    with tempfile.TemporaryDirectory() as made:
        sound = make_bundle(Path(made))
        loaded: dict[str, Outcome] = {}
        for number in range(first, first + count):
            yield number, _outcome(sound, number, loaded)


def _outcome(sound: Sound, number: int, loaded: dict[str, Outcome]) -> Outcome:
    """loaded: what a worker did with each model that opened; each is loaded once."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, key = write_damaged(sound, number, Path(folder))
        outcome, why = tried(lambda: _opened(bundle, key), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
        if outcome != "opened":
            return outcome, why.replace(folder, "…")
        if why not in loaded:
            loaded[why] = _loaded(bundle, why)
        return loaded[why]


def _opened(bundle: Path, key: Path | None) -> Outcome:
    """What `run`, `check-config` and `edge-convert verify` make of it; they agree."""
    was_loaded = "llama_cpp" in sys.modules
    glance = path_fault(bundle) or content_fault(bundle, key)
    try:
        model = open_model("default", bundle, key)
    except ModelError as error:
        if "llama_cpp" in sys.modules and not was_loaded:
            return FAILED, f"refused when native code had been loaded: {error}"
        if not str(error) or len(str(error)) > _MAX_MESSAGE:
            return FAILED, f"refused in {len(str(error))} characters: {str(error)[:200]}"
        return ("refused", str(error)) if not _is_verified(bundle, key) else (FAILED, f"verified, but refused: {error}")
    if glance is not None:
        return FAILED, f"opened, though check-config says: {glance}"
    if len(described := json.dumps(model.describe())) > _MAX_DESCRIBED:
        return FAILED, f"info tells {len(described)} characters of it"
    file = bundle / CANARIES
    try:
        if file.is_file():
            read_questions(file)
    except CanaryError as error:
        return "refused", str(error)
    return "opened", json.dumps(_weights(model))


def _is_verified(bundle: Path, key: Path | None) -> bool:
    if key is not None and not key.is_file():
        # On a command line a pipe is read to its end, as every tool does.
        return False
    try:
        signer = None if key is None else read_public_key(key, "--public-key")
        return not verify_bundle(bundle, signer)[1]
    except (ConvertError, OSError):
        return False


def _weights(model: Model) -> list[list[str]]:
    return [[model.path.name, model.sha256], *([Path(one.path).name, one.sha256] for one in model.adapters)]


def _loaded(bundle: Path, weights: str) -> Outcome:
    """By a worker, which answers once."""
    (model, _), *adapters = json.loads(weights)
    files = tuple(Adapter(path=str(bundle / name), sha256=sha256) for name, sha256 in adapters)
    load = Load(model_path=str(bundle / model), adapters=files, settings=_SETTINGS, tasks=(TASK,))
    try:
        with started(load) as worker:
            worker.ready()
            answer = worker.ask(run(1, "7 mm/s, hot", max_tokens=2))
    except WorkerError as error:
        # What a model tells only to who loads it, as numbers that are none.
        is_refused = str(error).startswith("the model does not load: ")
        return ("not loaded" if is_refused else ENDED), str(error).replace(str(bundle), "…")
    return ("answered", "") if isinstance(answer, Finished) else ("not answered", answer.message)


if __name__ == "__main__":
    sys.exit(drive("manifests", __doc__, outcomes))
