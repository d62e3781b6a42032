from typing import cast

from edge_agent.core.pipe import Cancelled
from edge_agent.core.topics import TaskTopics
from edge_agent.inbox import MAX_MESSAGES, Inbox
from edge_agent.mqtt.link import ConnectionFailed, FailedAt, MqttLink
from edge_agent.pool.claim import Claim
from edge_agent.worker.process import WorkerProcess
from edge_agent.worker.supervisor import FromWorker
from tests.helpers.support import inbound, received


def test_worker_events_come_before_waiting_requests_and_each_kind_in_order() -> None:
    inbox = Inbox()
    requests = [received(inbound("t", payload)) for payload in ("first", "second")]
    events = [FromWorker(cast("WorkerProcess", None), Cancelled(id=number)) for number in (1, 2)]
    for request, event in zip(requests, events, strict=True):
        inbox.deliver(request)
        inbox.deliver(event)
    assert [inbox.take(0.0) for _ in range(5)] == [*events, *requests, None]


def test_a_claim_comes_after_the_workers_events_and_in_order_with_messages() -> None:
    inbox = Inbox()
    claim = Claim(
        message=inbound("t", "claimed"),
        topics=TaskTopics("b"),
        deliveries=1,
        acknowledge=lambda: None,
        requeue=lambda: None,
    )
    requests = [received(inbound("t", payload)) for payload in ("before", "after")]
    event = FromWorker(cast("WorkerProcess", None), Cancelled(id=1))
    for one in (requests[0], claim, requests[1], event):
        inbox.deliver(one)
    assert [inbox.take(0.0) for _ in range(5)] == [event, requests[0], claim, requests[1], None]


def test_a_lost_connection_does_not_wait_for_a_full_inbox() -> None:
    """paho holds a lock there that the agent's thread may need before it empties the inbox."""
    inbox = Inbox()
    for _ in range(MAX_MESSAGES):
        inbox.deliver(received(inbound("t", "reading")))
    lost = ConnectionFailed(link=cast("MqttLink", None), failed_at=FailedAt.LOST, reason="Unspecified error")
    inbox.deliver(lost)
    assert [inbox.take(0.0) for _ in range(MAX_MESSAGES + 1)][-1] is lost


def test_no_message_waits_at_a_full_inbox_that_is_closed() -> None:
    inbox = Inbox()
    for _ in range(MAX_MESSAGES):
        inbox.deliver(received(inbound("t", "reading")))
    inbox.close()
    inbox.deliver(received(inbound("t", "one more")))
