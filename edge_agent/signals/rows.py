"""`edge-agent rows --recorded` and `--faults`: the readings that the board recorded, as rows for training."""

from __future__ import annotations

import csv
import io
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from edge_agent.core.clock import parse_timestamp
from edge_agent.core.labelled import RowsError, read_text, write_rows
from edge_agent.core.terminal import fail
from edge_agent.core.wording import printable, printable_json, shown
from edge_agent.loader import load_config
from edge_agent.signals.recorder import recorded_rows

_MAX_NAMED = 10
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
    tables = config.tasks[task].signal_tables if task in config.tasks else ()
    if not tables:
        return fail(f"tasks: should be one with `signals` (got {shown(task)})")
    try:
        logbook = {} if faults is None else read_faults(faults)
        recorded = [row for table in tables for row in recorded_rows(config.state_dir, table)]
        machines = {row["machine"] for row in recorded}
        # A log of the whole plant has machines, and answers, of other tasks.
        others = [table for table in config.signals if table not in tables] if logbook.keys() - machines else ()
        of_others = {row["machine"] for table in others for row in recorded_rows(config.state_dir, table)} - machines
        skipped = sorted(logbook.keys() & of_others)
        logbook = {machine: intervals for machine, intervals in logbook.items() if machine not in of_others}
        answers = {fault.answer for intervals in logbook.values() for fault in intervals}
        for answer in sorted(answers | ({otherwise} if otherwise is not None else set())):
            if fault := config.tasks[task].row_fault(answer):
                raise RowsError([fault])
    except RowsError as error:
        return fail("\n".join(error.faults))
    except OSError as error:
        return fail(f"{error.filename}: cannot be read: {error.strerror}")
    if not recorded:
        named = ", ".join(f"[signals.{table}]" for table in tables)
        off = "".join(
            f"; signals.{table}.record_every_s is 0" for table in tables if not config.signals[table].record_every_s
        )
        return fail(f"no rows written: no readings of {named} are recorded{off}")
    margin_s = max(config.signals[table].window_s for table in tables)
    kept, left_out = [{"task": task, **row} for row in recorded], 0
    if faults is not None:
        kept = list(labelled(kept, logbook, margin_s=margin_s, otherwise=otherwise))
        left_out = len(recorded) - len(kept)
    if skipped:
        print(f"{faults}: skipped {_listed(skipped)}, of which other tables have readings", file=sys.stderr)
    if unknown := sorted(logbook.keys() - machines):
        found = f"{faults}: no readings are recorded for {_listed(unknown)}"
        if otherwise is not None:
            # The readings of a fault whose machine is mistyped would get the answer of the others.
            near = sorted({name for each in unknown for name in get_close_matches(each, machines, 3, 0.4)} or machines)
            return fail(
                f"{found}, but for {_listed(near)}; correct the names, or remove these lines: --else requires it"
            )
        print(found, file=sys.stderr)
    if not kept:
        return fail(f"no rows written: no reading is in an interval of {faults}; --else gives the others an answer")
    try:
        write_rows(out, kept, force=force)
    except RowsError as error:
        return fail("\n".join(error.faults))
    counts = Counter(row["answer"] for row in kept if "answer" in row)
    if as_json:
        print(printable_json({"task": task, "rows": len(kept), "labels": dict(counts), "left_out": left_out}))
    else:
        listed = ", ".join(f"{label} {count}" for label, count in counts.items())
        print(printable(f"{out}: {len(kept)} rows{': ' if listed else ''}{listed}"))
        if left_out:
            print(f"left out {left_out}: without an answer, or within {margin_s:g} s of a start or an end")
    return 0


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
    faults = []
    for line in reader:
        where = f"{name}:{reader.line_num}"
        start, end = _time(line["from"]), _time(line["to"]) if line["to"] else float("inf")
        if start is None or end is None or start >= end:
            rule = "from and to should be times such as 2026-11-30T14:00, to later than from, or empty while it lasts"
            faults.append(f"{where}: {rule} (got {shown(line['from'])} and {shown(line['to'])})")
        elif not line["machine"] or not line["answer"] or None in line:
            faults.append(f"{where}: should have a machine and an answer, and no more columns")
        else:
            logbook.setdefault(line["machine"], []).append(Fault(start, end, line["answer"]))
    for machine, intervals in logbook.items():
        intervals.sort(key=lambda fault: fault.start)
        faults += [
            f"{name}: two intervals of {shown(machine)} overlap: {shown(one.answer)} and {shown(other.answer)}"
            for one, other in pairwise(intervals)
            if other.start < one.end
        ]
    if faults:
        raise RowsError(faults)
    return logbook


def labelled(
    recorded: Iterable[dict[str, Any]],
    logbook: Mapping[str, Sequence[Fault]],
    *,
    margin_s: float,
    otherwise: str | None,
) -> Iterator[dict[str, Any]]:
    """The rows for which the log has an answer.

    Readings within margin_s of a start or an end are left out, because their windows cover both states and nobody noted
    the exact minute. otherwise: the answer outside all intervals; None leaves those rows out.
    """
    # Starts and ends alternate, so a reading after an odd number of them is inside an interval.
    edges = {
        machine: [edge for fault in faults for edge in (fault.start, fault.end)] for machine, faults in logbook.items()
    }
    for row in recorded:
        at, known = parse_timestamp(row["ts"]), edges.get(row["machine"], [])
        if at is None:
            continue
        before = bisect_right(known, at)
        if any(abs(at - edge) < margin_s for edge in known[max(before - 1, 0) : before + 1]):
            continue
        answer = logbook[row["machine"]][before // 2].answer if before % 2 else otherwise
        if answer is not None:
            yield {**row, "answer": answer}


def _time(text: str | None) -> float | None:
    """Seconds since 1970; without an offset, the text is this computer's local time. None if it is not a time."""
    try:
        return datetime.fromisoformat((text or "").strip()).timestamp()
    except ValueError:
        return None
