"""The page of `edge-agent accuracy --html`. Needs the extra `plots`."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from edge_agent.core.page.page import environment
from edge_agent.core.score_map import ScoreMap
from edge_agent.core.terminal import percent
from edge_agent.learning.commands.accuracy import figures
from edge_agent.learning.commands.accuracy.measures import Measures, judge
from edge_agent.learning.commands.accuracy.tables import tables_of
from edge_agent.learning.maths.export import Export
from edge_agent.learning.maths.shares import CONFIDENCE

_SIZES = "The size of a mark is that of its share of the answers."


def render_page(export: Export, found: Measures) -> str:
    """The whole document; equal exports give equal pages."""
    return (
        environment(Path(__file__).parent)
        .get_template("accuracy.html.jinja")
        .render(
            export=export,
            found=found,
            percent=percent,
            confidence=f"{100 * CONFIDENCE:g} %",
            tables=tables_of(found),
            figures=_figures(export, found),
        )
    )


def _figures(export: Export, found: Measures) -> list[tuple[str, Markup, str]]:
    """Title, drawing and what it shows."""
    used, own = export.map_of("map"), ScoreMap.identity(export.labels)
    marked = [one for one in export.answers if one.is_marked]
    audits = [one for one in marked if export.measures(one)]
    shown = audits or marked
    if not shown:
        return []
    sample = f"{len(shown)} {'audits' if audits else 'answers with feedback, no fair sample'}"
    judged = judge(shown, used)
    worth, fewer = "What a score is worth", "Fewer answers, more of them right"
    time, mixed = "Over time", "Which labels are mixed up"
    return [
        (worth, figures.reliability(worth, judge(shown, own), judged), f"Of {sample}. {_SIZES}"),
        (fewer, figures.coverage(fewer, judged), f"Of {sample}, the surest first."),
        (time, figures.over_time(time, judged), f"Of {sample}, under the map that is in force now."),
        (mixed, figures.confusion(mixed, found), "Of all feedback."),
    ]
