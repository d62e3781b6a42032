"""The boards of a site: messages go in, and one row for each board comes out, the worst board first.

Anybody may publish anything on these topics, so a field that is missing, of another type or absurd is unknown.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from edge_agent.core.clock import parse_timestamp
from edge_agent.core.messages import Message
from edge_agent.core.topics import Topics, wildcard_values
from edge_agent.core.wording import cut, shown
from edge_agent.tools.client import object_of
from edge_agent.tools.watch.advice import advice_for

STALE_AFTER_INTERVALS = 3
DEFAULT_INTERVAL_S = 10.0
# What a broker has retained arrives within this time.
SETTLE_S = 3.0
# After an outage of the broker, a board that runs has connected again within this time, as it waits up to 15 s.
BACK_S = 20.0
# A broker that is stopped publishes the wills of all boards, and closes the connections within this time.
STOP_S = 3.0
# A time that is further ahead of this machine's clock comes from another clock.
CLOCK_TOLERANCE_S = 2.0
_STATES = ("online", "draining", "stopped", "offline")
_MAX_TEXT, _MAX_LIST, _MAX_NUMBER = 500, 20, 1e10
# How many details of a reason are shown, such as machines that lack values, and the characters of a name in them.
_MAX_DETAILS, _MAX_NAME = 3, 128
# The documents of one board are its state, info, health, and an alarm for each cause.
_MAX_DOCUMENTS = 64
# Long ones tell of all tasks. What a document holds may take twelve times its bytes.
_LONG_DOCUMENTS, _MAX_SHORT_BYTES = ("info", "health"), 16_000
Document = dict[str, Any]


class BoardLevel(IntEnum):
    """The condition of a board, worst first."""

    MISSING = 0
    OFFLINE = 1
    STALE = 2
    CRITICAL = 3
    DEGRADED = 4
    UNKNOWN = 5
    STARTING = 6
    DRAINING = 7
    STOPPED = 8
    OK = 9


# A board of these levels answers no requests, or not as it should.
URGENT = (BoardLevel.MISSING, BoardLevel.OFFLINE, BoardLevel.STALE, BoardLevel.CRITICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    device: str
    level: BoardLevel
    why: tuple[str, ...]  # A phrase for each thing that is wrong.
    level_age_s: float | None = None  # How long it has had this level; None if nobody saw it change to it.
    state: Document
    info: Document
    health: Document  # Empty unless it is fresh.
    health_age_s: float | None
    alarms: tuple[tuple[str, Document], ...]

    @property
    def model(self) -> str | None:
        """The bundle in force, or what the configuration calls the model."""
        folder, version = text_at(self.info, "models.0.folder"), number_at(self.info, "models.0.version")
        if bundle := folder or text_at(self.info, "models.0.bundle"):
            return bundle + (f" v{version:g}" if version is not None else "")
        return text_at(self.info, "models.0.name") or text_at(self.health, "worker.model")

    @property
    def model_words(self) -> str | None:
        """The model with its quantization, which one without a large model does not have."""
        quantization = text_at(self.info, "models.0.quantization")
        named = [self.model, None if quantization in (None, "none", "NONE") else quantization]
        return " ".join(filter(None, named)) or None

    @property
    def all_why(self) -> tuple[str, ...]:
        """The alarms by name, and `why`, with what is critical first."""
        # Those of a stale board may have ended.
        alarms = () if self.level is BoardLevel.STALE else tuple(name for name, _ in self.alarms)
        return tuple(sorted(dict.fromkeys((*alarms, *self.why)), key=lambda phrase: not self._is_critical(phrase)))

    @property
    def causes(self) -> tuple[str, ...]:
        """What makes the level, for a critical board only what is critical, as far as it says what is."""
        if self.level is BoardLevel.CRITICAL:
            return tuple(filter(self._is_critical, self.all_why)) or self.all_why
        return self.all_why if self.level is BoardLevel.DEGRADED or not self.why else self.why

    def _is_critical(self, phrase: str) -> bool:
        alarm = dict(self.alarms).get(phrase)
        return object_at(self.health, "severity").get(phrase) == 2 if alarm is None else is_critical(alarm)


class Site:
    """Receives every message that matches `filters`. It keeps each board that it has heard, and those expected.

    It hears at most `max_boards` boards; the others leave no trace.
    """

    def __init__(self, root: str, site: str, max_boards: int | None = None, expected: Iterable[str] = ()) -> None:
        every = Topics(root, site, "+")
        self.filters = (every.state, every.health, every.info, every.alarm("+"))
        self._base = f"{root}/{site}/"
        self._max_boards = max_boards
        self._expected = {*expected}
        self._connected_at: float | None = None
        self._boards: dict[str, WatchedBoard] = {}
        self.is_full = False
        """True once a board was left out."""

    def on_connected(self, now: float, heard_until: float | None = None) -> None:
        """Expects the broker to send again what it retains. What it does not send soon, it has lost.

        Args:
            heard_until: When the broker was last heard on the connection before.
        """
        self._connected_at = now
        for board in self._boards.values():
            board.on_connected(now, now if heard_until is None else heard_until)

    def on_lost(self) -> None:
        """Ignores the wills that the broker has just sent, which tell nothing about the boards if it has stopped."""
        for board in self._boards.values():
            board.on_lost()

    def remember(self, device: str, now: float, age_s: float | None) -> None:
        """Keeps a board that an earlier process knew, and heard this long ago, as far as is known."""
        heard_at = None if age_s is None else now - age_s
        self._boards[device] = WatchedBoard(device, now, heard_at=heard_at, back_by=math.inf)

    def receive(self, message: Message, wall: float) -> bool:
        """Takes a message that came at `wall`, in seconds since 1970. Returns False if it is of no board here."""
        if not any(wildcard_values(pattern, message.topic) for pattern in self.filters):
            return False
        device, topic = message.topic.removeprefix(self._base).split("/", 1)
        if device not in self._boards:
            if self._max_boards is not None and len(self._boards) >= self._max_boards:
                self.is_full = True
                return True
            self._boards[device] = WatchedBoard(device, message.received_at)
        self._boards[device].receive(topic, message, wall)
        return True

    def settle(self) -> None:
        """Takes what was not heard by now for missing, because nobody waits any longer."""
        if self._connected_at is not None:
            self._connected_at = -math.inf

    @property
    def devices(self) -> list[str]:
        """The boards that have said anything, and those expected."""
        return [*self._boards, *(self._expected - self._boards.keys())]

    def rows(self, now: float, heard_until: float | None = None) -> list[Row]:
        """The boards at `now`, in seconds of the monotonic clock.

        Args:
            heard_until: When anything last came from the broker, by default now. Up to then a board's silence counts.
        """
        until = now if heard_until is None else min(now, heard_until)
        self._boards = {device: board for device, board in self._boards.items() if not board.is_gone(until)}
        rows = [board.row(now, until) for board in self._boards.values()]
        rows += [self._unheard(device, now) for device in self._expected - self._boards.keys()]
        return sorted(rows, key=lambda row: (row.level, row.device))

    def _unheard(self, device: str, now: float) -> Row:
        """The row of an expected board of which nothing was heard."""
        is_missing = self._connected_at is not None and now - self._connected_at >= SETTLE_S
        level = BoardLevel.MISSING if is_missing else BoardLevel.UNKNOWN
        why = "nothing heard of it" if is_missing else _not_heard_yet(is_connected=self._connected_at is not None)
        unknown: Document = {}
        return Row(
            device=device, level=level, why=(why,), level_age_s=None, state=unknown, info=unknown,
            health=unknown, health_age_s=None, alarms=(),
        )  # fmt: skip


class WatchedBoard:
    """What one board has published, by the end of the topic."""

    def __init__(self, device: str, now: float, heard_at: float | None = None, back_by: float = 0.0) -> None:
        self._device = device
        self._first_at = now
        self._documents: dict[str, Document] = {}
        self._faults: dict[str, str] = {}
        # The message with the health, and how old it was then by its own time.
        self._health_message: Message | None = None
        self._age_at_receipt_s: float | None = None
        # When it last said anything itself. What the broker retains may be of any age.
        self._heard_at = heard_at
        # Since when it has its level. None if it had it when it was first heard, or when the broker came back.
        self._level: BoardLevel | None = None
        self._level_since: float | None = None
        # Whether somebody removed its state from the broker, as for a board that is no more.
        self._is_removed = False
        # Topics that the broker has not sent again since the last connection, and when it should have.
        self._unconfirmed: set[str] = set()
        self._confirm_by = 0.0
        # When it should be back after an outage of the broker, and whether it was well before, as far as is known.
        # Infinite while a board that an earlier process heard waits for the first connection.
        self._back_by = back_by
        self._was_well = False
        # A last will, and when it replaces the state. Until then it may be due only to the broker's own stop.
        self._will: Document | None = None
        self._will_counts_at = 0.0

    def on_lost(self) -> None:
        self._will = None

    def on_connected(self, now: float, heard_until: float) -> None:
        self._was_well = bool(self._fresh_health(heard_until)) or self._is_awaited(heard_until)
        # Health says how old it is, and info hardly changes.
        self._unconfirmed = {*self._documents, *self._faults} - {"health", "info"}
        self._confirm_by = now + SETTLE_S
        self._back_by = now + BACK_S

    def receive(self, topic: str, message: Message, wall: float) -> None:
        """Takes a message. A document that cannot be read is reported, and leaves the one before it in place."""
        known = self._documents.keys() | self._faults.keys()
        if topic not in known and len(known) >= _MAX_DOCUMENTS:
            return
        self._faults.pop(topic, None)
        self._unconfirmed.discard(topic)
        if topic == "state":
            self._will = None
        if not message.payload:
            before = self._documents.pop(topic, {})
            self._is_removed |= topic == "state"
            if topic == "state" and before.get("state") == "stopped":
                # The broker keeps this for a while, but the board says nothing any more.
                self._documents.pop("health", None)
            return
        self._is_removed = False
        try:
            if topic not in _LONG_DOCUMENTS and len(message.payload) > _MAX_SHORT_BYTES:
                raise ValueError(f"should be at most {_MAX_SHORT_BYTES} bytes (got {len(message.payload)})")
            document = object_of(message.payload)
        except ValueError as error:
            self._faults[topic] = " ".join(str(error).split())
            return
        if topic == "state" and document.get("state") not in _STATES:
            self._faults[topic] = f"state: should be {', '.join(_STATES)} (got {shown(document.get('state'))})"
            return
        if topic == "state" and document.get("reason") == "connection-lost":
            self._will = document
            self._will_counts_at = self._back_by if message.is_retained else message.received_at + STOP_S
            return
        self._documents[topic] = document
        if not message.is_retained:
            self._heard_at = message.received_at
        if topic == "health":
            sent_at = time_at(document, "ts")
            is_known = sent_at is not None and sent_at <= wall + CLOCK_TOLERANCE_S
            self._age_at_receipt_s = max(0.0, wall - sent_at) if sent_at is not None and is_known else None
            self._health_message = message

    def _age_s(self, now: float) -> float | None:
        """How old the health is. If retained, it says so by what is left of its expiry, else by its time."""
        message = self._health_message
        if message is None or "health" not in self._documents:
            return None
        here_s = max(0.0, now - message.received_at)
        if not message.is_retained:
            return here_s
        if message.expiry_s is not None:
            return here_s + max(0.0, STALE_AFTER_INTERVALS * self._interval_s - message.expiry_s)
        return None if self._age_at_receipt_s is None else here_s + self._age_at_receipt_s

    @property
    def _interval_s(self) -> float:
        """How often this board publishes its health."""
        return number_at(self._documents.get("info", {}), "limits.health_interval_s") or DEFAULT_INTERVAL_S

    def _fresh_health(self, now: float) -> Document:
        age_s = self._age_s(now)
        is_fresh = age_s is not None and age_s <= STALE_AFTER_INTERVALS * self._interval_s
        return self._documents["health"] if is_fresh else {}

    def is_gone(self, now: float) -> bool:
        """True if somebody has removed it from the broker, and it says nothing."""
        return self._is_removed and not (self._documents.keys() - {"health"} or self._faults or self._fresh_health(now))

    def _is_lost(self, now: float) -> bool:
        """True if the broker came back without the board's state, and the board is silent, as both may have died."""
        is_settled = 0 < self._back_by <= now
        return is_settled and not ("state" in self._documents or self._faults or self._fresh_health(now))

    def _is_awaited(self, now: float) -> bool:
        """True if it is silent, perhaps only because it has not connected again yet."""
        is_confirmed = "state" in self._documents.keys() - self._unconfirmed
        return now < self._back_by and (self._was_well or not is_confirmed) and not self._fresh_health(now)

    def row(self, now: float, heard_until: float) -> Row:
        if self._will is not None and now >= self._will_counts_at:
            self._documents["state"], self._will = self._will, None
        if heard_until >= self._confirm_by:
            for topic in self._unconfirmed:
                self._documents.pop(topic, None)
                self._faults.pop(topic, None)
            self._unconfirmed = set()
        alarms = self._active_alarms()
        level = self._level_at(heard_until, alarms)
        if level is not self._level:
            # What the broker sends at first may have been so for long.
            is_settling = now < max(self._first_at + SETTLE_S, self._confirm_by)
            self._level_since = None if is_settling or self._level in (None, BoardLevel.UNKNOWN) else now
            self._level = level
        is_silent = level in (BoardLevel.OFFLINE, BoardLevel.STOPPED)
        return Row(
            device=self._device,
            level=level,
            why=tuple(self._why(level, alarms, now, heard_until)),
            level_age_s=None if self._level_since is None else now - self._level_since,
            state=self._documents.get("state", {}),
            info=self._documents.get("info", {}),
            health={} if is_silent else self._fresh_health(heard_until),
            health_age_s=self._age_s(now),
            alarms=alarms,
        )

    def _active_alarms(self) -> tuple[tuple[str, Document], ...]:
        """The alarms of the session of `state`, because others are void. Critical alarms come first."""
        state = self._documents.get("state", {})
        session = state.get("session") if is_on_bus(state) else None
        active = [
            (topic.removeprefix("alarm/"), alarm)
            for topic, alarm in self._documents.items()
            if topic.startswith("alarm/") and session is not None and alarm.get("session") == session
        ]
        return tuple(sorted(active, key=lambda named: (not is_critical(named[1]), named[0])))

    def _level_at(self, now: float, alarms: tuple[tuple[str, Document], ...]) -> BoardLevel:
        state = self._documents.get("state", {})
        name = state.get("state")
        if name == "stopped":
            return BoardLevel.STOPPED
        if (name == "offline" and state.get("reason") != "starting") or self._is_lost(now):
            return BoardLevel.OFFLINE
        health = self._fresh_health(now)
        if self._is_awaited(now):
            return BoardLevel.UNKNOWN
        if not health:
            is_overdue = "health" in self._documents or (name is not None and now - self._first_at >= SETTLE_S)
            return BoardLevel.STALE if is_overdue else BoardLevel.UNKNOWN
        if name == "offline":
            return BoardLevel.STARTING
        overall = health.get("overall")
        if overall == "critical" or any(is_critical(alarm) for _, alarm in alarms):
            return BoardLevel.CRITICAL
        if name == "draining":
            return BoardLevel.DRAINING
        is_limited = is_true(health, "thermal.throttled_now") or is_true(health, "power.undervoltage_now")
        if overall == "degraded" or alarms or is_limited or self._faults:
            return BoardLevel.DEGRADED
        return BoardLevel.OK if overall == "ok" and name is not None else BoardLevel.UNKNOWN

    def _why(
        self, level: BoardLevel, alarms: tuple[tuple[str, Document], ...], now: float, heard_until: float
    ) -> Iterator[str]:
        if self._is_lost(heard_until):
            ages_s = (None if self._heard_at is None else now - self._heard_at, self._age_s(now))
            heard_s = min((age_s for age_s in ages_s if age_s is not None), default=None)
            when = "it is unknown when it was last heard" if heard_s is None else f"last heard {duration(heard_s)} ago"
            yield f"{when}, and its broker has lost what it said"
            return
        if level is BoardLevel.UNKNOWN and self._is_awaited(heard_until):
            yield _not_heard_yet(is_connected=self._back_by < math.inf)
            return
        state = self._documents.get("state", {})
        if not state and "state" not in self._faults:
            yield "nothing on its topic state"
        reason = text_at(state, "reason")
        if reason and level in (BoardLevel.OFFLINE, BoardLevel.STOPPED, BoardLevel.DRAINING):
            yield reason
        if level in (BoardLevel.STALE, BoardLevel.OFFLINE):
            yield self._silence_text(level, now)
        elif level is not BoardLevel.STOPPED:
            yield from _troubles(self._fresh_health(heard_until), {level.name.lower(), *(name for name, _ in alarms)})
        for topic, fault in self._faults.items():
            yield f"{topic} cannot be read: {fault}"

    def _silence_text(self, level: BoardLevel, now: float) -> str:
        if "health" not in self._documents:
            return "no health on the bus"
        age_s = self._age_s(now)
        if age_s is None:
            return "the age of its last health is unknown, because its clock is unset or ahead of this machine's"
        due = f", due every {duration(self._interval_s)}" if level is BoardLevel.STALE else ""
        return f"last health {duration(age_s)} ago{due}"


def _troubles(health: Document, known: set[str]) -> Iterator[str]:
    """What the health says is wrong, except what the row shows elsewhere."""
    if "starting" in known and (restarts := number_at(health, "worker.restarts")):
        yield f"worker restarts: {restarts:.0f}"
    if sensors := texts_at(health, "sensor_errors"):
        yield f"sensors that cannot be read: {', '.join(sensors)}"
        known = {*known, "sensor-errors"}
    reasons = texts_at(health, "reasons")
    yield from (reason for reason in reasons if reason not in known)
    if is_true(health, "thermal.throttled_now"):
        yield f"throttled: {', '.join(texts_at(health, 'thermal.causes')) or 'cause unknown'}"
    if is_true(health, "power.undervoltage_now") and "undervoltage" not in (*reasons, *known):
        yield "undervoltage"
    if (governor := text_at(health, "governor.level")) not in (None, "normal"):
        yield ": ".join(filter(None, (f"governor {governor}", text_at(health, "governor.reason"))))


def _not_heard_yet(*, is_connected: bool) -> str:
    return f"not heard yet{' on this' if is_connected else ': no'} connection to the broker"


def is_on_bus(state: Document) -> bool:
    """Whether a board of this state is connected, so that its alarms count and it takes commands. One whose model does
    not load is offline, but connected.
    """
    return state.get("state") in ("online", "draining", "offline") and state.get("reason") != "connection-lost"


def is_critical(alarm: Document) -> bool:
    """An unknown severity counts as critical, because that errs on the safe side."""
    return alarm.get("severity") != "warning"


def number_at(document: Document, path: str) -> float | None:
    """The number at a path such as `thermal.soc_c`."""
    value = _at(document, path)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MAX_NUMBER
    return value if is_number else None


def text_at(document: Document, path: str) -> str | None:
    value = _at(document, path)
    return cut(value, _MAX_TEXT) if isinstance(value, str) and value else None


def texts_at(document: Document, path: str) -> list[str]:
    """The texts of a list, or the keys of an object."""
    value = _at(document, path)
    items = list(value)[:_MAX_LIST] if isinstance(value, (list, dict)) else []
    return [cut(item, _MAX_TEXT) for item in items if isinstance(item, str)]


def object_at(document: Document, name: str) -> Document:
    """The object of this name; an empty one if there is none."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def is_true(document: Document, path: str) -> bool:
    return _at(document, path) is True


def time_at(document: Document, path: str) -> float | None:
    """Seconds since 1970 of a time with its offset from UTC."""
    return parse_timestamp(_at(document, path))


def _at(document: Document, path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        if isinstance(value, list) and name.isdecimal():
            value = value[int(name)] if int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def duration(length_s: float) -> str:
    """A length such as `0 s`, `45 s`, `12 min`, `5 h` or `3 d`."""
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if length_s < 120 * size:
            return f"{length_s / size:.0f} {unit}"
    return f"{length_s / 86400:.0f} d"


def with_details(phrase: str, row: Row) -> str:
    """A reason of health with what the board says about it elsewhere; any other phrase as it is."""
    details = None
    if phrase in ("model-fallback", "task-without-model"):
        details = text_at(row.info, "models.0.warning")
    elif phrase == "audits-open":
        details = _open_audits(row.health)
    elif phrase == "signals-stale":
        details = _lacking_values(row.health)
    return f"{phrase}: {details}" if details else phrase


def _open_audits(health: Document) -> str:
    """The first promises that rest on old answers."""
    tasks = [
        f"{name[:_MAX_NAME]}: {number_at(task, 'open'):g} open, answered until {text_at(task, 'until') or 'never'}"
        for name, task in object_at(health, "accuracy").items()
        if isinstance(task, dict) and number_at(task, "promised") and number_at(task, "open")
    ]
    return "; ".join(tasks[:_MAX_DETAILS])


def _lacking_values(health: Document) -> str:
    """The first machines that lack values, and whether births were missed."""
    tables = [table for table in object_at(health, "signals").values() if isinstance(table, dict)]
    lacking = [
        f"{machine[:_MAX_NAME]} lacks {', '.join(texts_at({'values': values}, 'values'))}"
        for table in tables
        for machine, values in object_at(table, "lacking").items()
    ]
    more = f"; and {len(lacking) - _MAX_DETAILS} more" if len(lacking) > _MAX_DETAILS else ""
    missed = "; births were missed" if any(number_at(table, "births_missed_total") for table in tables) else ""
    return f"{'; '.join(lacking[:_MAX_DETAILS])}{more}{missed}" if lacking else ""


def may_come_back(rows: Sequence[Row]) -> bool:
    """True if boards may be silent only because the broker has just come back: none proves that it was there before."""
    connected_s = [
        number + (row.health_age_s or 0.0)
        for row in rows
        if (number := number_at(row.health, "mqtt.connected_s")) is not None
    ]
    is_silent = any(
        row.level in (BoardLevel.MISSING, BoardLevel.STALE) or text_at(row.state, "reason") == "connection-lost"
        for row in rows
    )
    return is_silent and max(connected_s, default=0.0) < BACK_S


def row_document(row: Row) -> Document:
    """A row for scripts, with the board's own documents; `health` is null unless it is fresh."""
    return {
        "device": row.device,
        "level": row.level.name.lower(),
        "why": list(row.all_why),
        "advice": advice_for(row.all_why, row.level.name.lower()),
        "level_age_s": None if row.level_age_s is None else round(row.level_age_s, 1),
        "health_age_s": None if row.health_age_s is None else round(row.health_age_s, 1),
        "state": row.state,
        "info": row.info,
        "health": row.health or None,
        "alarms": dict(row.alarms),
    }
