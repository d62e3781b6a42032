from __future__ import annotations

import queue

import pytest

from edge_agent.core.load_progress import LoadProgress
from edge_agent.core.protocol import Loading


def test_it_tells_of_what_is_done_and_is_silent_while_nothing_is() -> None:
    told: queue.Queue[Loading] = queue.Queue()
    with LoadProgress(told.put, interval_s=0.01) as progress:
        told.get(timeout=10)
        with pytest.raises(queue.Empty):
            told.get(timeout=0.2)
        progress.advance()
        told.get(timeout=10)
    progress.advance()
    with pytest.raises(queue.Empty):
        told.get(timeout=0.2)
