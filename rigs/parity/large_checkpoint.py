"""Shows that memory does not grow with the model: `python -m rigs.parity.large_checkpoint [--layers N] [--type T]`.

Writes a checkpoint of the tensor shapes of Qwen2.5-7B (embedding 152064 × 3584, feed-forward 18944 × 3584, untied) as
sparse files, converts it and prints the peak memory. All 28 layers take minutes and 8 GB of disk for the bundle.
With `--budget SIZE` the whole of `--type auto` runs on it, which holds the model in memory: there is no limit then.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.convert.checkpoints import SHAPE_1_5B, SHAPE_7B, write_sparse_checkpoint

LIMIT_BYTES = 600_000_000
SHAPES = {"1.5B": SHAPE_1_5B, "7B": SHAPE_7B}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.parity.large_checkpoint", description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, default="7B")
    parser.add_argument("--type", default="q8_0")
    parser.add_argument("--budget", help="instead of a type")
    parser.add_argument("--work", type=Path, default=Path("build/parity"))
    given = parser.parse_args()
    folder = given.work / "large"
    shutil.rmtree(folder, ignore_errors=True)
    source_bytes = write_sparse_checkpoint(folder / "checkpoint", layers=given.layers, **SHAPES[given.shape])
    command = [sys.executable, "-m", "convert", str(folder / "checkpoint"), "--out", str(folder / "bundle")]
    kind = ["--type", given.type]
    if given.budget is not None:
        kind = ["--budget", given.budget, "--work", str(folder / "work")]
    result = subprocess.run([*command, *kind, "--no-canaries", "--json"], stdout=subprocess.PIPE, check=True)
    facts = json.loads(result.stdout)
    shutil.rmtree(folder)
    sizes = f"{source_bytes / 1e9:.2f} GB of BF16 to {facts['tensor_bytes'] / 1e9:.2f} GB of {facts['quantization']}"
    cost = f"{facts['seconds']:.0f} s, peak {facts['peak_rss_bytes'] / 1e6:.0f} MB"
    print(f"{given.layers} layers, {sizes}: {cost}")
    return 0 if given.budget is not None or facts["peak_rss_bytes"] < LIMIT_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
