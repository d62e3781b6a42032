from __future__ import annotations

import queue
from pathlib import Path

import pytest

from edge_agent.core import load_progress
from edge_agent.core.load_progress import LoadProgress
from edge_agent.core.protocol import Loading, LoadPhase

WAIT_S = 10.0
# Many times the interval at which it would tell.
SILENT_S = 0.2


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel says to have read."""
    path = tmp_path / "io"
    monkeypatch.setattr(load_progress, "_IO", path)
    read(path, 4096)
    return path


def read(counter: Path, count: int) -> None:
    draft = counter.with_name("draft")
    draft.write_text(f"rchar: 9\nread_bytes: {count}\nwrite_bytes: 7\n", encoding="ascii")
    draft.replace(counter)


def test_it_tells_of_what_is_done_or_read_and_is_silent_while_nothing_is(counter: Path) -> None:
    told: queue.Queue[Loading] = queue.Queue()

    def is_silent() -> bool:
        try:
            told.get(timeout=SILENT_S)
        except queue.Empty:
            return True
        return False

    with LoadProgress(told.put, interval_s=0.01) as progress:
        assert told.get(timeout=WAIT_S).phase is LoadPhase.PROGRAM
        assert is_silent()
        progress.enter(LoadPhase.MEASURE)
        assert told.get(timeout=WAIT_S).phase is LoadPhase.MEASURE
        assert is_silent()
        progress.advance()
        told.get(timeout=WAIT_S)
        assert is_silent()
        read(counter, 8192)
        told.get(timeout=WAIT_S)
        assert is_silent()
    progress.advance()
    assert is_silent()


def test_where_the_kernel_counts_nothing_the_engine_alone_counts(counter: Path) -> None:
    counter.unlink()
    told: queue.Queue[Loading] = queue.Queue()
    with LoadProgress(told.put, interval_s=0.01) as progress:
        told.get(timeout=WAIT_S)
        progress.advance()
        told.get(timeout=WAIT_S)
