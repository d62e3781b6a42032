"""The alarms, one entry each in ALARMS, and their retained topics `alarm/<name>`.

To add an alarm, add its entry to ALARMS and a function that finds its cause in `Alarms`. Bring the cause in: from
`BoardReading`, as a figure of `update`, or by an `on_…` or `set_…` that agent.py calls. An optional part finds its
cause itself (`Part.findings` in health.py); name it here with `_of_part`. `of_tasks` joins a cause that each task may
have. Nothing here may block.
docs/monitoring.md, docs/troubleshooting.md, the sample of docs/mqtt-api.md and examples/monitoring name it, too.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from edge_agent.board.reading import BoardReading
from edge_agent.core.clock import is_expired, timestamp
from edge_agent.core.messages import Publication, clear_retained, json_publication
from edge_agent.core.topics import Topics
from edge_agent.core.wording import cut
from edge_agent.requests.statistics import OddShare

log = logging.getLogger(__name__)

# How far the counts look back.
WORKER_ENDS_WINDOW_S = 600.0
TAKEOVERS_WINDOW_S = 120.0
REFUSALS_WINDOW_S = 10

CRASH_LOOP_ENDS = 3
MAX_FAILED_IN_A_ROW = 2
# A worker that has answered for longer is no longer in a loop.
RECOVERED_AFTER_S = 60.0
HEADROOM_LOW_C = 3.0
DISK_LOW_MB, DISK_CRITICAL_MB = 500.0, 100.0
# An alarm whose figures change is published again after this long.
REFRESH_S = 60.0


@dataclass(frozen=True, slots=True)
class MemoryThreshold:
    """A share of all memory, within bounds."""

    share: float
    min_mb: float
    max_mb: float

    def of(self, total_mb: float) -> float:
        return min(max(self.share * total_mb, self.min_mb), self.max_mb)


MEMORY_LOW = MemoryThreshold(0.05, min_mb=100.0, max_mb=500.0)
MEMORY_CRITICAL = MemoryThreshold(0.025, min_mb=50.0, max_mb=250.0)


class Severity(IntEnum):
    """How bad a cause is; NONE where there is no alarm."""

    NONE = 0
    WARNING = 1
    CRITICAL = 2

    @property
    def text(self) -> str:
        """The severity as it is published."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """The cause of an alarm, found to be there now."""

    severity: Severity
    message: str
    value: float | None = None
    by_task: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What the log says of each task that has the cause; empty if it concerns no task."""


UNKNOWN = Finding(Severity.NONE, "this board cannot tell")


def of_tasks(causes: Mapping[str, Finding | None]) -> Finding | None:
    """One finding for all tasks: the message of the first, after the names of all if there are several.

    `causes` are by task, in the order to name them, without the tasks about which the board cannot tell.
    """
    found = {task: cause for task, cause in causes.items() if cause is not None}
    if not found:
        return None if causes else UNKNOWN
    first = next(iter(found.values()))
    # The tasks are named first, because `watch` may cut a message to one line.
    names = f"tasks {', '.join(found)}: " if len(found) > 1 else ""
    by_task = {task: cause.message for task, cause in found.items()}
    return replace(first, message=names + first.message, by_task=by_task)


@dataclass(frozen=True, slots=True)
class AlarmRule:
    """Raised once its cause has lasted `raise_after_s`; eases or ends after an improvement for `clear_after_s`."""

    name: str
    find: Callable[[Alarms], Finding | None]
    """Gives UNKNOWN where this board cannot tell whether the cause is there."""
    raise_after_s: float = 0.0
    clear_after_s: float = 0.0


def _overheating(alarms: Alarms) -> Finding | None:
    thermal = alarms.reading.thermal
    if thermal.soc_c is None or thermal.limit_c is None:
        return UNKNOWN
    if thermal.limit_c - thermal.soc_c > HEADROOM_LOW_C:
        return None
    severity = Severity.CRITICAL if thermal.soc_c >= thermal.limit_c else Severity.WARNING
    message = (
        f"the SoC is at {thermal.soc_c:.1f} °C and its limit is {thermal.limit_c:.0f} °C: "
        "cool the board or send fewer requests"
    )
    return Finding(severity, message, round(thermal.soc_c, 1))


def _throttled(alarms: Alarms) -> Finding | None:
    if not alarms.reading.throttle.now:
        return UNKNOWN if alarms.reading.throttle.now is None else None
    causes = ", ".join(alarms.reading.throttle.causes) or "the cause is unknown"
    return Finding(Severity.WARNING, f"the board is slowing its cores down ({causes}): check cooling and power supply")


def _undervoltage(alarms: Alarms) -> Finding | None:
    if not alarms.reading.throttle.undervoltage_now:
        return UNKNOWN if alarms.reading.throttle.undervoltage_now is None else None
    message = "the supply voltage is too low: use a stronger power supply and a shorter cable"
    return Finding(Severity.CRITICAL, message)


def _memory_low(alarms: Alarms) -> Finding | None:
    available_mb, total_mb = alarms.reading.memory.available_mb, alarms.reading.memory.total_mb or 0.0
    if available_mb is None:
        return UNKNOWN
    if available_mb >= MEMORY_LOW.of(total_mb):
        return None
    severity = Severity.CRITICAL if available_mb < MEMORY_CRITICAL.of(total_mb) else Severity.WARNING
    advice = "stop other programs, lower engine.context_tokens, or use a smaller model"
    return Finding(severity, f"only {available_mb:.0f} MB of memory are available: {advice}", available_mb)


def _disk_low(alarms: Alarms) -> Finding | None:
    free_mb = alarms.reading.disk_free_mb
    if free_mb is None:
        return UNKNOWN
    if free_mb >= DISK_LOW_MB:
        return None
    severity = Severity.CRITICAL if free_mb < DISK_CRITICAL_MB else Severity.WARNING
    return Finding(
        severity, f"only {free_mb:.0f} MB are free on the disk of models_dir: remove old models and logs", free_mb
    )


def _worker_crash_loop(alarms: Alarms) -> Finding | None:
    if len(alarms.worker_ends) < CRASH_LOOP_ENDS:
        return None
    ends = (
        f"the worker ended {len(alarms.worker_ends)} times within {WORKER_ENDS_WINDOW_S / 60:.0f} minutes, "
        f"most recently {alarms.last_worker_end}"
    )
    advice = "read the log, free memory, run `edge-agent doctor`, or roll back the model"
    since = alarms.worker_ready_since
    if since is None or alarms.now - since < RECOVERED_AFTER_S:
        return Finding(Severity.CRITICAL, f"{ends}: {advice}", len(alarms.worker_ends))
    # The time of day may be unset.
    clock = timestamp(time.time() - (alarms.now - since))
    again = "it has answered again" + (f" since {clock[11:16]} UTC" if clock else "")
    return Finding(Severity.WARNING, f"{ends}; {again}: if it happens again, {advice}", len(alarms.worker_ends))


def _worker_silent(alarms: Alarms) -> Finding | None:
    if not alarms.is_worker_silent:
        return None
    message = (
        "the worker has said nothing for more than 30 s, so no request is answered: wait, because after 2 minutes of "
        "silence the agent ends it and starts another; if it happens again, free memory and send a diag"
    )
    return Finding(Severity.CRITICAL, message)


def _model_load_failed(alarms: Alarms) -> Finding | None:
    if alarms.model_fault is None:
        return None
    message = (
        f"no model can be used: {alarms.model_fault}; copy the bundle there again, or correct models.default.path and "
        "restart: the agent tries the files again every minute"
    )
    return Finding(Severity.CRITICAL, message)


def _model_quality(alarms: Alarms) -> Finding | None:
    if alarms.failed_in_a_row > MAX_FAILED_IN_A_ROW:
        message = (
            f"the newest {alarms.failed_in_a_row} requests failed, the last because {cut(alarms.last_failure)}: run "
            "`edge-agent doctor`, and copy the bundle again if its files are damaged"
        )
        return Finding(Severity.CRITICAL, message, alarms.failed_in_a_row)
    if alarms.quality_fault is None:
        return UNKNOWN
    return Finding(Severity.CRITICAL, alarms.quality_fault) if alarms.quality_fault else None


def _model_expired(alarms: Alarms) -> Finding | None:
    has_expired = alarms.expires is not None and is_expired(alarms.expires)
    if not has_expired:
        return UNKNOWN if has_expired is None else None
    message = f"the model in force expired on {alarms.expires} but keeps answering: switch to a newer bundle"
    return Finding(Severity.WARNING, message)


def _revocations(alarms: Alarms) -> Finding | None:
    if alarms.revoked is not None:
        message = f"the bundle in force is {alarms.revoked}; it will not open at the next start: switch to another one"
        return Finding(Severity.CRITICAL, message)
    if alarms.revocations_fault is None:
        return None
    advice = "copy your newest list, its signature and the keys to the board"
    return Finding(Severity.WARNING, f"{alarms.revocations_fault}: {advice}")


def _odd_inputs(alarms: Alarms) -> Finding | None:
    return of_tasks({odd.task: _odd_inputs_of_task(odd) for odd in alarms.odd_inputs})


def _odd_inputs_of_task(odd: OddShare) -> Finding | None:
    if not odd.is_high:
        return None
    if odd.notable is not None:
        expected = 0.0 if odd.expected is None else 100 * odd.expected
        message = (
            f"{odd.share:.0%} of the newest readings of task {odd.task} are {odd.notable} ({expected:.2g}% were "
            "expected): a lasting fault, or the plant has changed: look at them, and train again if they are usual now"
        )
        return Finding(Severity.WARNING, message, round(odd.share, 3))
    field = "what its sensors send" if odd.field is None else cut(odd.field)
    before = "" if odd.expected is None else f" ({odd.expected:.0%} were in training)"
    message = (
        f"{odd.share:.0%} of the newest inputs of task {odd.task} are not as its training was{before}: look at {field}"
    )
    return Finding(Severity.WARNING, message, round(odd.share, 3))


def _duplicate_client_id(alarms: Alarms) -> Finding | None:
    if not alarms.takeovers:
        return None
    message = "another agent with this site and id keeps taking over the connection: give each board its own device.id"
    return Finding(Severity.CRITICAL, message, len(alarms.takeovers))


def _queue_overload(alarms: Alarms) -> Finding | None:
    if not sum(alarms.refused):
        return None
    message = (
        f"more requests arrive than can be answered; {sum(alarms.refused)} were refused within {REFUSALS_WINDOW_S} s: "
        "send fewer requests, add a board, or set priorities"
    )
    return Finding(Severity.WARNING, message, sum(alarms.refused))


def _of_part(name: str, without: Finding | None) -> Callable[[Alarms], Finding | None]:
    """Takes the cause that an optional part finds. `without` is the finding on a board that has no such part."""
    return lambda alarms: alarms.findings.get(name, without)


ALARMS = (
    AlarmRule("overheating", _overheating, raise_after_s=5.0, clear_after_s=60.0),
    AlarmRule("throttled", _throttled, raise_after_s=5.0, clear_after_s=60.0),
    AlarmRule("undervoltage", _undervoltage, clear_after_s=60.0),
    AlarmRule("memory-low", _memory_low, raise_after_s=10.0, clear_after_s=120.0),
    AlarmRule("disk-low", _disk_low, raise_after_s=10.0, clear_after_s=120.0),
    AlarmRule("worker-crash-loop", _worker_crash_loop),
    AlarmRule("worker-silent", _worker_silent),
    AlarmRule("model-load-failed", _model_load_failed),
    AlarmRule("model-quality", _model_quality),
    AlarmRule("model-expired", _model_expired),
    AlarmRule("revocations", _revocations),
    AlarmRule("accuracy-low", _of_part("accuracy-low", UNKNOWN)),
    AlarmRule("input-drift", _of_part("input-drift", UNKNOWN)),
    AlarmRule("odd-inputs", _odd_inputs),
    AlarmRule("duplicate-client-id", _duplicate_client_id),
    AlarmRule("queue-overload", _queue_overload, raise_after_s=30.0, clear_after_s=60.0),
    AlarmRule("pool-unreachable", _of_part("pool-unreachable", None), raise_after_s=10.0),
    AlarmRule("pool-backlog", _of_part("pool-backlog", None), raise_after_s=30.0, clear_after_s=60.0),
)


class _AlarmState:
    """The state of one alarm. Times are seconds of the monotonic clock."""

    def __init__(self, rule: AlarmRule) -> None:
        self.rule = rule
        # The cause as it is raised; None if it is not.
        self.finding: Finding | None = None
        # When the cause was first there, and how that was published.
        self.since = 0.0
        self.since_text: str | None = None
        self._published_at = 0.0
        # Since when something less severe, or a cause that is not raised yet, is found.
        self._differs_since: float | None = None

    @property
    def severity(self) -> Severity:
        return self.finding.severity if self.finding else Severity.NONE

    def update(self, finding: Finding | None, now: float) -> bool:
        """True if the alarm is to be published: it began, ended, changed its severity or tasks, or has old figures."""
        if finding is UNKNOWN:
            finding = None
        severity, raised = finding.severity if finding else Severity.NONE, self.severity
        begins, eases = severity > raised == Severity.NONE, severity < raised
        if begins or eases:
            since = now if self._differs_since is None else self._differs_since
            if now - since < (self.rule.raise_after_s if begins else self.rule.clear_after_s):
                self._differs_since = since
                return False
            if begins:
                self.since, self.since_text = since, None
        self._differs_since = None
        has_same_tasks = _tasks(finding) == _tasks(self.finding)
        is_old = finding != self.finding and now - self._published_at >= REFRESH_S
        if severity == raised and has_same_tasks and not is_old:
            return False
        self.finding, self._published_at = finding, now
        return True


class Alarms:
    """All alarms of a board. `announce` sends only while there is a connection, so nothing is kept for later."""

    def __init__(self, topics: Topics, announce: Callable[[Publication], object]) -> None:
        self._topics = topics
        self._announce = announce
        self._states = [_AlarmState(rule) for rule in ALARMS]
        # The board, and what happened lately, as the rules read them. Times are seconds of the monotonic clock.
        self.reading = BoardReading()
        self.worker_ends: list[float] = []
        self.last_worker_end = ""
        # Since when a worker has answered without one ending; a model switch ends none. None while no worker answers.
        self.worker_ready_since: float | None = None
        self.is_worker_silent = False
        self.now = 0.0
        self.takeovers: list[float] = []
        self._foreign_session: tuple[str, float] | None = None
        # How many requests were refused for overload before each of the last updates.
        self.refused: deque[int] = deque(maxlen=REFUSALS_WINDOW_S)
        # Why no model can be used, with its path; None if one answers, or is loading.
        self.model_fault: str | None = None
        # As `set_quality_fault` takes it.
        self.quality_fault: str | None = None
        # When the model in force expires; None if never.
        self.expires: str | None = None
        # Why the configured list does not count, and why the bundle in force must not be used.
        self.revocations_fault: str | None = None
        self.revoked: str | None = None
        # Of the optional parts, by the alarm's name.
        self.findings: Mapping[str, Finding | None] = {}
        # The worst first.
        self.odd_inputs: Sequence[OddShare] = ()
        # Requests that failed since the last answer, and why the newest of them did.
        self.failed_in_a_row, self.last_failure = 0, ""
        self._overloaded_total = 0

    @property
    def severities(self) -> dict[str, str]:
        """Severity by name of the alarms that are raised."""
        return {each.rule.name: each.severity.text for each in self._states if each.finding}

    @property
    def unmeasured(self) -> set[str]:
        """The alarms of which this board cannot tell whether their cause is there."""
        return {each.rule.name for each in self._states if not each.finding and each.rule.find(self) is UNKNOWN}

    def on_worker_ended(self, how: str, now: float) -> None:
        self.worker_ends.append(now)
        self.last_worker_end, self.worker_ready_since = how, None

    def on_taken_over(self, now: float) -> None:
        self.takeovers.append(now)

    def set_model_fault(self, fault: str | None) -> None:
        """Takes why no model can be used, with its path; None if one answers."""
        self.model_fault = fault
        if fault is not None:
            self.worker_ready_since = None

    def set_quality_fault(self, fault: str | None) -> None:
        """Takes why the model's answers differ from the recorded ones, "" if they do not, None if it was not asked."""
        self.quality_fault = fault

    def set_revocations(self, fault: str | None, revoked: str | None) -> None:
        """Takes why the configured list does not count, and why the bundle must not be used; None if all is well."""
        self.revocations_fault, self.revoked = fault, revoked

    def on_foreign_session(self, session: str, now: float) -> None:
        """Notes that another process published this session on our state.

        Two different sessions mean another agent; a single one may be from our own process before a restart.
        """
        before, self._foreign_session = self._foreign_session, (session, now)
        if before is not None and before[0] != session and now - before[1] <= TAKEOVERS_WINDOW_S:
            self.takeovers.append(now)

    def update(
        self,
        now: float,
        *,
        session: str,
        reading: BoardReading,
        findings: Mapping[str, Finding | None],
        expires: str | None,
        queue_depth: int,
        overloaded_total: int,
        failed_in_a_row: int = 0,
        last_failure: str = "",
        worker_ready_since: float | None = None,
        is_worker_silent: bool = False,
        odd_inputs: Sequence[OddShare] = (),
    ) -> bool:
        """Raises and clears alarms, once a second; True if a severity has changed."""
        self.now, self.is_worker_silent = now, is_worker_silent
        if self.worker_ready_since is None:
            self.worker_ready_since = worker_ready_since
        self.reading, self.findings, self.expires, self.odd_inputs = reading, findings, expires, odd_inputs
        self.failed_in_a_row, self.last_failure = failed_in_a_row, last_failure
        # A deadline that even an idle board would miss is refused too, but is no overload.
        self.refused.append(overloaded_total - self._overloaded_total if queue_depth > 0 else 0)
        self._overloaded_total = overloaded_total
        self.worker_ends = [at for at in self.worker_ends if now - at <= WORKER_ENDS_WINDOW_S]
        self.takeovers = [at for at in self.takeovers if now - at <= TAKEOVERS_WINDOW_S]
        before = self.severities
        for alarm in self._states:
            known = alarm.finding
            if alarm.update(alarm.rule.find(self), now):
                self._publish(alarm, now, session)
            _log(alarm, known)
        return self.severities != before

    def publish_all(self, now: float, session: str, *, clear_others: bool) -> None:
        """Publishes the raised ones. `clear_others` also clears all others, which an earlier process may have left."""
        for alarm in self._states:
            if alarm.finding or clear_others:
                self._publish(alarm, now, session)

    def withdraw(self) -> None:
        """Ends the raised alarms on the bus, because they are not updated any more."""
        for name in self.severities:
            self._announce(clear_retained(self._topics.alarm(name)))

    def _publish(self, alarm: _AlarmState, now: float, session: str) -> None:
        topic, finding = self._topics.alarm(alarm.rule.name), alarm.finding
        if finding is None:
            self._announce(clear_retained(topic))
            return
        # The time of day may have been unset when the alarm began.
        alarm.since_text = alarm.since_text or timestamp(time.time() - (now - alarm.since))
        document = {
            "ts": timestamp(),
            "severity": finding.severity.text,
            "since": alarm.since_text,
            "message": finding.message,
            "value": finding.value,
            "session": session,
        }
        self._announce(json_publication(topic, document, retain=True))


def _tasks(finding: Finding | None) -> set[str]:
    return set() if finding is None else set(finding.by_task)


def _log(alarm: _AlarmState, before: Finding | None) -> None:
    """Logs a new severity, and each task that has the cause now or has it no longer. New figures are not logged."""
    name, finding = alarm.rule.name, alarm.finding
    if finding is None:
        if before is not None:
            log.info("alarm cleared name=%s", name)
        return
    is_known = before is not None and before.severity is finding.severity
    known = _tasks(before) if is_known else set()
    messages = [message for task, message in finding.by_task.items() if task not in known]
    if not finding.by_task and not is_known:
        messages = [finding.message]
    level = logging.ERROR if finding.severity is Severity.CRITICAL else logging.WARNING
    for message in messages:
        log.log(level, "alarm name=%s severity=%s: %s", name, finding.severity.text, message)
    for task in sorted(known - _tasks(finding)):
        log.info("alarm cleared name=%s task=%s", name, task)
