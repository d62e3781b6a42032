"""PURE. What was measured -> the rows of the table, with their targets."""

from __future__ import annotations

from rigs.bench.agent_side import AgentSide
from rigs.bench.asking import Run
from rigs.bench.example_server import PythonServer
from rigs.bench.figures import Row, at_equal_text, ratios, row
from rigs.bench.idle import SHORT_TOKENS
from rigs.bench.llama_server import LlamaServer
from rigs.bench.rounds import WIDTHS, Measured
from rigs.bench.sizes import CLIENTS
from rigs.bench.workload import Answer, Kind

_OURS, _THEIRS, _EXAMPLE = AgentSide.name, LlamaServer.name, PythonServer.name


def rows(measured: Measured) -> list[Row]:
    """Of the parts that were run."""
    found: list[Row] = []
    if measured.prefill_limit:
        found += _classify_rows(measured)
    if (_OURS, Kind.EXTRACT, CLIENTS) in measured.runs:
        found += _extract_rows(measured)
    if measured.generate_limit:
        found += _generate_rows(measured)
    if measured.latencies:
        found += [
            row(
                f"one classify on an idle agent, ≤ {SHORT_TOKENS} new tokens: p50",
                [latency.answer_ms for latency in measured.latencies],
                "ms",
                at_most=90,
            ),
            row(
                "from the packet to the first step on an idle agent: p50",
                [latency.queued_ms for latency in measured.latencies],
                "ms",
                at_most=3,
            ),
        ]
    if measured.agent_mb:
        found.append(
            row(f"anonymous memory beyond the weights, {CLIENTS} active", measured.agent_mb, "MiB", at_most=200)
        )
        found.append(row("  the same of llama-server", measured.server_mb, "MiB"))
    if measured.bursts:
        name = f"cold burst of 4: requests that share the new prefix of {measured.burst_tokens} tokens"
        found.append(row(name, [burst.shared for burst in measured.bursts], at_least=3))
        found.append(
            row("  tokens of the prefix computed", [burst.computed_tokens for burst in measured.bursts], "tokens")
        )
    if measured.others_cpus:
        found.append(row("CPUs that others kept busy meanwhile", measured.others_cpus, "CPUs"))
    return found


def _classify_rows(measured: Measured) -> list[Row]:
    rates = {key: [run.requests_per_s for run in runs] for key, runs in measured.runs.items()}
    ours = rates[_OURS, Kind.CLASSIFY, CLIENTS]
    theirs = {width: row("", rates[_THEIRS, Kind.CLASSIFY, width]).value for width in WIDTHS}
    best = max(theirs, key=lambda width: theirs[width])
    alone, together = (measured.runs[_OURS, Kind.CLASSIFY, width] for width in (1, CLIENTS))
    pairs = [pair for one, other in zip(alone, together, strict=True) for pair in _pairs(one, other)]
    server_pairs = [
        pair
        for one, other in zip(together, measured.runs[_THEIRS, Kind.CLASSIFY, CLIENTS], strict=True)
        for pair in _pairs(one, other)
    ]
    shared = [rates[side, Kind.CLASSIFY_SHARED, CLIENTS] for side in (_OURS, _THEIRS)]
    return [
        row("classify: requests/s, 8 clients", ours, "1/s"),
        row("  one client", rates[_OURS, Kind.CLASSIFY, 1], "1/s"),
        *(row(f"  llama-server, {width}", rates[_THEIRS, Kind.CLASSIFY, width], "1/s") for width in WIDTHS),
        row("  tokens computed per request", [run.computed_tokens for run in together], "tokens"),
        row("  the same of llama-server", _computed(measured, _THEIRS, Kind.CLASSIFY), "tokens"),
        row("classify: ratio at 8", ratios(ours, rates[_THEIRS, Kind.CLASSIFY, CLIENTS]), at_least=1.6),
        row(f"classify: ratio to its best, at {best}", ratios(ours, rates[_THEIRS, Kind.CLASSIFY, best]), at_least=1.4),
        row("classify: ratio at 1", ratios(rates[_OURS, Kind.CLASSIFY, 1], rates[_THEIRS, Kind.CLASSIFY, 1])),
        row("classify: of what llama-bench's prefill allows", ratios(ours, measured.prefill_limit), at_least=0.9),
        row("classify, two labels share a first token: ratio at 8", ratios(*shared)),
        row("classify: same label alone and in a batch", [_agreement(pairs)], at_least=0.99),
        row("  largest difference of a probability", [_largest_difference(pairs)], at_most=0.02),
        row("  same label as llama-server", [_agreement(server_pairs)]),
    ]


def _extract_rows(measured: Measured) -> list[Row]:
    found: list[Row] = []
    for width, target in ((CLIENTS, 2.0), (1, 2.2)):
        ours = [run.requests_per_s for run in measured.runs[_OURS, Kind.EXTRACT, width]]
        found.append(row(f"extract: requests/s, {width}", ours, "1/s"))
        found.append(row("  tokens of free text", measured.free_tokens[_OURS, width], "tokens"))
        for side, at_least in ((_THEIRS, target), (_EXAMPLE, 1.0)):
            if (side, Kind.EXTRACT, width) not in measured.runs:
                continue
            theirs = [run.requests_per_s for run in measured.runs[side, Kind.EXTRACT, width]]
            found += [
                row(f"  {side}", theirs, "1/s"),
                row("  its tokens of free text", measured.free_tokens[side, width], "tokens"),
                row(
                    f"extract: ratio to {side} at {width}",
                    at_equal_text(
                        ratios(ours, theirs),
                        my_rate=ours,
                        my_tokens=measured.free_tokens[_OURS, width],
                        their_tokens=measured.free_tokens[side, width],
                        my_tokens_per_s=measured.text_speeds[width],
                    ),
                    at_least=at_least,
                ),
            ]
    return found


def _generate_rows(measured: Measured) -> list[Row]:
    ours = [run.tokens_per_s for run in measured.runs[_OURS, Kind.GENERATE, CLIENTS]]
    found = [row("generate: tokens/s, 8 clients", ours, "tokens/s")]
    found.append(row("  tokens per answer", _written(measured, _OURS), "tokens"))
    for side, target in ((_THEIRS, 1.15), (_EXAMPLE, 1.0)):
        if (side, Kind.GENERATE, CLIENTS) in measured.runs:
            theirs = [run.tokens_per_s for run in measured.runs[side, Kind.GENERATE, CLIENTS]]
            found += [
                row(f"  {side}", theirs, "tokens/s"),
                row("  its tokens per answer", _written(measured, side), "tokens"),
                row(f"generate: ratio to {side} at {CLIENTS}", ratios(ours, theirs), at_least=target),
            ]
    found.append(row("  llama-batched-bench", measured.generate_limit, "tokens/s"))
    found.append(
        row("generate: of what llama-batched-bench allows", ratios(ours, measured.generate_limit), at_least=0.95)
    )
    return found


def _computed(measured: Measured, side: str, kind: Kind) -> list[float]:
    return [run.computed_tokens for run in measured.runs[side, kind, CLIENTS]]


def _written(measured: Measured, side: str) -> list[float]:
    runs = measured.runs[side, Kind.GENERATE, CLIENTS]
    return [sum(answer.completion_tokens for answer in run.answers) / len(run.answers) for run in runs]


def _pairs(one: Run, other: Run) -> list[tuple[Answer, Answer]]:
    return list(zip(one.answers, other.answers, strict=True))


def _agreement(pairs: list[tuple[Answer, Answer]]) -> float:
    return sum(one.text == other.text for one, other in pairs) / len(pairs)


def _largest_difference(pairs: list[tuple[Answer, Answer]]) -> float:
    return max(
        abs(one.scores[label] - other.scores[label])
        for one, other in pairs
        if one.scores is not None and other.scores is not None
        for label in one.scores
    )
