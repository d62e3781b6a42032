"""What reading a model's header costs: `python -m rigs.quality.header MODEL.gguf`.

Each reader works in a process of its own: the agent's, and gguf's GGUFReader beside it. Seconds are of reading alone;
memory is what the resident set has grown by at its peak, importing the reader included, pages of the model's file too.
Exit code 1 unless the agent's takes less than LIMIT_S and LIMIT_MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from rigs.machine import model_path

LIMIT_S = 0.2
LIMIT_MB = 40
READERS = {
    "edge_agent": "from edge_agent.gguf.model import read_model_facts as read",
    "GGUFReader": "from gguf import GGUFReader as read",
}
_MEASURE = """
import json, re, sys, time
from pathlib import Path
def peak_kb(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))
before = peak_kb()
{reader}
began = time.monotonic()
found = read(Path(sys.argv[1]))
print(json.dumps([time.monotonic() - began, (peak_kb() - before) * 1024 / 1e6]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.quality.header", description=__doc__)
    parser.add_argument("model", type=model_path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found = {name: [_measure(reader, given.model) for _ in range(given.rounds)] for name, reader in READERS.items()}
    print(f"{'median of ' + str(given.rounds):12} {'seconds':>8} {'peak MB':>8}")
    rows = {name: [median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    for name, (seconds, megabytes) in rows.items():
        print(f"{name:12} {seconds:8.3f} {megabytes:8.1f}")
    seconds, megabytes = rows["edge_agent"]
    return 0 if seconds < LIMIT_S and megabytes < LIMIT_MB else 1


def _measure(reader: str, model: Path) -> list[float]:
    command = [sys.executable, "-c", _MEASURE.format(reader=reader), str(model)]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    numbers: list[float] = json.loads(result.stdout)
    return numbers


if __name__ == "__main__":
    raise SystemExit(main())
