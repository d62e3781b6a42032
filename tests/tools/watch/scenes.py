"""Sites as they may be, with minutes behind them."""

from __future__ import annotations

import math
from typing import Any

from edge_agent.tools.watch.arrival import Now
from edge_agent.tools.watch.drawing import table
from edge_agent.tools.watch.site import Site
from edge_agent.tools.watch.view import View
from tests.tools.watch import boards
from tests.tools.watch.boards import WALL

SECONDS = 300


def view_of(site: Site, at: float = SECONDS, *, trouble: str | None = None) -> View:
    return View(
        site="hall1",
        broker="broker.example:1883",
        rows=site.rows(Now(at=at, wall=WALL + at)),
        trouble=trouble,
        is_full=site.is_full,
        wall=WALL + at,
        clock="12:05:00",
        empty="no board on edgeai/v1/hall1/+ yet",
    )


def say(site: Site, device: str, topic: str, payload: bytes, at: float = 0.0) -> None:
    site.take(f"r/hall1/{device}/{topic}", payload, Now(at=at, wall=WALL + at), is_live=True, expiry_s=None)


def a_site(*devices: str) -> Site:
    """Boards that are well, with five minutes behind them."""
    site = Site("r", "hall1")
    for number, device in enumerate(devices):
        say(site, device, "info", boards.info())
        say(site, device, "state", boards.state())
        for seq in range(1, 31):
            celsius = round(60 + 15 * math.sin(seq / 5 + number), 1)
            heat: dict[str, Any] = {"thermal__soc_c": celsius, "thermal__headroom_c": 85 - celsius}
            say(site, device, "health", boards.health(seq, at=WALL + 10 * seq, **heat), 10 * seq)
    return site


def plain(view: View, width: int = 80) -> list[str]:
    return [line.plain.rstrip() for line in table(view, width)]


def mixed_site() -> Site:
    """One board of each kind that an operator meets."""
    site = a_site("conveyor-01", "conveyor-02")
    for device in ("press-04", "press-05", "oven-2", "lathe-01", "cabinet"):
        say(site, device, "info", boards.info())
        say(site, device, "state", boards.state(session=device))
    for seq in range(1, 31):
        at, celsius = 10 * seq, round(58 + 0.88 * seq, 1)
        heat = {"thermal__soc_c": celsius, "thermal__headroom_c": round(85 - celsius, 1)}
        trouble: dict[str, Any] = {}
        if seq > 26:
            trouble = {
                "overall": "critical",
                "reasons": ["overheating"],
                "thermal__throttled_now": True,
                "thermal__causes": ["thermal"],
                "queue__depth": 57,
                "inference__decode_tok_s": 3.2,
                "governor": {"level": "critical", "limits": {}, "reason": "84 °C, 1 °C below the limit"},
            }
        say(site, "press-04", "health", boards.health(seq, "press-04", **heat, **trouble), at)
        low: dict[str, Any] = {"overall": "degraded", "reasons": ["undervoltage"], "power__undervoltage_now": True}
        say(site, "press-05", "health", boards.health(seq, "press-05", **low), at)
        say(site, "cabinet", "health", boards.nothing_known(seq, "cabinet"), at)
        if seq < 20:
            say(site, "oven-2", "health", boards.health(seq, "oven-2", thermal__soc_c=48.0), at)
        if seq < 22:
            say(site, "lathe-01", "health", boards.health(seq, "lathe-01", thermal__soc_c=53.0), at)
    say(site, "oven-2", "state", boards.will("oven-2"), 196)
    message = "84.4 °C, the firmware slows down at 85 °C"
    hot = boards.alarm(message, severity="critical", session="press-04", since=WALL + 60)
    say(site, "press-04", "alarm/overheating", hot, 270)
    return site
