"""What a request costs a memory card: bytes that the agent writes, and bytes that reach the block device.

The state folder lies on its own ext4, an image on a loop device. That needs root; otherwise only the agent's own writes
count. All rates run side by side, each with its own agent on the echo engine, with the
journal on disk and in memory. Counting begins when the write-ahead log and the window for duplicates are full.
Short form: `--rates 5 --seconds 1 --window 1 --warm-up 24 --journals disk`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from edge_agent.tools.demo.readings import held_out
from rigs.load.asking import Answer, Load, answers_of, at_times, in_parallel
from rigs.machine import parser_of, require
from rigs.soak.place import BASE, TRIAGE, running

IN_FLIGHT = 24
IMAGE_BYTES = 128 << 20
# Like two steps of an engine on a board: a request and its answer are not recorded in the same moment.
ENGINE = "echo:step_ms=100"
_SECTOR = 512
_YEAR_S = 365 * 86400
_READINGS = [one.payload for one in held_out()]


@dataclass(frozen=True, slots=True)
class Cost:
    requests: int
    seconds: float
    written_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("rigs.soak.card", __doc__)
    parser.add_argument("--rates", default="0.1,1,10,50", help="requests a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300.0, help="of each rate (default: %(default)s)")
    parser.add_argument("--window", type=int, default=30, help="dedup_window_s of the agents (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=480, help="requests before (default: %(default)s)")
    parser.add_argument("--journals", nargs="+", choices=("disk", "memory"), default=("disk", "memory"))
    options = parser.parse_args(arguments)
    require({"mosquitto": "mosquitto"})
    runs = [(journal, rate) for journal in options.journals for rate in (0.0, *map(float, options.rates.split(",")))]
    with ThreadPoolExecutor(len(runs)) as pool:
        costs = list(
            pool.map(lambda run: measure(run[0], run[1], options.seconds, options.window, options.warm_up), runs)
        )
    print("journal  requests/s  requests  bytes written  bytes/request  GB/year")
    for (journal, rate), cost in zip(runs, costs, strict=True):
        each = f"{cost.written_bytes / cost.requests:,.0f}" if cost.requests else "-"
        per_year = cost.written_bytes / cost.seconds * _YEAR_S / 1e9
        print(f"{journal:7}  {rate:10g}  {cost.requests:8}  {cost.written_bytes:>13,}  {each:>13}  {per_year:7.1f}")
    return 0


def measure(journal: str, per_s: float, seconds: float, window_s: int, warm_up: int) -> Cost:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "state").mkdir()
        queue = f"dedup_window_s = {window_s}\n"
        with (
            _own_device(folder / "state") as written_bytes,
            running(folder, ENGINE, journal=journal, queue=queue) as place,
        ):
            pid = place.agent.process.pid
            with closing(Load(place.port)) as load:
                in_parallel(lambda number: _ask(load, number).result(60), range(warm_up), IN_FLIGHT)
                _ask_steadily(load, 1.3 * window_s, per_s)
                before, began = written_bytes(pid), time.monotonic()
                futures = _ask_steadily(load, seconds, per_s)
                answers_of(futures, 60)
                return Cost(len(futures), time.monotonic() - began, written_bytes(pid) - before)


def _ask(load: Load, number: int) -> Future[Answer]:
    reading = _READINGS[number % len(_READINGS)]
    return load.ask(f"{BASE}/infer/{TRIAGE}/request", reading, deadline_ms=60_000)


def _ask_steadily(load: Load, seconds: float, per_s: float) -> list[Future[Answer]]:
    began = time.monotonic()
    futures = at_times((number / per_s for number in range(int(seconds * per_s))), partial(_ask, load))
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return futures


@contextmanager
def _own_device(folder: Path) -> Iterator[Callable[[int], int]]:
    """Mounts an ext4 there; gives a function of the agent's PID: bytes that were written to the device so far."""
    if os.geteuid():
        print("not root: only what the process writes is counted", file=sys.stderr)
        yield lambda pid: psutil.Process(pid).io_counters().write_bytes
        return
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    # Lazy initialization would write in the background.
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        command = ["findmnt", "-n", "-o", "SOURCE", str(folder)]
        source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        stat = Path("/sys/block") / Path(source.strip()).name / "stat"
        yield lambda _: int(stat.read_text("ascii").split()[6]) * _SECTOR
    finally:
        subprocess.run(["umount", str(folder)], check=True)


if __name__ == "__main__":
    sys.exit(main())
