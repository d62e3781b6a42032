"""The record of one request, from parsing through admission, queue and run to its reply; each step fills in its part.

It is queued again where a student is unsure of its answer, or the worker was lost while it ran.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.codes import Error
from edge_agent.core.envelope import Envelope
from edge_agent.core.kinds.registry import TaskConfig
from edge_agent.core.pipe import EngineRequest
from edge_agent.requests.origin import Origin
from edge_agent.requests.tasks import Task

# Requests of one class take about equally long. A class is the task, with the student that answers, and
# the bit lengths of the prompt's number of characters and of `max_tokens`.
CostClass = tuple[str, int, int]
Order = tuple[int, bool, float, int]
# The large model among those that may answer. The others are the students, whose names begin with "student-".
LARGE = "large"


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """Times are seconds of the monotonic clock."""

    # What parse.py reads from the message.
    task_name: str
    reply_topic: str
    correlation: bytes | None
    id: str | int  # Given by the caller, made from the Correlation Data, or generated; echoed in replies.
    key: bytes  # Equal for requests that ask the same.
    may_be_duplicate: bool  # An earlier request with this key answers this one too.
    is_redelivery: bool
    arrived_at: float
    topic: str | None = None  # What templates get as the topic. A joined reading has its machine there.
    machine: str | None = None  # The machine of a joined reading.
    wildcards: str | None = None  # What the wildcards of `subscribe` matched in a reading's topic.
    reading_of: TaskConfig | None = None  # The task, if this is a reading; None if a caller asked for the reply.
    origin: Origin = field(default_factory=Origin)  # What its reply settles.
    refusal: Error | None = None  # Why the request cannot be run.
    is_logged: bool = True  # Whether the log has a line for its refusal.
    task: Task | None = None
    envelope: Envelope | None = None
    may_be_audited: bool = True  # Whether the caller lets the reply ask for feedback.
    input: Any = None  # For the reply, if the task's `echo_input` may put it there.
    priority: int = 5
    deadline_at: float = 0.0
    deadline: str = ""  # The deadline for the caller's eyes, with its source.
    source: str | None = None  # With `keep = "latest"`, a newer request of the same source replaces one that waits.
    error_topic: str | None = None  # If set, a reply is its output alone, and one without an output goes here, whole.
    no_output: str | None = None  # With `error_topic`, the text for the reply topic if there is no output.

    # Admission.
    number: int = 0  # In order of admission; 0 until then.
    engine_request: EngineRequest | None = None  # What the worker gets, by this number.
    cost_class: CostClass = ("", 0, 0)
    order: Order = (0, False, 0.0, 0)  # By priority, the board's own before those of the pool, by deadline, by number.

    answerer: str = LARGE  # The model that is asked now.
    notes: Any = None  # What its Answerers know of it.
    earlier_engine_time_s: float = 0.0  # The engine's time for answers that did not stand.

    # While it runs.
    started_at: float = math.inf  # Infinite until it runs.
    attempts: int = 0  # How often it was handed to a worker.
    partials: int = 0

    is_answered: bool = False  # Its terminal reply is made, or it was given back.
    followers: list[Origin] = field(default_factory=list)  # Of equal requests that get the same reply.

    @property
    def known_machine(self) -> str | None:
        """The machine of a reading: that of `[signals]`, or else what the wildcards of `subscribe` matched."""
        return self.machine or self.wildcards

    @property
    def echoes_all(self) -> bool:
        """Whether each reply has the input, and not only those that ask for feedback."""
        return self.task is not None and self.task.config.echo_input == "all"

    @property
    def reports_on_change(self) -> bool:
        """Whether an answer is published only if it has changed."""
        return self.reading_of is not None and self.reading_of.publish_on == "change"
