"""Bundles that are whole as their manifests list them, and wrong in what they hold."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edge_agent.tools.demo.readings import checkpoint_folder, held_out, tasks
from tests.convert.damage import damaged, shuffle_weights

DEMO_TASKS = Path(__file__).parents[2] / "edge_agent" / "tools" / "demo" / "tasks.json"
MANIFEST = "manifest.json"


def converted(checkpoint: Path, bundle: Path, *words: str) -> Path:
    """A bundle of the demonstration's checkpoint or of one like it."""
    command = [sys.executable, "-m", "edge_convert", str(checkpoint), "--out", str(bundle), "--type", "q4_0"]
    subprocess.run([*command, "--name", "pump-demo", *words], check=True, capture_output=True)
    return bundle


def asked_bundle(folder: Path) -> Path:
    """The demonstration's model with canaries of its own tasks."""
    requests = folder / "requests.jsonl"
    lines = [{"task": task, "input": reading.payload, "answer": "?"} for reading in held_out()[:4] for task in tasks()]
    requests.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    of_tasks = ("--tasks", str(DEMO_TASKS), "--canaries", str(requests))
    return converted(checkpoint_folder(), folder / "asked", *of_tasks)


def changed(bundle: Path, copy: Path, change: Callable[[Path], object], version: int | None = None) -> Path:
    """A changed copy of a bundle, with a manifest that lists the changed files."""
    shutil.copytree(bundle, copy)
    change(copy)
    manifest = json.loads((copy / MANIFEST).read_text("utf-8"))
    files = sorted(path for path in copy.iterdir() if path.name not in (MANIFEST, "manifest.sig"))
    manifest["files"] = {path.name: _listed(path) for path in files}
    manifest["version"] = version or manifest["version"]
    (copy / MANIFEST).write_text(json.dumps(manifest, sort_keys=True), "utf-8")
    return copy


def _listed(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def talking_nonsense(bundle: Path, folder: Path) -> Path:
    """The bundle with the weights of two layers shuffled: it loads and answers, but not as its canaries."""
    checkpoint = damaged(checkpoint_folder(), folder / "checkpoint", lambda copy: shuffle_weights(copy, 2))
    model = converted(checkpoint, folder / "model", "--no-canaries") / "model.gguf"
    return changed(bundle, folder / "nonsense", lambda copy: shutil.copy(model, copy / "model.gguf"))


def not_loading(bundle: Path, folder: Path) -> Path:
    """The bundle with a model that has lost its last tensor's bytes."""

    def cut(copy: Path) -> None:
        model = copy / "model.gguf"
        model.write_bytes(model.read_bytes()[:-4096])

    return changed(bundle, folder / "not-loading", cut)
