"""What a table's messages say of machines, whatever kind of source sends them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge_agent.core.messages import Publication


@dataclass(frozen=True, slots=True)
class Update:
    """What a message says of one machine. A value that is None is missing from now on."""

    machine: str
    values: dict[str, float | None]


class Source(Protocol):
    """Reads messages as one kind of source sends them."""

    @property
    def metric_names(self) -> Collection[str]:
        """The names that this source has heard of, for a source that announces them; for `edge-agent doctor`."""

    @property
    def filters(self) -> frozenset[str]:
        """The topics to subscribe to."""

    def read(self, topic: str, payload: bytes, *, is_retained: bool, now: float) -> list[Update]:
        """What the message says. Raises NotTakenError."""

    @property
    def due_at(self) -> float | None:
        """When `advance` is to be called, even if no message comes."""

    def advance(self, now: float) -> list[Update]:
        """What messages say that had to wait until now."""

    def on_connection_lost(self) -> None:
        """The connection is lost."""

    def keeps_alive(self, machine: str) -> bool:
        """True if the source knows that a machine's values still hold, however long ago they came."""

    def take_requests(self, now: float) -> Sequence[Publication]:
        """What is to be sent to the machines' side now."""

    def as_health(self) -> dict[str, Any]:
        """Its own figures."""
