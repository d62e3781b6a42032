"""What is seen of the agent from outside, once a second or so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from rigs.soak.place import Place

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """resident, anonymous: MiB, of smaps_rollup."""

    pid: int
    resident_mib: float
    anonymous_mib: float
    threads: int
    files: int


@dataclass(frozen=True, slots=True)
class Sample:
    """at_s: since the load began. latency_ms: of the answers since the last sample, by kind.

    worker: None while there is none. Sizes in bytes, of files as they are on the disk.
    """

    at_s: float
    answered: int
    unanswered: int
    agent: ProcessSample
    worker: ProcessSample | None
    state_bytes: int
    journal_bytes: int
    wal_bytes: int
    log_bytes: int
    latency_ms: dict[str, list[float]]


def process_sample(pid: int) -> ProcessSample | None:
    """None: it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        kib = {
            name: int(size)
            for name, size in re.findall(r"(?m)^(\w+): +(\d+) kB$", (folder / "smaps_rollup").read_text("ascii"))
        }
        threads = len(list((folder / "task").iterdir()))
        files = len(list((folder / "fd").iterdir()))
    except (OSError, psutil.Error):
        return None
    return ProcessSample(pid, kib["Rss"] / 1024, kib["Anonymous"] / 1024, threads, files)


def sample(place: Place, *, at_s: float, answered: int, unanswered: int, latency_ms: dict[str, list[float]]) -> Sample:
    agent = process_sample(place.agent.process.pid)
    assert agent is not None, f"the agent ended; its log ends with:\n{place.agent.log[-2000:]}"
    worker = place.worker
    sizes = _sizes(place.state_dir)
    return Sample(
        at_s=at_s,
        answered=answered,
        unanswered=unanswered,
        agent=agent,
        worker=None if worker is None else process_sample(worker.pid),
        state_bytes=sum(sizes.values()),
        journal_bytes=sum(size for name, size in sizes.items() if name.endswith(".sqlite")),
        wal_bytes=sum(size for name, size in sizes.items() if name.endswith("-wal")),
        log_bytes=place.log_path.stat().st_size,
        latency_ms=latency_ms,
    )


def _sizes(folder: Path) -> dict[str, int]:
    """By name. A file may go while it is looked at."""
    sizes: dict[str, int] = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                sizes[path.name] = sizes.get(path.name, 0) + path.stat().st_size
        except OSError:
            continue
    return sizes
