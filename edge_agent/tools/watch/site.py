"""The boards of a site: messages go in, one row for each board comes out, the worst board first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.inbound import Message
from edge_agent.core.topics import Topics, wildcard_values
from edge_agent.tools.documents import Alarm, Health, Info, StateDocument

# A site has fifty boards; a flood of names must not fill the memory.
MAX_BOARDS = 1000
MAX_ALARMS = 32
STALE_AFTER_INTERVALS = 3
DEFAULT_INTERVAL_S, MAX_INTERVAL_S = 10.0, 3600.0
# What a broker has retained arrives within this time.
SETTLE_S = 3.0
# A time that is further ahead of this machine's clock comes from another clock.
CLOCK_TOLERANCE_S = 2.0


class BoardLevel(IntEnum):
    """How a board is, worst first."""

    CRITICAL = 0
    OFFLINE = 1
    STALE = 2
    DEGRADED = 3
    UNKNOWN = 4
    STARTING = 5
    DRAINING = 6
    STOPPED = 7
    OK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One board as it is now. health: None unless it is fresh. why: what is not as it should be, a phrase each."""

    device: str
    level: BoardLevel
    why: tuple[str, ...]
    state: StateDocument | None
    info: Info
    health: Health | None
    health_age_s: float | None
    alarms: tuple[tuple[str, Alarm], ...]

    @property
    def model(self) -> str | None:
        return self.info.model.name or (self.health.worker.model if self.health else None)


class Site:
    """Receives every message that matches `filters`."""

    def __init__(self, root: str, site: str) -> None:
        every = Topics(root, site, "+")
        self.filters = (every.state, every.health, every.info, every.alarm("+"))
        self._base = f"{root}/{site}/"
        self._boards: dict[str, WatchedBoard] = {}
        self.is_full = False

    def receive(self, message: Message, wall: float) -> None:
        """wall: seconds since 1970."""
        if not any(wildcard_values(text, message.topic) for text in self.filters):
            return
        device, topic = message.topic.removeprefix(self._base).split("/", 1)
        if device not in self._boards and message.payload:
            self.is_full = len(self._boards) >= MAX_BOARDS
            if not self.is_full:
                self._boards[device] = WatchedBoard(device, message.received_at)
        if device in self._boards:
            self._boards[device].receive(topic, message, wall)

    def rows(self, now: float) -> list[Row]:
        """now: seconds of the monotonic clock."""
        self._boards = {device: board for device, board in self._boards.items() if not board.is_gone(now)}
        return sorted((board.row(now) for board in self._boards.values()), key=lambda row: (row.level, row.device))


class WatchedBoard:
    """What one board has published."""

    def __init__(self, device: str, now: float) -> None:
        self._device = device
        self._first_at = now
        self._state: StateDocument | None = None
        self._health: Health | None = None
        self._info: Info | None = None
        self._alarms: dict[str, Alarm] = {}
        self._unreadable: dict[str, str] = {}
        # When the health was sent and when it expires, on the monotonic clock; None = unknown.
        self._sent_at: float | None = None
        self._expires_at: float | None = None

    def receive(self, topic: str, message: Message, wall: float) -> None:
        """A document that cannot be read is reported and leaves the one before it in place."""
        self._unreadable.pop(topic, None)
        payload, name = message.payload, topic.removeprefix("alarm/")
        try:
            if topic == "state":
                self._state = StateDocument.parse(payload) if payload else None
            elif topic == "info":
                self._info = Info.parse(payload) if payload else None
            elif topic == "health":
                self._health = Health.parse(payload) if payload else None
                self._set_times(message, wall)
            elif not payload:
                self._alarms.pop(name, None)
            elif name in self._alarms or len(self._alarms) < MAX_ALARMS:
                self._alarms[name] = Alarm.parse(payload)
        except ValueError as error:
            if len(self._unreadable) < MAX_ALARMS:
                self._unreadable[topic] = " ".join(str(error).split())

    def _set_times(self, message: Message, wall: float) -> None:
        """When the health was sent: a retained one says so by what is left of its expiry, else by its time."""
        at, expiry_s = message.received_at, message.expiry_s
        has_expiry = expiry_s is not None and expiry_s <= STALE_AFTER_INTERVALS * MAX_INTERVAL_S
        self._expires_at = at + (expiry_s or 0) if has_expiry else None
        self._sent_at = None
        if not message.is_retained:
            self._sent_at = at
        elif not has_expiry and self._health and self._health.ts and self._health.ts <= wall + CLOCK_TOLERANCE_S:
            self._sent_at = at - max(0.0, wall - self._health.ts)

    @property
    def interval_s(self) -> float:
        """How often this board promises its health."""
        return (self._info.limits.health_interval_s if self._info else None) or DEFAULT_INTERVAL_S

    def _age_s(self, now: float) -> float | None:
        if self._health is None:
            return None
        if self._sent_at is not None:
            return now - self._sent_at
        if self._expires_at is not None:
            return max(0.0, STALE_AFTER_INTERVALS * self.interval_s - (self._expires_at - now))
        return None

    def _fresh(self, now: float) -> Health | None:
        if self._expires_at is not None:
            return self._health if now <= self._expires_at else None
        age_s = self._age_s(now)
        return self._health if age_s is not None and age_s <= STALE_AFTER_INTERVALS * self.interval_s else None

    def is_gone(self, now: float) -> bool:
        """True if the broker retains nothing of this board, and it says nothing."""
        return not (self._state or self._info or self._alarms or self._unreadable or self._fresh(now))

    def row(self, now: float) -> Row:
        alarms, level = self._active_alarms(), self._level(now)
        is_silent = level in (BoardLevel.OFFLINE, BoardLevel.STOPPED)
        return Row(
            device=self._device,
            level=level,
            why=tuple(self._why(level, alarms, now)),
            state=self._state,
            info=self._info or Info(),
            health=None if is_silent else self._fresh(now),
            health_age_s=self._age_s(now),
            alarms=alarms,
        )

    def _active_alarms(self) -> tuple[tuple[str, Alarm], ...]:
        """An alarm is void unless the board is online in the alarm's session. Critical alarms come first."""
        state = self._state
        if state is None or state.state != "online" or state.session is None:
            return ()
        active = [(name, alarm) for name, alarm in self._alarms.items() if alarm.session == state.session]
        return tuple(sorted(active, key=lambda named: (named[1].severity != "critical", named[0])))

    def _level(self, now: float) -> BoardLevel:
        name, reason = (self._state.state, self._state.reason) if self._state else (None, None)
        if name == "stopped":
            return BoardLevel.STOPPED
        if name == "offline" and reason != "starting":
            return BoardLevel.OFFLINE
        health, alarms = self._fresh(now), self._active_alarms()
        if health is None:
            is_overdue = self._health is not None or (name is not None and now - self._first_at >= SETTLE_S)
            return BoardLevel.STALE if is_overdue else BoardLevel.UNKNOWN
        if name == "offline":
            return BoardLevel.STARTING
        if health.overall == "critical" or any(alarm.severity == "critical" for _, alarm in alarms):
            return BoardLevel.CRITICAL
        if name == "draining":
            return BoardLevel.DRAINING
        is_limited = health.thermal.throttled_now or health.power.undervoltage_now
        if health.overall == "degraded" or alarms or is_limited or self._unreadable:
            return BoardLevel.DEGRADED
        return BoardLevel.UNKNOWN if health.overall is None or name is None else BoardLevel.OK

    def _why(self, level: BoardLevel, alarms: tuple[tuple[str, Alarm], ...], now: float) -> Iterator[str]:
        if self._state is None and "state" not in self._unreadable:
            yield "nothing on its topic state"
        elif (
            self._state
            and level in (BoardLevel.OFFLINE, BoardLevel.STOPPED, BoardLevel.DRAINING)
            and self._state.reason
        ):
            yield self._state.reason
        if level in (BoardLevel.STALE, BoardLevel.OFFLINE):
            yield self._silence(level, now)
        elif level is not BoardLevel.STOPPED and (health := self._fresh(now)):
            yield from _troubles(health, {level.name.lower(), *(name for name, _ in alarms)})
        for topic, fault in self._unreadable.items():
            yield f"{topic} cannot be read: {fault}"

    def _silence(self, level: BoardLevel, now: float) -> str:
        if self._health is None:
            return "no health on the bus"
        age_s = self._age_s(now)
        if age_s is None:
            return "its last health is of an unknown age, because its clock differs from this machine's"
        due = f", due every {duration(self.interval_s)}" if level is BoardLevel.STALE else ""
        return f"last health {duration(age_s)} ago{due}"


def _troubles(health: Health, known: set[str]) -> Iterator[str]:
    """What the health says is wrong. known: words that the row shows elsewhere."""
    if health.worker.restarts and "starting" in known:
        yield f"worker restarts: {health.worker.restarts}"
    if health.sensor_errors:
        yield f"sensors that cannot be read: {', '.join(health.sensor_errors)}"
        known = {*known, "sensor-errors"}
    yield from (reason for reason in health.reasons if reason not in known)
    if health.thermal.throttled_now:
        yield f"throttled: {', '.join(health.thermal.causes) or 'cause unknown'}"
    if health.power.undervoltage_now and "undervoltage" not in (*health.reasons, *known):
        yield "undervoltage"
    if health.governor.level not in (None, "normal"):
        yield ": ".join(filter(None, (f"governor {health.governor.level}", health.governor.reason)))


def duration(seconds: float) -> str:
    """`0 s`, `0.5 s`, `45 s`, `12 min`, `5 h`, `3 d`."""
    if seconds < 1:
        return f"{seconds:.1g} s"
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < 120 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def row_document(row: Row) -> dict[str, Any]:
    """A row for scripts; what is unknown is null."""
    health, state = row.health or Health(), row.state
    thermal, power, inference = health.thermal, health.power, health.inference
    is_known = row.health is not None
    return {
        "device": row.device,
        "level": row.level.name.lower(),
        "why": list(row.why),
        "state": state and state.state,
        "session": state and state.session,
        "version": state and state.version,
        "board": row.info.board.model,
        "model": row.model,
        "quantization": row.info.model.quantization,
        "health_age_s": None if row.health_age_s is None else round(row.health_age_s, 1),
        "overall": health.overall,
        "reasons": list(health.reasons) if is_known else None,
        "uptime_s": health.uptime_s,
        "soc_c": thermal.soc_c,
        "limit_c": thermal.limit_c,
        "headroom_c": thermal.headroom_c,
        "throttled_now": thermal.throttled_now,
        "throttled_since_boot": thermal.throttled_since_boot,
        "throttle_causes": list(thermal.causes) if is_known else None,
        "undervoltage_now": power.undervoltage_now,
        "undervoltage_since_boot": power.undervoltage_since_boot,
        "queue_depth": health.queue.depth,
        "queue_capacity": health.queue.capacity,
        "active": inference.active,
        "decode_tok_s": inference.decode_tok_s,
        "prefill_tok_s": inference.prefill_tok_s,
        "latency_p95_ms": inference.latency_ms.p95,
        "watts": power.watts,
        "watts_scope": power.scope,
        "cpu_percent": health.cpu.percent,
        "memory_available_mb": health.memory.available_mb,
        "governor_level": health.governor.level,
        "alarms": [
            {
                "name": name,
                "severity": alarm.severity,
                "since": None if alarm.since is None else timestamp(alarm.since),
                "message": alarm.message,
            }
            for name, alarm in row.alarms
        ],
    }
