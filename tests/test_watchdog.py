from dataclasses import replace

import pytest

from edge_agent.watchdog import MONITOR_SILENCE_S, WORKER_DYING_S, WORKER_SILENCE_S, Vitals, stalled_part

WELL = Vitals(
    network={"hall1.board1.data": True, "hall1.board1.control": True},
    worker_silent_s=0.4,
    worker_dying_s=None,
    is_worker_coming=False,
    monitor_silent_s=0.9,
)


@pytest.mark.parametrize(
    "vitals",
    [
        WELL,
        replace(WELL, worker_silent_s=WORKER_SILENCE_S),
        replace(WELL, worker_silent_s=None, is_worker_coming=True),
        replace(WELL, worker_dying_s=WORKER_DYING_S),
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
        (replace(WELL, worker_silent_s=None, worker_dying_s=WORKER_DYING_S + 1, is_worker_coming=True), "still exists"),
        (replace(WELL, monitor_silent_s=MONITOR_SILENCE_S + 1), "not read"),
        (replace(WELL, worker_silent_s=None, is_worker_coming=True, monitor_silent_s=99.0), "not read"),
    ],
)
def test_it_is_not_fed_when_one_part_stands_still(vitals: Vitals, part: str) -> None:
    assert part in (stalled_part(vitals) or "")
