"""PURE. Elements of HTML and SVG as text that is well-formed XML too; text from outside gets in escaped only."""

import html
from collections.abc import Iterable
from typing import NewType

from ..errors import printable

# What is of this type is markup already; the type checker keeps other text out of it.
Markup = NewType("Markup", str)
NOTHING = Markup("")
_LONGEST_NAME = len("\\U0001f600")  # what one character becomes that printable() writes out
# The only one of the characters that are not printable which does no harm, and our own texts hold it.
_NO_BREAK = "\N{NO-BREAK SPACE}"
_CLOSED_AT_ONCE = {"br", "meta", "circle", "line", "path", "rect"}


def escaped(text: str) -> Markup:
    """Text as it shall be read, whatever it holds; characters that would steer the reader's screen are written out."""
    shown = _NO_BREAK.join(printable(part, limit=_LONGEST_NAME * len(part)) for part in text.split(_NO_BREAK))
    return Markup(html.escape(shown, quote=True))


def joined(parts: Iterable[Markup], between: str = "") -> Markup:
    """All parts, one after the other; `between` is escaped."""
    return Markup(escaped(between).join(parts))


def element(tag: str, *children: Markup, **attributes: str | float | None) -> Markup:
    """One element. `class_` is the attribute class, `aria_label` is aria-label; an attribute of None is left out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _CLOSED_AT_ONCE:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{joined(children)}</{tag}>")


def _attribute(value: str | float) -> Markup:
    # A tenth of a pixel is more than a screen shows.
    return escaped(value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0"))
