"""Bundles of the demonstration model in several versions, some of them good for nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from edge_agent.models.canaries import FILE as CANARIES
from edge_agent.tools.demo.readings import checkpoint_folder, held_out, tasks
from tests.convert.damage import damaged, shuffle_weights

NAME = "pump-demo"
# Two that are good, and what is wrong with the others.
GOOD = ("one", "two")
BAD = ("damaged", "wrong-hash", "unloadable", "bad-canaries")


def make_bundles(folder: Path) -> None:
    """Makes the models_dir `models` in a folder. `one` and `two` have these versions, all others 3."""
    requests = folder / "requests.jsonl"
    lines = [{"task": task, "input": reading.payload} for reading in held_out()[:2] for task in tasks()]
    requests.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    (folder / "tasks.json").write_text(json.dumps(tasks()), "utf-8")
    asked = ("--tasks", folder / "tasks.json", "--canaries", requests)
    models = folder / "models"
    models.mkdir()
    convert(checkpoint_folder(), models / "one", "q8_0", 1, *asked)
    convert(checkpoint_folder(), models / "two", "q4_0", 2, *asked)
    shuffled = damaged(checkpoint_folder(), folder / "shuffled", lambda checkpoint: shuffle_weights(checkpoint, 4))
    convert(shuffled, models / "damaged", "q8_0", 3, "--no-canaries")
    shutil.copyfile(models / "one" / CANARIES, models / "damaged" / CANARIES)
    relist(models / "damaged", 3)
    for name in BAD[1:]:
        shutil.copytree(models / "two", models / name)
    (models / "unloadable" / "adapter.gguf").write_bytes(b"no adapter")
    (models / "bad-canaries" / CANARIES).write_bytes(b"{}")
    for name in BAD[1:]:
        relist(models / name, 3)
    flip_last_byte(models / "wrong-hash" / "model.gguf")


def convert(checkpoint: Path, bundle: Path, quantization: str, version: int, *words: object) -> None:
    command = [sys.executable, "-m", "edge_convert", checkpoint, "--out", bundle, "--type", quantization]
    command += ["--name", NAME, "--model-version", version, *words]
    subprocess.run(list(map(str, command)), check=True)


def relist(bundle: Path, version: int) -> None:
    """The manifest lists what is there, as if it had been made so."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    files = [file for file in bundle.iterdir() if file != path]
    manifest["files"] = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        for file in files
    }
    manifest["version"] = version
    path.write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")), "utf-8")


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def sha256_of(bundle: Path) -> str:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    return str(manifest["files"]["model.gguf"]["sha256"])
