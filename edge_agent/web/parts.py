"""How what the page shows besides the boards' rows is fed from the bus: each such thing is a `Part` of `live.Live`."""

from collections.abc import Iterable

from edge_agent.core.messages import Message
from edge_agent.mqtt.outbox import PublishResult


class Part:
    """The bus thread calls all of this while it holds `Live.lock`; each call has to be short and never waits.

    To plug in: derive a class, take `Live` in its constructor if it publishes (`live.publish`) or reads rows
    (`live.rows`), and add it by `live.add(part)` in `web.py` before `live.start()`. An HTTP handler that touches the
    part does so under `with live.lock:`, for a short turn as well. Each default does nothing.
    """

    @property
    def filters(self) -> Iterable[str]:
        """What to subscribe to. Asked twice a second, so it may change; filters of other parts do not matter."""
        return ()

    def receive(self, message: Message, wall: float) -> None:
        """Takes any message of this connection, also of other parts' filters, at `wall` in seconds since 1970.

        All messages come to all parts: look at `message.topic` first. Where filters overlap, some brokers deliver a
        message once for each.
        """

    def tick(self, now: float) -> None:
        """Comes about four times a second; `now` is in seconds of the monotonic clock."""

    def sent(self, number: int, result: PublishResult) -> None:
        """The broker has taken or refused what `live.publish` gave this number for; also called for other parts'."""

    def stop(self) -> None:
        """Comes last, while what is published still reaches the broker."""
