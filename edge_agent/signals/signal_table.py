"""One `[signals.NAME]` table at work, which turns messages into readings.

It reads no clock but takes the time as an argument, so a replay of the same messages makes the same readings. Times are
seconds that never go back.
"""

from __future__ import annotations

import heapq
import itertools
import math
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.core.signal_tables import SignalsTable, machine_fault
from edge_agent.core.strict_json import encode
from edge_agent.signals.machine import EVERY, SINCE_LOST, Machine, Reading
from edge_agent.signals.source import MAX_TOPIC_CHARS, NotTakenError, Source, Update
from edge_agent.signals.sparkplug_source import RebirthLimiter, SparkplugSource
from edge_agent.signals.topic_source import TopicSource

_MAX_NAMED = 10
# The share of the window that a machine may take beyond `min_coverage` until its first reading.
_START_MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class _Strangers:
    """A message that was not taken, of machines that the table does not follow."""

    machines: frozenset[str]
    reason: str
    noted: int  # How many offenders were noted before it.


class SignalTable:
    def __init__(self, name: str, config: SignalsTable, source: Source) -> None:
        self.name = name
        self.config = config
        self.source = source
        self.machines: dict[str, Machine] = {}
        self.refused: set[str] = set()  # Machines that are not followed; the first `max_machines` of them are counted.
        self.not_taken = Counter[str]()  # How many payloads could not be used, by reason.
        self.readings = 0
        self.incomplete = 0  # Readings that were due while a value was missing.
        self.recordings: list[Reading] = []  # Readings to keep as rows, which the feed takes.
        self.has_new_machine = False  # Whether one has had its first reading that the feed does not know of.
        self.now = 0.0  # The time of the last message or `advance`.
        self._strangers: _Strangers | None = None
        # A heap of when a machine is due, a number that breaks ties, its name, and whether it is due for its regular
        # check or because of a trigger that had to wait.
        self._due: list[tuple[float, int, str, bool]] = []
        self._numbers = itertools.count()

    def receive(self, topic: str, payload: bytes, *, is_retained: bool, now: float) -> Iterator[Reading]:
        """Takes one message, which may be for another table. Yields the readings that are due by then."""
        yield from self.advance(now)
        noted, self._strangers = len(self.source.offenders), None
        try:
            updates: Sequence[Update] = self.source.read(topic, payload, is_retained=is_retained, now=now)
        except NotTakenError as error:
            self.not_taken[error.reason] += 1
            updates = error.updates
            if updates and all(update.is_foreign and update.machine not in self.machines for update in updates):
                machines = frozenset(update.machine for update in updates)
                self._strangers = _Strangers(machines, error.reason, noted)
        yield from self._take(updates, now, is_retained=is_retained)

    def take_back(self, topic: str, tables: Iterable[SignalTable]) -> None:
        """Takes back that the last message was not taken, if it is one of machines that other tables follow."""
        if (strangers := self._strangers) is None:
            return
        followed = {name for table in tables for name in table.source.machines_of(topic) if name in table.machines}
        if strangers.machines <= followed:
            self.not_taken[strangers.reason] -= 1
            self.not_taken += Counter()  # Removes those that are zero.
            while len(self.source.offenders) > strangers.noted:
                self.source.offenders.popitem()

    def advance(self, now: float) -> Iterator[Reading]:
        """Yields the readings that are due by now, each with the values of the moment when it was due."""
        self.now = now
        while (due_at := self.due_at) is not None and due_at <= now:
            if due_at == self.source.due_at:
                yield from self._take(self.source.advance(due_at), due_at, is_retained=False)
                continue
            at, _, name, is_check = heapq.heappop(self._due)
            machine = self.machines.get(name)
            if machine is None:
                continue
            if not is_check:
                if machine.waiting_trigger is not None:
                    yield from self._read(machine, machine.waiting_trigger, at)
            elif at - machine.heard_at >= self.config.forget_s and not self.source.keeps_alive(name):
                del self.machines[name]
            else:
                self._push(self._next_check(name, at), name, is_check=True)
                if self.config.every_s:
                    yield from self._trigger(machine, EVERY, at)

    @property
    def due_at(self) -> float | None:
        """When `advance` has something to do next."""
        times = (self._due[0][0] if self._due else None, self.source.due_at)
        return min((at for at in times if at is not None), default=None)

    def on_connection_lost(self, now: float) -> None:
        """Makes all values missing until they come again, because nobody knows what changes without a connection."""
        self.source.on_connection_lost()
        for machine in self.machines.values():
            for track in machine.tracks.values():
                track.invalidate(now, SINCE_LOST)

    def adopt(self, machine: Machine, now: float) -> None:
        """Follows a machine: a new one, or one that an earlier process followed."""
        machine.complete_by = now + (self.config.min_coverage + _START_MARGIN) * self.config.window_s
        self.machines[machine.name] = machine
        self._push(self._next_check(machine.name, now), machine.name, is_check=True)

    def lacking(self) -> dict[str, list[str]]:
        """The values that machines lack, by machine, for the first machines that lack any and do not wait."""
        machines = sorted((name, machine) for name, machine in self.machines.items() if machine.complete_by <= self.now)
        by_name = ((name, machine.lacking(self.now)) for name, machine in machines)
        return dict(itertools.islice(((name, lacking) for name, lacking in by_name if lacking), _MAX_NAMED))

    def waiting(self) -> int:
        """How many machines have been heard for too short a time to be complete."""
        now = self.now
        return sum(machine.complete_by > now and bool(machine.lacking(now)) for machine in self.machines.values())

    def latest(self, now: float, max_bytes: int) -> dict[str, Any]:
        """The latest values of the machines, as many as fit, by name."""
        shown: dict[str, Any] = {}
        nbytes = 0
        for name, machine in sorted(self.machines.items()):
            values = {value: track.latest(now) for value, track in machine.tracks.items()}
            nbytes += len(encode({name: values}))
            if nbytes > max_bytes:
                break
            shown[name] = values
        return {"machines": shown, "left_out": len(self.machines) - len(shown)}

    def as_health(self) -> dict[str, Any]:
        return {
            "machines": len(self.machines),
            "refused": len(self.refused),
            "readings_total": self.readings,
            "incomplete_total": self.incomplete,
            "not_taken": dict(self.not_taken),
            "waiting": self.waiting(),
            "lacking": self.lacking(),
            **self.source.as_health(),
        }

    def _take(self, updates: Sequence[Update], now: float, *, is_retained: bool) -> Iterator[Reading]:
        for update in updates:
            if update.is_foreign and update.machine not in self.machines:
                continue
            machine = self._machine(update.machine, now)
            if machine is None:
                continue
            if is_retained:
                for name, value in update.values.items():
                    machine.tracks[name].seed(value, now, update.causes.get(name, update.cause))
            elif fired := machine.receive(update, now):
                yield from self._trigger(machine, fired, now)

    def _machine(self, name: str, now: float) -> Machine | None:
        """A machine, which is followed from now on if there is room; None if it is refused."""
        machine = self.machines.get(name)
        if machine is None:
            if machine_fault(name) or len(self.machines) >= self.config.max_machines:
                if len(self.refused) < self.config.max_machines:
                    self.refused.add(name[:MAX_TOPIC_CHARS])
                return None
            machine = Machine(self.name, name, self.config, now)
            self.adopt(machine, now)
        return machine

    def _trigger(self, machine: Machine, trigger: str, now: float) -> Iterator[Reading]:
        """Makes a reading now, or when `min_gap_s` has passed."""
        earliest = machine.read_at + min(self.config.min_gap_s, self.config.every_s or math.inf)
        if now >= earliest:
            yield from self._read(machine, trigger, now)
        elif machine.waiting_trigger is None:
            machine.waiting_trigger = trigger
            self._push(earliest, machine.name, is_check=False)

    def _read(self, machine: Machine, trigger: str, now: float) -> Iterator[Reading]:
        """Makes a reading. If a value is lacking, the first one is refused, and then each regular one.

        Otherwise the last answer would still look current. Triggers may come as fast as messages, so they repeat
        nothing.
        """
        machine.waiting_trigger = None
        if lacking := machine.lacking(now):
            self.incomplete += 1
            if machine.was_complete or (trigger == EVERY and machine.had_reading):
                yield machine.incomplete_reading(lacking, trigger, now)
            return
        self.readings += 1
        self.has_new_machine = self.has_new_machine or not machine.had_reading
        reading = machine.read(trigger, now)
        if self.config.record_every_s and now - machine.recorded_at >= self.config.record_every_s:
            machine.recorded_at = now
            self.recordings.append(reading)
        yield reading

    def _next_check(self, machine: str, now: float) -> float:
        """When a machine is next due after now. Its phase is a hash of its name, which is the same in each process."""
        interval = self.config.every_s or self.config.forget_s
        phase = zlib.crc32(machine.encode()) / 2**32 * interval
        number = math.floor((now - phase) / interval) + 1
        while number * interval + phase <= now:  # Only where floor() met a rounding error.
            number += 1
        return number * interval + phase

    def _push(self, at: float, machine: str, *, is_check: bool) -> None:
        heapq.heappush(self._due, (at, next(self._numbers), machine, is_check))


def receive(
    tables: Collection[SignalTable], topic: str, payload: bytes, *, is_retained: bool, now: float
) -> Iterator[Reading]:
    """Gives one message to all tables. Where they share topics, each knows the format of its own machines only."""
    for table in tables:
        yield from table.receive(topic, payload, is_retained=is_retained, now=now)
    for table in tables:
        table.take_back(topic, tables)


def new_table(name: str, config: SignalsTable, limiter: RebirthLimiter | None = None) -> SignalTable:
    """A table with its source. All tables share a `limiter`, because they may ask the same nodes."""
    source = SparkplugSource(config, limiter) if config.source == "sparkplug" else TopicSource(config)
    return SignalTable(name, config, source)
