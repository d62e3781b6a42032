"""One page for people, without scripts, which loads nothing from anywhere. Needs the extra `plots`."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from edge_agent.core.score_map import ScoreMap
from edge_agent.core.terminal import percent
from edge_agent.core.wording import printable
from edge_agent.learning.commands.accuracy import figures
from edge_agent.learning.commands.accuracy.measures import Measures, judge
from edge_agent.learning.commands.accuracy.tables import tables_of
from edge_agent.learning.maths.export import Export
from edge_agent.learning.maths.shares import CONFIDENCE

_SIZES = "The size of a mark is that of its share of the answers."


def render_page(export: Export, found: Measures) -> str:
    """The whole document; equal exports give equal pages."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else printable(value),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        export=export,
        found=found,
        percent=percent,
        confidence=f"{100 * CONFIDENCE:g} %",
        style=Markup((folder / "page.css").read_text("utf-8")),  # noqa: S704 - our own file
        tables=tables_of(found),
        figures=[(title, Markup(svg), about) for title, svg, about in _figures(export, found)],  # noqa: S704 - matplotlib escapes
    )


def _figures(export: Export, found: Measures) -> list[tuple[str, str, str]]:
    """Title, SVG and what it shows."""
    used, own = export.map_of("map"), ScoreMap.identity(export.labels)
    marked = [one for one in export.answers if one.is_marked]
    audits = [one for one in marked if export.measures(one)]
    shown = audits or marked
    if not shown:
        return []
    sample = f"{len(shown)} {'audits' if audits else 'answers with feedback, no fair sample'}"
    judged = judge(shown, used)
    return [
        ("What a score is worth", figures.reliability(judge(shown, own), judged), f"Of {sample}. {_SIZES}"),
        ("Fewer answers, more of them right", figures.coverage(judged), f"Of {sample}, the surest first."),
        ("Over time", figures.over_time(judged), f"Of {sample}, under the map that is in force now."),
        ("Which labels are mixed up", figures.confusion(found), "Of all feedback."),
    ]
