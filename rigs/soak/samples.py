"""Memory, threads and files of agent and worker as seen from outside."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from rigs.load.ledger import Ledger
from tests.helpers.processes import AgentProcess, workers

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ProcessSample:
    pid: int
    resident_mib: float
    threads: int
    files: int


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    """Seconds since the load began."""
    answered: int
    unanswered: int
    agent: ProcessSample
    worker: ProcessSample | None
    state_bytes: int
    log_bytes: int


def process_sample(pid: int) -> ProcessSample | None:
    """A sample of the process; None once it is gone."""
    try:
        process = psutil.Process(pid)
        return ProcessSample(pid, process.memory_info().rss / MIB, process.num_threads(), process.num_fds())
    except psutil.NoSuchProcess:
        return None


def take_sample(agent: AgentProcess, ledger: Ledger, at_s: float) -> Sample:
    pid, folder = agent.process.pid, agent.config.parent
    sample, worker_pids = process_sample(pid), workers(pid)
    assert sample is not None, f"the agent ended; its log ends with:\n{agent.log[-2000:]}"
    return Sample(
        at_s=at_s,
        answered=ledger.answered,
        unanswered=ledger.unanswered,
        agent=sample,
        worker=process_sample(worker_pids[0]) if worker_pids else None,
        state_bytes=sum(map(_size, (folder / "state").rglob("*"))),
        log_bytes=_size(agent.config.with_suffix(".log")),
    )


def _size(path: Path) -> int:
    """The size of the file; 0 if it is removed meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
