"""The document of a measurement as tables of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from edge_agent.core.terminal import UNKNOWN, aligned
from edge_agent.core.wording import printable
from edge_agent.tools.bench.tasks import MIN_ANSWERS

COLUMNS = 80
Document = dict[str, Any]


def summary(document: Document) -> str:
    """The most important figures in one sentence."""
    clients = max(task["clients"] for task in document["tasks"])
    first, *others = [task for task in document["tasks"] if task["clients"] == clients]
    also = ", ".join(f"{_rate(task['requests_per_s'])} {task['task']}" for task in others)
    decode, prefill = document["steps"]["decode"][0], max(document["steps"]["prefill"], key=_best_rate)
    fastest = f"decode is fastest on {_threads(decode)} ({_rate(_best_rate(decode))} tokens/s for one request)"
    if prefill["tokens_per_s"]:
        fastest += f", prefill on {_threads(prefill)} ({_rate(_best_rate(prefill))} tokens/s)"
    return (
        f"This board answers {_rate(first['requests_per_s'])} {first['task']} requests/s with {clients} "
        f"client{'s' if clients > 1 else ''} ({also}); {fastest}."
    )


def table(document: Document) -> str:
    """For people: the summary first, then its parts."""
    lines = [*textwrap.wrap(document["summary"], COLUMNS), "", *_facts(document), "", *_task_lines(document["tasks"])]
    for name in ("decode", "prefill"):
        lines += ["", f"{name.capitalize()}, tokens/s, by threads", *_step_lines(document["steps"][name])]
    batch = document["engine"]["batch_tokens"]
    note = f"* marks what the agent uses here; it cuts prompts into steps of {batch} tokens."
    return "\n".join([*lines, *textwrap.wrap(note, COLUMNS)])


def _facts(document: Document) -> Iterator[str]:
    board, model, worker = document["board"], document["model"], document["worker"]
    heat = ""
    if board["soc_before_c"] is not None and board["soc_after_c"] is not None:
        heat = f", {board['soc_before_c']:.0f} °C before, {board['soc_after_c']:.0f} °C after"
    anonymous, repacked, file = (_number(worker[f"{name}_mib"]) for name in ("anonymous", "repacked", "file"))
    facts = {
        "board": f"{board['name']}, {board['cores']} cores{heat}",
        "model": f"{model['bundle']} {model['quantization']}, {model['size'] / 2**20:.0f} MiB",
        "memory": f"{anonymous} MiB anonymous ({repacked} MiB of it weights in fast layout), {file} MiB of the file",
        "start": f"{worker['first_start_s']:.1f} s the first time, {worker['later_start_s']:.1f} s later",
    }
    if board["load1"] is not None and board["load1"] > board["cores"] / 2:
        facts["note"] = f"the board was busy before (load {board['load1']:.1f}): idle, it is faster"
    for name, text in facts.items():
        indent = " " * 8
        yield from textwrap.wrap(printable(text), COLUMNS, initial_indent=f"{name:8}", subsequent_indent=indent)


def _task_lines(tasks: Sequence[Document]) -> Iterator[str]:
    head = ("Tasks", "clients", "req/s", "p50 ms", "p95 ms", "p99 ms", "tokens/s", "cached", "asked")
    rows = [
        (
            task["task"],
            str(task["clients"]),
            _rate(task["requests_per_s"]),
            *(_number(task[f"p{percent}_ms"]) for percent in MIN_ANSWERS),
            _rate(task["completion_tokens_per_s"]) if task["completion_tokens"] else UNKNOWN,
            UNKNOWN if task["cached_share"] is None else f"{task['cached_share']:.0%}",
            str(task["requests"]),
        )
        for task in tasks
    ]
    yield from aligned([head, *rows])
    if any(task["p99_ms"] is None for task in tasks):
        needs = ", ".join(f"p{percent} needs {count}" for percent, count in MIN_ANSWERS.items())
        yield f"A percentile of too few answers is {UNKNOWN}: {needs}."
    for task in tasks:
        if task["failed"]:
            what = f"{task['task']}, {task['clients']} clients: {task['failed']} of {task['requests']} failed: "
            yield from textwrap.wrap(what + printable(task["failure"]), COLUMNS)


def _step_lines(steps: Sequence[Document]) -> list[str]:
    counts = sorted({count for step in steps for count in step["tokens_per_s"]})
    rows = [("rows", *map(str, counts), "")]
    for step in steps:
        cells = (_step_cell(step, count) for count in counts)
        run_as = "" if step["chosen_rows"] == step["rows"] else f"in steps of {step['chosen_rows']}"
        rows.append((str(step["rows"]), *cells, run_as))
    return aligned(rows, left=0)


def _step_cell(step: Document, threads: int) -> str:
    rate = step["tokens_per_s"].get(threads)
    return ("*" if threads == step["chosen_threads"] else "") + (UNKNOWN if rate is None else _rate(rate))


def _best_rate(step: Document) -> float:
    return max(step["tokens_per_s"].values(), default=0.0)


def _threads(step: Document) -> str:
    return "1 thread" if step["fastest_threads"] == 1 else f"{step['fastest_threads']} threads"


def _rate(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"
