from __future__ import annotations

from pathlib import Path

from edge_agent.agent import Agent
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
