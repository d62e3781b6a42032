from __future__ import annotations

from typing import cast

from edge_agent.core.protocol import Cancelled
from edge_agent.inbox import MAX_INBOX, Inbox
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import Broken, Disconnected
from edge_agent.worker.process import EngineProcess
from edge_agent.worker.supervisor import FromWorker
from tests.helpers.support import inbound, received


def test_the_workers_events_come_before_requests_that_wait_and_each_kind_in_order() -> None:
    inbox = Inbox()
    requests = [received(inbound("t", payload)) for payload in ("first", "second")]
    events = [FromWorker(cast("EngineProcess", None), Cancelled(id=number)) for number in (1, 2)]
    for request, event in zip(requests, events, strict=True):
        inbox.deliver(request)
        inbox.deliver(event)
    assert [inbox.take(0.0) for _ in range(5)] == [*events, *requests, None]


def test_a_lost_connection_is_told_without_waiting_for_an_inbox_that_is_full() -> None:
    """Else paho would wait with a lock held that the agent's thread needs before it empties the inbox."""
    inbox = Inbox()
    for _ in range(MAX_INBOX):
        inbox.deliver(received(inbound("t", "reading")))
    lost = Disconnected(link=cast("MqttLink", None), broken=Broken.LOST, reason="Unspecified error")
    inbox.deliver(lost)
    assert [inbox.take(0.0) for _ in range(MAX_INBOX + 1)][-1] is lost


def test_nobody_waits_at_an_inbox_that_is_full_and_closed() -> None:
    inbox = Inbox()
    for _ in range(MAX_INBOX):
        inbox.deliver(received(inbound("t", "reading")))
    inbox.close()
    inbox.deliver(received(inbound("t", "one more")))
