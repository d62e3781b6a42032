"""Facts -> alarms: raised when they hold, kept while they last, cleared when they are surely over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class AlarmName(StrEnum):
    OVERHEATING = "overheating"
    THROTTLED = "throttled"
    UNDERVOLTAGE = "undervoltage"
    MEMORY_LOW = "memory-low"
    DISK_LOW = "disk-low"
    WORKER_CRASH_LOOP = "worker-crash-loop"
    MODEL_QUALITY = "model-quality"
    DUPLICATE_CLIENT_ID = "duplicate-client-id"
    QUEUE_OVERLOAD = "queue-overload"


class Severity(StrEnum):
    WARNING = "warning"
    CRITICAL = "critical"


# How long the counts in AlarmFacts look back.
WORKER_ENDS_WINDOW_S = 600.0
TAKEOVERS_WINDOW_S = 120.0
REFUSALS_WINDOW_S = 10.0

WORKER_ENDS = 3
# Degrees to the limit: from here on a warning; none left is critical.
HEADROOM_LOW_C = 3.0
# Part of all memory, and the least and most MB that it may come to.
MEMORY_LOW = (0.05, 100.0, 500.0)
MEMORY_CRITICAL = (0.025, 50.0, 250.0)
DISK_LOW_MB, DISK_CRITICAL_MB = 500.0, 100.0
# What has been too little is enough again only at this many times the threshold.
_SLACK = 1.25
_HEADROOM_SLACK_C = 3.0
# A message with figures in it is told anew after so long.
REFRESH_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmFacts:
    """What alarms are made of. None = unknown here: it raises nothing, and keeps nothing raised for long."""

    soc_c: float | None = None
    limit_c: float | None = None
    is_throttled: bool | None = None
    throttle_causes: tuple[str, ...] = ()
    is_undervoltage: bool | None = None
    memory_total_mb: float | None = None
    memory_available_mb: float | None = None
    disk_free_mb: float | None = None
    worker_ends_lately: int = 0
    # The latest of them, in words.
    worker_end: str | None = None
    oom_kills_lately: int = 0
    # What is too much of the worker's memory, in words.
    worker_excess: str | None = None
    takeovers_lately: int = 0
    refusals_lately: int = 0
    # Why the model's answers are not what they were, in words.
    quality_fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """That an alarm's cause is there now."""

    severity: Severity
    message: str
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm that is raised. since: when its cause was there first, seconds of the caller's clock."""

    severity: Severity
    message: str
    value: float | None
    since: float


@dataclass(frozen=True, slots=True)
class _Rule:
    """find: what is found, given how severe the alarm is that is raised already."""

    find: Callable[[AlarmFacts, Severity | None], Finding | None]
    raise_after_s: float
    clear_after_s: float


class Alarms:
    """All alarms of a board. `update` is asked about once a second."""

    def __init__(self) -> None:
        self.raised: dict[AlarmName, Alarm] = {}
        # Since when the facts speak against what is raised, or not raised.
        self._differs_since: dict[AlarmName, float] = {}
        # Since when what is raised as critical is none any more.
        self._eased_since: dict[AlarmName, float] = {}
        self._told_at: dict[AlarmName, float] = {}

    def update(self, facts: AlarmFacts, now: float) -> tuple[set[AlarmName], set[AlarmName]]:
        """Those that came, went or changed their severity, and those that only have other figures to tell."""
        changed: set[AlarmName] = set()
        refreshed: set[AlarmName] = set()
        for name, rule in _RULES.items():
            before = self.raised.get(name)
            finding = rule.find(facts, before.severity if before else None)
            after = self._judged(name, rule, finding, now)
            if after is before:
                continue
            if before and after and after.severity is before.severity:
                if now - self._told_at[name] < REFRESH_S:
                    continue
                refreshed.add(name)
            else:
                changed.add(name)
            self._told_at[name] = now
            if after is None:
                del self.raised[name]
            else:
                self.raised[name] = after
        return changed, refreshed

    def _judged(self, name: AlarmName, rule: _Rule, finding: Finding | None, now: float) -> Alarm | None:
        alarm = self.raised.get(name)
        if (finding is None) == (alarm is None):
            self._differs_since.pop(name, None)
            since = alarm.since if alarm else now
        else:
            since = self._differs_since.setdefault(name, now)
            if now - since < (rule.raise_after_s if alarm is None else rule.clear_after_s):
                return alarm
            del self._differs_since[name]
        if alarm and finding and finding.severity is Severity.WARNING and alarm.severity is Severity.CRITICAL:
            eased_since = self._eased_since.setdefault(name, now)
            # Better is believed as late as well, or each jump of the die would be told.
            if now - eased_since < rule.clear_after_s:
                return alarm
        self._eased_since.pop(name, None)
        if finding is None:
            return None
        told = Alarm(severity=finding.severity, message=finding.message, value=finding.value, since=since)
        return alarm if told == alarm else told


def _overheating(facts: AlarmFacts, before: Severity | None) -> Finding | None:
    if facts.soc_c is None or facts.limit_c is None:
        return None
    headroom_c = facts.limit_c - facts.soc_c
    # Half the slack: a critical alarm that cools becomes a warning before it ends.
    critical_c = _HEADROOM_SLACK_C / 2 if before is Severity.CRITICAL else 0.0
    warning_c = HEADROOM_LOW_C + (_HEADROOM_SLACK_C if before else 0.0)
    if headroom_c > warning_c:
        return None
    return Finding(
        severity=Severity.CRITICAL if headroom_c <= critical_c else Severity.WARNING,
        message=f"the SoC has {facts.soc_c:.1f} °C, its limit is {facts.limit_c:.0f} °C: cool the board or ask less",
        value=round(facts.soc_c, 1),
    )


def _throttled(facts: AlarmFacts, _before: Severity | None) -> Finding | None:
    if not facts.is_throttled:
        return None
    causes = ", ".join(facts.throttle_causes) or "the cause is not told"
    return Finding(
        severity=Severity.WARNING, message=f"the board slows its cores ({causes}): see to cooling and supply"
    )


def _undervoltage(facts: AlarmFacts, _before: Severity | None) -> Finding | None:
    if not facts.is_undervoltage:
        return None
    return Finding(
        severity=Severity.CRITICAL,
        message="the supply voltage is too low: use a stronger power supply and a shorter cable",
    )


def _memory_low(facts: AlarmFacts, before: Severity | None) -> Finding | None:
    warning_mb, critical_mb = (
        min(max(part * (facts.memory_total_mb or 0.0), least_mb), most_mb)
        for part, least_mb, most_mb in (MEMORY_LOW, MEMORY_CRITICAL)
    )
    severity = _how_low(facts.memory_available_mb, warning_mb, critical_mb, before)
    advice = "stop other programs, lower engine.context_tokens, or use a smaller model"
    if facts.oom_kills_lately:
        times = "once" if facts.oom_kills_lately == 1 else f"{facts.oom_kills_lately} times"
        return Finding(
            severity=Severity.CRITICAL,
            message=f"the kernel ended the worker {times} within {WORKER_ENDS_WINDOW_S / 60:.0f} minutes for want of "
            f"memory: {advice}",
            value=facts.memory_available_mb,
        )
    if severity is None and facts.worker_excess is not None:
        return Finding(
            severity=Severity.WARNING,
            message=f"{facts.worker_excess}; it is replaced now and then for that: report it with its log",
            value=facts.memory_available_mb,
        )
    if severity is None:
        return None
    return Finding(
        severity=severity,
        message=f"{facts.memory_available_mb:.0f} MB of memory are available: {advice}",
        value=facts.memory_available_mb,
    )


def _disk_low(facts: AlarmFacts, before: Severity | None) -> Finding | None:
    severity = _how_low(facts.disk_free_mb, DISK_LOW_MB, DISK_CRITICAL_MB, before)
    if severity is None:
        return None
    return Finding(
        severity=severity,
        message=f"{facts.disk_free_mb:.0f} MB are free on the disk of models_dir: remove old models and logs",
        value=facts.disk_free_mb,
    )


def _worker_crash_loop(facts: AlarmFacts, before: Severity | None) -> Finding | None:
    if facts.worker_ends_lately < (1 if before else WORKER_ENDS):
        return None
    return Finding(
        severity=Severity.CRITICAL,
        message=f"the worker ended {facts.worker_ends_lately} times within {WORKER_ENDS_WINDOW_S / 60:.0f} minutes, "
        f"at last {facts.worker_end}: the log tells more; free memory, run `edge-agent doctor`, or go back to another "
        "model",
        value=facts.worker_ends_lately,
    )


def _model_quality(facts: AlarmFacts, _before: Severity | None) -> Finding | None:
    if facts.quality_fault is None:
        return None
    return Finding(severity=Severity.CRITICAL, message=facts.quality_fault)


def _duplicate_client_id(facts: AlarmFacts, _before: Severity | None) -> Finding | None:
    if facts.takeovers_lately == 0:
        return None
    return Finding(
        severity=Severity.CRITICAL,
        message="another agent connects with this site and id and takes over the connection: "
        "give each board a device.id of its own",
        value=facts.takeovers_lately,
    )


def _queue_overload(facts: AlarmFacts, _before: Severity | None) -> Finding | None:
    if facts.refusals_lately == 0:
        return None
    return Finding(
        severity=Severity.WARNING,
        message=f"more requests come than can be answered, {facts.refusals_lately} were refused within "
        f"{REFUSALS_WINDOW_S:.0f} s: ask less often, use another board, or give them priorities",
        value=facts.refusals_lately,
    )


def _how_low(value: float | None, warning: float, critical: float, before: Severity | None) -> Severity | None:
    if value is None:
        return None
    if value < critical * (_SLACK if before is Severity.CRITICAL else 1):
        return Severity.CRITICAL
    return Severity.WARNING if value < warning * (_SLACK if before else 1) else None


# The windows of the counted ones are what keeps them from flapping.
_RULES = {
    AlarmName.OVERHEATING: _Rule(_overheating, raise_after_s=5.0, clear_after_s=30.0),
    AlarmName.THROTTLED: _Rule(_throttled, raise_after_s=5.0, clear_after_s=60.0),
    # Told of a moment, and worth knowing even so.
    AlarmName.UNDERVOLTAGE: _Rule(_undervoltage, raise_after_s=0.0, clear_after_s=60.0),
    AlarmName.MEMORY_LOW: _Rule(_memory_low, raise_after_s=10.0, clear_after_s=60.0),
    AlarmName.DISK_LOW: _Rule(_disk_low, raise_after_s=10.0, clear_after_s=60.0),
    AlarmName.WORKER_CRASH_LOOP: _Rule(_worker_crash_loop, raise_after_s=0.0, clear_after_s=0.0),
    AlarmName.MODEL_QUALITY: _Rule(_model_quality, raise_after_s=0.0, clear_after_s=0.0),
    AlarmName.DUPLICATE_CLIENT_ID: _Rule(_duplicate_client_id, raise_after_s=0.0, clear_after_s=0.0),
    AlarmName.QUEUE_OVERLOAD: _Rule(_queue_overload, raise_after_s=30.0, clear_after_s=60.0),
}
