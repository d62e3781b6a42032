"""`edge-agent watch`: the live view of a site's boards, or a snapshot for scripts."""

from __future__ import annotations

import logging
import os
import secrets
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edge_agent.core.clock import timestamp
from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Message
from edge_agent.core.terminal import fail
from edge_agent.core.topics import Topics
from edge_agent.core.wording import printable, printable_json
from edge_agent.tools.client import Client
from edge_agent.tools.watch.site import (
    BACK_S,
    SETTLE_S,
    URGENT,
    BoardLevel,
    Row,
    Site,
    duration,
    may_come_back,
    row_document,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

CONNECT_S = 10.0
# The messages that a broker has retained follow each other at once.
QUIET_S = 0.5
TURN_S = 0.2
# A board that was heard, or is expected, can be judged by then.
JUDGED_S = SETTLE_S + 1.0
# More than any line needs.
PIPE_COLUMNS = 10_000
# What is retained under a name has come by then.
ASK_AGAIN_S = 5.0
# A board at one of these levels may still be heard, or say how old its health is.
MAY_CHANGE = (BoardLevel.MISSING, BoardLevel.UNKNOWN, BoardLevel.STALE)
# These are also what a shell or Nagios takes for critical, and for neither fine nor critical.
EXIT_URGENT, EXIT_NOT_OK = 2, 3
# On a small board that answers requests meanwhile, drawing is not free.
REDRAW_S = 0.5


def watch(
    mqtt: MqttConfig, site: str, *, is_once: bool, as_json: bool, wait_s: float, expected: Iterable[str] = ()
) -> int:
    """Shows a site until `q` or Ctrl-C. With is_once, as_json, or without a terminal it shows a snapshot.

    Boards of `expected` are shown even if nothing is heard of them. Returns the exit code.
    """
    feed = Feed(mqtt, site, expected=expected)
    if as_json:
        return _print_once(feed, wait_s, None)
    from rich.console import Console  # noqa: PLC0415 - JSON needs none of it

    # A terminal that cannot show a character gets `?` for it.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    console = Console(highlight=False)
    if is_once or not sys.stdout.isatty() or console.is_dumb_terminal:
        return _print_once(feed, wait_s, console)
    _show_live(feed, console)
    return 0


class Feed:
    """A site's messages from the broker."""

    def __init__(
        self,
        mqtt: MqttConfig,
        site: str,
        *,
        program: str = "watch",
        max_boards: int | None = None,
        expected: Iterable[str] = (),
    ) -> None:
        self._root, self.name = mqtt.root, site
        self._site = Site(mqtt.root, site, max_boards, expected)
        self.also: frozenset[str] = frozenset()
        """What is subscribed to besides the site's own topics."""
        self.client = Client(f"{program}-{secrets.token_hex(8)}", mqtt, self._site.filters)
        self._connections = 0
        self._was_connected = False
        self.gets_retained = False
        """True if the broker has ever sent what it retains to a subscription with wildcards."""
        self._asked_by_name: frozenset[str] = frozenset()
        self._asked_at = 0.0
        self._is_asked_again = False
        self._lost_at = self._heard_at = self._broker_heard_at = time.monotonic()

    @property
    def broker(self) -> str:
        return self.client.link.broker

    @property
    def rows(self) -> list[Row]:
        if self.client.is_connected:
            self._broker_heard_at = self.client.link.heard_at
        return self._site.rows(time.monotonic(), self._broker_heard_at)

    def settle(self) -> list[Row]:
        """The rows at the end. What was not heard by now is silent, because nobody waits for the broker any longer."""
        self._site.settle()
        return self._site.rows(now := time.monotonic(), now)

    def remember(self, ages_s: Mapping[str, float | None]) -> None:
        """Keeps boards that were heard so many seconds ago, before this process; None if that is unknown."""
        for device, age_s in ages_s.items():
            self._site.remember(device, time.monotonic(), age_s)

    @property
    def is_full(self) -> bool:
        """True if there are more boards than `max_boards`, so some are not shown."""
        return self._site.is_full

    @property
    def no_boards_text(self) -> str:
        return (
            f"no board on {self._root}/{self.name}/+ yet: check root, site, and whether this user may read there. "
            "RabbitMQ retains nothing for wildcards, so a board appears with its next health (--wait 15)"
        )

    @property
    def hint(self) -> str | None:
        """What may be missing although there are boards."""
        if self.gets_retained or not self.rows:  # The rows take a while.
            return None
        return (
            "the broker has sent nothing retained, because it has just started or, like RabbitMQ, sends none for "
            "wildcards: a board that publishes nothing is shown only with --expect"
        )

    @property
    def trouble(self) -> str | None:
        """Why nothing arrives from the broker, and that the rows are old; None if all is well."""
        if self.client.is_connected:
            return None
        lost_s = time.monotonic() - self._lost_at
        since = f" for {duration(lost_s)}" if lost_s >= 1 else ""
        words = ": ".join(filter(None, (f"no connection to the broker {self.broker}{since}", self.client.reason)))
        return f"{words}: check the broker; the boards are shown as they were" if self.client.connections else words

    @property
    def is_settled(self) -> bool:
        """True if there are boards, each said how it is, and the broker sends nothing more."""
        rows, is_quiet = self.rows, time.monotonic() - self._heard_at > QUIET_S
        is_waiting = any(row.level in MAY_CHANGE and row.health_age_s is None for row in rows)
        return is_quiet and bool(rows) and not is_waiting

    def receive(self, timeout_s: float) -> None:
        """Takes the messages that arrive in this time."""
        give_up_at = time.monotonic() + timeout_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            self.take(self.client.receive(left_s))
        self.subscribe()

    def take(self, message: Message | None) -> None:
        """Takes what the client has received. None may mean that the connection came up or went down."""
        if self._was_connected and not self.client.is_connected:
            self._lost_at = time.monotonic()
            self._site.on_lost()
        self._was_connected = self.client.is_connected
        if self.client.connections != self._connections:
            self._connections = self.client.connections
            self._site.on_connected(time.monotonic(), self._broker_heard_at)
            self._asked_by_name, self._is_asked_again = frozenset(), False
            self._replace_subscriptions()
        if message is not None:
            self._heard_at = time.monotonic()
            is_of_site = self._site.receive(message, time.time())
            is_by_wildcard = self._is_asked_again or not self._asked_by_name
            self.gets_retained |= message.is_retained and is_of_site and is_by_wildcard
            if is_of_site and not message.is_retained and message.topic.endswith("/state"):
                # A broker that retains anything at all has retained this by now.
                self._asked_at, self._is_asked_again = self._heard_at, False

    def subscribe(self) -> None:
        """Subscribes to what is wanted by now.

        RabbitMQ sends what it retains only to a topic's own name, so there each board that is heard is asked for by
        name. It may also be that nothing was retained yet. So once the names have been answered, and after a board has
        published its state, the wildcard is asked again.
        """
        now = time.monotonic()
        topics = [Topics(self._root, self.name, device) for device in self._site.devices if not self.gets_retained]
        named = frozenset(topic for board in topics for topic in (board.state, board.info))
        if named != self._asked_by_name:
            self._asked_by_name, self._asked_at, self._is_asked_again = named, now, False
        elif named and not self._is_asked_again and now - self._asked_at >= ASK_AGAIN_S:
            self._is_asked_again = True
            subscriptions = self.client.link.subscriptions
            subscriptions.replace(subscriptions.wanted - {self._site.filters[0]})
        self._replace_subscriptions()

    def _replace_subscriptions(self) -> None:
        subscriptions = self.client.link.subscriptions
        wanted = self.also.union(self._site.filters, self._asked_by_name)
        if wanted != subscriptions.wanted:
            subscriptions.replace(wanted)

    def view(
        self,
        console: Console,
        rows: list[Row],
        *,
        is_compact: bool = False,
        is_expanded: bool = True,
        max_rows: int | None = None,
    ) -> RenderableType:
        from edge_agent.tools.watch.table import site_view  # noqa: PLC0415 - needs rich

        return site_view(
            rows,
            site=self.name,
            broker=self.broker,
            trouble=self.trouble or (self.hint if rows else self.no_boards_text),
            width=console.width,
            wall=time.time(),
            clock=time.strftime("%H:%M:%S"),
            is_compact=is_compact,
            is_expanded=is_expanded,
            max_rows=max_rows,
        )


def _print_once(feed: Feed, wait_s: float, console: Console | None) -> int:
    """Prints a snapshot, as a table or, without a console, as JSON. Returns 1 if there is no broker or no board, else a
    code of the worst level.
    """
    with feed.client:
        feed.client.connect(CONNECT_S)
        began = time.monotonic()
        while feed.client.is_connected:
            waited_s, rows = time.monotonic() - began, feed.rows
            is_early = waited_s < BACK_S and may_come_back(rows)
            if not is_early and (feed.is_settled or waited_s >= (max(wait_s, JUDGED_S) if rows else wait_s)):
                break
            feed.receive(TURN_S)
        if feed.trouble:
            return fail(feed.trouble)
        if feed.hint and console is None:
            print(printable(f"edge-agent: {feed.hint}"), file=sys.stderr)
    rows = feed.settle()
    if console is None:
        boards = [row_document(row) for row in rows]
        print(printable_json({"ts": timestamp(), "site": feed.name, "broker": feed.broker, "boards": boards}))
    elif rows:
        print_view(feed, console, rows)
    if not rows:
        return fail(feed.no_boards_text)
    worst = rows[0].level
    return EXIT_URGENT if worst in URGENT else 0 if worst is BoardLevel.OK else EXIT_NOT_OK


def print_view(feed: Feed, console: Console, rows: list[Row]) -> None:
    """Prints the view. In a file or a pipe, each board has one line, however long, so that `grep` finds all of it."""
    if console.is_terminal:
        console.print(feed.view(console, rows))
        return
    console.width = PIPE_COLUMNS
    with console.capture() as captured:
        console.print(feed.view(console, rows, is_compact=True, is_expanded=False))
    for line in captured.get().splitlines():
        print(line.rstrip())


def _show_live(feed: Feed, console: Console) -> None:
    """The live view, until `q`, Ctrl-C, a signal, or the end of the terminal."""
    from rich.live import Live  # noqa: PLC0415

    # Log lines would be written across the view, which shows the state of the connection itself.
    logging.getLogger().addHandler(logging.NullHandler())
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    live = Live(console=console, screen=True, auto_refresh=False)
    with suppress(KeyboardInterrupt), feed.client, _keys_without_echo(), live:
        while not _is_quit_pressed():
            rows = feed.rows
            view = feed.view(console, rows, max_rows=console.height)
            if len(console.render_lines(view)) > console.height:
                view = feed.view(console, rows, is_compact=True, max_rows=console.height)
            live.update(view, refresh=True)
            feed.receive(REDRAW_S)


@contextmanager
def _keys_without_echo() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        with suppress(termios.error):  # The terminal may be gone.
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_quit_pressed() -> bool:
    if not sys.stdin.isatty() or not select.select([sys.stdin], [], [], 0)[0]:
        return False
    # Not sys.stdin.read, which buffers what select then no longer sees.
    return b"q" in os.read(sys.stdin.fileno(), 1024).lower()
