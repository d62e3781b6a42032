"""The bus thread, in which one connection to the broker feeds the boards' rows and every `Part`.

One lock guards all of it. Nobody waits for anything while holding it, and HTTP handlers hold it only briefly.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Publication
from edge_agent.core.wording import printable
from edge_agent.mqtt.link import FailedAt
from edge_agent.tools.watch.site import SETTLE_S, BoardLevel, Document, Row
from edge_agent.tools.watch.watch import Feed
from edge_agent.web.answers import Answers
from edge_agent.web.boards import Boards
from edge_agent.web.check_file import CheckFile
from edge_agent.web.checks import MAX_KEPT
from edge_agent.web.journal import Entry, Journal
from edge_agent.web.known import KnownBoards
from edge_agent.web.parts import Part
from edge_agent.web.recorders import ChangeRecorder, EventRecorder
from edge_agent.web.signals import Signals

log = logging.getLogger(__name__)

MAX_BOARDS = 1000
SILENT_LEVELS = (BoardLevel.MISSING, BoardLevel.OFFLINE, BoardLevel.STALE, BoardLevel.STOPPED)
_TURN_S = 0.1
_TICK_S = 0.25
_ROWS_S = 0.5
# After connecting, retained messages arrive at once; until they have, boards would seem to be missing.
_RETAINED_S = 1.0
_STOP_S = 2.0
# At a stop, boards have this long to confirm the last marks.
_LAST_RESULTS_S = 1.0
_SAVE_S = 60.0


class Live:
    """What is known about a site now. Hold `lock` for everything but `start` and `stop`.

    Args:
        failed: Called in the bus thread if an error ends it.
        expected: Boards that are shown even if nothing was ever heard of them.
    """

    def __init__(
        self,
        mqtt: MqttConfig,
        site: str,
        journal: Journal,
        failed: Callable[[], object] = lambda: None,
        expected: Iterable[str] = (),
    ) -> None:
        self.lock = threading.Lock()
        self.root, self.site = mqtt.root, site
        self.rows: dict[str, Row] = {}
        """The boards as of the last half second by name, worst first. Parts keep a reference to this dictionary."""
        self.boards = Boards(time.time())
        self.journal = journal
        self.signals = Signals(self.root, site, self.rows)
        self.answers = Answers(self.root, site, self.rows)
        self._check_file = CheckFile(journal.folder / "checks.json")
        self._known = KnownBoards(journal.folder / "boards.json")
        self._feed = Feed(mqtt, site, program="web", max_boards=MAX_BOARDS, expected=expected)
        self._recorder = ChangeRecorder(journal)
        self._parts: list[Part] = [EventRecorder(self.root, site, self.rows, journal), self.signals, self.answers]
        self._failed = failed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)
        self._connections = 0
        self._connected_at: float | None = None
        self.listening_since: float | None = None
        """Since when this connection has lasted; the broker does not retain what boards asked before it."""
        self._lost_wall: float | None = None
        self._logged_refusal = ""

    def add(self, part: Part) -> None:
        self._parts.append(part)

    def publish(self, publication: Publication) -> int | None:
        """Queues a message. Returns its number for `Part.sent`, or None if it cannot be sent.

        Without a connection the message would wait for one, so check `is_connected` first.
        """
        return self._feed.client.link.publish(publication)

    @property
    def is_connected(self) -> bool:
        return self._feed.client.is_connected

    def start(self) -> None:
        self.journal.start(time.time())
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(_STOP_S)
        with self.lock:
            self.journal.stop(time.time())

    def changes(self, after: int | None) -> bytes:
        """The answer to `GET /api/v1/changes`."""
        return self.boards.changes(after, {"now": round(time.time(), 3), "broker": self._broker()})

    def table(self) -> tuple[list[Row], str, str | None]:
        """The current rows, the broker, and what is wrong with it, as `site_view` takes them."""
        broker = self._broker()
        return list(self.rows.values()), broker["name"], self._feed.trouble or broker["hint"]

    def _broker(self) -> Document:
        feed = self._feed
        trouble = None if self.is_connected else feed.client.reason.removesuffix(".") or None
        hint, code = self._hint() if self.is_connected else (None, None)
        return {
            "is_connected": self.is_connected,
            "name": printable(feed.broker),
            "trouble": None if trouble is None else printable(trouble),
            "since": self._lost_wall,
            "hint": None if hint is None else printable(hint),
            "hint_code": code,
        }

    def _hint(self) -> tuple[str | None, str | None]:
        """Why boards may be missing: a text, and a code for readers of other languages."""
        if not self.rows and self._is_settled(time.monotonic()):
            return self._feed.no_boards_text.removesuffix(" (--wait 15)"), "no_boards"
        if self._feed.is_full:
            return f"there are more than {MAX_BOARDS} boards: the others are not shown", "full"
        hint = self._feed.hint
        return hint, None if hint is None else "not_retained"

    @property
    def connected_s(self) -> float:
        return 0.0 if self._connected_at is None else time.monotonic() - self._connected_at

    def _is_settled(self, now: float) -> bool:
        """True if the broker has had enough time to send what it retains."""
        return self._connected_at is not None and now - self._connected_at >= SETTLE_S

    def _run(self) -> None:
        try:
            self._recorder.restore()
            self._feed.remember(self._known.read(time.time()))
            self._restore_checks()
            self._restore_names()
            with self._feed.client:
                self._serve()
        except Exception:
            log.exception("the connection to the broker has ended")
            self._failed()

    def _serve(self) -> None:
        next_tick = next_rows = time.monotonic()
        next_save = next_tick + _SAVE_S
        while not self._stopping.is_set():
            message = self._feed.client.receive(_TURN_S)
            with self.lock:
                now, wall = time.monotonic(), time.time()
                self._feed.take(message)
                self._note_connection(now, wall)
                if message is not None:
                    for part in self._parts:
                        part.receive(message, wall)
                if now >= next_tick:
                    next_tick = now + _TICK_S
                    self._tick(now)
                if now >= next_rows:
                    next_rows = now + _ROWS_S
                    self._update_rows(now, wall)
            if now >= next_save:
                next_save = now + _SAVE_S
                self._save()
        self._stop_parts()
        self._save(is_last=True)

    def _restore_checks(self) -> None:
        """Restores checks. A killed process may have kept answers in the journal but not yet in the file of checks."""
        since = self._check_file.written_at
        checks = self._check_file.read()
        answered = self.journal.read(since=since, what=frozenset({"feedback"}), limit=MAX_KEPT) if checks else []
        with self.lock:
            self.answers.restore_checks(checks)
            self.answers.checks.close_answered(answered)

    def _restore_names(self) -> None:
        for entry in self.journal.all_of("feedback"):
            with self.lock:
                self.answers.marks.kept_names.note(entry)

    def _save(self, *, is_last: bool = False) -> None:
        self._check_file.save(self.answers.checks.kept, self.answers.marks, is_last=is_last)
        self._known.save(is_last=is_last)

    def _stop_parts(self) -> None:
        with self.lock:
            for part in self._parts:
                part.stop()
        until = time.monotonic() + _LAST_RESULTS_S
        while self.answers.marks.awaits_results and time.monotonic() < until:
            message = self._feed.client.receive(_TURN_S)
            with self.lock:
                if message is not None:
                    for part in self._parts:
                        part.receive(message, time.time())

    def _tick(self, now: float) -> None:
        for number, result in self._feed.client.link.outbox.take_results():
            for part in self._parts:
                part.sent(number, result)
        for part in self._parts:
            part.tick(now)
        self.journal.tick(time.time())

    def _note_connection(self, now: float, wall: float) -> None:
        connections = self._feed.client.connections
        if connections != self._connections:
            self._connections = connections
            if self._lost_wall is not None:
                self.journal.add(Entry(at=wall, what="broker-back", name=self._feed.broker))
            self._connected_at, self.listening_since, self._lost_wall = now, wall, None
            self._recorder.on_connected()
            self._logged_refusal = ""
        reason = self._feed.client.reason
        if self._feed.client.failed_at is FailedAt.REFUSED and reason != self._logged_refusal:
            self._logged_refusal = reason
            log.warning("the broker %s refuses the connection: %s", self._feed.broker, reason)
        # Until the first attempt has ended, nobody knows.
        has_failed = self._feed.client.failed_at is not None
        if has_failed and self._lost_wall is None:
            self._connected_at, self.listening_since, self._lost_wall = None, None, wall
            self.journal.add(Entry(at=wall, what="broker-lost", name=self._feed.broker, text=reason or None))

    def _update_rows(self, now: float, wall: float) -> None:
        """Updates the rows. Without a connection the last ones stay, and the page shows that they are old.

        Before the first one, the rows are of the boards that an earlier process heard, and of those expected.
        """
        self._feed.also = frozenset(topic_filter for part in self._parts for topic_filter in part.filters)
        self._feed.subscribe()
        if not self._connections:
            self.take_rows(self._feed.rows, wall)
        if self._connected_at is None or now - self._connected_at < _RETAINED_S:
            return
        rows, is_settled = self._feed.rows, self._is_settled(now)
        if len(rows) < len(self.rows) and not is_settled:
            return
        self.take_rows(rows, wall)
        self._known.update(rows, wall)
        if is_settled:
            self._recorder.update(rows, wall, gets_retained=self._feed.gets_retained)

    def take_rows(self, rows: Sequence[Row], wall: float) -> None:
        """Replaces the boards, worst first."""
        self.rows.clear()
        self.rows.update((row.device, row) for row in rows)
        self.boards.update(
            rows,
            wall,
            open_checks={row.device: self.answers.checks.count_open(row.device) for row in rows},
            unproven={row.device: self.answers.checks.unproven(row) for row in rows if "promise-unproven" in row.why},
            alarms_last_hour=self.journal.alarms_since(wall - 3600),
            seen=self.journal.seen,
        )
