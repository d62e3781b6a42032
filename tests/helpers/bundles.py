"""Bundles of the demonstration model in several versions, some of them bad."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edge_agent.models.canaries import FILE as CANARIES
from edge_agent.tools.demo.readings import checkpoint_folder, held_out, tasks
from tests.convert.damage import damaged, shuffle_weights

DEMO_TASKS = Path(__file__).parents[2] / "edge_agent" / "tools" / "demo" / "tasks.json"
# Their names say what is wrong with them.
BAD = ("damaged", "wrong-hash", "unloadable", "bad-canaries")


def make_bundles(folder: Path) -> None:
    """Makes the models_dir `models` in a folder. `one` and `two` have these versions, all others 3."""
    asked = _canary_options(folder, readings=2)
    models = folder / "models"
    models.mkdir()
    converted(checkpoint_folder(), models / "one", "--model-version", "1", *asked, quantization="q8_0")
    two = converted(checkpoint_folder(), models / "two", "--model-version", "2", *asked)
    talking_nonsense(models / "one", folder).rename(models / "damaged")
    relist(models / "damaged", 3)
    changed(two, models / "unloadable", lambda copy: (copy / "adapter.gguf").write_bytes(b"no adapter"), 3)
    changed(two, models / "bad-canaries", lambda copy: (copy / CANARIES).write_bytes(b"{}"), 3)
    changed(two, models / "wrong-hash", lambda _: None, 3)
    flip(models / "wrong-hash" / "model.gguf")


def asked_bundle(folder: Path) -> Path:
    """The demonstration's model with canaries of its own tasks."""
    return converted(checkpoint_folder(), folder / "asked", *_canary_options(folder, readings=4))


def _canary_options(folder: Path, *, readings: int) -> tuple[str, ...]:
    return "--tasks", str(DEMO_TASKS), "--canaries", str(demo_requests(folder / "requests.jsonl", readings))


def write_lines(path: Path, *lines: object) -> Path:
    """Writes each line as JSON, but texts as they are."""
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def demo_requests(path: Path, readings: int) -> Path:
    """Each task of the demonstration on its first held-out readings, as labelled lines whose answers do not count."""
    asked = ((task, reading) for reading in held_out()[:readings] for task in tasks())
    return write_lines(path, *({"task": task, "input": reading.payload, "answer": "?"} for task, reading in asked))


def demo_examples(path: Path, readings: int) -> Path:
    """The label and diagnosis of the first held-out readings; the free text of `action` does not count."""
    lines: list[object] = []
    for reading in held_out()[:readings]:
        judged = {name: reading.diagnosis[name] for name in ("fault", "severity", "stop")}
        lines.append({"task": "machine-triage", "input": reading.payload, "answer": reading.fault})
        lines.append({"task": "machine-diagnosis", "input": reading.payload, "answer": judged})
    return write_lines(path, *lines)


def converted(checkpoint: Path, bundle: Path, *words: object, quantization: str = "q4_0") -> Path:
    """A bundle of the demonstration's checkpoint or of one like it."""
    command = [sys.executable, "-m", "edge_convert", str(checkpoint), "--out", str(bundle), "--name", "pump-demo"]
    subprocess.run([*command, "--type", quantization, *map(str, words)], check=True, capture_output=True)
    return bundle


def convert_demo_model(folder: Path, quantization: str) -> Path:
    """A bundle of the demonstration's checkpoint, without canaries."""
    return converted(checkpoint_folder(), folder / quantization, "--no-canaries", quantization=quantization)


def changed(bundle: Path, copy: Path, change: Callable[[Path], object], version: int | None = None) -> Path:
    """A changed copy of a bundle, with a manifest that lists the changed files."""
    shutil.copytree(bundle, copy)
    change(copy)
    relist(copy, version)
    return copy


def relist(bundle: Path, version: int | None = None) -> None:
    """Has the manifest list the files as they are now."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["files"] = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        for file in bundle.iterdir()
        if file.name not in ("manifest.json", "manifest.sig")
    }
    manifest["version"] = version or manifest["version"]
    path.write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")), "utf-8")


def talking_nonsense(bundle: Path, folder: Path) -> Path:
    """The bundle with the weights of four layers shuffled. It loads, and its answers differ from its canaries."""
    checkpoint = damaged(checkpoint_folder(), folder / "checkpoint", lambda copy: shuffle_weights(copy, 4))
    model = converted(checkpoint, folder / "model", "--no-canaries") / "model.gguf"
    return changed(bundle, folder / "nonsense", lambda copy: shutil.copy(model, copy / "model.gguf"))


def not_loading(bundle: Path, folder: Path) -> Path:
    """The bundle with a model that has lost its last tensor's bytes."""
    size = (bundle / "model.gguf").stat().st_size - 4096
    return changed(bundle, folder / "not-loading", lambda copy: os.truncate(copy / "model.gguf", size))


def flip(path: Path, at: int = -1) -> None:
    """Changes the byte at this place."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def sha256_of(bundle: Path) -> str:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    return str(manifest["files"]["model.gguf"]["sha256"])
