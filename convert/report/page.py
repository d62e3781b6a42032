"""PURE. quality.html of a bundle: one page for people, without scripts, that loads nothing from anywhere."""

import math
from collections.abc import Iterator

from . import plots, tables
from .facts import fact_list, hash_list
from .figures import megabytes, percent, ratio, significant, value_and_error
from .markup import NOTHING, Markup, element, escaped, joined
from .quality import Divergence, Perplexity, Quality, Size, Speed, Tensor
from .style import STYLE
from .verdicts import perplexity_verdict

FILE = "quality.html"
# Even if some text were taken for markup after all, the browser would load and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(quality: Quality, title: str) -> str:
    """The whole document. A part that quality does not have leaves out its section."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", escaped(f"{title}: quality")),
        element("style", Markup(STYLE)),
    )
    main = element(
        "main",
        element("h1", escaped(title)),
        element("p", escaped(_lead(quality)), class_="lead"),
        _cards(quality),
        fact_list(quality),
        *_sections(quality),
        _method(quality),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', main), lang='en')}\n"


def _lead(quality: Quality) -> str:
    kind = f" ({quality.reference.type})" if quality.reference else ""
    if quality.divergence is None:
        return f"What is known of this quantized model beside the unquantized one{kind}."
    return (
        f"At {percent(quality.divergence.top1_agreement)} of all places in the text this quantized model would write "
        f"the same next token as the unquantized one{kind}; on average its predictions are "
        f"{significant(quality.divergence.mean)} nats away."
    )


def _cards(quality: Quality) -> Markup:
    cards = list(_headline(quality))
    return element("dl", *cards, class_="cards") if cards else NOTHING


def _headline(quality: Quality) -> Iterator[Markup]:
    if divergence := quality.divergence:
        mean, error = value_and_error(divergence.mean, divergence.error)
        yield _card("KL divergence", mean, f"nats on average; standard error {error}" if error else "nats on average")
        yield _card("Same first choice", percent(divergence.top1_agreement), "of all positions")
    if perplexity := quality.perplexity:
        yield _card("Perplexity ratio", ratio(perplexity.ratio), perplexity_verdict(perplexity))
    if own := quality.own_size:
        copied = (
            "" if own.ram_bytes is None else f"; loading copies {megabytes(own.ram_bytes)} MB of it into anonymous "
        )
        yield _card("model.gguf", f"{megabytes(own.bytes)} MB", f"on disk{copied and copied + 'memory (computed)'}")
    if speeds := sorted(quality.speeds, key=lambda speed: speed.tokens_per_s):
        slow, fast = speeds[0], speeds[-1]
        told, boards = significant(slow.tokens_per_s), slow.board
        if fast is not slow:
            told, boards = f"{told} – {significant(fast.tokens_per_s)}", f"{boards} to {fast.board}"
        yield _card("Speed ", told, f"tokens/s at most, {boards}", badge="PREDICTED")


def _card(name: str, value: str, below: str, *, badge: str = "") -> Markup:
    return element(
        "div",
        element("dt", escaped(name), element("span", escaped(badge), class_="predicted") if badge else NOTHING),
        element("dd", escaped(value), class_="value"),
        element("dd", escaped(below)),
        class_="card",
    )


def _sections(quality: Quality) -> Iterator[Markup]:
    if quality.divergence or quality.perplexity:
        yield _section(
            "What the figures mean", *_meaning(quality.divergence, quality.perplexity, has_tasks=bool(quality.tasks))
        )
    if quality.tasks:
        yield _section(
            "Answers to tasks",
            _paragraph(
                "How often the answer to an example was right. Both models answered the same examples: where the "
                "interval of the difference holds 0, no difference can be told from so few."
            ),
            tables.task_table(quality.tasks),
        )
    if quality.sizes:
        yield _section(
            "Size and divergence",
            _paragraph(_about_sizes(quality)),
            _paragraph(_beside_others(quality)),
            plots.size_plot(quality.sizes),
            tables.size_table(quality.sizes),
        )
    if quality.tensors:
        yield _section(
            "Where the divergence comes from",
            _paragraph(_most_of_it(quality.tensors)),
            _paragraph(_sum_and_whole(quality)),
            plots.tensor_plot(quality.tensors),
            tables.kind_table(quality.tensors),
            tables.tensor_table(quality.tensors),
        )
    if quality.speeds:
        yield _section(
            "Speed, predicted",
            _paragraph(_about_speeds(quality.speeds)),
            plots.speed_plot(quality.speeds),
            tables.speed_table(quality.speeds),
        )
    if quality.divergence or quality.perplexity:
        yield _section(
            "All figures of the comparison",
            tables.both(
                tables.divergence_table(quality.divergence) if quality.divergence else NOTHING,
                tables.perplexity_table(quality.perplexity) if quality.perplexity else NOTHING,
            ),
        )


def _section(title: str, *parts: Markup | None) -> Markup:
    return element("section", element("h2", escaped(title)), *(part for part in parts if part))


def _paragraph(text: str) -> Markup:
    return element("p", escaped(text)) if text else NOTHING


def _meaning(divergence: Divergence | None, perplexity: Perplexity | None, *, has_tasks: bool) -> Iterator[Markup]:
    if divergence:
        less = significant(100 * (1 - math.exp(-divergence.mean)), 2)
        yield _paragraph(
            "At every position of a text a model gives each possible next token a probability. The KL divergence tells "
            f"how far the bundle's are from the unquantized model's. 0 nats is no difference; a mean of "
            f"{significant(divergence.mean)} makes what the unquantized model would have written typically {less} % "
            f"less probable. Half of all positions stay below {significant(divergence.median)} nats, one in a hundred "
            f"exceeds {significant(divergence.p99)}."
        )
        told = "is told by the tasks below" if has_tasks else "only examples of your own tasks can tell"
        yield _paragraph(f"{_one_in(divergence)} What that does to answers {told}.")
    if perplexity:
        yield _paragraph(
            "Perplexity is how many tokens a model is undecided between on average when it reads the text: "
            f"{significant(perplexity.own)} here, {significant(perplexity.reference)} unquantized. In their ratio "
            "gains and losses at single positions cancel; the KL divergence counts both."
        )


def _one_in(divergence: Divergence) -> str:
    missed = 1 - divergence.top1_agreement
    if missed == 0:
        return "A model that always writes its most probable token writes the same one at all positions."
    return (
        "A model that always writes its most probable token writes a different one at about one position in "
        f"{round(1 / missed):,}, mostly where two tokens are about equally probable."
    )


def _about_sizes(quality: Quality) -> str:
    others = [size for size in quality.sizes if not size.is_own]
    if not others or not all(size.name.startswith("--type ") for size in others):
        return ""
    return (
        "The others are what edge-convert with this --type and nothing else makes of the same checkpoint, which rounds "
        "each weight by itself and knows no texts. All divergences here were measured, on the same texts."
    )


def _beside_others(quality: Quality) -> str:
    own = quality.own_size
    others = [size for size in quality.sizes if not size.is_own and size.divergence]
    if own is None or not own.divergence or not others:
        return ""
    nearest = min(others, key=lambda size: abs(size.bytes - own.bytes))
    assert nearest.divergence is not None
    factor = nearest.divergence / own.divergence
    told = (
        f"Nearest in size is {nearest.name}: this bundle is {_percent_of(own, nearest)} and its divergence is "
        f"{significant(max(factor, 1 / factor), 2)} times {'smaller' if factor > 1 else 'larger'}."
    )
    better = [size.name for size in others if size.bytes <= own.bytes and (size.divergence or 0) <= own.divergence]
    if better:
        return f"{told} Both smaller and closer: {', '.join(better)}."
    return f"{told} None of the others is both smaller and closer."


def _percent_of(own: Size, other: Size) -> str:
    change = own.bytes / other.bytes - 1 if other.bytes else 0
    if abs(change) < 0.0005:
        return "as large"
    return f"{percent(abs(change))} {'larger' if change > 0 else 'smaller'}"


def _most_of_it(tensors: tuple[Tensor, ...]) -> str:
    known = sorted((tensor for tensor in tensors if tensor.divergence), key=lambda tensor: -(tensor.divergence or 0))
    total = sum(tensor.divergence or 0 for tensor in known)
    if not any(tensor.divergence is not None for tensor in tensors):
        return "Which tensor adds how much was not measured."
    told = "Each tensor alone was quantized, all others left as they were, and the divergence measured."
    if scaled := sum(tensor.is_scaled for tensor in tensors):
        measured = sum(tensor.divergence is not None for tensor in tensors) - scaled
        told += (
            f" {measured} tensors were measured with the type that they have. The other {scaled} were measured with "
            "their smallest type, and the figure scaled by how much less their own type changes the tensor's products "
            "with its inputs."
        )
    if not known:
        return told
    half, count = 0.0, 0
    for tensor in known:
        half, count = half + (tensor.divergence or 0), count + 1
        if half >= total / 2:
            break
    return (
        f"{told} Half of the sum comes from {count} of {len(known)} tensors; the largest part of one tensor is "
        f"{percent((known[0].divergence or 0) / total)}, that of {known[0].name}."
    )


def _sum_and_whole(quality: Quality) -> str:
    total = sum(tensor.divergence or 0 for tensor in quality.tensors)
    if not total or quality.divergence is None:
        return ""
    return (
        f"All parts together are {significant(total)} nats, the whole bundle is {significant(quality.divergence.mean)} "
        "away: parts add up to first order only, since errors of several tensors cancel or strengthen each other, and "
        "they were measured on a short piece of the calibration texts, the whole on the evaluation texts. Compare "
        "parts with parts."
    )


def _about_speeds(speeds: tuple[Speed, ...]) -> str:
    nbytes = speeds[0].bandwidth_gb_s * 1e9 / speeds[0].tokens_per_s
    return (
        "PREDICTED, not measured. For each token of an answer the board reads the model's weights once, here about "
        f"{significant(nbytes / 1e6)} MB: one request cannot be answered faster than the memory's bandwidth allows, of "
        "which boards reach a part, a Raspberry Pi 4 less than half. Measure yours with edge-agent bench. Several "
        "requests at once share each reading."
    )


def _method(quality: Quality) -> Markup:
    lines = [hash_list(quality)]
    if quality.divergence:
        lines.append(
            _paragraph(
                "KL divergence at a position is the sum over the vocabulary of p · ln(p / q), p being the unquantized "
                "model's probability of a token and q the bundle's. Intervals take positions, and examples, as "
                "independent of each other. MB are millions of bytes."
            )
        )
    lines.append(_paragraph("The same figures for programs: quality.json."))
    return element("footer", element("h2", escaped("Method")), joined(lines))
