"""Fetches the kept answers of a task, prints what they say, and writes the export and the page."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_agent.core.extras import missing_extra
from edge_agent.core.terminal import aligned, fail, percent
from edge_agent.core.wording import first_fault, printable, printable_json
from edge_agent.learning.commands.accuracy.measures import Measures, drop_words, evidence_words, measure, tables_of
from edge_agent.learning.commands.accuracy.numbers import measure_numbers, number_lines
from edge_agent.learning.maths.export import Export, NumberExport
from edge_agent.learning.maths.shares import CONFIDENCE
from edge_agent.tools.bus import Bus, NoAnswerError
from edge_agent.tools.command import send_command

_PAGE = 500


class RefusedError(Exception):
    """The board refused to export the answers. `result` is its reply to the command."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__()
        self.result = result


def accuracy(bus: Bus, task: str, *, as_json: bool, html: Path | None, out: Path | None, timeout_s: float) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 the board refused. Raises NoAnswerError."""
    if html is not None and (missing := missing_extra("plots")):
        return fail(missing)
    try:
        export = fetch(task, bus, lambda fields: send_command(bus, "feedback-export", fields, timeout_s=timeout_s))
    except RefusedError as refused:
        print(printable_json(refused.result))
        return 2
    try:
        if out is not None:
            out.write_bytes(export.encode())
        if isinstance(export, NumberExport):
            return _print_numbers(export, as_json=as_json, html=html)
        if not export.answers and not export.held_out:
            return _fail_without_answers(export)
        measures = measure(export)
        if html is not None:
            from edge_agent.learning.commands.accuracy.page import render_page  # noqa: PLC0415 - matplotlib takes a second

            html.write_text(render_page(export, measures), "utf-8")
    except OSError as error:
        return fail(f"{error.filename}: cannot be written: {error.strerror}")
    if as_json:
        print(printable_json({"board": export.board, "task": task, **asdict(measures)}))
    else:
        print("\n".join(map(printable, lines(export, measures))))
    return 0


def _print_numbers(export: NumberExport, *, as_json: bool, html: Path | None) -> int:
    if html is not None:
        return fail(f"--html shows labels, and task {export.task} is of the kind {export.kind}")
    if not export.answers:
        return _fail_without_answers(export)
    measures = measure_numbers(export)
    if as_json:
        print(printable_json({"board": export.board, "task": export.task, **asdict(measures)}))
    else:
        print("\n".join(map(printable, number_lines(export, measures))))
    return 0


def _fail_without_answers(export: Export | NumberExport) -> int:
    return fail(f"{export.board} has no answer kept for task {export.task} with its definition and model")


def fetch(task: str, bus: Bus, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> Export | NumberExport:
    """All pages of a task's answers. `ask` sends the command's fields. Raises RefusedError, NoAnswerError."""
    answers: list[Any] = []
    page: dict[str, Any] = {"next": 0}
    first: dict[str, Any] | None = None
    while page["next"] is not None:
        result = ask({"task": task, "after": page["next"], "limit": _PAGE})
        if result.get("status") != "ok":
            raise RefusedError(result)
        page = result["data"]
        first = first or page
        if (page["definition"], page["model"]) != (first["definition"], first["model"]):
            raise NoAnswerError(f"{bus.topics.base}: the task or model changed in the meantime: try again")
        answers += page["answers"]
    try:
        kind = NumberExport if page.get("kind") == "estimate" else Export
        return kind.model_validate({**page, "schema": 1, "site": bus.site, "device": bus.device, "answers": answers})
    except ValidationError as error:
        raise NoAnswerError(f"{bus.topics.base}: its answers cannot be read: {first_fault(error)}") from error


def lines(export: Export, measures: Measures) -> list[str]:
    calibration = measures.calibration
    kept = f"{export.task} of {export.board}: {measures.answers} answers kept"
    tables = [
        [f"{kept}; {percent(measures.given)} of the newest would be given now", *filter(None, [drop_words(measures)])],
        *([table.title, *aligned([table.head, *table.rows])] for table in tables_of(measures)),
    ]
    if calibration is not None:
        sample = f"{calibration.of} {calibration.sample}"
        errors = (
            f"{percent(calibration.before)} as the model scores, {percent(calibration.after)} with the map in force"
        )
        tables.append([f"expected calibration error of {sample}: {errors}"])
    bounds = f"Bounds are at {100 * CONFIDENCE:g} % confidence, promises at {100 * export.confidence:g} %."
    tables.append([evidence_words(measures), f"{bounds} Only audits are a fair sample."])
    return [line for table in tables for line in (*table, "")][:-1]
