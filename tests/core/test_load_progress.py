from __future__ import annotations

import queue

from edge_agent.core.load_progress import LoadProgress
from edge_agent.core.protocol import Loading, LoadPhase

WAIT_S = 10.0
# Many times the interval at which it would tell.
SILENT_S = 0.2


def test_it_tells_of_what_is_done_and_is_silent_while_nothing_is() -> None:
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
        progress.advance()
        told.get(timeout=WAIT_S)
        assert is_silent()
    progress.advance()
    assert is_silent()
