from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from edge_agent.core.clock import Moment
from edge_agent.core.messages import Reply
from edge_agent.store import fsync
from edge_agent.store.database import FILE, WAL_SUFFIX
from edge_agent.store.fsync import Synced
from edge_agent.store.store import Store
from tests.helpers.processes import wait_until
from tests.helpers.support import inbound

AT = Moment("this boot", 5.0, 1.8e9)
REPLY = Reply(topic="r", document=b'{"id":1}', correlation=b"\xff")
BARE = Reply(topic="r", document=b'{"id":1}', output=b"normal", content_type="text/plain")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / FILE


def opened(path: Path | None, events: list[Synced] | None = None) -> Store:
    store = Store(path, lambda event: None if events is None else events.append(event))
    store.start()
    return store


def accept(store: Store, payload: str = "x", **fields: object) -> int:
    return store.accept(inbound("t", payload, **fields), "triage", AT)  # type: ignore[arg-type]


def reopened(store: Store) -> Store:
    """The store as after a kill, by which what is not committed is lost."""
    assert store._path is not None
    return opened(store._path)


def count(store: Store) -> int:
    (rows,) = store._connection.execute("SELECT count(*) FROM requests").fetchone()
    return int(rows)


def payloads(store: Store) -> list[bytes]:
    return [stored.message.payload for stored in store.unanswered(AT)]


def test_a_request_comes_back_as_it_was(path: Path) -> None:
    store = opened(path)
    message = inbound(
        "t/\U0001f600", b"\x00\xff", response_topic="r", correlation=b"\xfe", content_type="text/plain", expiry_s=9,
        packet_id=7,
    )  # fmt: skip
    row = store.accept(message, "triage", AT)
    store.commit()
    (stored,) = reopened(store).unanswered(AT)
    assert (stored.row, stored.task) == (row, "triage")
    assert stored.message == replace(message, received_at=AT.monotonic_s)


@pytest.mark.parametrize("reply", [REPLY, BARE])
def test_a_reply_takes_the_place_of_its_request_until_the_broker_has_it(path: Path, reply: Reply) -> None:
    store = opened(path)
    row = accept(store, correlation=reply.correlation, content_type="text/csv")
    store.store_reply(row, "triage", reply, None, AT)
    store.commit()
    again = Store(path, lambda _: None)
    assert again.start() == [(row, reply)]
    assert payloads(again) == []
    again.mark_delivered(row)
    again.commit()
    assert Store(path, lambda _: None).start() == []


@pytest.mark.parametrize("is_delivered_first", [True, False])
def test_a_repeated_answer_stays_until_it_is_forgotten_and_delivered(path: Path, *, is_delivered_first: bool) -> None:
    store = opened(path)
    row = accept(store)
    store.store_reply(row, "triage", REPLY, b"key", AT)
    steps = (
        [store.mark_delivered, store.end_repetition]
        if is_delivered_first
        else [store.end_repetition, store.mark_delivered]
    )
    steps[0](row)
    store.commit()
    assert store.recall(row) == (REPLY.document if is_delivered_first else None)
    assert [(known.row, known.key, known.reply, known.ended) for known in reopened(store).repeatable()] == (
        [(row, b"key", REPLY.document, AT)] if is_delivered_first else []
    )
    steps[1](row)
    store.commit()
    assert count(store) == 0


def test_nothing_written_is_nothing_for_the_disk() -> None:
    store = opened(None)
    store.commit()
    assert not store.is_dirty
    accept(store)
    store.commit()
    assert store.is_dirty
    assert not store.request_fsync(1, unacknowledged=0), "in memory there is no disk to wait for"


def has_synced(store: Store, generation: int) -> bool:
    return store._fsync is None or store._fsync.synced >= generation


def test_a_writer_that_never_rests_lets_no_wal_grow_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsync, "WAL_BYTES", 1 << 16)
    monkeypatch.setattr(fsync, "MAX_WAL_BYTES", 1 << 19)
    store = opened(path)
    count, largest = 300, 0
    for number in range(1, count + 1):
        row = accept(store, "x" * 20_000)
        store.commit()
        store.request_fsync(number, unacknowledged=fsync.MANY_UNACKNOWLEDGED)
        store.drop(row)
        store.maintain()
        largest = max(largest, path.with_name(path.name + WAL_SUFFIX).stat().st_size)
        if number % 10 == 0:
            wait_until(partial(has_synced, store, number - 5), "the thread goes on", 5.0)
    assert store.fault is None
    assert largest < count * 20_000 / 2
