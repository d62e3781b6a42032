"""The figures of the page, drawn by matplotlib as SVG that takes its colours from the page's style."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from edge_agent.core.wording import printable
from edge_agent.learning.commands.accuracy.measures import Measures
from edge_agent.learning.maths.calibration import Judged, bins
from edge_agent.learning.maths.shares import CONFIDENCE, interval, lower_bound

# Each stands for a colour of the page (page.css), and is in no figure by chance.
_COLOURS = {"#010203": "var(--ink)", "#010204": "var(--quiet)", "#010205": "var(--own)", "#010206": "var(--other)"}
_INK, _QUIET, _OWN, _OTHER = _COLOURS
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "text.color": _INK,
    "legend.frameon": False,
    # A label may have dollar signs.
    "text.parse_math": False,
}


def reliability(before: Sequence[Judged], after: Sequence[Judged]) -> str:
    """Score against the share of right answers, of the model's own scores and of those that callers get."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("score of the best label", "share right")
        axes.plot((0, 1), (0, 1), color=_QUIET, linewidth=1, linestyle=":", label="what a score should mean")
        for judged, name, colour, marker in (
            (before, "as the model scores", _OTHER, "s"),
            (after, "with the map", _OWN, "o"),
        ):
            found = bins(judged)
            x, y = [score for _, score, _ in found], [share for _, _, share in found]
            axes.plot(x, y, color=colour, linewidth=1, label=name)
            sizes = [20 + 200 * number / len(judged) for number, _, _ in found]
            axes.scatter(x, y, sizes, colour, marker=marker, zorder=3)
        axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.05))
        axes.legend(loc="upper left")
        return _svg(figure, "reliability")


def coverage(judged: Sequence[Judged]) -> str:
    """Share of the audits from each score on against how many of these are right, with the one-sided bound."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("share of answers given", "share right")
        falling = sorted(judged, reverse=True)
        counts = list(accumulate(is_right for _, is_right in falling))
        # Answers of one score are given together.
        ends = [at for at, (score, _) in enumerate(falling, 1) if at == len(falling) or falling[at][0] < score]
        x = [at / len(falling) for at in ends]
        low = [lower_bound(counts[at - 1], at, CONFIDENCE) for at in ends]
        axes.plot(x, [counts[at - 1] / at for at in ends], color=_OWN, label="audits")
        axes.plot(x, low, color=_OTHER, linestyle="--", label=f"at least, at {100 * CONFIDENCE:g} % confidence")
        axes.set(xlim=(0, 1.02), ylim=(min(0.5, *low), 1.02))
        axes.legend(loc="lower right")
        return _svg(figure, "coverage")


def over_time(judged: Sequence[Judged]) -> str:
    """The share of right audits so far, with its interval."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("audits, in the order of time", "share right so far")
        counts = list(accumulate(is_right for _, is_right in judged))
        x = range(1, len(counts) + 1)
        ranges = [interval(right, total) for right, total in zip(counts, x, strict=True)]
        low, high = zip(*ranges, strict=True)
        axes.fill_between(x, low, high, color=_OTHER, alpha=0.25, linewidth=0, label="95 % interval")
        axes.plot(x, [right / total for right, total in zip(counts, x, strict=True)], color=_OWN, label="share right")
        axes.set(xlim=(0.5, len(counts) + 0.5), ylim=(0, 1.02))
        axes.legend(loc="lower right")
        return _svg(figure, "over_time")


def confusion(found: Measures) -> str:
    """Right labels in rows, what callers got in columns; the darker, the greater the share of the row."""
    with mpl.rc_context(_STYLE):
        height = 1.6 + 0.34 * len(found.confusion)
        figure, axes = _axes("what callers got", "right label", height=height)
        for row, counts in enumerate(found.confusion.values()):
            for column, count in enumerate(counts):
                if count:
                    share = count / sum(counts)
                    corner = column - 0.5, row - 0.5
                    axes.add_patch(Rectangle(corner, 1, 1, facecolor=_OTHER, alpha=0.55 * share, linewidth=0))
                    axes.text(column, row, str(count), ha="center", va="center")
        axes.set_xticks(range(len(found.outputs)), list(map(printable, found.outputs)), rotation=35, ha="right")
        axes.set_yticks(range(len(found.confusion)), list(map(printable, found.confusion)))
        axes.set(xlim=(-0.5, len(found.outputs) - 0.5), ylim=(len(found.confusion) - 0.5, -0.5))
        return _svg(figure, "confusion")


def _axes(x: str, y: str, *, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """To stand in a page: without prologue, metadata and size, and without names that another figure has."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser has other fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[A-Za-z0-9.]+_\d+"', "<g", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text)
    return re.sub("|".join(_COLOURS), lambda colour: _COLOURS[colour[0]], text)
