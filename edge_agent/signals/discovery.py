"""What a plant publishes -> a `[signals]` table that reads it, for `edge-agent init --discover`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import MAX_VALUES
from edge_agent.core.strict_json import number_of
from edge_agent.signals.values import NotTakenError, parse

# A text with more different values than this is no state.
_MAX_STATES, _MAX_STATE_CHARS = 6, 24
_MAX_DEPTH = 6
_OFF_WORDS = {"off", "false", "no", "stopped", "stop", "closed", "idle", "inactive", "standby"}
_PAIRS = (("off", "on"), ("false", "true"), ("no", "yes"), ("closed", "open"), ("stopped", "running"))
_TIME_KEYS = {"ts", "time", "timestamp", "t", "datetime", "date"}
_QUALITY_KEYS = {"q", "quality"}
_ID_KEYS = ("id", "name")
# Names that only hold others together.
_WRAPPERS = {"v", "value", "val", "values", "tags", "fields", "params", "payload", "data", "metrics"}
_Path = tuple[Any, ...]


@dataclass(slots=True)
class _Heard:
    """What stood at one place of one topic."""

    topic: str
    path: _Path
    contents: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Candidate:
    """A value that may be taken: where it stands, and what was heard of it."""

    name: str
    topic: str
    path: _Path
    example: str
    machines: set[str] = field(default_factory=set)
    messages: int = 0
    states: set[str] = field(default_factory=set)

    @property
    def table(self) -> dict[str, Any]:
        table: dict[str, Any] = {"topic": self.topic}
        if self.path:
            table["path"] = list(self.path)
        if self.states:
            # States are sent when they change, which may be days ago.
            table |= {"map": numbered(self.states), "max_age_s": 0, "retained": True}
        return table


@dataclass(frozen=True, slots=True)
class Proposal:
    machine: str
    """As the key `machine`."""
    values: dict[str, Candidate]
    machines: list[str]

    @property
    def name(self) -> str:
        """A name for the table: how the topics begin."""
        first = min((value.topic.split("/")[0] for value in self.values.values()), default="")
        return re.sub(r"[^A-Za-z0-9_-]", "", first)[:64] or "machines"

    def table(self) -> dict[str, Any]:
        machine = {} if self.machine == "{1}" else {"machine": self.machine}
        return {**machine, "values": {name: value.table for name, value in self.values.items()}}


def propose(messages: Iterable[Message]) -> Proposal | None:
    """None if nothing that was heard is a number or a state.

    A machine is what differs between topics that end alike, or between topics whose payloads are alike objects.
    """
    heard: dict[tuple[str, str], _Heard] = {}
    for message in messages:
        try:
            document = parse(message.payload)
        except NotTakenError:
            continue
        for path, content in _leaves(document):
            heard.setdefault((message.topic, repr(path)), _Heard(message.topic, path)).contents.append(content)
    kept = [value for value in heard.values() if _is_value(value.contents)]
    levels = _machine_levels(kept)
    candidates: dict[tuple[str, str], Candidate] = {}
    machines = set[str]()
    for value in kept:
        parts = value.topic.split("/")
        if levels and levels[-1] >= len(parts):
            continue  # It has no place for the machine's name.
        pattern = "/".join("+" if level in levels else part for level, part in enumerate(parts))
        machine = "/".join(parts[level] for level in levels) or parts[0]
        new = Candidate(_name(pattern, value.path), pattern, value.path, str(value.contents[0]))
        candidate = candidates.setdefault((pattern, repr(value.path)), new)
        candidate.messages += len(value.contents)
        candidate.machines.add(machine)
        candidate.states |= {text for text in value.contents if _is_state(text) and number_of(text) is None}
        machines.add(machine)
    if not candidates:
        return None
    values = dict[str, Candidate]()
    # What most machines have comes first, if there are more than a table takes.
    for candidate in sorted(candidates.values(), key=lambda one: (-len(one.machines), one.topic, str(one.path))):
        if len(values) < MAX_VALUES:
            name = _unused(candidate.name, values)
            values[name] = candidate
    machine = "/".join(f"{{{number}}}" for number in range(1, len(levels) + 1)) or min(machines)
    return Proposal(machine, dict(sorted(values.items())), sorted(machines))


def numbered(states: Iterable[str]) -> dict[str, int]:
    """A number for each state: 0 for what means off, or for the first one. Of a pair, one may not have been heard."""
    known = set(states)
    for off, on in _PAIRS:
        for change in (str.lower, str.upper, str.capitalize):
            if known and known <= {change(off), change(on)}:
                return {change(off): 0, change(on): 1}
    ordered = sorted(known, key=lambda text: (text.casefold() not in _OFF_WORDS, text.casefold()))
    return {text: number for number, text in enumerate(ordered)}


def _leaves(document: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Each number and text, with its path."""
    if isinstance(document, dict) and len(path) < _MAX_DEPTH:
        for key, content in document.items():
            if key.casefold() not in _TIME_KEYS | _QUALITY_KEYS and key not in _ID_KEYS:
                yield from _leaves(content, (*path, key))
    elif isinstance(document, list):
        for element in document:
            key = next((key for key in _ID_KEYS if isinstance(element, dict) and key in element), None)
            if key is not None:
                yield from _leaves(element, (*path, {key: element[key]}) if len(path) < _MAX_DEPTH else path)
    elif document is not None:
        yield path, document


def _is_value(contents: list[Any]) -> bool:
    if all(isinstance(content, bool) or number_of(content) is not None for content in contents):
        return True
    return all(map(_is_state, contents)) and len(set(contents)) <= _MAX_STATES


def _is_state(content: Any) -> bool:
    return isinstance(content, str) and content.isprintable() and 0 < len(content) <= _MAX_STATE_CHARS


def _machine_levels(values: Iterable[_Heard]) -> list[int]:
    """The levels of topics that name the machine; none if they cannot be told from the rest."""
    groups: dict[tuple[int, str], set[tuple[str, ...]]] = {}
    for value in values:
        levels = tuple(value.topic.split("/"))
        # A topic of a single value ends in the value's name, and one of an object may end in the machine's.
        groups.setdefault((len(levels), repr(value.path) if value.path else levels[-1]), set()).add(levels)
    varying = {
        level
        for topics in groups.values()
        for level, parts in enumerate(zip(*topics, strict=True))
        if len(set(parts)) > 1
    }
    if not varying:  # A single machine: its name has a digit, or stands before the value's.
        topics = [topic for group in groups.values() for topic in group]
        numbered_levels = {level for topic in topics for level, part in enumerate(topic[:-1]) if re.search(r"\d", part)}
        depth = min(map(len, topics), default=0)
        varying = {max(numbered_levels)} if numbered_levels else {depth - 2} if depth > 2 else set()
    return sorted(varying)


def _name(pattern: str, path: _Path) -> str:
    steps = [str(next(iter(step.values()))) if isinstance(step, Mapping) else step for step in path]
    words = [step for step in steps if step not in _WRAPPERS] or [
        level for level in pattern.split("/") if level not in {"+", "value", ""}
    ][-1:]
    name = re.sub(r"\W+", "_", "_".join(words), flags=re.ASCII).strip("_").lower()
    return name[-64:] or "value"


def _unused(name: str, taken: Mapping[str, object]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[:60]}_{number}"
    return free
