"""Proposes a `[signals]` table for what a plant publishes, for `edge-agent init --discover`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import MAX_VALUES
from edge_agent.core.strict_json import number_of
from edge_agent.signals.source import NotTakenError
from edge_agent.signals.values import parse

# With more different texts than this, or longer ones, a value is not a state.
_MAX_STATES, _MAX_STATE_CHARS = 6, 24
_MAX_DEPTH = 6
_OFF_WORDS = {"off", "false", "no", "stopped", "stop", "closed", "idle", "inactive", "standby"}
_PAIRS = (("off", "on"), ("false", "true"), ("no", "yes"), ("closed", "open"), ("stopped", "running"))
_TIME_KEYS = {"ts", "time", "timestamp", "t", "datetime", "date"}
_QUALITY_KEYS = {"q", "quality"}
_ID_KEYS = ("id", "name")
# Keys that only wrap others, so they do not name a value.
_WRAPPERS = {"v", "value", "val", "values", "tags", "fields", "params", "payload", "data", "metrics"}
_Path = tuple[Any, ...]


@dataclass(slots=True)
class _Heard:
    """What was heard at one path of one topic's payloads."""

    topic: str
    path: _Path
    contents: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Candidate:
    """A value that the table may have: where it was found, and what was heard."""

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
            # States are reported on change, which may be days ago.
            table |= {"map": numbered(self.states), "max_age_s": 0, "retained": True}
        return table


@dataclass(frozen=True, slots=True)
class Proposal:
    machine: str
    """The key `machine` of the table."""
    values: dict[str, Candidate]
    machines: list[str]

    @property
    def name(self) -> str:
        """A name for the table: the first level of the topics."""
        first = min((value.topic.split("/")[0] for value in self.values.values()), default="")
        return re.sub(r"[^A-Za-z0-9_-]", "", first)[:64] or "machines"

    def table(self) -> dict[str, Any]:
        machine = {} if self.machine == "{1}" else {"machine": self.machine}
        return {**machine, "values": {name: value.table for name, value in self.values.items()}}


def propose(messages: Iterable[Message]) -> Proposal | None:
    """A table for these messages; None if they have neither numbers nor states.

    The levels that differ between topics of the same value name the machine.
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
            continue  # The topic is too short to name a machine.
        pattern = "/".join("+" if level in levels else part for level, part in enumerate(parts))
        machine = "/".join(parts[level] for level in levels) or parts[0].lstrip("$") or "machine"
        new = Candidate(_name(pattern, value.path), pattern, value.path, str(value.contents[0]))
        candidate = candidates.setdefault((pattern, repr(value.path)), new)
        candidate.messages += len(value.contents)
        candidate.machines.add(machine)
        candidate.states |= {text for text in value.contents if _is_state(text) and number_of(text) is None}
        machines.add(machine)
    if not candidates:
        return None
    values = dict[str, Candidate]()
    # If there are more values than a table takes, those of the most machines are kept.
    for candidate in sorted(candidates.values(), key=lambda one: (-len(one.machines), one.topic, str(one.path))):
        if len(values) < MAX_VALUES:
            name = _unused(candidate.name, values)
            values[name] = candidate
    machine = "/".join(f"{{{number}}}" for number in range(1, len(levels) + 1)) or min(machines)
    return Proposal(machine, dict(sorted(values.items())), sorted(machines))


def numbered(states: Iterable[str]) -> dict[str, int]:
    """A number for each state, 0 for one that means off. A known pair is completed if only one of it was heard."""
    known = set(states)
    for off, on in _PAIRS:
        for change in (str.lower, str.upper, str.capitalize):
            if known and known <= {change(off), change(on)}:
                return {change(off): 0, change(on): 1}
    ordered = sorted(known, key=lambda text: (text.casefold() not in _OFF_WORDS, text.casefold()))
    return {text: number for number, text in enumerate(ordered)}


def _leaves(document: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """The numbers, booleans and texts in a document, each with its path."""
    if isinstance(document, dict) and len(path) < _MAX_DEPTH:
        for key, content in document.items():
            if key.casefold() not in _TIME_KEYS | _QUALITY_KEYS and key not in _ID_KEYS:
                yield from _leaves(content, (*path, key))
    elif isinstance(document, list):
        for element in document:
            known = element if isinstance(element, dict) else {}
            key = next((key for key in _ID_KEYS if isinstance(known.get(key), str | int | float)), None)
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
    """The levels of the topics that name the machine; empty if none can be told apart."""
    groups: dict[tuple[int, str], set[tuple[str, ...]]] = {}
    for value in values:
        levels = tuple(value.topic.split("/"))
        # The topic of a bare value ends in the value's name; that of an object may end in the machine's.
        groups.setdefault((len(levels), repr(value.path) if value.path else levels[-1]), set()).add(levels)
    varying = {
        level
        for topics in groups.values()
        for level, parts in enumerate(zip(*topics, strict=True))
        if len(set(parts)) > 1
    }
    if not varying:  # There is one machine: its level has a digit, or is the last but one.
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
