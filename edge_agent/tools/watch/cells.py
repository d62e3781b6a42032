"""PURE. Text of others made safe for a screen and fitted into columns; curves out of block characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from edge_agent.core.errors import printable

BLOCKS = "▁▂▃▄▅▆▇█"


def safe(text: str) -> str:
    """Nothing in it moves the cursor, takes no cell of its own, or turns the direction of writing."""
    composed = unicodedata.normalize("NFC", text)
    return printable("".join(c for c in composed if unicodedata.category(c) not in ("Mn", "Me")))


def shortened(text: str, width: int) -> str:
    """At most so many cells; of names that differ at their ends, as boards' names do, both ends are kept."""
    if cell_len(text) <= width:
        return text
    if width < 4:
        return set_cell_size(text, width)
    tail = text
    while cell_len(tail) > (width - 1) // 2:
        tail = tail[1:]
    return set_cell_size(text, width - 1 - cell_len(tail)) + "…" + tail


def cropped(text: str, width: int) -> str:
    """At most so many cells, the beginning."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"[:width]


def curve(values: Sequence[float | None], lowest: float, highest: float, styles: Sequence[str | Style]) -> Text:
    """A character for each value; a blank for one that is unknown."""
    text = Text()
    for value, style in zip(values, styles, strict=True):
        if value is None:
            text.append(" ")
        else:
            share = (value - lowest) / (highest - lowest) if highest > lowest else 0.0
            text.append(BLOCKS[min(len(BLOCKS) - 1, max(0, int(share * len(BLOCKS))))], style)
    return text
