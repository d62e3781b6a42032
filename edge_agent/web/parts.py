"""`Part`: whatever else the page takes from the bus besides the boards' rows."""

from collections.abc import Iterable

from edge_agent.core.messages import Message
from edge_agent.mqtt.outbox import PublishResult


class Part:
    """The bus thread calls every method while it holds `Live.lock`, so none may wait or take long.

    `live.add(part)` plugs a part in, before `live.start()`. HTTP handlers hold `live.lock` while they use it. By
    default, each method does nothing.
    """

    @property
    def filters(self) -> Iterable[str]:
        """What to subscribe to. It is read twice a second, so it may change, and may repeat other parts' filters."""
        return ()

    def receive(self, message: Message, wall: float) -> None:
        """Takes a message, which came at `wall` in seconds since 1970.

        Every part gets every message, so check `message.topic` first. Where filters overlap, some brokers deliver a
        message once for each of them.
        """

    def tick(self, now: float) -> None:
        """Called about four times a second; `now` is in seconds of the monotonic clock."""

    def sent(self, number: int, result: PublishResult) -> None:
        """The broker has taken or refused the message to which `live.publish`, called by any part, gave this number."""

    def stop(self) -> None:
        """Called last, while published messages still reach the broker."""
