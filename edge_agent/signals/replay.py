"""`edge-agent signals replay`: the readings that tables make of recorded messages, by the recording's clock."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from edge_agent.core.clock import rfc3339
from edge_agent.core.strict_json import compact_json
from edge_agent.core.terminal import fail
from edge_agent.core.wording import printable, shown
from edge_agent.loader import load_config
from edge_agent.signals.machine import Reading
from edge_agent.signals.signal_table import SignalTable, new_table, receive

# A line of a recording that stands for a lost connection.
LOST = "lost"
# A later time is in milliseconds, or none at all.
_MAX_TIME = 1e11


class RecordingError(Exception):
    """A recording that cannot be read. The message names the line."""


def replay(config_path: Path, recording: Path, table: str | None) -> int:
    """Prints a line for each reading; returns the exit code. Raises ConfigError."""
    config = load_config(config_path)
    wanted = {name: known for name, known in config.signals.items() if table in {None, name}}
    if not wanted:
        return fail(f"signals: should be one of {', '.join(config.signals) or 'none'} (got {shown(table)})")
    tables = {name: new_table(name, known) for name, known in wanted.items()}
    try:
        with recording.open(encoding="utf-8") as file:
            for reading in readings_of(file, tables):
                if not reading.lacking:
                    tasks = [name for name, task in config.tasks.items() if reading.table in task.signal_tables]
                    print(compact_json(_line(reading, tasks)))
    except BrokenPipeError:
        raise  # The reader of the output has ended.
    except OSError as error:
        return fail(f"{recording}: cannot be read: {error.strerror}")
    except (RecordingError, UnicodeDecodeError) as error:
        return fail(f"{printable(str(recording))}: {error}")
    for name, known in tables.items():
        print(f"{name}: {compact_json(known.as_health())}", file=sys.stderr)
        if not known.readings:
            print(f"{name}: no reading: {_why_none(known)}", file=sys.stderr)
    return 0


def _why_none(table: SignalTable) -> str:
    """Why a table made no reading."""
    if table.source.as_health().get("births_missed_total") and not table.source.metric_names:
        return "the recording has no birth, so its data cannot be read: record again while nodes send their births"
    if table.not_taken and not table.machines:
        return "no payload could be read, see `not_taken`"
    if not table.machines:
        return "no message gives a value: compare the topics of the recording with those of the table"
    for name, machine in table.machines.items():
        lacking = machine.lacking(table.now)
        if missing := [value for value in lacking if machine.tracks[value].value is None]:
            return f"at the end, {shown(name)} has no {', '.join(missing)}"
        if lacking:
            seconds = table.config.min_coverage * table.config.window_s
            return f"values must be known for {seconds:g} s first (`min_coverage` of `window_s`)"
    return "none was due while all values were known"


def _line(reading: Reading, tasks: Sequence[str]) -> dict[str, Any]:
    """A row for training: it names the task if only one asks about the table."""
    row = {"ts": rfc3339(reading.at), "machine": reading.machine, "trigger": reading.trigger, "input": reading.input}
    return {**({"task": tasks[0]} if len(tasks) == 1 else {}), "signals": reading.table, **row}


def readings_of(recording: TextIO, tables: Mapping[str, SignalTable]) -> Iterator[Reading]:
    """The readings in the order in which the agent would ask. Raises RecordingError."""
    before = 0.0
    for number, line in enumerate(recording, start=1):
        at, is_retained, payload, topic = _message(line.rstrip("\n"), number)
        if at < before:
            raise RecordingError(f"line {number}: should not be earlier than the line before (got {at})")
        before = at
        if topic is not None:
            yield from receive(tables.values(), topic, payload, is_retained=is_retained, now=at)
            continue
        for table in tables.values():
            yield from table.advance(at)
            table.on_connection_lost(at)


def _message(line: str, number: int) -> tuple[float, bool, bytes, str | None]:
    """The time, whether the message was retained, its payload and its topic, which is None for a lost connection."""
    parts = line.split(" ", 3)
    try:
        at = float(parts[0])
        if not 0 <= at < _MAX_TIME:
            raise ValueError(at)
        if parts[1:] == [LOST]:
            return at, False, b"", None
        _, retained, payload, topic = parts
        return at, {"0": False, "1": True}[retained], bytes.fromhex(payload), topic
    except (ValueError, KeyError):
        rule = "should be a line of `mosquitto_sub -F '%U %r %x %t'`"
        raise RecordingError(f"line {number}: {rule} (got {shown(line)})") from None
