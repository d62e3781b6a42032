"""How long 2,000 rows take to become a bundle with all steps, and whether equal rows and seeds give equal bytes."""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from filecmp import cmpfiles
from pathlib import Path
from time import monotonic

from rigs.bench.figures import processor, verdict
from rigs.demo_train import FAULTS, STATE, labelled_row

MAX_MINUTES = 6.0


def main(words: Sequence[str]) -> int:
    """Prints the times; the exit code is 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m rigs.rows bundle", description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="rows of the simulated pump (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="fewer steps, where only the bytes matter (default: all)")
    given = parser.parse_args(words)
    draw = random.Random(1)
    print(processor())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks.toml").write_text(
            f'[tasks.{STATE}]\nkind = "classify"\nlabels = {json.dumps(FAULTS)}\n', "utf-8"
        )
        lines = [json.dumps(labelled_row(draw)) + "\n" for _ in range(given.rows)]
        (folder / "rows.jsonl").write_text("".join(lines), "utf-8")
        minutes = [train(folder, bundle, given.steps) for bundle in ("first", "second")]
        files = sorted(path.name for path in (folder / "first").iterdir())
        same, *others = cmpfiles(folder / "first", folder / "second", files, shallow=False)
    is_fast = min(minutes) <= MAX_MINUTES
    print(f"{given.rows} rows to a bundle: {min(minutes):.1f} and {max(minutes):.1f} minutes: {verdict(is_fast)}")
    print(f"files with the same bytes: {len(same)} of {len(files)}: {verdict(not any(others))}")
    return 0 if is_fast and not any(others) else 1


def train(folder: Path, bundle: str, steps: int | None) -> float:
    """How many minutes it takes."""
    began = monotonic()
    command = [sys.executable, "-m", "edge_convert", "train", "--tasks", str(folder / "tasks.toml")]
    command += ["--labelled", str(folder / "rows.jsonl"), "--out", str(folder / bundle), "--name", "pump"]
    command += [] if steps is None else ["--steps", str(steps)]
    subprocess.run(command, check=True)
    return (monotonic() - began) / 60
