"""PURE. A run as one page that needs nothing else: the lines of the verdict, and curves over time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from convert.report.markup import Markup, element, escaped, joined
from convert.report.ticks import round_ticks
from rigs.soak.load import TIMED
from rigs.soak.samples import Sample
from rigs.soak.verdict import MIB, Line

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560.0, 240.0, 56.0, 12.0, 30.0, 34.0
# Points of a curve of latencies: each is a median of what was answered in between.
_BUCKETS = 60
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { text-align: left; padding: .15em 1em .15em 0 }
.fails td { color: #b00020; font-weight: 600 } .charts { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 1.5em }
svg { width: 560px; max-width: 100% } text { font-size: 12px; fill: #555 } .name { font-size: 14px; fill: #222 }
.rule { stroke: #e4e4e4 } path { fill: none; stroke-width: 1.5 }
.c0 { stroke: #0b62a4 } .c1 { stroke: #c8511b } .c2 { stroke: #2c7d32 } .c3 { stroke: #7b3fa0 }
.t0 { fill: #0b62a4 } .t1 { fill: #c8511b } .t2 { fill: #2c7d32 } .t3 { fill: #7b3fa0 }
"""

Curve = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """curves: by name, at most 4, each of (seconds, value)."""

    name: str
    curves: dict[str, Curve] = field(default_factory=dict)


def page(title: str, samples: Sequence[Sample], lines: Sequence[Line]) -> str:
    """A whole HTML document."""
    rows = [_row(one) for one in lines]
    head = element("tr", *(element("th", escaped(text)) for text in ("", "what", "measured", "limit")))
    body = [
        element("h1", escaped("Soak")),
        element("p", escaped(title)),
        element("table", head, joined(rows)),
        element("div", *(draw(chart) for chart in charts(samples)), class_="charts"),
    ]
    style = Markup(f"<style>{_STYLE}</style>")
    head = element("head", element("meta", charset="utf-8"), element("title", escaped(f"Soak: {title}")), style)
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body), lang='en')}\n"


def _row(line: Line) -> Markup:
    texts = ("holds" if line.holds else "FAILS", line.name, line.value, line.limit)
    return element("tr", *(element("td", escaped(text)) for text in texts), class_=None if line.holds else "fails")


def charts(samples: Sequence[Sample]) -> list[Chart]:
    at = [one.at_s for one in samples]
    workers = [(one.at_s, one.worker) for one in samples if one.worker is not None]
    return [
        Chart(
            "memory of the agent, MiB",
            {
                "resident": [(one.at_s, one.agent.resident_mib) for one in samples],
                "anonymous": [(one.at_s, one.agent.anonymous_mib) for one in samples],
            },
        ),
        Chart(
            "memory of the worker, MiB",
            {
                "resident": [(s, worker.resident_mib) for s, worker in workers],
                "anonymous": [(s, worker.anonymous_mib) for s, worker in workers],
            },
        ),
        Chart(
            "threads and open files",
            {
                "agent's threads": [(one.at_s, one.agent.threads) for one in samples],
                "agent's files": [(one.at_s, one.agent.files) for one in samples],
                "worker's threads": [(s, worker.threads) for s, worker in workers],
                "worker's files": [(s, worker.files) for s, worker in workers],
            },
        ),
        Chart(
            "state folder, MiB",
            {
                "all": list(zip(at, (one.state_bytes / MIB for one in samples), strict=True)),
                "journal": list(zip(at, (one.journal_bytes / MIB for one in samples), strict=True)),
                "its changes": list(zip(at, (one.wal_bytes / MIB for one in samples), strict=True)),
            },
        ),
        Chart("requests that wait", {"": [(one.at_s, one.unanswered) for one in samples]}),
        Chart("log, kB", {"": [(one.at_s, one.log_bytes / 1000) for one in samples]}),
        Chart("latency, median in ms", {kind: _latency(samples, kind) for kind in TIMED}),
    ]


def _latency(samples: Sequence[Sample], kind: str) -> Curve:
    each = max(1, len(samples) // _BUCKETS)
    curve: Curve = []
    for first in range(0, len(samples), each):
        bucket = samples[first : first + each]
        latencies = [ms for one in bucket for ms in one.latency_ms.get(kind, ())]
        if latencies:
            curve.append((bucket[-1].at_s, statistics.median(latencies)))
    return curve


def draw(chart: Chart) -> Markup:
    points = [point for curve in chart.curves.values() for point in curve]
    most_s = max((s for s, _ in points), default=1.0) or 1.0
    most = max((value for _, value in points), default=1.0) or 1.0

    def x_at(seconds: float) -> float:
        return _LEFT + seconds / most_s * (_WIDTH - _LEFT - _RIGHT)

    def y_at(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / most * (_HEIGHT - _TOP - _BOTTOM)

    content = [_text(0, 14, chart.name, class_="name")]
    for tick in round_ticks(0, most, 5):
        content.append(element("line", class_="rule", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y_at(tick), y2=y_at(tick)))
        content.append(_text(_LEFT - 6, y_at(tick) + 4, f"{tick:g}", text_anchor="end"))
    content += [
        _text(x_at(tick), _HEIGHT - _BOTTOM + 18, f"{tick:g} s", text_anchor="middle")
        for tick in round_ticks(0, most_s, 6)
    ]
    for number, (name, curve) in enumerate(chart.curves.items()):
        path = "L".join(f"{x_at(s):.1f} {y_at(value):.1f}" for s, value in curve)
        if path:
            content.append(element("path", class_=f"c{number}", d=f"M{path}"))
        content.append(_text(230 + 90 * number, 14, name, class_=f"t{number}"))
    return element("svg", *content, viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}", role="img", aria_label=chart.name)


def _text(x: float, y: float, text: str, **attributes: str | float) -> Markup:
    return element("text", escaped(text), x=x, y=y, **attributes)
