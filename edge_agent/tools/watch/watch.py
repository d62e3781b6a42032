"""`edge-agent watch`: the live view, or one look for scripts."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from edge_agent.core.clock import timestamp
from edge_agent.core.config import MqttConfig
from edge_agent.core.errors import printable, printable_json
from edge_agent.tools.watch.feed import Feed
from edge_agent.tools.watch.row import row_document
from edge_agent.tools.watch.view import View

if TYPE_CHECKING:
    from rich.console import Console

EXIT_OK, EXIT_FAILED = 0, 1
CONNECT_S = 10.0
# Of what a broker has retained, the next follows at once.
QUIET_S = 0.5


def watch(mqtt: MqttConfig, site: str, *, is_once: bool, as_json: bool, wait_s: float) -> int:
    """Shows a site until `q`; once, or where no terminal is, tells what the broker has within wait_s. The exit code."""
    feed = Feed(mqtt, site)
    if as_json:
        return _tell(feed, site, wait_s, None)
    try:
        from rich.console import Console  # noqa: PLC0415 - the extra `watch`; JSON needs none of it
    except ImportError:
        print(
            "edge-agent: watch draws with the package rich: pip install 'edge-agent[watch]' "
            "(--once --json works without it)",
            file=sys.stderr,
        )
        return EXIT_FAILED
    # A terminal that cannot show a character gets `?` for it.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    console = Console(highlight=False)
    if is_once or not sys.stdout.isatty() or console.is_dumb_terminal:
        return _tell(feed, site, wait_s, console)
    from edge_agent.tools.watch.live import show  # noqa: PLC0415

    show(feed, lambda: _view(feed, site), console)
    return EXIT_OK


def _tell(feed: Feed, site: str, wait_s: float, console: Console | None) -> int:
    """One look. Without a console: as JSON."""
    with feed.open():
        give_up_at = time.monotonic() + CONNECT_S
        while feed.connected_at is None and feed.reason is None and time.monotonic() < give_up_at:
            feed.take(0.1)
        give_up_at = time.monotonic() + wait_s
        while feed.trouble is None and time.monotonic() < give_up_at:
            feed.take(0.1)
            if feed.is_settled() and time.monotonic() - feed.heard_at > QUIET_S:
                break
        view = _view(feed, site)
    if view.trouble is not None:
        print(printable(f"edge-agent: {view.trouble}"), file=sys.stderr)
        return EXIT_FAILED
    if console is None:
        boards = [row_document(row) for row in view.rows]
        print(printable_json({"ts": timestamp(), "site": site, "broker": feed.broker, "boards": boards}))
    elif view.rows:
        from edge_agent.tools.watch.drawing import table  # noqa: PLC0415

        for line in table(view, console.width):
            line.rstrip()
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
    if not view.rows:
        print(printable(f"edge-agent: {view.empty}"), file=sys.stderr)
    return EXIT_OK if view.rows else EXIT_FAILED


def _view(feed: Feed, site: str) -> View:
    return View(
        site=site,
        broker=feed.broker,
        rows=feed.rows(),
        trouble=feed.trouble,
        is_full=feed.is_full,
        wall=time.time(),
        clock=time.strftime("%H:%M:%S"),
        empty=_empty(feed),
    )


def _empty(feed: Feed) -> str:
    return f"no board on {feed.topics} yet; is it this root and site, and may this user read there?"
