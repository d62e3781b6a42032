"""Keeps windows across a restart. The time in between is a gap in them, and no value is known until it comes again.

Nor is it known how long a value has been silent: a process that was killed had messages after it last saved.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.files import read_if_exists, write_atomically
from edge_agent.signals.machine import Machine, Track
from edge_agent.signals.signal_table import SignalTable

log = logging.getLogger(__name__)

FILE = "signals-1.json"


def save(path: Path, tables: dict[str, SignalTable], now: float) -> None:
    """Saves all windows, unless the clock is unset, because no later process could tell their age. Raises OSError.

    `now` is in seconds since 1970.
    """
    if timestamp(now) is None:
        return
    document = {
        name: {
            "digest": _digest(table),
            "saved_at": now,
            "machines": {machine.name: _machine_state(machine, now) for machine in table.machines.values()},
        }
        for name, table in tables.items()
    }
    content = json.dumps(document).encode()
    write_atomically(path, _checksum(content) + b"\n" + content, mode=0o600)


def load(path: Path, tables: dict[str, SignalTable], now: float) -> None:
    """Restores the tables whose definition has not changed. A file that cannot be used is logged."""
    if timestamp(now) is None:
        return
    try:
        stored = read_if_exists(path)
        if stored is None:
            return
        checksum, _, content = stored.partition(b"\n")
        if checksum != _checksum(content):
            raise ValueError("it is damaged")
        for name, state in json.loads(content).items():
            table = tables.get(name)
            if table is None or state["digest"] != _digest(table) or now < state["saved_at"]:
                continue
            machines = [_machine(table, key, known, now) for key, known in state["machines"].items()]
            for machine in machines[: table.config.max_machines]:
                table.adopt(machine, now)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read, so windows start empty: %s", path, error)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _digest(table: SignalTable) -> str:
    """A digest of the keys that give windows their meaning. Others, such as triggers, may change."""
    keys = {"source", "machine", "names", "group", "node", "device", "window_s", "values"}
    return hashlib.sha256(table.config.model_dump_json(include=keys).encode()).hexdigest()


def _machine_state(machine: Machine, now: float) -> dict[str, Any]:
    return {
        "heard_at": machine.heard_at,
        "read_at": max(machine.read_at, 0.0),
        "was_complete": machine.was_complete,
        "recorded_at": max(machine.recorded_at, 0.0),
        "tracks": {name: _track_state(track, now) for name, track in machine.tracks.items()},
    }


def _track_state(track: Track, now: float) -> dict[str, Any]:
    track.settle(now)
    newest, columns = track.window.as_state()
    return {
        "reference": track.reference,
        "was_above": track.was_above,
        "was_below": track.was_below,
        "newest": newest,
        "columns": [base64.b64encode(column).decode("ascii") for column in columns],
    }


def _machine(table: SignalTable, name: str, state: dict[str, Any], now: float) -> Machine:
    machine = Machine(table.name, name, table.config, state["heard_at"])
    machine.was_complete = bool(state["was_complete"])
    machine.read_at, machine.recorded_at = float(state["read_at"]), float(state["recorded_at"])
    for value, track in machine.tracks.items():
        known = state["tracks"][value]
        track.reference, track.was_above, track.was_below = known["reference"], known["was_above"], known["was_below"]
        track.window.restore(known["newest"], [base64.b64decode(column) for column in known["columns"]])
        track.restore(settled_at=now)
    return machine
