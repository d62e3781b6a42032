"""The page of `edge-agent accuracy --html`. Needs the extra `plots`."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from markupsafe import Markup
from matplotlib.patches import Rectangle

from edge_agent.core.page.figures import OTHER, OWN, QUIET, plot, styled, svg
from edge_agent.core.page.page import environment
from edge_agent.core.score_map import ScoreMap
from edge_agent.core.terminal import percent
from edge_agent.core.wording import printable
from edge_agent.learning.commands.accuracy.measures import Measures, drop_words, evidence_words, judge, tables_of
from edge_agent.learning.maths.calibration import JudgedAnswer, bins
from edge_agent.learning.maths.export import Export
from edge_agent.learning.maths.shares import CONFIDENCE, interval, lower_bound

_WIDTH, _HEIGHT = 450.0, 260.0
_SIZES = "A mark's size is its share of the answers."


def render_page(export: Export, measures: Measures) -> str:
    return (
        environment(Path(__file__).parent)
        .get_template("accuracy.html.jinja")
        .render(
            export=export,
            found=measures,
            percent=percent,
            confidence=f"{100 * CONFIDENCE:g} %",
            tables=tables_of(measures),
            drop=drop_words(measures),
            evidence=evidence_words(measures),
            figures=_figures(export, measures),
        )
    )


def _figures(export: Export, measures: Measures) -> list[tuple[str, Markup, str]]:
    """Title, drawing and what it shows."""
    marked = [answer for answer in export.answers if answer.is_marked]
    audits = [answer for answer in marked if export.measures(answer)]
    shown = audits or marked
    if not shown:
        return []
    score_map, own = export.map_of("map"), ScoreMap.identity(export.labels)
    sample = f"{len(shown)} {'audits' if audits else 'answers with feedback, not a fair sample'}"
    judged = judge(shown, score_map)
    worth, fewer = "What a score is worth", "Fewer answers, more of them right"
    time, mixed = "Over time", "Which labels are confused"
    return [
        (worth, _reliability(worth, judge(shown, own), judged), f"{sample}. {_SIZES}"),
        (fewer, _coverage(fewer, judged), f"{sample}, the most certain first."),
        (time, _over_time(time, judged), f"{sample}, with the map that is in force now."),
        (mixed, _confusion(mixed, measures), f"{sample}{', with the map that is in force now' if audits else ''}."),
    ]


@styled
def _reliability(title: str, before: Sequence[JudgedAnswer], after: Sequence[JudgedAnswer]) -> Markup:
    """Score against the share of right answers, of the model's own scores and of those that callers get."""
    figure, axes = plot(_WIDTH, _HEIGHT, "score of the best label", "share right")
    axes.plot((0, 1), (0, 1), color=QUIET, linewidth=1, linestyle=":", label="what a score should mean")
    for judged, name, colour, marker in (
        (before, "as the model scores", OTHER, "s"),
        (after, "with the map", OWN, "o"),
    ):
        counts, scores, shares = zip(*bins(judged), strict=True)
        axes.plot(scores, shares, color=colour, linewidth=1, label=name)
        sizes = [20 + 200 * count / len(judged) for count in counts]
        axes.scatter(scores, shares, sizes, colour, marker=marker, zorder=3)
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.05))
    axes.legend(loc="upper left")
    return svg(figure, title)


@styled
def _coverage(title: str, judged: Sequence[JudgedAnswer]) -> Markup:
    """The share of the audits from each score on against how many of these are right, with the one-sided bound."""
    figure, axes = plot(_WIDTH, _HEIGHT, "share of answers given", "share right")
    falling = sorted(judged, key=lambda answer: -answer.score)
    counts = list(accumulate(answer.is_right for answer in falling))
    # Answers with the same score are given together.
    ends = [end for end, answer in enumerate(falling, 1) if end == len(falling) or falling[end].score < answer.score]
    x = [end / len(falling) for end in ends]
    low = [lower_bound(counts[end - 1], end, CONFIDENCE) for end in ends]
    axes.plot(x, [counts[end - 1] / end for end in ends], color=OWN, label="audits")
    axes.plot(x, low, color=OTHER, linestyle="--", label=f"at least, at {100 * CONFIDENCE:g} % confidence")
    axes.set(xlim=(0, 1.02), ylim=(min(0.5, *low), 1.02))
    axes.legend(loc="lower right")
    return svg(figure, title)


@styled
def _over_time(title: str, judged: Sequence[JudgedAnswer]) -> Markup:
    """The share of right audits so far, with its interval."""
    figure, axes = plot(_WIDTH, _HEIGHT, "audits in the order of time", "share right so far")
    counts = list(enumerate(accumulate(answer.is_right for answer in judged), 1))
    x = [total for total, _ in counts]
    low, high = zip(*(interval(right, total) for total, right in counts), strict=True)
    axes.fill_between(x, low, high, color=OTHER, alpha=0.25, linewidth=0, label="95 % interval")
    axes.plot(x, [right / total for total, right in counts], color=OWN, label="share right")
    axes.set(xlim=(0.5, len(counts) + 0.5), ylim=(0, 1.02))
    axes.legend(loc="lower right")
    return svg(figure, title)


@styled
def _confusion(title: str, measures: Measures) -> Markup:
    of_audits = "best label", measures.labels, measures.audit_confusion
    of_feedback = "what callers got", measures.outputs, measures.confusion
    what, columns, rows = of_audits if measures.audits.total else of_feedback
    figure, axes = plot(_WIDTH, 115 + 24 * len(rows), what, "right label")
    for row, counts in enumerate(rows.values()):
        for column, count in enumerate(counts):
            if count:
                corner, shade = (column - 0.5, row - 0.5), 0.55 * count / sum(counts)
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=OTHER, alpha=shade, linewidth=0))
                axes.text(column, row, str(count), ha="center", va="center")
    axes.set_xticks(range(len(columns)), list(map(printable, columns)), rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), list(map(printable, rows)))
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    return svg(figure, title)
