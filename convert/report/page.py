"""quality.html of a bundle: one page for people, without scripts, which loads nothing from anywhere."""

import math
from collections.abc import Sequence
from pathlib import Path

from ..agent import page_environment
from . import numbers
from .quality import Quality, TensorQuality

_SHOWN = ("significant", "percent", "ratio", "megabytes", "perplexity_verdict", "right_answers", "points_gained")


def render_page(quality: Quality) -> str:
    from . import charts  # noqa: PLC0415 - matplotlib takes a second

    measured = [tensor for tensor in quality.tensors if tensor.divergence is not None]
    context = {
        "quality": quality,
        "comparison": quality.comparison,
        "bundle": quality.bundle,
        "less_probable": numbers.significant(100 * (1 - math.exp(-quality.comparison.divergence.mean)), 2),
        "own": next(size for size in quality.sizes if size.is_own),
        "sizes": sorted(quality.sizes, key=lambda size: size.bytes),
        "size_chart": charts.size_chart(quality.sizes),
        "measured": len(measured),
        "scaled": sum(tensor.is_scaled for tensor in measured),
        "total": _total(measured),
        "tensor_chart": charts.tensor_chart(quality.tensors),
        "kinds": _kinds(quality.tensors),
        **{name: getattr(numbers, name) for name in _SHOWN},
    }
    return page_environment(Path(__file__).parent).get_template("quality.html.jinja").render(context)


def _total(tensors: Sequence[TensorQuality]) -> float:
    return sum(tensor.divergence or 0 for tensor in tensors)


def _kinds(all_tensors: Sequence[TensorQuality]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(tensor.kind for tensor in all_tensors):
        found = [tensor for tensor in all_tensors if tensor.kind == kind]
        is_measured = any(tensor.divergence is not None for tensor in found)
        total = _total(all_tensors)
        rows.append(
            (
                kind,
                f"{len(found):,}",
                ", ".join(sorted({tensor.type for tensor in found})),
                numbers.megabytes(sum(tensor.bytes for tensor in found)),
                numbers.significant(_total(found) if is_measured else None),
                numbers.percent(_total(found) / total if is_measured and total else None),
            )
        )
    return rows
