"""What a request costs a memory card: bytes that reach the block device, and that the agent writes.

    python -m rigs.soak.card [--rates 0.1,1,10,50] [--seconds 300]

The state folder lies on an ext4 of its own, an image on a loop device (needs root; without, only what the agent writes
is counted: write_bytes of /proc/PID/io). All rates run side by side, each with an agent of its own on the echo engine,
with the journal on disk and in memory. Measured is after the file of changes has grown to its size, and the window for
duplicates, here 30 s, has filled: what is forgotten is counted, too. Beside them: the same records with SQLite's
defaults and a commit for each change.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_agent.core.clock import Moment
from edge_agent.core.publications import Publication
from edge_agent.store.journal import Journal
from edge_agent.store.journal_connection import WAL_SUFFIX
from edge_agent.store.journal_file import FILE, WAL_BYTES
from edge_agent.tools.demo.readings import held_out
from rigs.soak.line import Line
from rigs.soak.place import BASE, TRIAGE, running
from tests.helpers.support import inbound

WINDOW_S = 30.0
WIDTH = 24
IMAGE_BYTES = 128 << 20
# Of two steps of an engine on a board: a request and its answer do not come at once.
ENGINE = "echo:step_ms=100"
_SECTOR = 512
_YEAR_S = 365 * 86400
_REPLY_TOPIC = "edgeai/v1/reply/card"
Written = Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class Cost:
    """device_bytes: at the block device; None = not seen. process_bytes: write_bytes of the agent."""

    what: str
    per_s: float
    requests: int
    seconds: float
    device_bytes: int | None
    process_bytes: int

    @property
    def bytes_per_request(self) -> float | None:
        """At the device where it is seen."""
        written = self.process_bytes if self.device_bytes is None else self.device_bytes
        return written / self.requests if self.requests else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="0.1,1,10,50", help="requests a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300.0, help="of each rate (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rates = [float(rate) for rate in given.rates.split(",")]
    runs = [(rate, journal) for journal in ("disk", "memory") for rate in [0.0, *rates]]
    with ThreadPoolExecutor(len(runs)) as pool:
        costs = list(pool.map(lambda run: agent_cost(run[0], run[1], given.seconds), runs))
    costs.append(naive_cost(300))
    if given.json:
        print(json.dumps([asdict(cost) for cost in costs]))
        return 0
    print(f"{'':34} {'a second':>8} {'requests':>8} {'device':>11} {'process':>11} {'a request':>10} {'GB a year':>10}")
    for cost in costs:
        each = "-" if cost.bytes_per_request is None else f"{cost.bytes_per_request:,.0f}"
        device = "-" if cost.device_bytes is None else f"{cost.device_bytes:,}"
        written = cost.process_bytes if cost.device_bytes is None else cost.device_bytes
        year = f"{written / cost.seconds * _YEAR_S / 1e9:.1f}" if cost.seconds else "-"
        print(f"{cost.what:34} {cost.per_s:8g} {cost.requests:8} {device:>11} {cost.process_bytes:>11,}", end=" ")
        print(f"{each:>10} {year:>10}")
    print("in bytes; the last column is computed from the rate measured")
    return 0


def agent_cost(per_s: float, journal: str, seconds: float) -> Cost:
    """per_s: 0 = nobody asks."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "state").mkdir()
        with (
            _own_device(folder / "state") as written,
            running(folder, ENGINE, journal=journal, queue=f"dedup_window_s = {WINDOW_S:.0f}\n") as place,
        ):
            pid = place.agent.process.pid
            heard = threading.Semaphore(0)
            line = Line(place.port, "5", (_REPLY_TOPIC,), lambda *_: heard.release())
            readings = [one.payload for one in held_out()]
            fill_changes(line, place.state_dir, heard)
            began = time.monotonic()
            before: tuple[int | None, int, float] | None = None
            asked = asked_before = 0
            while (now := time.monotonic()) < began + WINDOW_S + 10 + seconds:
                if before is None and now >= began + WINDOW_S + 10:
                    before, asked_before = (written(), _write_bytes(pid), now), asked
                if asked < int((now - began) * per_s):
                    asked += 1
                    reading = readings[asked % len(readings)]
                    envelope = {"id": f"r{asked}", "input": reading, "reply_to": _REPLY_TOPIC, "deadline_ms": 60_000}
                    line.publish(f"{BASE}/infer/{TRIAGE}/request", json.dumps(envelope))
                else:
                    time.sleep(min(0.02, 0.2 / max(per_s, 0.1)))
            for _ in range(asked):
                assert heard.acquire(timeout=60), "not all is answered"
            assert before is not None
            device_before, process_before, at = before
            device = written()
            cost = Cost(
                what=f'agent, journal = "{journal}"',
                per_s=per_s,
                requests=asked - asked_before,
                seconds=time.monotonic() - at,
                device_bytes=None if device is None or device_before is None else device - device_before,
                process_bytes=_write_bytes(pid) - process_before,
            )
            line.close()
    return cost


def fill_changes(line: Line, state_dir: Path, heard: threading.Semaphore) -> None:
    """Asks until the file of changes has the size that it keeps, as it has after some hours."""
    changes = state_dir / f"{FILE}{WAL_SUFFIX}"
    asked = 0
    while changes.exists() and changes.stat().st_size < WAL_BYTES:
        for _ in range(WIDTH):
            asked += 1
            envelope = {"id": f"first {asked}", "input": "x" * 2000, "reply_to": _REPLY_TOPIC, "deadline_ms": 60_000}
            line.publish(f"{BASE}/infer/{TRIAGE}/request", json.dumps(envelope))
        for _ in range(WIDTH):
            assert heard.acquire(timeout=60), "not all is answered"


def naive_cost(count: int) -> Cost:
    """SQLite as it comes: a rollback journal, fsync at each commit, a commit for each change."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "state"
        folder.mkdir()
        with _own_device(folder) as written:
            path = folder / "naive.sqlite"
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA user_version = 1")  # from now on its pages have the default's size
            journal = Journal(path)
            journal._connection.execute("PRAGMA journal_mode = DELETE")
            journal._connection.execute("PRAGMA synchronous = FULL")
            device_before, process_before = written(), _write_bytes(os.getpid())
            reading = held_out()[0].payload
            at = Moment("boot", 1.0, 1.0)
            reply = Publication(topic=_REPLY_TOPIC, payload=b"x" * 700)
            for number in range(count):
                envelope = {"id": f"r{number}", "input": reading, "reply_to": _REPLY_TOPIC, "deadline_ms": 60_000}
                row = journal.accept(inbound(f"{BASE}/infer/{TRIAGE}/request", envelope), TRIAGE, at)
                journal.commit()
                journal.answer(row, TRIAGE, reply, b"k" * 32, at)
                journal.commit()
                journal.delivered(row)
                journal.commit()
                if number >= WINDOW_S:
                    journal.forget(row - int(WINDOW_S))
                    journal.commit()
            device = written()
            journal.close()
    return Cost(
        what="SQLite's defaults, each change", per_s=0, requests=count, seconds=0,
        device_bytes=None if device is None or device_before is None else device - device_before,
        process_bytes=_write_bytes(os.getpid()) - process_before,
    )  # fmt: skip


def _write_bytes(pid: int) -> int:
    found = re.search(r"^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text("ascii"), re.MULTILINE)
    assert found
    return int(found[1])


@contextmanager
def _own_device(folder: Path) -> Iterator[Written]:
    """Mounts an ext4 there; gives a function of what has been written to its device so far."""
    if os.geteuid():
        print("not root: only what the process writes is counted", file=sys.stderr)
        yield lambda: None
        return
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    # Lazy initialization would write behind our backs.
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        listed = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(folder)], check=True, capture_output=True, text=True
        ).stdout
        stat = Path("/sys/block") / Path(listed.strip()).name / "stat"
        yield lambda: int(stat.read_text("ascii").split()[6]) * _SECTOR
    finally:
        subprocess.run(["umount", str(folder)], check=True)


if __name__ == "__main__":
    sys.exit(main())
