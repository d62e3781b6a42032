import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.store.database import FILE, open_or_set_aside
from edge_agent.store.fsync import LAZY_EVERY_S, MANY_UNACKNOWLEDGED, URGENT_EVERY_S, FsyncThread, Synced
from tests.helpers.processes import wait_until


@contextmanager
def running(folder: Path, deliver: Callable[[Synced], None]) -> Iterator[FsyncThread]:
    connection, _ = open_or_set_aside(folder / FILE)
    thread = FsyncThread(folder / FILE, deliver)
    try:
        yield thread
    finally:
        thread.stop(5.0)
        connection.close()


@pytest.mark.parametrize(
    ("unacknowledged", "least_s", "most_s"),
    [(0, LAZY_EVERY_S - 0.1, 3.0), (1, URGENT_EVERY_S - 0.02, 0.9), (MANY_UNACKNOWLEDGED, 0.0, 0.09)],
)
def test_messages_that_wait_for_an_acknowledgement_decide_how_soon_the_next_fsync_is(
    tmp_path: Path, unacknowledged: int, least_s: float, most_s: float
) -> None:
    synced: list[tuple[float, Synced]] = []
    has_come = threading.Event()

    def deliver(event: Synced) -> None:
        synced.append((time.monotonic(), event))
        has_come.set()

    with running(tmp_path, deliver) as thread:
        asked_at = time.monotonic()
        thread.request(1, unacknowledged=1)
        assert has_come.wait(5.0)
        has_come.clear()
        for generation in (2, 3):
            thread.request(generation, unacknowledged=unacknowledged)
        assert has_come.wait(5.0)
    (first_at, _), (last_at, last) = synced[0], synced[-1]
    # The time counts from the start of the first fsync, which lies between these two.
    assert last_at - asked_at >= least_s
    assert last_at - first_at <= most_s + 0.5
    assert last == Synced(3)


def test_a_fault_is_reported_unless_the_thread_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Synced] = []
    has_begun, may_fail = threading.Event(), threading.Event()

    def fail(_thread: FsyncThread) -> None:
        has_begun.set()
        may_fail.wait(5.0)
        raise OSError("input/output error")

    monkeypatch.setattr(FsyncThread, "_sync", fail)
    with running(tmp_path, events.append) as thread:
        may_fail.set()
        thread.request(1, unacknowledged=MANY_UNACKNOWLEDGED)
        wait_until(lambda: events, "the fault is reported", 5.0)
    assert events == [Synced(1, "input/output error")]
    events.clear()
    may_fail.clear()
    has_begun.clear()
    with running(tmp_path, events.append) as thread:
        thread.request(1, unacknowledged=MANY_UNACKNOWLEDGED)
        assert has_begun.wait(5.0)
        thread.stop(0.0)
        may_fail.set()
    assert events == []
