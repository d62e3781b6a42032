"""PURE. The page's tables: every figure of quality.json."""

from collections.abc import Sequence

from .figures import UNKNOWN, megabytes, percent, ratio, significant
from .markup import Markup, element, escaped, joined
from .quality import Divergence, Perplexity, Size, Speed, Task, Tensor
from .tensors import APART, KINDS, OTHERS, sort_tensors
from .verdicts import points_of_right, share_of_right


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, own: int = -1, words: int = -1
) -> Markup:
    """A table whose rows are named by their first cell. own: row to stress; words: column that holds text."""

    def kind(column: int) -> str | None:
        return "words" if column == words else None

    header = [element("th", escaped(name), scope="col", class_=kind(column)) for column, name in enumerate(head)]
    body = [
        element(
            "tr",
            element("th", escaped(first), scope="row"),
            *(element("td", escaped(cell), class_=kind(column)) for column, cell in enumerate(cells, start=1)),
            class_="own" if index == own else None,
        )
        for index, (first, *cells) in enumerate(rows)
    ]
    made = element(
        "table",
        element("caption", escaped(caption)),
        element("thead", element("tr", *header)),
        element("tbody", *body),
    )
    # It can be scrolled with the keyboard where it is wider than the screen.
    return element("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def divergence_table(divergence: Divergence) -> Markup:
    rows = [
        ("mean, nats", significant(divergence.mean)),
        ("standard error of the mean, nats", significant(divergence.error, 2)),
        ("median: half of all positions stay below, nats", significant(divergence.median)),
        ("90 % of all positions stay below, nats", significant(divergence.p90)),
        ("99 % of all positions stay below, nats", significant(divergence.p99)),
        ("largest, nats", significant(divergence.max)),
        ("same first choice", percent(divergence.top1_agreement, 2)),
    ]
    return table("KL divergence from the unquantized model", ("over all positions", "value"), rows)


def perplexity_table(perplexity: Perplexity) -> Markup:
    rows = [
        ("ratio", ratio(perplexity.ratio)),
        *(
            (("95 % interval", f"{ratio(perplexity.low)} to {ratio(perplexity.high)}"),)
            if perplexity.low and perplexity.high
            else ()
        ),
        ("this bundle", significant(perplexity.own, 5)),
        ("unquantized model", significant(perplexity.reference, 5)),
    ]
    return table("Perplexity", ("of the text", "value"), rows)


def task_table(tasks: Sequence[Task]) -> Markup:
    rows = [
        (
            f"{task.name} ({task.kind})",
            f"{task.right:,} of {task.examples:,}: {share_of_right(task)}",
            percent(task.reference_accuracy),
            UNKNOWN if task.reference_accuracy is None else points_of_right(task),
        )
        for task in tasks
    ]
    head = ("task", "this bundle", "unquantized", "difference, points")
    return table("Right answers, in brackets 95 % intervals", head, rows)


def size_table(sizes: Sequence[Size]) -> Markup:
    ordered = sorted(sizes, key=lambda size: size.bytes)
    rows = [
        (
            f"this bundle: {size.name}" if size.is_own else size.name,
            megabytes(size.bytes),
            megabytes(size.ram_bytes),
            significant(size.divergence),
        )
        for size in ordered
    ]
    own = next((index for index, size in enumerate(ordered) if size.is_own), -1)
    caption = (
        "Copied on loading: from the file into anonymous memory, for kernels of the target. It is computed from types, "
        "not measured; context and buffers add to it"
    )
    head = ("quantized as", "file, MB", "copied on loading, MB", "mean divergence, nats")
    return table(caption, head, rows, own=own)


def kind_table(tensors: Sequence[Tensor]) -> Markup:
    model = sort_tensors(tensors)
    total = sum(tensor.divergence or 0 for tensor in tensors)
    rows = []
    for kind in (*APART, *KINDS, OTHERS):
        found = model.of_kind(kind)
        if not found:
            continue
        known = [tensor.divergence for tensor in found if tensor.divergence is not None]
        rows.append(
            (
                kind,
                f"{len(found):,}",
                ", ".join(sorted({tensor.type for tensor in found})),
                megabytes(sum(tensor.bytes for tensor in found)),
                significant(sum(known)) if known else UNKNOWN,
                percent(sum(known) / total) if known and total else UNKNOWN,
            )
        )
    head = ("kind of tensor", "count", "types", "MB", "sum, nats", "share")
    return table("By kind; the share is of the sum of all tensors' divergences", head, rows, words=2)


def tensor_table(tensors: Sequence[Tensor]) -> Markup:
    rows = [
        (
            tensor.name,
            tensor.type,
            f"{tensor.bytes:,}",
            significant(tensor.divergence),
            UNKNOWN if tensor.divergence is None else "scaled" if tensor.is_scaled else "measured",
        )
        for tensor in tensors
    ]
    made = table("One row per tensor", ("tensor", "type", "bytes", "divergence, nats", "which was"), rows, words=1)
    return element("details", element("summary", escaped(f"All {len(tensors):,} tensors")), made)


def speed_table(speeds: Sequence[Speed]) -> Markup:
    rows = [
        (speed.board, significant(speed.tokens_per_s), significant(speed.bandwidth_gb_s), speed.source)
        for speed in speeds
    ]
    head = ("board", "tokens/s, PREDICTED", "bandwidth, GB/s", "source of the bandwidth")
    return table("Bandwidth on paper, over the bytes that one token reads", head, rows, words=3)


def both(*tables: Markup) -> Markup:
    """Tables side by side where there is room."""
    return element("div", joined(tables), class_="tables")
