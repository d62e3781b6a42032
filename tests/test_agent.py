from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.agent import Agent
from edge_agent.engine.process import EngineProcess
from edge_agent.engine.protocol import Cancelled
from edge_agent.model_store import open_model
from tests.support import config, inbound


def test_the_workers_events_come_before_requests_that_wait_and_each_kind_in_order() -> None:
    agent = Agent(config(), Path("config.toml"), open_model("default", Path("echo:")))
    requests = [inbound("t", payload) for payload in ("first", "second")]
    events = [Cancelled(id=number) for number in (1, 2)]
    for request, event in zip(requests, events, strict=True):
        agent._deliver(request)
        agent._deliver(event)
    assert [agent._inbox.get()[2] for _ in range(4)] == [*events, *requests]


@pytest.mark.expects_warning
def test_a_worker_that_cannot_be_started_is_tried_again_and_does_not_stop_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_process: EngineProcess) -> None:
        raise OSError("no more processes")

    agent = Agent(config(), Path("config.toml"), open_model("default", Path("echo:")))
    monkeypatch.setattr(EngineProcess, "start", fail)

    agent._restart_worker(100.0)

    assert agent._timers["restart"] > 100
    agent._stop()
