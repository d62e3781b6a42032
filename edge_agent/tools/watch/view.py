"""PURE. What there is to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.tools.watch.row import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """trouble: why nothing new comes from the broker, or None. is_full: there are more names than this can show. wall:
    seconds since 1970; clock: the time of day as it is shown. empty: what is told if there is no board."""

    site: str
    broker: str
    rows: Sequence[Row]
    trouble: str | None
    is_full: bool
    wall: float
    clock: str
    empty: str
