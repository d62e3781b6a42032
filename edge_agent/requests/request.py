"""The record of one request. It moves one way: parse, admit, queue, run, reply; each stop fills in its part."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.codes import Error
from edge_agent.core.envelope import Envelope
from edge_agent.core.pipe import EngineRequest
from edge_agent.requests.origin import Origin, Unkept
from edge_agent.requests.tasks import Task

# Requests of one class take about as long: task, binary magnitudes of the prompt's characters and of its most tokens.
CostClass = tuple[str, int, int]
Order = tuple[int, bool, float, int]
# The large model among those that may answer. The others have names.
LARGE = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """Times are seconds of the monotonic clock.

    id: given by the caller, made from the Correlation Data, or generated; echoed in replies.
    key: equal for requests that ask the same. may_be_duplicate: an earlier request with this key answers this one too.
    origin: what its reply settles.
    """

    # What parse.py reads from the message. refusal: why the request cannot be run.
    task_name: str
    reply_topic: str
    correlation: bytes | None
    id: str | int
    key: bytes
    may_be_duplicate: bool
    is_redelivery: bool
    arrived_at: float
    origin: Origin = field(default_factory=Unkept)
    refusal: Error | None = None
    task: Task | None = None
    envelope: Envelope | None = None
    priority: int = 5
    deadline_at: float = 0.0
    deadline_source: str = "configuration"
    # With `keep = "latest"`: a newer request of the same source takes the place of one that waits.
    source: str | None = None
    # Not None: a reply is its output alone, and one without an output goes here, whole.
    error_topic: str | None = None

    # Admission. number: in order of admission; 0 = not admitted. run: what the worker gets, by this number.
    # order: requests start by priority, the board's own before those of the pool, then by deadline, number.
    number: int = 0
    run: EngineRequest | None = None
    cost_class: CostClass = ("", 0, 0)
    order: Order = (0, False, 0.0, 0)

    # answerer: the model that is asked now. notes: what its Answerers know of it.
    # earlier_share_s: the engine's time for answers that did not stand.
    answerer: str = LARGE
    notes: Any = None
    earlier_share_s: float = 0.0

    # While it runs. started_at: inf = it did not run yet. attempts: how often it was handed to a worker.
    started_at: float = math.inf
    attempts: int = 0
    partials: int = 0

    # is_answered: its terminal reply is made, or it was given back.
    # followers: the origins of equal requests that get the same reply.
    is_answered: bool = False
    followers: list[Origin] = field(default_factory=list)

    @property
    def deadline(self) -> str:
        """The deadline for the caller's eyes, with its source."""
        return f"the deadline of {(self.deadline_at - self.arrived_at) * 1000:.0f} ms ({self.deadline_source})"
