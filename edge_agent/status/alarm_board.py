"""The `alarm/<name>` topics: a retained message for each alarm that is raised, none for the others."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from edge_agent.board.reading import BoardReading
from edge_agent.core.clock import timestamp
from edge_agent.core.publications import Publication, emptied, json_publication
from edge_agent.core.topics import Topics
from edge_agent.status.alarms import (
    REFUSALS_WINDOW_S,
    TAKEOVERS_WINDOW_S,
    WORKER_ENDS_WINDOW_S,
    AlarmFacts,
    AlarmName,
    Alarms,
    Severity,
)

log = logging.getLogger(__name__)

# Who may publish to our state can make up as many as he likes.
_MAX_SESSIONS = 100


class _Recent:
    """How often something happened within the last window_s seconds of the monotonic clock."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._times: deque[float] = deque(maxlen=10_000)

    def note(self, now: float, count: int = 1) -> None:
        self._times.extend([now] * count)

    def count(self, now: float) -> int:
        while self._times and now - self._times[0] > self._window_s:
            self._times.popleft()
        return len(self._times)


class AlarmBoard:
    """Belongs to the agent's thread. `announce` sends to whoever is connected now: nothing is kept for later."""

    def __init__(self, topics: Topics, announce: Callable[[Publication], object]) -> None:
        self._topics = topics
        self._announce = announce
        self._alarms = Alarms()
        self._since: dict[AlarmName, str] = {}
        self._worker_ends = _Recent(WORKER_ENDS_WINDOW_S)
        self._worker_end: str | None = None
        self._oom_kills = _Recent(WORKER_ENDS_WINDOW_S)
        self._takeovers = _Recent(TAKEOVERS_WINDOW_S)
        self._sessions: dict[str, float] = {}
        self._refusals = _Recent(REFUSALS_WINDOW_S)
        self._overloaded_total = 0
        self._quality_fault: str | None = None

    @property
    def severities(self) -> dict[str, str]:
        """Those that are raised: severity by name."""
        return {name.value: alarm.severity.value for name, alarm in self._alarms.raised.items()}

    def worker_ended(self, how: str, now: float, *, is_out_of_memory: bool) -> None:
        self._worker_ends.note(now)
        self._worker_end = how
        if is_out_of_memory:
            self._oom_kills.note(now)

    def client_taken_over(self, now: float) -> None:
        self._takeovers.note(now)

    def set_quality_fault(self, fault: str | None) -> None:
        """Why the model's answers are not what they were; None = nothing speaks against them."""
        self._quality_fault = fault

    def session_heard(self, session: str, now: float) -> None:
        """A session on our state that is none of this process: one may be that of the process before."""
        if session in self._sessions or len(self._sessions) >= _MAX_SESSIONS:
            return
        if self._sessions:
            self._takeovers.note(now)
        self._sessions[session] = now

    def look(
        self,
        now: float,
        *,
        session: str,
        reading: BoardReading,
        queue_depth: int,
        overloaded_total: int,
        worker_excess: str | None = None,
    ) -> bool:
        """Raises and clears by what is so now; True if anything did."""
        self._sessions = {name: at for name, at in self._sessions.items() if now - at <= TAKEOVERS_WINDOW_S}
        # A deadline that not even an idle board would meet is refused too, and is no overload.
        if queue_depth > 0:
            self._refusals.note(now, overloaded_total - self._overloaded_total)
        self._overloaded_total = overloaded_total
        changed, refreshed = self._alarms.update(self._facts(now, reading, worker_excess), now)
        for name in sorted(changed):
            alarm = self._alarms.raised.get(name)
            if alarm is None:
                log.info("alarm cleared name=%s", name.value)
                self._since.pop(name, None)
            else:
                level = logging.ERROR if alarm.severity is Severity.CRITICAL else logging.WARNING
                log.log(level, "alarm name=%s severity=%s: %s", name.value, alarm.severity.value, alarm.message)
        for name in sorted(changed | refreshed):
            self._publish(name, now, session)
        return bool(changed)

    def publish_all(self, now: float, session: str, *, with_ends: bool) -> None:
        """What is raised; and an end to all else, if an earlier process or somebody else may have left it."""
        for name in AlarmName if with_ends else list(self._alarms.raised):
            self._publish(name, now, session)

    def withdraw(self) -> None:
        """Ends what is raised on the bus, for nobody will look after it any more."""
        for name in self._alarms.raised:
            self._announce(emptied(self._topics.alarm(name.value)))

    def _facts(self, now: float, reading: BoardReading, worker_excess: str | None) -> AlarmFacts:
        return AlarmFacts(
            soc_c=reading.thermal.soc_c,
            limit_c=reading.thermal.limit_c,
            is_throttled=reading.throttle.now,
            throttle_causes=tuple(cause.value for cause in reading.throttle.causes),
            is_undervoltage=reading.throttle.undervoltage_now,
            memory_total_mb=reading.memory.total_mb,
            memory_available_mb=reading.memory.available_mb,
            disk_free_mb=reading.disk_free_mb,
            worker_ends_lately=self._worker_ends.count(now),
            worker_end=self._worker_end,
            oom_kills_lately=self._oom_kills.count(now),
            worker_excess=worker_excess,
            takeovers_lately=self._takeovers.count(now),
            refusals_lately=self._refusals.count(now),
            quality_fault=self._quality_fault,
        )

    def _publish(self, name: AlarmName, now: float, session: str) -> None:
        alarm = self._alarms.raised.get(name)
        topic = self._topics.alarm(name.value)
        if alarm is None:
            self._announce(emptied(topic))
            return
        # A clock that is set late tells all the same when an alarm began.
        since = self._since.get(name) or timestamp(time.time() - (now - alarm.since))
        if since is not None:
            self._since[name] = since
        document = {
            "ts": timestamp(),
            "severity": alarm.severity.value,
            "since": since,
            "message": alarm.message,
            "value": alarm.value,
            "session": session,
        }
        self._announce(json_publication(topic, document, retain=True))
