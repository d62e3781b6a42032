"""How many instructions a row of a step takes on ARM cores, on emulated boards that count what they execute.

A count is exact, but it is not a time: cores differ in how many instructions they execute at once, and a row of one
token mostly waits for memory. Needs root and ten minutes for a core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from rigs.arm import counting
from rigs.arm.roots import PACKAGES, Root
from rigs.deploy.emulator import NEEDED, EmulatedBoard
from rigs.machine import ROOT, model_path, require

CORES = ("cortex-a72", "cortex-a76", "neoverse-v1", "max")
COUNT_S = 7200.0
# One core, with a clock that counts instructions, which the counter needs.
_COUNTED = ("-icount", "shift=0,sleep=off")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.arm.instructions", description=__doc__)
    parser.add_argument("models", type=model_path, nargs="+")
    parser.add_argument("--wheelhouse", type=Path, default=ROOT / "dist" / "wheelhouse" / "aarch64")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "arm")
    parser.add_argument("--cores", nargs="+", default=list(CORES))
    given = parser.parse_args()
    require(NEEDED, root=True)
    root = Root("trixie", given.work)
    root.make()
    root.install(given.wheelhouse)
    with tempfile.TemporaryDirectory(dir=given.work) as name:
        folder = Path(name)
        disk = _disk(folder, root.outside(PACKAGES), given.models)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "id")], check=True)
        print(f"{'core':12} {'variant':10} {'model':24}", *(f"{f'{rows} rows':>9}" for rows in counting.ROWS), sep=" ")
        for core in given.cores:
            options = (*_COUNTED, "-drive", f"file={disk},format=raw,if=virtio,readonly=on")
            with EmulatedBoard(folder, "counted", folder / "id", cpu=core, cores=1, options=options) as board:
                board.run("mount", "-o", "ro", "/dev/vdb", "/mnt")
                words = [f"/mnt/{model.name}" for model in given.models]
                command = ["env", "PYTHONPATH=/mnt/packages", "python3", "/mnt/counting.py", *words]
                for line in board.run(*command, timeout_s=COUNT_S).stdout.splitlines():
                    _print(core, json.loads(line))
    return 0


def _disk(folder: Path, packages: Path, models: list[Path]) -> Path:
    """An ext4 image with the installed agent, the models and the counting program."""
    source = folder / "files"
    shutil.copytree(packages, source / "packages")
    for path in (*models, Path(counting.__file__)):
        shutil.copy(path, source)
    disk = folder / "packages.disk"
    megabytes = sum(path.stat().st_size for path in source.rglob("*")) // 1_000_000 + 200
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(source), str(disk), f"{megabytes}M"], check=True)
    shutil.rmtree(source)
    return disk


def _print(core: str, found: dict[str, object]) -> None:
    counts = found["instructions"]
    assert isinstance(counts, dict)
    per_row = (f"{counts[str(rows)] / rows / 1e6:8.1f}M" for rows in counting.ROWS)
    variant, model = str(found["variant"]).split()[0], Path(str(found["model"])).name
    print(f"{core:12} {variant:10} {model:24}", *per_row, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
