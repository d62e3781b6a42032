"""PURE. One board, from what was heard on its topics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from edge_agent.tools.watch.arrival import Arrival, Heard, Now, heard
from edge_agent.tools.watch.documents import Alarm, Health, Info, read_alarm, read_health, read_info, read_state
from edge_agent.tools.watch.judgement import Known, level_of, why
from edge_agent.tools.watch.row import ActiveAlarm, Moment, Row
from edge_agent.tools.watch.sessions import Sessions

HISTORY_S = 300.0
STALE_AFTER_INTERVALS = 3
DEFAULT_INTERVAL_S = 10.0
MAX_INTERVAL_S = 3600
# What a broker has retained comes within this time after a subscription.
SETTLE_S = 3.0
MAX_ALARMS = 32
# A clock ahead of ours by more is not ours.
CLOCK_TOLERANCE_S = 2.0
# Rates over less say nothing: uptimes are told in tenths of a second.
MIN_RATE_S = 1.0

_T = TypeVar("_T")


class Board:
    """Takes messages; `row` tells what they come to."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._sessions = Sessions()
        self._health: Heard[Health] | None = None
        self._said_at: float | None = None
        self._expires_at: float | None = None
        self._info: Heard[Info] | None = None
        self._alarms: dict[str, Heard[Alarm]] = {}
        self._unreadable: dict[str, Heard[str]] = {}
        self._live_expiry_s: int | None = None
        self._work = _Work()
        self._history: deque[tuple[float, float | None, float | None, float | None]] = deque(maxlen=2048)
        self._first_heard_at: float | None = None

    def take_state(self, arrival: Arrival) -> None:
        state = self._read("state", read_state, arrival)
        if state is not None:
            self._sessions.take(state, arrival)
        elif not arrival.payload:
            self._sessions.state = None

    def take_health(self, arrival: Arrival) -> None:
        health = self._read("health", read_health, arrival)
        if health is None:
            self._health = self._health if arrival.payload else None
            return
        if self._health is not None and not arrival.is_live and _is_same(self._health.document, health):
            return  # told again because we have reconnected: it is as old as it was
        self._health = heard(health, arrival)
        self._note_time(health, arrival)
        self._work.count(health)
        age = self._age(arrival.now)
        if age is not None:
            self._history.append((arrival.now.at - age, health.soc_c, health.limit_c, self._work.tokens_s))

    def take_info(self, arrival: Arrival) -> None:
        info = self._read("info", read_info, arrival)
        if info is not None:
            self._info = heard(info, arrival)
        elif not arrival.payload:
            self._info = None

    def take_alarm(self, arrival: Arrival, name: str) -> None:
        alarm = self._read(f"alarm/{name}", read_alarm, arrival)
        if not arrival.payload:
            self._alarms.pop(name, None)
        elif alarm is not None and (name in self._alarms or len(self._alarms) < MAX_ALARMS):
            self._alarms[name] = heard(alarm, arrival)

    def forget_before(self, connection: int) -> None:
        """What the broker has not told again on this connection of ours was cleared meanwhile."""
        state = self._sessions.state
        if state is not None and state.connection < connection:
            self._sessions.state = None
        if self._info is not None and self._info.connection < connection:
            self._info = None
        self._alarms = {name: alarm for name, alarm in self._alarms.items() if alarm.connection >= connection}
        self._unreadable = {name: text for name, text in self._unreadable.items() if text.connection >= connection}

    def is_gone(self, now: Now) -> bool:
        """Nothing tells of this board any more."""
        return not (self._sessions.state or self._alarms or self._unreadable or self._info or self._is_fresh(now))

    def is_settled(self, now: Now) -> bool:
        """True if waiting would tell no more before the board speaks again."""
        return self._sessions.state is not None and (not self._known(now).is_speaking or self._age(now) is not None)

    def row(self, now: Now) -> Row:
        known = self._known(now)
        state, figures, info = known.state, known.figures, self._info.document if self._info else None
        level = level_of(known)
        is_health_nearer = known.health is not None and (state is None or known.is_contradicted)
        session = known.health.session if known.health and is_health_nearer else state.session if state else None
        return Row(
            device=self.device,
            level=level,
            state="online" if known.is_contradicted else state.name if state else None,
            session=session,
            version=state.version if state else None,
            board=info.board if info else None,
            model=info.model if info else known.health.model if known.health else None,
            quantization=info.quantization if info else None,
            health_age_s=known.health_age_s,
            figures=figures,
            tokens_s=self._work.tokens_s if figures else None,
            requests_s=self._work.requests_s if figures else None,
            alarms=known.alarms,
            why=tuple(why(known, level)),
            history=tuple(
                Moment(age_s=now.at - at, soc_c=soc_c, limit_c=limit_c, tokens_s=tokens_s)
                for at, soc_c, limit_c, tokens_s in self._history
                if now.at - at <= HISTORY_S
            ),
        )

    @property
    def interval_s(self) -> float:
        """How often this board promises its health."""
        if self._info is not None and self._info.document.health_interval_s is not None:
            return self._info.document.health_interval_s
        if self._live_expiry_s is not None:
            return max(self._live_expiry_s, 1) / STALE_AFTER_INTERVALS
        return DEFAULT_INTERVAL_S

    def _read(self, topic: str, read: Callable[[bytes], _T], arrival: Arrival) -> _T | None:
        """None: it is empty, or cannot be read; then what was read before stays."""
        if self._first_heard_at is None:
            self._first_heard_at = arrival.now.at
        self._unreadable.pop(topic, None)
        if not arrival.payload:
            return None
        try:
            return read(arrival.payload)
        except ValueError as error:
            if len(self._unreadable) < MAX_ALARMS:
                self._unreadable[topic] = heard(str(error), arrival)
            return None

    def _note_time(self, health: Health, arrival: Arrival) -> None:
        """When it was said. Of what was retained, what is left of its expiry tells, else the clocks, if they agree."""
        now, expiry_s = arrival.now, arrival.expiry_s
        if expiry_s is not None and expiry_s > STALE_AFTER_INTERVALS * MAX_INTERVAL_S:
            expiry_s = None
        self._said_at = self._expires_at = None
        if arrival.is_live:
            self._said_at, self._live_expiry_s = now.at, expiry_s
        elif expiry_s is not None:
            self._expires_at = now.at + expiry_s
        elif health.ts is not None and health.ts <= now.wall + CLOCK_TOLERANCE_S:
            self._said_at = now.at - max(0.0, now.wall - health.ts)

    def _age(self, now: Now) -> float | None:
        if self._health is None:
            return None
        if self._expires_at is not None:
            return max(0.0, STALE_AFTER_INTERVALS * self.interval_s - (self._expires_at - now.at))
        return None if self._said_at is None else now.at - self._said_at

    def _is_fresh(self, now: Now) -> bool:
        if self._health is not None and self._expires_at is not None:
            return now.at <= self._expires_at
        age = self._age(now)
        return age is not None and age <= STALE_AFTER_INTERVALS * self.interval_s

    def _known(self, now: Now) -> Known:
        state, is_fresh = self._sessions.state, self._is_fresh(now)
        is_contradicted = is_fresh and self._health is not None and self._sessions.is_contradicted_by(self._health)
        return Known(
            state=state.document if state else None,
            is_contradicted=is_contradicted,
            is_flapping=self._sessions.is_flapping(now.at),
            is_new=self._first_heard_at is None or now.at - self._first_heard_at < SETTLE_S,
            health=self._health.document if self._health else None,
            health_age_s=self._age(now),
            is_fresh=is_fresh,
            interval_s=self.interval_s,
            alarms=self._active_alarms(),
            unreadable={topic: text.document for topic, text in self._unreadable.items()},
        )

    def _active_alarms(self) -> tuple[ActiveAlarm, ...]:
        """An alarm is void unless the state is online, with its session."""
        state = self._sessions.state.document if self._sessions.state else None
        if state is None or state.name != "online" or state.session is None:
            return ()
        alarms = [
            ActiveAlarm(name=name, alarm=alarm.document)
            for name, alarm in self._alarms.items()
            if alarm.document.session == state.session
        ]
        return tuple(sorted(alarms, key=lambda active: (active.alarm.severity != "critical", active.name)))


class _Work:
    """What was done in the latest interval, per second."""

    def __init__(self) -> None:
        self.tokens_s: float | None = None
        self.requests_s: float | None = None
        self._last: Health | None = None

    def count(self, health: Health) -> None:
        last = self._last
        if last is None or last.uptime_s is None or health.uptime_s is None or health.uptime_s < last.uptime_s:
            self._last, self.tokens_s, self.requests_s = health, None, None
            return
        seconds = health.uptime_s - last.uptime_s
        if seconds >= MIN_RATE_S:
            self._last = health
            self.tokens_s = _rate(last.computed_tokens_total, health.computed_tokens_total, seconds)
            self.requests_s = _rate(last.requests_total, health.requests_total, seconds)


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    return None if before is None or after is None or after < before else (after - before) / seconds


def _is_same(one: Health, other: Health) -> bool:
    return one.seq is not None and (one.session, one.seq) == (other.session, other.seq)
