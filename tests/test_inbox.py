from typing import cast

from edge_agent.core.pipe import Cancelled
from edge_agent.core.topics import TaskTopics
from edge_agent.inbox import MAX_MESSAGES, Inbox
from edge_agent.mqtt.link import ConnectionFailed, FailedAt, MqttLink
from edge_agent.pool.claim import Claim
from edge_agent.worker.process import WorkerProcess
from edge_agent.worker.supervisor import FromWorker
from tests.helpers.support import inbound, received


def test_worker_events_come_before_waiting_messages_and_claims_and_each_kind_in_order() -> None:
    inbox = Inbox()
    message, topics = inbound("t", "claimed"), TaskTopics("b")
    claim = Claim(message=message, topics=topics, deliveries=1, acknowledge=lambda: None, requeue=lambda: None)
    before, after = (received(inbound("t", payload)) for payload in ("before", "after"))
    first, second = (FromWorker(cast("WorkerProcess", None), Cancelled(id=number)) for number in (1, 2))
    for one in (before, first, claim, after, second):
        inbox.deliver(one)
    assert [inbox.take(0.0) for _ in range(6)] == [first, second, before, claim, after, None]


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
