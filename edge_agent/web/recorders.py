"""Writes into the journal what begins or ends at the boards."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edge_agent.core.messages import Message
from edge_agent.core.topics import Topics, wildcard_values
from edge_agent.core.wording import cut
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import BoardLevel, Document, Row, is_critical, is_on_bus, number_at, text_at
from edge_agent.web.journal import Entry, Journal
from edge_agent.web.parts import Part

_MAX_KNOWN = 2000
_MAX_EVENT_FIELDS = 8
# Reasons that come and go while the level stays make at most one entry in this time.
_REASONS_EVERY_S = 60.0


@dataclass(slots=True)
class _Known:
    level: str | None = None
    reasons: set[str] = field(default_factory=set)
    noted_at: float = 0.0
    alarms: set[str] = field(default_factory=set)
    version: str | None = None
    config: str | None = None


class ChangeRecorder:
    """Compares the rows with the journal's last entries, so it also finds what began while no process ran."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._boards: dict[str, _Known] = {}
        # Alarms raised since the connection, by board and name.
        self._heard: set[tuple[str, str]] = set()

    def restore(self) -> None:
        """Reads what earlier processes wrote."""
        for entry in self._journal.all_of("level", "alarm", "alarm-end", "alarm-void"):
            if entry.device is None or entry.name is None:
                continue
            known = self._known(entry.device)
            if entry.what == "level":
                known.level, known.reasons = entry.name, _names((entry.text or "").split("; "))
            elif entry.what == "alarm":
                known.alarms.add(entry.name)
            else:
                known.alarms.discard(entry.name)

    def _known(self, device: str) -> _Known:
        known = self._boards.pop(device, None) or _Known()
        self._boards[device] = known
        if len(self._boards) > _MAX_KNOWN:
            del self._boards[next(iter(self._boards))]
        return known

    def on_connected(self) -> None:
        self._heard.clear()

    def update(self, rows: Iterable[Row], wall: float, *, gets_retained: bool) -> None:
        """Records what has changed in rows that have settled.

        Args:
            gets_retained: The broker has sent all alarms that it retains. Otherwise only an alarm that was heard on
                this connection can be known to have ended.
        """
        for row in rows:
            known = self._known(row.device)
            self._note_level(row, known, wall)
            self._note_software(row, known, wall)
            raised = dict(row.alarms)
            for name, alarm in row.alarms:
                self._heard.add((row.device, name))
                if name not in known.alarms:
                    known.alarms.add(name)
                    self._add(row, wall, "alarm", name, text_at(alarm, "message"), alarm)
            for name in sorted(known.alarms - raised.keys()):
                if gets_retained or (row.device, name) in self._heard:
                    known.alarms.remove(name)
                    self._heard.discard((row.device, name))
                    self._add(row, wall, "alarm-end" if _can_tell(row) else "alarm-void", name)

    def _note_level(self, row: Row, known: _Known, wall: float) -> None:
        level = row.level.name.lower()
        # A board that has just appeared has no level yet.
        if row.level is BoardLevel.UNKNOWN:
            return
        alarms, reasons = {name for name, _ in row.alarms}, _names(row.causes)
        if level == known.level:
            # Alarms have entries of their own.
            changed = (reasons ^ known.reasons) - alarms - known.alarms
            has_reasons = row.level in (BoardLevel.DEGRADED, BoardLevel.CRITICAL, BoardLevel.OFFLINE)
            if not changed:
                # Forget alarms that have ended, or they would count as a change next time.
                known.reasons = reasons
            if not changed or not has_reasons or 0 <= wall - known.noted_at < _REASONS_EVERY_S:
                return
        # A board that is well when it is first heard is no news.
        if known.level is not None or row.level is not BoardLevel.OK:
            self._add(row, wall, "level", level, "; ".join(row.causes) or None)
        known.level, known.reasons, known.noted_at = level, reasons, wall

    def _note_software(self, row: Row, known: _Known, wall: float) -> None:
        """Compares with what `info` said before, since this process began."""
        version = text_at(row.info, "versions.folder") or text_at(row.info, "versions.edge_agent")
        config = text_at(row.info, "config_sha256")
        if version and known.version and version != known.version:
            self._add(row, wall, "event", "version-changed", f"now {cut(version)}, before {cut(known.version)}")
        if config and known.config and config != known.config:
            self._add(row, wall, "event", "config-changed", f"now {config[:8]}, before {known.config[:8]}")
        known.version, known.config = version or known.version, config or known.config

    def _add(
        self, row: Row, wall: float, what: str, name: str, text: str | None = None, alarm: Document | None = None
    ) -> None:
        severity = None if alarm is None else "critical" if is_critical(alarm) else "warning"
        self._journal.add(Entry(at=wall, what=what, device=row.device, name=name[:64], text=text, severity=severity))


def _names(why: Iterable[str]) -> set[str]:
    """The phrases without their figures, and without the governor's level and ages, which may change all the time."""
    return {phrase.split(":", 1)[0] for phrase in why if phrase and not phrase.startswith(("governor ", "last "))}


def _can_tell(row: Row) -> bool:
    """Whether a board that no longer raises an alarm says by it that the cause is over."""
    return is_on_bus(row.state) and row.level not in (BoardLevel.STALE, BoardLevel.STARTING)


class EventRecorder(Part):
    """Records what boards publish once, such as that a worker was restarted."""

    def __init__(self, root: str, site: str, rows: Mapping[str, Row], journal: Journal) -> None:
        self._filter = Topics(root, site, "+").event("+")
        self._rows, self._journal = rows, journal

    @property
    def filters(self) -> Iterable[str]:
        return (self._filter,)

    def receive(self, message: Message, wall: float) -> None:
        if "/event/" not in message.topic or message.is_retained:
            return
        values = wildcard_values(self._filter, message.topic)
        # Only for boards that are on the page, which bounds how many can write entries.
        if values is None or values[0] not in self._rows:
            return
        device, name = values
        if name.startswith("doctor"):  # `edge-agent doctor` measures the broker with them.
            return
        document = object_or_empty(message.payload)
        by = text_at(document, "by")
        text = _switch_text(document) if name in ("model-switched", "model-fallback") else _event_text(document)
        entry = Entry(at=wall, what="event", device=device, name=name[:64], text=text, by=by)
        self._journal.add(entry)


def _switch_text(document: Document) -> str | None:
    """The bundles between which a board switched."""
    bundles = []
    for which in ("old", "new"):
        bundle = text_at(document, f"{which}.folder") or text_at(document, f"{which}.name")
        version = number_at(document, f"{which}.version")
        if bundle:
            bundles.append(f"{which} {cut(bundle)}" + ("" if version is None else f" (version {version:g})"))
    if bundles and document.get("old") == document.get("new"):  # It was copied again, to repair it.
        return f"the same bundle again: {bundles[-1].removeprefix('new ')}"
    is_rollback = document.get("how") == "rollback"
    return ", ".join(bundles) + (" (rollback)" if is_rollback else "") or None


def _event_text(document: Document) -> str | None:
    # Once the accuracy has fallen, none of the audits counts, and `asked: 0` would read as if there had been none.
    left_out = {"ts", "by", *(key for key in ("asked", "audits", "held_out") if document.get(key) == 0)}
    document = {key: value for key, value in document.items() if key not in left_out}
    words = [f"{key[:64]}: {_words(value)}" for key, value in list(document.items())[:_MAX_EVENT_FIELDS]]
    return "; ".join(words) or None


def _words(value: object) -> str:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return cut(", ".join(value) or "-")
    return "…" if isinstance(value, dict) else cut(str(value))
