"""A site as an operator may meet it, and its table as text."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from edge_agent.core.messages import Message
from edge_agent.tools.watch.site import Site
from edge_agent.tools.watch.table import site_view
from tests.tools.watch import boards
from tests.tools.watch.boards import WALL

NOW = 300.0


def say(site: Site, device: str, topic: str, payload: bytes, at: float = NOW) -> None:
    message = Message(topic=f"r/hall1/{device}/{topic}", payload=payload, qos=1, packet_id=1, received_at=at)
    site.receive(message, WALL + at)


def play(site: Site, device: str, at: float = NOW, **changes: Any) -> None:
    """A board that is online and says its health."""
    say(site, device, "info", boards.info(), at)
    say(site, device, "state", boards.state(session=device), at)
    say(site, device, "health", boards.health(1, device, at=WALL + at, **changes), at)


def mixed_site(expected: Sequence[str] = ()) -> Site:
    """One board of each kind that an operator meets, and those of `expected` that were never heard."""
    site = Site("r", "hall1", expected=expected)
    if expected:
        site.on_connected(0.0)
    play(site, "conveyor-01", thermal__soc_c=56.0, thermal__headroom_c=29.0)
    play(
        site,
        "press-04",
        overall="critical",
        reasons=["overheating"],
        thermal__soc_c=84.4,
        thermal__headroom_c=0.6,
        thermal__throttled_now=True,
        thermal__causes=["thermal"],
        queue__depth=57,
        inference__decode_tok_s=3.2,
    )
    hot = boards.alarm(
        "84.4 °C, the limit is 85 °C: cool the board", severity="critical", session="press-04", since=WALL + 60
    )
    say(site, "press-04", "alarm/overheating", hot)
    play(site, "press-05", overall="degraded", reasons=["undervoltage"], power__undervoltage_now=True)
    say(site, "cabinet", "state", boards.state(session="cabinet"))
    say(site, "cabinet", "health", boards.nothing_known(1, "cabinet"))
    play(site, "lathe-01", at=210.0)
    play(site, "oven-2", at=190.0)
    say(site, "oven-2", "state", boards.will("oven-2"), NOW - 5)
    return site


def plain(site: Site, width: int = 80, *, trouble: str | None = None, **changes: Any) -> list[str]:
    """The lines of the view."""
    console = Console(width=width, no_color=True, highlight=False)
    view = site_view(
        site.rows(NOW),
        site="hall1",
        broker="broker:1883",
        trouble=trouble,
        width=width,
        wall=WALL + NOW,
        clock="12:05:00",
        **changes,
    )
    with console.capture() as captured:
        console.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]


def row_of(lines: list[str], device: str) -> list[str]:
    return next((line.split() for line in lines if line.startswith(f"{device} ")), [])
