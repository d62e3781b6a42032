"""A report as one JSON document, and as tables of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from edge_agent.core.errors import printable
from edge_agent.tools.bench.results import MIN_ANSWERS, Report, StepResult, TaskResult
from edge_agent.tools.output import UNKNOWN, aligned

COLUMNS = 80


def document(report: Report) -> dict[str, Any]:
    """For scripts: every figure, with its unit in its name."""
    steps = report.steps
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
            "batch_tokens": steps.batch_tokens,
        },
        "tasks": [asdict(result) for result in report.tasks],
        "steps": {
            name: [{**asdict(result), "fastest_threads": result.fastest_threads} for result in results]
            for name, results in (("decode", steps.decode), ("prefill", steps.prefill))
        },
        "worker": asdict(report.worker),
    }


def summary(report: Report) -> str:
    """The most important figures in one sentence."""
    most = max(result.clients for result in report.tasks)
    first, *others = [result for result in report.tasks if result.clients == most]
    also = ", ".join(f"{_rate(result.requests_per_s)} {result.task}" for result in others)
    decode, prefill = report.steps.decode[0], max(report.steps.prefill, key=lambda result: result.best_rate)
    fastest = f"decode is fastest on {_threads(decode)} ({_rate(decode.best_rate)} tokens/s for one request)"
    if prefill.tokens_per_s:
        fastest += f", prefill on {_threads(prefill)} ({_rate(prefill.best_rate)} tokens/s)"
    return (
        f"This board answers {_rate(first.requests_per_s)} {first.task} requests/s with {most} "
        f"client{'s' if most > 1 else ''} ({also}); {fastest}."
    )


def table(report: Report) -> str:
    """For people: the summary first, then its parts."""
    lines = [*textwrap.wrap(summary(report), COLUMNS), "", *_facts(report), "", *_task_lines(report.tasks)]
    for name, results in (("Decode", report.steps.decode), ("Prefill", report.steps.prefill)):
        lines += ["", f"{name}, tokens/s, by threads", *_step_lines(results)]
    note = f"* marks what the agent uses here; it cuts prompts into steps of {report.steps.batch_tokens} tokens."
    return "\n".join([*lines, *textwrap.wrap(note, COLUMNS)])


def _facts(report: Report) -> Iterator[str]:
    board, model, worker = report.board, report.model, report.worker
    heat = ""
    if board.soc_before_c is not None and board.soc_after_c is not None:
        heat = f", {board.soc_before_c:.0f} °C before, {board.soc_after_c:.0f} °C after"
    facts = {
        "board": f"{board.name}, {board.cores} cores{heat}",
        "model": f"{model.bundle_name} {model.quantization}, {model.size_bytes / 2**20:.0f} MiB",
        "memory": f"{_mib(worker.anonymous_mib)} anonymous ({_mib(worker.repacked_mib)} of it weights in fast layout), "
        f"{_mib(worker.file_mib)} of the file",
        "start": f"{worker.first_start_s:.1f} s the first time, {worker.later_start_s:.1f} s later",
    }
    if board.load1 is not None and board.load1 > board.cores / 2:
        facts["note"] = f"the board was busy before (load {board.load1:.1f}): idle, it is faster"
    for name, text in facts.items():
        indent = " " * 8
        yield from textwrap.wrap(printable(text), COLUMNS, initial_indent=f"{name:8}", subsequent_indent=indent)


def _task_lines(results: Sequence[TaskResult]) -> Iterator[str]:
    head = ("Tasks", "clients", "req/s", "p50 ms", "p95 ms", "p99 ms", "tokens/s", "cached", "asked")
    rows = [
        (
            result.task,
            str(result.clients),
            _rate(result.requests_per_s),
            *(_number(value) for value in (result.p50_ms, result.p95_ms, result.p99_ms)),
            _rate(result.completion_tokens_per_s) if result.completion_tokens else UNKNOWN,
            UNKNOWN if result.cached_share is None else f"{result.cached_share:.0%}",
            str(result.requests),
        )
        for result in results
    ]
    yield from aligned([head, *rows])
    if any(result.p99_ms is None for result in results):
        needs = ", ".join(f"p{percent} needs {count}" for percent, count in MIN_ANSWERS.items())
        yield f"A percentile of too few answers is {UNKNOWN}: {needs}."
    for result in results:
        if result.failed:
            what = f"{result.task}, {result.clients} clients: {result.failed} of {result.requests} failed: "
            yield from textwrap.wrap(what + printable(result.failure or ""), COLUMNS)


def _step_lines(results: Sequence[StepResult]) -> list[str]:
    counts = sorted({count for result in results for count in result.tokens_per_s})
    rows = [("rows", *map(str, counts), "")]
    for result in results:
        cells = (_step_cell(result, count) for count in counts)
        run_as = "" if result.chosen_rows == result.rows else f"in steps of {result.chosen_rows}"
        rows.append((str(result.rows), *cells, run_as))
    return aligned(rows, left=0)


def _step_cell(result: StepResult, threads: int) -> str:
    rate = result.tokens_per_s.get(threads)
    return ("*" if threads == result.chosen_threads else "") + (UNKNOWN if rate is None else _rate(rate))


def _threads(result: StepResult) -> str:
    return "1 thread" if result.fastest_threads == 1 else f"{result.fastest_threads} threads"


def _rate(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _mib(value: float | None) -> str:
    return f"{_number(value)} MiB"
