"""The live view: keys in, screens out."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console, Group

from edge_agent.tools.watch.drawing import ORDERS, Drawn, screen
from edge_agent.tools.watch.feed import Feed
from edge_agent.tools.watch.keyboard import Keyboard
from edge_agent.tools.watch.view import View

TURN_S = 0.2
# The time of day goes on; on a small board that serves meanwhile, drawing is not free.
REDRAW_S, REDRAW_NEWS_S = 1.0, 0.5


def show(feed: Feed, view: Callable[[], View], console: Console) -> None:
    """Until `q`, Ctrl-C, or the terminal is gone; Ctrl-Z gives the terminal back meanwhile."""
    # What the connection logs would be written across the screen, which tells it anyway.
    logging.getLogger().addHandler(logging.NullHandler())
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    keyboard = Keyboard()
    viewer = Viewer(view, console)
    suspended: list[int] = []
    with feed.open():
        try:
            while viewer.is_wanted:
                signal.signal(signal.SIGTSTP, lambda number, _frame: suspended.append(number))
                with keyboard.without_echo(), console.screen(hide_cursor=True):
                    while viewer.is_wanted and not suspended:
                        viewer.turn(keyboard.wait(TURN_S), is_news=feed.take())
                if suspended:
                    suspended.clear()
                    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                    os.kill(os.getpid(), signal.SIGTSTP)
        except KeyboardInterrupt:
            pass
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise


class Viewer:
    """Where somebody looks in the list, and in which order it is."""

    def __init__(self, view: Callable[[], View], console: Console) -> None:
        self.is_wanted = True
        self._view = view
        self._console = console
        self._drawn = Drawn(lines=[], offset=0, boards=0)
        self._orders = list(ORDERS)
        self._drawn_at = float("-inf")
        self._has_news = False
        self._size = (0, 0)

    def turn(self, keys: list[str], *, is_news: bool) -> None:
        for key in keys:
            self._press(key)
        self._has_news = self._has_news or is_news
        size = (self._console.width, self._console.height)
        due_s = REDRAW_NEWS_S if self._has_news else REDRAW_S
        if keys or size != self._size or time.monotonic() - self._drawn_at >= due_s:
            self._size, self._drawn_at, self._has_news = size, time.monotonic(), False
            self._drawn = screen(self._view(), *size, self._drawn.offset, self._orders[0])
            self._console.update_screen(Group(*self._drawn.lines))

    def _press(self, key: str) -> None:
        page = max(1, self._drawn.boards - 1)
        steps = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -sys.maxsize, "end": sys.maxsize}
        if key == "quit":
            self.is_wanted = False
            return
        if key == "sort":
            self._orders = [*self._orders[1:], self._orders[0]]
        offset = 0 if key == "sort" else self._drawn.offset + steps[key]
        self._drawn = replace(self._drawn, offset=max(0, offset))
