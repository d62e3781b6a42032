"""Proposes a `[signals]` table for what a plant publishes, for `edge-agent init --discover`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import JsonPath
from edge_agent.core.strict_json import number_of
from edge_agent.core.wording import shown
from edge_agent.signals import sparkplug_source
from edge_agent.signals.proposal import (
    MAX_NAMED,
    Candidate,
    Proposal,
    choose,
    is_named,
    is_number,
    kinds_of,
    listed,
    may_be_value,
    value_name,
)
from edge_agent.signals.source import NotTakenError
from edge_agent.signals.sparkplug_discovery import of_sparkplug
from edge_agent.signals.values import GOOD_QUALITY, REASONS, has_decimal_comma, parse, shown_path

_MAX_DEPTH = 6
_TIME_KEYS = {"ts", "time", "timestamp", "t", "datetime", "date"}
_QUALITY_KEYS = {"q", "quality"}
_ID_KEYS = ("id", "name")
_UNIT_KEYS = {"unit", "units", "uom"}
# What replies of an edge-agent have, because a board may answer below the same prefix.
_REPLY_KEYS = {"task", "status", "device"}


@dataclass(slots=True)
class _Heard:
    """What was heard at one path of one topic's payloads."""

    topic: str
    path: JsonPath
    quality: JsonPath = ()
    contents: list[Any] = field(default_factory=list)
    """Of a payload that cannot be read, the NotTakenError."""
    was_retained: bool = False
    repeats: int = 0
    """How many messages that were not retained said the same as the one before."""

    def add(self, content: Any, *, is_retained: bool) -> None:
        self.was_retained = self.was_retained or is_retained
        self.repeats += not is_retained and content in self.contents[-1:]
        self.contents.append(content)


def propose(messages: Iterable[Message]) -> Proposal:
    """A table for these messages, or several; without values if they have neither numbers nor states."""
    plain, of_nodes = list[Message](), list[Message]()
    for message in messages:
        (of_nodes if sparkplug_source.is_sparkplug(message.topic) else plain).append(message)
    proposal = _of_topics(plain)
    if not of_nodes:
        return proposal
    sparkplug_table = of_sparkplug(of_nodes)
    if not proposal.values:
        sparkplug_table.left_out.extend(proposal.left_out)
        return sparkplug_table
    if not sparkplug_table.values:
        proposal.left_out.extend(sparkplug_table.left_out)
        return proposal
    other = proposal.other and replace(proposal.other, more=(*proposal.other.more, sparkplug_table))
    return replace(proposal, other=other, more=(*proposal.more, sparkplug_table))


def _of_topics(messages: Iterable[Message]) -> Proposal:
    """The levels that differ between topics of the same value name the machine."""
    heard: dict[tuple[str, str], _Heard] = {}
    times = set[str]()
    for message in messages:
        try:
            document = parse(message.payload)
        except NotTakenError as error:
            if error.reason != "empty":
                heard.setdefault((message.topic, ""), _Heard(message.topic, ())).contents.append(error)
            continue
        if isinstance(document, dict) and document.keys() >= _REPLY_KEYS:
            continue
        for path, content, quality in _leaves(document):
            value = heard.setdefault((message.topic, repr(path)), _Heard(message.topic, path))
            value.add(content, is_retained=message.is_retained)
            value.quality = value.quality or quality
        times |= {key for key in document if key.casefold() in _TIME_KEYS} if isinstance(document, dict) else set()
    kept = [value for value in heard.values() if may_be_value(value.contents)]
    texts = [value for value in heard.values() if not may_be_value(value.contents)]
    levels, *others = _machine_levels(kept)
    proposals = [_with_machine(kept, texts, each) for each in (levels, *others)]
    for proposal in proposals:
        if times and proposal.values:
            names = listed(sorted(times))
            proposal.left_out.append(f"{names}: a time, which `time` of a value compares with its `max_age_s`")
    return replace(proposals[0], other=proposals[1] if others else None)


def _with_machine(kept: Sequence[_Heard], texts: Sequence[_Heard], levels: Sequence[int]) -> Proposal:
    """The proposal if these levels of the topics name the machine. `texts` are what cannot be a value."""
    candidates: dict[tuple[str, str], Candidate] = {}
    unused: dict[str, str] = {}  # Why something is left out, by where it was heard.
    topics: dict[str, dict[str, str]] = {}
    for value in (*kept, *texts):
        if (machine := _machine(value.topic, levels)) is not None:
            topics.setdefault(_pattern(value.topic, levels), {})[machine] = value.topic
    for value in kept:
        if (machine := _machine(value.topic, levels)) is None:
            unused[_where(value.topic, value.path)] = "the topic is too short to name a machine"
            continue
        pattern = _pattern(value.topic, levels)
        new = Candidate(value_name(pattern, value.path), pattern, path=value.path)
        candidate = candidates.setdefault((pattern, repr(value.path)), new)
        candidate.quality = candidate.quality or value.quality
        candidate.was_retained = candidate.was_retained or value.was_retained
        candidate.repeats += value.repeats
        candidate.add(machine, value.contents)
    for candidate in candidates.values():
        if not candidate.is_value:
            unused[_where(candidate.topic, candidate.path)] = _why_no_state(candidate)
    for value in texts:
        unused.setdefault(_where(_pattern(value.topic, levels), value.path), _why_no_value(value.contents))
    proposals = []
    for part in _by_payload([candidate for candidate in candidates.values() if candidate.is_value]):
        values, machines, left_out = choose(part)
        machine = "/".join(f"{{{number}}}" for number in range(1, len(levels) + 1)) or min(machines, default="")
        keys = {} if machine == "{1}" else {"machine": machine}
        proposals.append(Proposal(keys, values, machines, left_out, topics=topics))
    lines = [f"{where}: {why}" for where, why in sorted(unused.items())]
    if len(lines) > MAX_NAMED:
        lines[MAX_NAMED:] = [f"{len(lines) - MAX_NAMED} more values"]
    proposals[0].left_out.extend(lines)
    return replace(proposals[0], more=tuple(proposals[1:]))


def _machine(topic: str, levels: Sequence[int]) -> str | None:
    """The machine that these levels of a topic name; None if the topic is too short."""
    parts = topic.split("/")
    if levels and levels[-1] >= len(parts):
        return None
    return "/".join(parts[level] for level in levels) or parts[0].lstrip("$") or "machine"


def _pattern(topic: str, levels: Sequence[int]) -> str:
    """The filter for the topics that differ from this one only in the machine."""
    return "/".join("+" if level in levels else part for level, part in enumerate(topic.split("/")))


def _where(topic: str, path: JsonPath) -> str:
    steps = shown_path(path)
    return f"{topic} at {steps}" if steps else topic


def _why_no_state(candidate: Candidate) -> str:
    if len(candidate.states) > 1:
        return f"too many texts for a state, such as {shown(candidate.example)}"
    return f"only the text {shown(candidate.example)}; if it is a state, give it a `map` of all its texts"


def _why_no_value(contents: Sequence[Any]) -> str:
    example = next(content for content in contents if not (is_number(content) or has_decimal_comma(content)))
    if isinstance(example, NotTakenError):
        return f"a payload that {REASONS[example.reason]}"
    if isinstance(example, list):
        return "an array; a `path` that ends in 0 takes its first element"
    return f"texts that are not states, such as {shown(example)}"


def _by_payload(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """The values of each table. Machines that publish the same topics with another payload need one of their own."""
    groups = kinds_of(candidates)
    first, *others = groups or [[]]
    tables = [first]
    topics = {each.topic for each in first if not is_named(each.path)}
    for group in others:
        if any(each.topic in topics and not is_named(each.path) for each in group):
            tables.append(group)
        else:
            first += group
    return tables


def _leaves(document: Any, path: JsonPath = (), quality: JsonPath = ()) -> Iterator[tuple[JsonPath, Any, JsonPath]]:
    """The numbers, booleans, texts and arrays in a document, each with its path and that of the quality beside it."""
    if isinstance(document, dict) and len(path) < _MAX_DEPTH:
        beside = next((key for key in document if key.casefold() in _QUALITY_KEYS and _is_good(document[key])), None)
        for key, content in document.items():
            is_unit = isinstance(content, str) and key.casefold() in _UNIT_KEYS
            if not is_unit and key.casefold() not in {*_TIME_KEYS, *_QUALITY_KEYS, *_ID_KEYS}:
                yield from _leaves(content, (*path, key), () if beside is None else (*path, beside))
    elif isinstance(document, list):
        for element in document:
            known = element if isinstance(element, dict) else {}
            key = next((key for key in _ID_KEYS if isinstance(known.get(key), str | int | float)), None)
            if key is not None:
                yield from _leaves(element, (*path, {key: element[key]}) if len(path) < _MAX_DEPTH else path)
        if not any(isinstance(element, dict) for element in document):
            yield path, document, ()
    elif isinstance(document, str | int | float):
        yield path, document, quality


def _is_good(quality: Any) -> bool:
    """True for a quality that a table reads as good, so that it is known to be one."""
    return quality is True or (number_of(quality) or 0) >= GOOD_QUALITY


def _machine_levels(values: Sequence[_Heard]) -> list[list[int]]:
    """The levels of the topics that name the machine, none if nothing does; in doubt two such, the likelier first.

    A topic may end in the name of a value, or in that of a machine if its payload has the names of values.
    """
    by_topic, by_path = _varying(values, names_in_payload=False), _varying(values, names_in_payload=True)
    if by_topic:
        return [by_topic, by_path] if set(by_path) - set(by_topic) else [by_topic]
    # There is one machine, whose level has a digit or is the last but one.
    topics = [value.topic.split("/") for value in values]
    numbered_levels = {level for topic in topics for level, part in enumerate(topic[:-1]) if re.search(r"\d", part)}
    depth = min(map(len, topics), default=0)
    single = [max(numbered_levels)] if numbered_levels else [depth - 2] if depth > 2 else []
    if len(by_path) != 1 or not single or depth < 3:
        return [by_path or single]
    # Several values that agree are those of several machines; a single one may be of several parts of a machine.
    has_parts = len({repr(value.path) for value in values if is_named(value.path)}) == 1
    return [single, by_path] if has_parts else [by_path, single]


def _varying(values: Sequence[_Heard], *, names_in_payload: bool) -> list[int]:
    """The levels that differ between the topics of a value, whose name is its path or the last level of its topic."""
    # What stands beside a value without a name, such as its unit, names no other value.
    named_by_topic = {value.topic for value in values if not (names_in_payload and is_named(value.path))}
    groups: dict[tuple[int, str], set[tuple[str, ...]]] = {}
    for value in values:
        levels = tuple(value.topic.split("/"))
        name = levels[-1] if value.topic in named_by_topic else repr(value.path)
        groups.setdefault((len(levels), name), set()).add(levels)
    varying = {
        level
        for topics in groups.values()
        for level, parts in enumerate(zip(*topics, strict=True))
        if len(set(parts)) > 1
    }
    # A level that most topics do not have names no machine, such as that of `availability` below a device's topic.
    lengths = [len(value.topic.split("/")) for value in values]
    return sorted(level for level in varying if 2 * sum(length > level for length in lengths) >= len(lengths))
