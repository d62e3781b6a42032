"""Readings kept as rows without answers, in two files. When the newer one is full, it replaces the older one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.strict_json import NotJsonError, compact_json, parse_json
from edge_agent.signals.machine import Reading

log = logging.getLogger(__name__)


def recorded_path(state_dir: Path, table: str) -> Path:
    return state_dir / f"signals-{table}.jsonl"


class Recorder:
    def __init__(self, state_dir: Path, table: str, max_mb: float) -> None:
        self._path = recorded_path(state_dir, table)
        self._max_bytes = max_mb * 1e6 / 2
        self._has_failed = False

    def add(self, readings: Sequence[Reading]) -> None:
        """Appends the readings. They are not synced, so a power cut may cost the last ones."""
        try:
            with suppress(FileNotFoundError):
                if self._path.stat().st_size >= self._max_bytes:
                    self._path.replace(_older(self._path))
            with open(self._path, "a", encoding="utf-8", opener=_private) as file:
                file.writelines(compact_json(row_of(reading)) + "\n" for reading in readings)
        except OSError as error:
            if not self._has_failed:
                log.warning("%s cannot be written, so readings are not kept: %s", self._path, error)
            self._has_failed = True


def row_of(reading: Reading) -> dict[str, Any]:
    """A reading as a row. The time and the machine stay out of the input, because a model would learn them."""
    return {"ts": timestamp(reading.at), "machine": reading.machine, "input": reading.input}


def recorded_rows(state_dir: Path, table: str) -> Iterator[dict[str, Any]]:
    """The kept rows, the oldest first, without lines that a power cut has damaged. Raises OSError."""
    path = recorded_path(state_dir, table)
    for file in (_older(path), path):
        with suppress(FileNotFoundError):
            for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
                with suppress(NotJsonError):
                    row = parse_json(line)
                    if isinstance(row, dict) and row.keys() >= {"ts", "machine", "input"}:
                        yield row


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".old")
