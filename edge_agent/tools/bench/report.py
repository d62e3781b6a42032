"""PURE. What a bench found, as one JSON document and as tables of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_agent.core.errors import printable
from edge_agent.core.model import Model
from edge_agent.core.protocol import EngineSettings
from edge_agent.tools.bench.results import (
    FEWEST_ANSWERS,
    BoardResult,
    StepResult,
    StepResults,
    TaskResult,
    WorkerResult,
)

COLUMNS = 80
_UNKNOWN = "–"
_TASK_WIDTHS = (8, 12, 8, 8, 8, 10, 8, 7)
_RATE_WIDTH = 7
# The agent takes a narrower step if it loses little by it; more is a measurement that something disturbed.
_DOUBTFUL_LOSS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """settings: as configured; context_tokens and max_active: as they became."""

    version: str
    ts: str | None
    is_quick: bool
    board: BoardResult
    model: Model
    settings: EngineSettings
    context_tokens: int
    max_active: int
    tasks: tuple[TaskResult, ...]
    steps: StepResults
    worker: WorkerResult


def document(report: Report) -> dict[str, Any]:
    """For scripts: every figure, with its unit in its name."""
    return {
        "version": report.version,
        "ts": report.ts,
        "quick": report.is_quick,
        "summary": summary(report),
        "board": asdict(report.board),
        "model": report.model.describe(),
        "engine": {
            "configured": asdict(report.settings),
            "context_tokens": report.context_tokens,
            "max_active": report.max_active,
            "batch_tokens": report.steps.batch_tokens,
        },
        "tasks": [asdict(result) for result in report.tasks],
        "steps": {
            "decode": [_step_document(result) for result in report.steps.decode],
            "prefill": [_step_document(result) for result in report.steps.prefill],
            "decode_loss": report.steps.decode_loss,
            "prefill_loss": report.steps.prefill_loss,
        },
        "worker": asdict(report.worker),
    }


def _step_document(result: StepResult) -> dict[str, Any]:
    return {**asdict(result), "fastest_threads": result.fastest_threads}


def summary(report: Report) -> str:
    """What to know of this board, in one sentence."""
    most = max(result.clients for result in report.tasks)
    first, *others = [result for result in report.tasks if result.clients == most]
    also = ", ".join(f"{_rate(result.requests_per_s)} {result.task}" for result in others)
    return (
        f"This board answers {_rate(first.requests_per_s)} {first.task} requests/s with {most} "
        f"client{'s' if most > 1 else ''} ({also}); {_fastest(report.steps)}."
    )


def _fastest(steps: StepResults) -> str:
    decode, prefill = steps.decode[0], max(steps.prefill, key=_best_rate, default=None)
    told = [f"decode is fastest on {_threads(decode)} ({_rate(_best_rate(decode))} tokens/s for one request)"]
    if prefill is not None and prefill.tokens_per_s:
        told.append(f"prefill on {_threads(prefill)} ({_rate(_best_rate(prefill))} tokens/s)")
    return ", ".join(told)


def _best_rate(result: StepResult) -> float:
    return max(result.tokens_per_s.values(), default=0.0)


def _threads(result: StepResult) -> str:
    return "1 thread" if result.fastest_threads == 1 else f"{result.fastest_threads} threads"


def table(report: Report) -> str:
    """For people: the answer first, then what it is made of."""
    lines = [*textwrap.wrap(summary(report), COLUMNS), ""]
    lines += _facts(report)
    lines += ["", *_task_table(report.tasks)]
    lines += ["", *_step_table("Decode", report.steps.decode)]
    lines += ["", *_step_table("Prefill", report.steps.prefill)]
    wide = report.steps.batch_tokens
    lines += textwrap.wrap(f"* is what the agent uses here; it cuts prompts into steps of {wide} tokens.", COLUMNS)
    lines += _doubts(report.steps)
    if not any(result.joules_per_request for result in report.tasks):
        lines.append("Power is not measured here, so there are no joules.")
    return "\n".join(lines)


def _facts(report: Report) -> Iterator[str]:
    board, model, worker = report.board, report.model, report.worker
    about = [board.name, f"{board.cores} cores"]
    if board.soc_before_c is not None and board.soc_after_c is not None:
        about.append(f"{board.soc_before_c:.0f} °C before, {board.soc_after_c:.0f} °C after")
    yield from _fact("board", ", ".join(about))
    yield from _fact("model", f"{model.bundle_name} {model.quantization}, {model.size_bytes / 2**20:.0f} MiB")
    repacked = f"{_mib(worker.repacked_mib)} of it weights in fast layout"
    memory = f"{_mib(worker.anonymous_mib)} anonymous ({repacked}), {_mib(worker.file_mib)} of the file"
    yield from _fact("memory", memory)
    yield from _fact("start", f"{worker.first_start_s:.1f} s the first time, {worker.later_start_s:.1f} s later")
    if board.load1 is not None and board.load1 > board.cores / 2:
        yield from _fact("note", f"it was busy before this began (load {board.load1:.1f}): idle, it can do more")


def _fact(name: str, text: str) -> list[str]:
    indent = " " * 8
    return textwrap.wrap(printable(text), COLUMNS, initial_indent=f"{name:8}", subsequent_indent=indent)


def _task_table(results: Sequence[TaskResult]) -> Iterator[str]:
    yield _task_line("Tasks", "clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "tokens/s", "cached", "asked")
    for result in results:
        yield _task_line(
            result.task,
            str(result.clients),
            _rate(result.requests_per_s),
            *map(_ms, (result.p50_ms, result.p95_ms, result.p99_ms)),
            _rate(result.completion_tokens_per_s) if result.completion_tokens else _UNKNOWN,
            _UNKNOWN if result.cached_share is None else f"{result.cached_share:.0%}",
            str(result.requests),
        )
    if any(result.p99_ms is None for result in results):
        needs = ", ".join(f"p{percent} needs {fewest}" for percent, fewest in FEWEST_ANSWERS.items())
        yield f"A percentile of too few answers is {_UNKNOWN}: {needs}."
    for result in results:
        if result.failed:
            what = f"{result.task}, {result.clients} clients: {result.failed} of {result.requests} failed: "
            yield from textwrap.wrap(what + printable(result.failure or ""), COLUMNS)


def _task_line(name: str, *cells: str) -> str:
    return f"{name:8}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, _TASK_WIDTHS, strict=True))


def _step_table(name: str, results: Sequence[StepResult]) -> Iterator[str]:
    counts = sorted({count for result in results for count in result.tokens_per_s})
    yield f"{name}, tokens/s, by threads"
    yield f"{'rows':>6}" + "".join(f"{count:>{_RATE_WIDTH}}" for count in counts)
    for result in results:
        cells = (_cell(result, count) for count in counts)
        run_as = "" if result.chosen_rows == result.rows else f"  in steps of {result.chosen_rows}"
        yield f"{result.rows:>6}" + "".join(f"{cell:>{_RATE_WIDTH}}" for cell in cells) + run_as


def _doubts(steps: StepResults) -> Iterator[str]:
    for name, loss in (("decode", steps.decode_loss), ("prefill", steps.prefill_loss)):
        if loss is not None and loss > _DOUBTFUL_LOSS:
            text = (
                f"For {name} it uses what is {loss:.1f} times slower than the fastest here: it measured this itself at "
                "its start, and one of the two measurements was disturbed. Measure again on an idle board."
            )
            yield from textwrap.wrap(text, COLUMNS)


def _cell(result: StepResult, count: int) -> str:
    rate = result.tokens_per_s.get(count)
    mark = "*" if count == result.chosen_threads else ""
    return mark + (_UNKNOWN if rate is None else _rate(rate))


def _rate(value: float) -> str:
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ms(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _mib(value: float | None) -> str:
    return f"{_UNKNOWN} MiB" if value is None else f"{value:.0f} MiB"
