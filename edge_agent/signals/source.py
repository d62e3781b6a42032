"""What a table needs from each kind of source: updates of machines' values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge_agent.core.messages import Publication
from edge_agent.core.wording import cut, shown

# What is kept of longer topics could fill the memory.
MAX_TOPIC_CHARS = 512
# By value and reason, the first machine of which it was not taken, and the payload or metric.
Offenders = dict[tuple[str, str], tuple[str, str]]
NO_NUMBER = "its last message has no usable number"
_MAX_CONTENT_CHARS = 40


@dataclass(frozen=True, slots=True)
class Update:
    """The values that a message has for one machine. None means that the value is missing from now on."""

    machine: str
    values: dict[str, float | None]
    cause: str = NO_NUMBER
    """Why values are missing, as words for people."""
    causes: Mapping[str, str] = field(default_factory=dict)
    """Why certain values are missing, by name. A value that is not in `values` stays as it was, and its cause is named
    once the value is too old."""
    is_foreign: bool = False
    """True if all that it has is text, so its sender may be no machine of the table."""


class NotTakenError(Exception):
    """A payload, or a value in it, that cannot be used. `health` counts it by `reason`."""

    def __init__(
        self, reason: str, updates: Sequence[Update] = (), content: object = None, fault: str | None = None
    ) -> None:
        """`updates` are what could be used of the payload in spite of it.

        `content` is what makes the value missing, such as a text where the number should be; None leaves it as it was.
        `fault` is what is wrong with it, as words that follow `is`; None if it is no number.
        """
        super().__init__(reason)
        self.reason = reason
        self.updates = updates
        self.content = content
        self.fault = fault

    @property
    def cause(self) -> str:
        """Why the value is missing, as words for people."""
        content = cut(shown(self.content), _MAX_CONTENT_CHARS)
        return f"{NO_NUMBER}: {content}" if self.fault is None else f"{content} is {self.fault}"


class Source(Protocol):
    """Reads the messages of one kind of source."""

    @property
    def metric_names(self) -> Collection[str]:
        """The names of the metrics that were announced, if the source announces any."""

    @property
    def metric_faults(self) -> Mapping[str, tuple[str, str]]:
        """By value, why a metric of it was not taken, and the first such content."""

    @property
    def offenders(self) -> Offenders:
        """What was not taken first of each value, for each reason. The newest may be taken back."""

    def machines_of(self, topic: str) -> Collection[str]:
        """The machines of which a topic may have values, if the topic says so."""

    @property
    def filters(self) -> frozenset[str]:
        """The topics to subscribe to."""

    def read(self, topic: str, payload: bytes, *, is_retained: bool, now: float) -> list[Update]:
        """The updates that a message makes. Raises NotTakenError."""

    @property
    def due_at(self) -> float | None:
        """When `advance` has something to do, even if no message comes."""

    def advance(self, now: float) -> list[Update]:
        """The updates of messages that had to wait until now."""

    def on_connection_lost(self) -> None:
        """Forgets what may have changed by the time the connection is back."""

    def keeps_alive(self, machine: str) -> bool:
        """True if the machine must not be forgotten, however long it has been silent."""

    def take_requests(self, now: float) -> Sequence[Publication]:
        """Requests to publish to the sources of the values now."""

    def as_health(self) -> dict[str, Any]:
        """The figures of this kind of source."""
