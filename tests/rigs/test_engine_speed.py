"""The short form of rigs/bench/engine_speed.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_engine_is_compared_with_another_checkout(demo_bundle: Path) -> None:
    words = ["--rounds", "1", "--requests", "1", "--clients", "1", "--kinds", "classify,extract"]
    command = [sys.executable, "-m", "rigs.bench.engine_speed", str(demo_bundle / "model.gguf"), *words]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "extract   1 clients: " in done.stdout
