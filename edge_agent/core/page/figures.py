"""Figures, drawn by matplotlib as SVG that takes its colours from the page's style."""

import io
import re
import warnings
from html import escape
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HEAT_LEVELS = 7
_HEAT = [f"{kind}-{level}" for kind in ("heat", "heat-ink") for level in range(HEAT_LEVELS)]
# Placeholders, each for a variable of style.css: colours that no figure has by chance.
_COLOURS = {f"#0102{number:02x}": name for number, name in enumerate(("ink", "quiet", "rule", "own", "other", *_HEAT))}
INK, QUIET, RULE, OWN, OTHER, *_LEVELS = _COLOURS
HEAT, HEAT_INK = _LEVELS[:HEAT_LEVELS], _LEVELS[HEAT_LEVELS:]
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    # The one that matplotlib brings along, so that a figure is the same on all machines.
    "font.sans-serif": ["DejaVu Sans"],
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.color": INK,
    "legend.frameon": False,
    # A label may have dollar signs.
    "text.parse_math": False,
}
_NOTE = "note: "

# Decorates a function that draws.
styled = mpl.rc_context(_STYLE)


def plot(width: float, height: float, x: str = "", y: str = "") -> tuple[Figure, Axes]:
    """A figure of this size, in pixels of a page that is wide enough, with the names of its axes."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def note(artist: Artist, text: str) -> None:
    artist.set_gid(_NOTE + text)


def svg(figure: Figure, title: str) -> Markup:
    """SVG for a page, without prologue, metadata, size or names that others have. Equal figures give equal text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
        # The reader's browser has other fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    head, _, text = file.getvalue().partition("<defs>")
    [box] = re.findall(r'viewBox="[^"]+"', head)
    text = re.sub(r"\s*<style.*?</style>", "", text, flags=re.DOTALL).replace("xlink:href", "href")
    text = re.sub(rf'<g id="{_NOTE}([^"]*)"(.*?)>', r"<g\2><title>\1</title>", text)
    text = re.sub(r'<g id="[A-Za-z0-9.]+_\d+"', "<g", text)
    text = re.sub("|".join(_COLOURS), lambda colour: f"var(--{_COLOURS[colour[0]]})", text)
    return Markup(f'<svg role="img" aria-label="{escape(title)}" {box}>\n<defs>{text}')  # noqa: S704 - matplotlib escapes
