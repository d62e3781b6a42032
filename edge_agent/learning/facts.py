"""What a board knows about how right its answers are, for health and the alarms."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_agent.core.wording import cut
from edge_agent.learning.answers import AuditCounts
from edge_agent.learning.maths.assessment import Shift
from edge_agent.status.alarms import Finding, Severity, of_tasks

# A population stability index of at least this is commonly called a major shift.
INPUT_DRIFT = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAccuracy:
    """What is known of a task's answers; None where it is unknown."""

    given: float | None = None  # The share of answers that are given.
    accuracy: float | None = None
    lower_bound: float | None = None  # The lower bound on the share of right answers, given or not.
    promised: float | None = None
    asked: int = 0  # Audits up to the last answered one; `health` has all that were asked.
    audits: int = 0  # Those of them that are answered.
    earlier: int = 0  # Those of them that an earlier model was asked first, and this one before it came into force.
    held_out: int = 0  # Rows that training held out which count for a promise, too.
    held_out_right: int = 0  # Those of them that were answered right.
    feedback: int = 0  # How many corrections there were when a new fit was last compared with the map.
    since: str | None = None
    until: str | None = None  # When the newest answered audit was asked.
    # For the reasons and alarms.
    is_unproven: bool = False
    dropped_from: float | None = None
    dropped_to: tuple[int, int] | None = None  # How many audits after the drop were right, and how many there were.
    dropped_until: str | None = None  # When the newest of these was asked; None once it is forgotten.
    shift: Shift | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFacts:
    """What is known of a student's answers to a task; None where it is unknown."""

    student: str
    share: float | None  # The share of the task's requests that the student answered alone since the agent's start.
    accuracy: float | None  # The share of its audited answers that are right.
    lower_bound: float | None
    audits: int
    promised: float | None
    least_score: float | None  # The score from which the student answers alone.


_OF_HEALTH = (
    *("given", "accuracy", "lower_bound", "promised", "audits", "earlier", "held_out", "held_out_right", "feedback"),
    *("since", "until"),
)


def as_health(
    accuracy: Mapping[str, TaskAccuracy],
    audit_counts: Mapping[str, AuditCounts],
    students: Mapping[str, StudentFacts],
    of_other_kinds: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    of_labels = {
        task: {**{name: getattr(facts, name) for name in _OF_HEALTH}, **asdict(audit_counts.get(task, AuditCounts()))}
        for task, facts in accuracy.items()
    }
    return {
        "accuracy": {**of_labels, **of_other_kinds},
        "students": {task: asdict(facts) for task, facts in students.items()},
    }


def findings(
    accuracy: Mapping[str, TaskAccuracy], of_other_kinds: Mapping[str, Finding | None]
) -> dict[str, Finding | None]:
    """The causes of the alarm `accuracy-low` by task, with those of tasks of other kinds."""
    low = {
        task: _accuracy_low(task, facts)
        for task, facts in accuracy.items()
        if facts.audits or facts.dropped_from is not None
    }
    shifts = [(task, facts.shift) for task, facts in accuracy.items() if facts.shift is not None]
    shifts.sort(key=lambda item: item[1].index, reverse=True)
    drift = {task: _input_drift(task, shift) for task, shift in shifts}
    return {"accuracy-low": of_tasks({**low, **of_other_kinds}), "input-drift": of_tasks(drift)}


def _accuracy_low(task: str, facts: TaskAccuracy) -> Finding | None:
    if facts.dropped_from is None:
        return None
    figures, value = f"{facts.dropped_from:.0%} of the earlier audits were right", None
    if facts.dropped_to is not None:
        right, audits = facts.dropped_to
        until = "" if facts.dropped_until is None else f" until {facts.dropped_until}"
        figures += f", and then {right} of {audits}{until}"
        value = round(right / audits, 3)
    message = (
        f"task {task} is right less often than before ({figures}): look at what its sensors send and who gave "
        "that feedback, answer new audits, or roll back the model"
    )
    return Finding(Severity.WARNING, message, value)


def _input_drift(task: str, shift: Shift) -> Finding | None:
    if shift.index < INPUT_DRIFT:
        return None
    message = (
        f"the newest inputs or answers of task {task} differ from the oldest ones kept, most in {cut(shift.what)}: "
        "look at what its sensors send, and answer its audits"
    )
    return Finding(Severity.WARNING, message, round(shift.index, 3))
