from typing import Any

import pytest

from edge_agent.watchdog import MONITOR_SILENCE_S, WORKER_SILENCE_S, Watchdog, stalled_part

WELL: dict[str, Any] = {
    "network": {"hall1.board1.data": True, "hall1.board1.control": True},
    "worker_silent_s": 0.4,
    "has_or_expects_worker": False,
    "monitor_silent_s": 0.9,
}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, None),
        ({"worker_silent_s": WORKER_SILENCE_S}, None),
        ({"worker_silent_s": None, "has_or_expects_worker": True}, None),
        ({"network": {"hall1.board1.data": False}}, "hall1.board1.data"),
        ({"worker_silent_s": WORKER_SILENCE_S + 1}, "worker has been silent"),
        ({"worker_silent_s": None}, "no worker"),
        ({"monitor_silent_s": MONITOR_SILENCE_S + 1}, "not been read"),
        ({"worker_silent_s": None, "has_or_expects_worker": True, "monitor_silent_s": 99.0}, "not been read"),
    ],
)
def test_the_part_that_stands_still_is_named(changes: dict[str, Any], part: str | None) -> None:
    found = stalled_part(**(WELL | changes))
    assert found is part is None or (part is not None and part in (found or ""))


@pytest.mark.expects_warning
def test_it_is_fed_three_times_in_an_interval_and_a_fault_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fed: list[float] = []
    noted: list[str | None] = []
    now = 0.0
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setattr("edge_agent.watchdog.notify", lambda _: fed.append(now))
    watchdog = Watchdog(noted.append)
    for now in range(60):
        fault = "the board has not been read for 99 s" if 25 <= now < 45 else None
        watchdog.tick(lambda fault=fault: fault, now)  # type: ignore[misc]
    assert fed == [0, 10, 20, 50]
    assert noted == ["the watchdog was not fed: the board has not been read for 99 s", None]
    assert [record.getMessage() for record in caplog.records] == [
        "the watchdog is not fed: the board has not been read for 99 s"
    ]


def test_without_systemd_nothing_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.setattr("edge_agent.watchdog.notify", lambda _: pytest.fail("it was fed"))
    Watchdog(lambda _: None).tick(lambda: pytest.fail("it was asked"), 1.0)
