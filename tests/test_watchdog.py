from dataclasses import replace

import pytest

from edge_agent.watchdog import MONITOR_SILENCE_S, WORKER_SILENCE_S, Vitals, Watchdog, stalled_part

WELL = Vitals(
    network={"hall1.board1.data": True, "hall1.board1.control": True},
    worker_silent_s=0.4,
    is_worker_coming=False,
    monitor_silent_s=0.9,
)


@pytest.mark.parametrize(
    "vitals",
    [
        WELL,
        replace(WELL, worker_silent_s=WORKER_SILENCE_S),
        replace(WELL, worker_silent_s=None, is_worker_coming=True),
    ],
)
def test_it_is_fed_while_all_parts_make_progress(vitals: Vitals) -> None:
    assert stalled_part(vitals) is None


@pytest.mark.parametrize(
    ("vitals", "part"),
    [
        (replace(WELL, network={**WELL.network, "hall1.board1.data": False}), "hall1.board1.data"),
        (replace(WELL, worker_silent_s=WORKER_SILENCE_S + 1), "worker has been silent"),
        (replace(WELL, worker_silent_s=None), "no worker"),
        (replace(WELL, monitor_silent_s=MONITOR_SILENCE_S + 1), "not read"),
        (replace(WELL, worker_silent_s=None, is_worker_coming=True, monitor_silent_s=99.0), "not read"),
    ],
)
def test_it_is_not_fed_when_one_part_stands_still(vitals: Vitals, part: str) -> None:
    assert part in (stalled_part(vitals) or "")


@pytest.mark.expects_warning
def test_it_is_fed_three_times_in_an_interval_and_a_fault_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fed: list[float] = []
    now = 0.0
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setattr("edge_agent.watchdog.notify", lambda _: fed.append(now))
    watchdog = Watchdog()
    for now in range(60):
        watchdog.tick(WELL if now < 25 else replace(WELL, monitor_silent_s=99.0), now)
    assert fed == [0, 10, 20]
    assert [record.getMessage() for record in caplog.records] == [
        "the watchdog is not fed: the board was not read for 99 s"
    ]


def test_without_systemd_nothing_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.setattr("edge_agent.watchdog.notify", lambda _: pytest.fail("it was fed"))
    Watchdog().tick(WELL, 1.0)
