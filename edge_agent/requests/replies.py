"""What callers are sent: pieces of an answer, and its terminal reply. Belongs to the agent's thread."""

from __future__ import annotations

import logging

from edge_agent.core.clock import timestamp
from edge_agent.core.errors import cut
from edge_agent.core.messages import Outcome, encode_partial, encode_reply, untaken
from edge_agent.core.publications import json_publication
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.duplicates import Key
from edge_agent.requests.request_queue import Asker, Request
from edge_agent.store.rows import row_bytes

log = logging.getLogger(__name__)


class Replies:
    def __init__(self, device: str, delivery: Delivery) -> None:
        self._device = device
        self._delivery = delivery

    def partial(self, request: Request, delta: str) -> None:
        origin = request.origin
        payload = encode_partial(origin, request.partials, delta)
        request.partials += 1
        self._delivery.partial(json_publication(origin.reply_topic, payload, qos=0, correlation=origin.correlation))

    def terminal(self, asker: Asker, outcome: Outcome, *, key: Key | None = None, repeat: bool = False) -> int:
        """What no broker takes becomes a short refusal. key: what the request is known by when it comes again.

        Gives the bytes that are recorded under it; 0 = this outcome is not.
        """
        origin = asker.origin
        payload = encode_reply(origin, outcome, device=self._device, ts=timestamp(), repeat=repeat)
        publication = json_publication(origin.reply_topic, payload, correlation=origin.correlation)
        if self._delivery.reply(publication, row=asker.row, task=origin.task, key=key):
            is_recorded = asker.row is not None and key is not None
            return row_bytes(publication.topic, payload, origin.correlation) if is_recorded else 0
        if outcome.error is None:
            self.terminal(asker, Outcome.refused(untaken(len(payload)), outcome.timing))
        else:
            log.error("no reply can be sent topic=%r: the broker takes none there", cut(origin.reply_topic))
            self._delivery.drop(asker.row)
        return 0
