"""`edge-agent rows --recorded` and `--faults`: the readings that the board recorded, as rows for training."""

from __future__ import annotations

import csv
import io
import math
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from edge_agent.core.clock import parse_timestamp, rfc3339
from edge_agent.core.config import Config
from edge_agent.core.kinds.registry import TaskConfig
from edge_agent.core.labelled import RowsError, read_text, write_rows
from edge_agent.core.terminal import fail
from edge_agent.core.wording import printable, printable_json, shown
from edge_agent.loader import load_config
from edge_agent.signals.recorder import recorded_rows

_MAX_NAMED = 10
# How much of a window is left out after a start or an end. With less, a model learns wrong labels where starts are
# noted too early; with more, it does not know the beginnings of faults.
_LEFT_OUT_AFTER = 0.25
# For each start and each end, at least so many rows should have windows that cover it.
_MIN_COVERING = 2
_COLUMNS = ("machine", "from", "to", "answer")


@dataclass(frozen=True, slots=True)
class Fault:
    """An interval of the maintenance log. Times are seconds since 1970; the end is infinite while the fault lasts."""

    start: float
    end: float
    answer: str


def rows(
    config_path: Path, task: str, out: Path, *, faults: Path | None, otherwise: str | None, force: bool, as_json: bool
) -> int:
    """Writes the rows, and prints how many; returns the exit code. Raises ConfigError."""
    config = load_config(config_path)
    try:
        tables = _tables_of(config, task)
        whole_log = {} if faults is None else read_faults(faults)
        recorded = _recorded(config, tables)
        machines = {row["machine"] for row in recorded}
        skipped = _machines_of_other_tables(config, tables, whole_log.keys() - machines)
        logbook = {machine: intervals for machine, intervals in whole_log.items() if machine not in skipped}
        _check_answers(config.tasks[task], logbook, otherwise)
        if not recorded:
            raise RowsError([_nothing_recorded(config, tables)])
        kept = [{"task": task, **row} for row in recorded]
        window_s = max(config.signals[table].window_s for table in tables)
        if faults is not None:
            if skipped:
                print(f"{faults}: skipped {_listed(skipped)}, whose readings are in other tables", file=sys.stderr)
            _report_unknown_machines(faults, logbook.keys(), machines, is_rest_labelled=otherwise is not None)
            kept = list(labelled(kept, logbook, window_s=window_s, otherwise=otherwise))
            if not kept:
                rule = f"no reading is in an interval of {faults}; --else labels the readings outside all intervals"
                raise RowsError([f"no rows written: {rule}"])
        write_rows(out, kept, force=force)
    except RowsError as error:
        return fail("\n".join(error.faults))
    counts, left_out = Counter(row["answer"] for row in kept if "answer" in row), len(recorded) - len(kept)
    if as_json:
        print(printable_json({"task": task, "rows": len(kept), "labels": dict(counts), "left_out": left_out}))
        return 0
    listed = ", ".join(f"{label} {count}" for label, count in counts.items())
    print(printable(f"{out}: {len(kept)} rows{': ' if listed else ''}{listed}"))
    if left_out:
        around = f"from {window_s:g} s before a start or an end to {_LEFT_OUT_AFTER * window_s:g} s after it"
        print(f"left out {left_out}: without an answer, or {around}")
    if faults is not None:
        _report_log_end(faults, whole_log, kept, otherwise)
        has_windows = any(config.signals[table].has_windows for table in tables)
        if has_windows and _lacks_changes(kept, logbook, window_s):
            rule = f"to record more of them, set every_s and record_every_s to {window_s / 5:g} or less, but not to 0"
            near = f"few rows are within {window_s:g} s after a start or an end"
            print(f"{near}, so a model may give no label then; {rule}")
    return 0


def _tables_of(config: Config, task: str) -> tuple[str, ...]:
    tables = config.tasks[task].signal_tables if task in config.tasks else ()
    if not tables:
        raise RowsError([f"tasks: should be one with `signals` (got {shown(task)})"])
    return tables


def _recorded(config: Config, tables: Iterable[str]) -> list[dict[str, Any]]:
    try:
        return [row for table in tables for row in recorded_rows(config.state_dir, table)]
    except OSError as error:
        raise RowsError([f"{error.filename}: cannot be read: {error.strerror}"]) from error


def _machines_of_other_tables(config: Config, tables: Sequence[str], machines: AbstractSet[str]) -> list[str]:
    """The machines that other tables have readings of, because the log may be that of the whole plant."""
    others = [table for table in config.signals if table not in tables] if machines else []
    return sorted(machines & {row["machine"] for row in _recorded(config, others)})


def _check_answers(task: TaskConfig, logbook: Mapping[str, Sequence[Fault]], otherwise: str | None) -> None:
    answers = {fault.answer for intervals in logbook.values() for fault in intervals}
    for answer in sorted(answers | ({otherwise} if otherwise is not None else set())):
        if fault := task.row_fault(answer):
            raise RowsError([fault])


def _nothing_recorded(config: Config, tables: Sequence[str]) -> str:
    named = ", ".join(f"[signals.{table}]" for table in tables)
    off = "".join(
        f"; signals.{table}.record_every_s is 0" for table in tables if not config.signals[table].record_every_s
    )
    return f"no rows written: no readings of {named} are recorded{off}"


def _report_unknown_machines(
    path: Path, logged: AbstractSet[str], machines: AbstractSet[str], *, is_rest_labelled: bool
) -> None:
    """Names the machines of the log without readings. Raises RowsError if that may put a wrong answer into rows."""
    unknown = sorted(logged - machines)
    if not unknown:
        return
    found = f"{path}: no readings are recorded for {_listed(unknown)}"
    if is_rest_labelled:
        # The readings of a fault whose machine is mistyped would get the answer of the others.
        near = sorted({name for each in unknown for name in get_close_matches(each, machines, 3, 0.4)})
        others = f"similar names are {_listed(near)}" if near else f"those recorded are of {_listed(sorted(machines))}"
        rule = "correct the names, or remove these lines, because --else would label the readings of a mistyped machine"
        raise RowsError([f"{found}; {others}; {rule}"])
    print(found, file=sys.stderr)


def _report_log_end(
    path: Path, log: Mapping[str, Sequence[Fault]], rows: Iterable[Mapping[str, Any]], otherwise: str | None
) -> None:
    """Says how many rows got the answer outside all intervals only because the log ends before them."""
    if otherwise is None:
        return
    ends_at = max((edge for known in _edges(log).values() for edge in known if edge < math.inf), default=math.inf)
    later = sum(row["answer"] == otherwise and (parse_timestamp(row["ts"]) or 0.0) > ends_at for row in rows)
    if later:
        told = f"{path} ends at {rfc3339(ends_at)}; rows with {shown(otherwise)} after that: {later}"
        print(printable(f"{told}; add faults that have begun since then"))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:_MAX_NAMED])) + (", …" if len(names) > _MAX_NAMED else "")


def read_faults(path: Path) -> dict[str, list[Fault]]:
    """The intervals of each machine, in the order of their times. Raises RowsError."""
    name = printable(str(path))
    try:
        return _intervals(name, csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise RowsError([f"{name}: {error}"]) from error


def _intervals(name: str, reader: csv.DictReader[str]) -> dict[str, list[Fault]]:
    if tuple(reader.fieldnames or ()) != _COLUMNS:
        raise RowsError([f"{name}:1: should be {','.join(_COLUMNS)} (got {shown(reader.fieldnames)})"])
    logbook: dict[str, list[Fault]] = {}
    mistakes = []
    for line in reader:
        where = f"{name}:{reader.line_num}"
        start, end = _time(line["from"]), _time(line["to"]) if line["to"] else float("inf")
        if start is None or end is None or start >= end:
            rule = "from and to should be times such as 2026-11-30T14:00, to later than from, or empty while it lasts"
            mistakes.append(f"{where}: {rule} (got {shown(line['from'])} and {shown(line['to'])})")
        elif not line["machine"] or not line["answer"] or None in line:
            mistakes.append(f"{where}: should have a machine and an answer, and no more columns")
        else:
            logbook.setdefault(line["machine"], []).append(Fault(start, end, line["answer"]))
    for machine, intervals in logbook.items():
        intervals.sort(key=lambda fault: fault.start)
        mistakes += [
            f"{name}: two intervals of {shown(machine)} overlap: {shown(one.answer)} and {shown(other.answer)}"
            for one, other in pairwise(intervals)
            if other.start < one.end
        ]
    if mistakes:
        raise RowsError(mistakes)
    return logbook


def labelled(
    recorded: Iterable[dict[str, Any]],
    logbook: Mapping[str, Sequence[Fault]],
    *,
    window_s: float,
    otherwise: str | None,
) -> Iterator[dict[str, Any]]:
    """The rows for which the log has an answer.

    Starts and ends are rarely noted to the minute, and rather late than early. So readings are left out for one window
    before each, and for a part of one after it. Later readings get the answer of the new state: without them, no row
    would have a window that covers a change, and a model would take all such readings for unlike training.

    `otherwise` is the answer outside all intervals; None leaves those rows out.
    """
    edges = _edges(logbook)
    for row in recorded:
        at, known = parse_timestamp(row["ts"]), edges.get(row["machine"], [])
        if at is None:
            continue
        before = bisect_right(known, at)
        if before < len(known) and known[before] - at < window_s:
            continue
        if before and at - known[before - 1] < _LEFT_OUT_AFTER * window_s:
            continue
        answer = logbook[row["machine"]][before // 2].answer if before % 2 else otherwise
        if answer is not None:
            yield {**row, "answer": answer}


def _edges(logbook: Mapping[str, Sequence[Fault]]) -> dict[str, list[float]]:
    """The starts and ends by machine. They alternate, so a reading after an odd number of them is in an interval."""
    return {
        machine: [edge for fault in faults for edge in (fault.start, fault.end)] for machine, faults in logbook.items()
    }


def _lacks_changes(rows: Sequence[dict[str, Any]], logbook: Mapping[str, Sequence[Fault]], window_s: float) -> bool:
    """Whether few rows have windows that cover a change, so that a model takes such readings for unlike training."""
    edges, covering = _edges(logbook), 0
    times = [(row["machine"], parse_timestamp(row["ts"]) or 0.0) for row in rows]
    for machine, at in times:
        known = edges.get(machine, [])
        before = bisect_right(known, at)
        covering += before > 0 and at - known[before - 1] < window_s
    first, last = min(at for _, at in times), max(at for _, at in times)
    # A log may go back farther than the recorded readings.
    changes = sum(first <= edge <= last for known in edges.values() for edge in known)
    return covering < _MIN_COVERING * changes


def _time(text: str | None) -> float | None:
    """Seconds since 1970; None if the text is not a time. Without an offset, it is this computer's local time."""
    try:
        return datetime.fromisoformat((text or "").strip()).timestamp()
    except ValueError:
        return None
