"""Proposes a `[signals]` table for what a plant publishes, for `edge-agent init --discover`."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import MAX_METRIC_CHARS, MAX_VALUES
from edge_agent.core.strict_json import number_of
from edge_agent.core.wording import shown
from edge_agent.signals import sparkplug, sparkplug_source
from edge_agent.signals.source import NotTakenError
from edge_agent.signals.values import GOOD_QUALITY, REASONS, has_decimal_comma, parse

# With more different texts than this, or longer ones, a value is not a state.
_MAX_STATES, _MAX_STATE_CHARS = 6, 24
_MAX_DEPTH = 6
_MAX_NAMED = 8
# A text that came more often than this from a machine, and was never retained, is not one that is reported on change.
_MAX_CHANGES = 3
# A number that never fell and rose this often in a row is hardly one that varies by chance.
_MIN_RISES = 7
_OFF_WORDS = {"off", "false", "no", "stopped", "stop", "closed", "idle", "inactive", "standby"}
_PAIRS = (
    ("off", "on"), ("false", "true"), ("no", "yes"), ("closed", "open"), ("stopped", "running"), ("offline", "online"),
)  # fmt: skip
# A date, a time of day, a duration, a version or an address.
_NO_STATE = re.compile(r"[-+]?\d+[,.:T/-]\d")
_TIME_KEYS = {"ts", "time", "timestamp", "t", "datetime", "date"}
_QUALITY_KEYS = {"q", "quality"}
_ID_KEYS = ("id", "name")
_UNIT_KEYS = {"unit", "units", "uom"}
# Keys that only wrap others, so they do not name a value.
_WRAPPERS = {"v", "value", "val", "values", "tags", "fields", "params", "payload", "data", "metrics"}
# What replies of an edge-agent have: a board may answer below the same prefix.
_REPLY_KEYS = {"task", "status", "device"}
# Metrics that every node has.
_OWN_METRICS = re.compile(r"bdSeq$|(?:Node|Device) (?:Control|Info)/")
_Path = tuple[Any, ...]


@dataclass(slots=True)
class _Heard:
    """What was heard at one path of one topic's payloads."""

    topic: str
    path: _Path
    quality: _Path = ()
    contents: list[Any] = field(default_factory=list)
    """Of a payload that cannot be read, the NotTakenError."""
    was_retained: bool = False
    repeats: int = 0
    """How many messages that were not retained said the same as the one before."""

    def add(self, content: Any, *, is_retained: bool) -> None:
        self.was_retained = self.was_retained or is_retained
        self.repeats += not is_retained and content in self.contents[-1:]
        self.contents.append(content)


@dataclass(slots=True)
class Candidate:
    """A value that the table may have: where it was found, and what was heard."""

    name: str
    topic: str = ""
    metric: str | None = None
    """The Sparkplug metric, instead of a topic."""
    path: _Path = ()
    quality: _Path = ()
    example: str = ""
    machines: set[str] = field(default_factory=set)
    messages: int = 0
    has_numbers: bool = False
    is_switch: bool = True
    """Whether its only numbers are booleans."""
    has_decimal_comma: bool = False
    only_rises: bool = True
    """Whether it rose again and again at each machine and never fell, like a counter or a clock."""
    states: set[str] = field(default_factory=set)
    is_optional: bool = False
    was_retained: bool = False
    repeats: int = 0

    def add(self, machine: str, contents: Sequence[Any]) -> None:
        self.only_rises = self.only_rises and _only_rises(contents)
        for content in contents:
            self.example = self.example or (content if isinstance(content, str) else json.dumps(content))
            self.machines.add(machine)
            self.messages += 1
            if _is_number(content):
                self.has_numbers = True
                self.is_switch = self.is_switch and isinstance(content, bool)
            elif has_decimal_comma(content):
                self.has_numbers = self.has_decimal_comma = True
                self.is_switch = False
            else:
                self.states.add(content)

    @property
    def is_value(self) -> bool:
        """True if it has numbers, or states of which at least two are known."""
        return self.has_numbers or (len(self.states) <= _MAX_STATES and len(numbered(self.states)) > 1)

    @property
    def is_on_change(self) -> bool:
        """Whether it seems to be reported on change, which may be days ago."""
        again = self.messages - len(self.machines)
        is_rare = self.was_retained or self.messages <= _MAX_CHANGES * len(self.machines)
        return is_rare and 2 * self.repeats <= again

    @property
    def table(self) -> dict[str, Any]:
        table: dict[str, Any] = {"topic": self.topic} if self.metric is None else {"metric": self.metric}
        if self.path:
            table["path"] = list(self.path)
        if self.quality:
            table["quality"] = list(self.quality)
        if self.has_decimal_comma:
            table["decimal_comma"] = True
        if not self.has_numbers:
            table["map"] = numbered(self.states)
            if self.metric is None and self.is_on_change:
                table |= {"max_age_s": 0, "retained": True}
        if self.is_switch:
            # The others say nothing more of a state.
            table["features"] = ["last", "mean"]
        return table | ({"optional": True} if self.is_optional else {})


@dataclass(frozen=True, slots=True)
class Proposal:
    keys: dict[str, Any]
    """The keys of the table other than `values`."""
    values: dict[str, Candidate]
    machines: list[str]
    left_out: list[str]
    """What was heard but is not proposed, and why, in sentences."""
    other: Proposal | None = None
    """What else the same topics may mean, if they do not tell which level names the machine."""
    more: tuple[Proposal, ...] = ()
    """Tables of machines that publish in another way."""

    @property
    def name(self) -> str:
        """A name for the table: the first level of the topics, or the Sparkplug group."""
        topics = [value.topic for value in self.values.values() if value.topic]
        first = min(topics, default=self.keys.get("group", "")).split("/")[0]
        return re.sub(r"[^A-Za-z0-9_-]", "", first)[:64] or self.keys.get("source", "machines")

    def table(self) -> dict[str, Any]:
        return {**self.keys, "values": {name: value.table for name, value in self.values.items()}}

    @property
    def kinds(self) -> list[tuple[list[str], dict[str, Candidate]]]:
        """The machines of each kind, and their values. Machines of different kinds have no value in common."""
        return [
            (sorted(_machines(group)), {name: value for name, value in self.values.items() if value in group})
            for group in _kinds(self.values.values())
        ]

    def tables(self) -> dict[str, dict[str, Any]]:
        """All tables by name, this one first."""
        tables = dict[str, dict[str, Any]]()
        for proposal in (self, *self.more):
            tables[_unused(proposal.name, tables)] = proposal.table()
        return tables


def propose(messages: Iterable[Message]) -> Proposal:
    """A table for these messages, or several; without values if they have neither numbers nor states."""
    plain, of_nodes = list[Message](), list[Message]()
    for message in messages:
        (of_nodes if sparkplug_source.is_sparkplug(message.topic) else plain).append(message)
    proposal = _of_topics(plain)
    if not of_nodes:
        return proposal
    sparkplug_table = _of_sparkplug(of_nodes)
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
    kept = [value for value in heard.values() if _may_be_value(value.contents)]
    texts = [value for value in heard.values() if not _may_be_value(value.contents)]
    levels, *others = _machine_levels(kept)
    proposals = [_with_machine(kept, texts, each) for each in (levels, *others)]
    for proposal in proposals:
        if times and proposal.values:
            names = _listed(sorted(times))
            proposal.left_out.append(f"{names}: a time, which `time` of a value compares with its `max_age_s`")
    return replace(proposals[0], other=proposals[1] if others else None)


def _with_machine(kept: Sequence[_Heard], texts: Sequence[_Heard], levels: Sequence[int]) -> Proposal:
    """The proposal if these levels of the topics name the machine. texts: what cannot be a value."""
    candidates: dict[tuple[str, str], Candidate] = {}
    unused: dict[str, str] = {}  # Why something is left out, by where it was heard.
    for value in kept:
        parts = value.topic.split("/")
        if levels and levels[-1] >= len(parts):
            unused[_where(value.topic, value.path)] = "the topic is too short to name a machine"
            continue
        pattern = _pattern(value.topic, levels)
        new = Candidate(_name(pattern, value.path), pattern, path=value.path)
        candidate = candidates.setdefault((pattern, repr(value.path)), new)
        candidate.quality = candidate.quality or value.quality
        candidate.was_retained = candidate.was_retained or value.was_retained
        candidate.repeats += value.repeats
        candidate.add("/".join(parts[level] for level in levels) or parts[0].lstrip("$") or "machine", value.contents)
    for candidate in candidates.values():
        if not candidate.is_value:
            unused[_where(candidate.topic, candidate.path)] = _why_no_state(candidate)
    for value in texts:
        unused.setdefault(_where(_pattern(value.topic, levels), value.path), _why_no_value(value.contents))
    proposals = []
    for part in _by_payload([candidate for candidate in candidates.values() if candidate.is_value]):
        values, machines, left_out = _chosen(part)
        machine = "/".join(f"{{{number}}}" for number in range(1, len(levels) + 1)) or min(machines, default="")
        proposals.append(Proposal({} if machine == "{1}" else {"machine": machine}, values, machines, left_out))
    lines = [f"{where}: {why}" for where, why in sorted(unused.items())]
    if len(lines) > _MAX_NAMED:
        lines[_MAX_NAMED:] = [f"{len(lines) - _MAX_NAMED} more values"]
    proposals[0].left_out.extend(lines)
    return replace(proposals[0], more=tuple(proposals[1:]))


def _pattern(topic: str, levels: Sequence[int]) -> str:
    """The filter for the topics that differ from this one in the machine only."""
    return "/".join("+" if level in levels else part for level, part in enumerate(topic.split("/")))


def _where(topic: str, path: _Path) -> str:
    steps = ".".join(step if isinstance(step, str) else shown(step) for step in path)
    return f"{topic} at {steps}" if steps else topic


def _why_no_state(candidate: Candidate) -> str:
    if len(candidate.states) > 1:
        return f"too many texts for a state, such as {shown(candidate.example)}"
    return f"only the text {shown(candidate.example)}; if it is a state, give it a `map` of all its texts"


def _why_no_value(contents: Sequence[Any]) -> str:
    example = next(content for content in contents if not (_is_number(content) or has_decimal_comma(content)))
    if isinstance(example, NotTakenError):
        return f"a payload that {REASONS[example.reason]}"
    if isinstance(example, list):
        return "an array; a `path` that ends in 0 takes its first element"
    return f"texts that are not states, such as {shown(example)}"


def _by_payload(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """The values of each table: machines that publish the same topics with another payload need one of their own."""
    groups = _kinds(candidates)
    first, *others = groups or [[]]
    tables = [first]
    topics = {each.topic for each in first if not _is_named(each.path)}
    for group in others:
        if any(each.topic in topics and not _is_named(each.path) for each in group):
            tables.append(group)
        else:
            first += group
    return tables


def _kinds(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Groups of values that share no machine, the one of the most machines first."""
    groups: list[list[Candidate]] = []
    for candidate in candidates:
        joined = [group for group in groups if any(candidate.machines & each.machines for each in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([candidate, *itertools.chain.from_iterable(joined)])
    return sorted(groups, key=lambda group: (-len(_machines(group)), group[0].topic))


def _machines(candidates: Iterable[Candidate]) -> set[str]:
    return set[str]().union(*(candidate.machines for candidate in candidates))


def _of_sparkplug(messages: Iterable[Message]) -> Proposal:
    """A value for each number in births, and in other messages with names. If devices have any, it is of devices."""
    heard: dict[tuple[str, str, str], dict[str, list[Any]]] = {}  # By group, node and device, and by metric.
    for message in messages:
        address = sparkplug_source.address_of(message.topic)
        if address is None:
            continue
        group, _, node, device = address
        contents = heard.setdefault((group, node, device), {})
        try:
            payload = sparkplug.decode(message.payload)
        except NotTakenError:
            continue
        for name, content in _metrics(payload):
            contents.setdefault(name, []).append(content)
    is_of_devices = any(device for (_, _, device), contents in heard.items() if contents)
    followed = [levels for levels in heard if bool(levels[2]) == is_of_devices]
    group, node, device = map(_common, zip(*followed, strict=True)) if followed else ("+", "+", "+")
    candidates: dict[str, Candidate] = {}
    texts = set[str]()
    for levels in followed:
        machine = "/".join(level for level in levels[0 if group == "+" else 1 :] if level)
        for name, known in heard[levels].items():
            if _may_be_value(known):
                candidates.setdefault(name, Candidate(_name("", (name,)), metric=name)).add(machine, known)
            else:
                texts.add(shown(name))
    values, machines, left_out = _chosen(candidates.values())
    texts |= {shown(name) for name, one in candidates.items() if not one.is_value}
    if texts:
        left_out.append(f"{_listed(sorted(texts))}: text that is neither a number nor one of several states")
    if values and "+" not in (node, device):
        left_out.append('other nodes and devices: only one was heard, so the table names it; "+" would follow all')
    if not values:
        left_out.append(
            "Sparkplug nodes, because no birth with numbers came: `--rebirth` asks them for one, or listen longer"
        )
    elif any(contents for levels, contents in heard.items() if levels not in followed):
        left_out.append('metrics of the nodes themselves: they need a table of their own, with `device = ""`')
    keys = {"source": "sparkplug", "group": group, "node": node, "device": device}
    if group == "+":
        keys["machine"] = "{group}/{node}/{device}" if is_of_devices else "{group}/{node}"
    return Proposal(keys, values, machines, left_out)


def _metrics(payload: sparkplug.Payload) -> Iterator[tuple[str, Any]]:
    """The names and contents of the metrics that may be values."""
    for metric in payload.metrics:
        is_named = 1 <= len(metric.name) <= MAX_METRIC_CHARS and not _OWN_METRICS.match(metric.name)
        if is_named and not metric.is_missing and not metric.is_historical:
            try:
                yield metric.name, metric.content(metric.datatype)
            except NotTakenError:
                continue


def _common(levels: Iterable[str]) -> str:
    """The filter for these names of groups, nodes or devices."""
    known = set(levels)
    return known.pop() if len(known) == 1 else "+"


def _chosen(candidates: Iterable[Candidate]) -> tuple[dict[str, Candidate], list[str], list[str]]:
    """The values by name, their machines, and what is left out."""
    good, left_out = [candidate for candidate in candidates if candidate.is_value], list[str]()
    # Such as the bridge of a gateway.
    shared = {machine for candidate in good if len(candidate.machines) > 1 for machine in candidate.machines}
    if shared and (alone := {machine for candidate in good for machine in candidate.machines} - shared):
        good = [candidate for candidate in good if candidate.machines & shared]
        left_out.append(f"{_listed(sorted(alone))}: shares no value with other machines")
    machines = sorted({machine for candidate in good for machine in candidate.machines})
    values: dict[str, Candidate] = {}
    # If there are more values than a table takes, those of the most machines are kept.
    good.sort(key=lambda one: (-len(one.machines), one.topic, one.metric or "", str(one.path)))
    names = Counter(candidate.name for candidate in good)
    for candidate in good[:MAX_VALUES]:
        part = candidate.topic.split("/")[-1]
        if names[candidate.name] > 1 and part not in {"", "+"} and _is_named(candidate.path):
            candidate.name = _name("", (part, *candidate.path))
        candidate.is_optional = len(candidate.machines) < len(machines)
        values[_unused(candidate.name, values)] = candidate
    if over := [candidate.name for candidate in good[MAX_VALUES:]]:
        left_out.append(f"{len(over)} of {len(good)} values, because a table takes {MAX_VALUES}: {_listed(over)}")
    return dict(sorted(values.items())), machines, left_out


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")


def numbered(states: Iterable[str]) -> dict[str, int]:
    """A number for each state, 0 for one that means off. A known pair is completed if only one of it was heard."""
    known = set(states)
    for off, on in _PAIRS:
        for change in (str.lower, str.upper, str.capitalize):
            if known and known <= {change(off), change(on)}:
                return {change(off): 0, change(on): 1}
    ordered = sorted(known, key=lambda text: (text.casefold() not in _OFF_WORDS, text.casefold()))
    return {text: number for number, text in enumerate(ordered)}


def _leaves(document: Any, path: _Path = (), quality: _Path = ()) -> Iterator[tuple[_Path, Any, _Path]]:
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


def _is_number(content: Any) -> bool:
    return isinstance(content, bool) or number_of(content) is not None


def _only_rises(contents: Sequence[Any]) -> bool:
    numbers = [number for content in contents if (number := number_of(content)) is not None]
    steps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    return all(step >= 0 for step in steps) and sum(step > 0 for step in steps) >= _MIN_RISES


def _may_be_value(contents: list[Any]) -> bool:
    texts = [text for text in contents if not (_is_number(text) or has_decimal_comma(text))]
    return all(isinstance(text, str) and _is_state(text) for text in texts) and len(set(texts)) <= _MAX_STATES


def _is_state(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= _MAX_STATE_CHARS and not _NO_STATE.match(text)


def _machine_levels(values: Sequence[_Heard]) -> list[list[int]]:
    """The levels of the topics that name the machine, none if nothing does; in doubt two such, the likelier first.

    A topic may end in the name of a value, or in that of a machine if its payload has the names of values.
    """
    by_topic, by_path = _varying(values, names_in_payload=False), _varying(values, names_in_payload=True)
    if by_topic:
        return [by_topic, by_path] if set(by_path) - set(by_topic) else [by_topic]
    # There is one machine: its level has a digit, or is the last but one.
    topics = [value.topic.split("/") for value in values]
    numbered_levels = {level for topic in topics for level, part in enumerate(topic[:-1]) if re.search(r"\d", part)}
    depth = min(map(len, topics), default=0)
    single = [max(numbered_levels)] if numbered_levels else [depth - 2] if depth > 2 else []
    if len(by_path) != 1 or not single or depth < 3:
        return [by_path or single]
    # Several values that agree are those of several machines; a single one may be of several parts of a machine.
    has_parts = len({repr(value.path) for value in values if _is_named(value.path)}) == 1
    return [single, by_path] if has_parts else [by_path, single]


def _varying(values: Sequence[_Heard], *, names_in_payload: bool) -> list[int]:
    """The levels that differ between the topics of a value, whose name is its path or the last level of its topic."""
    # What stands beside a value without a name, such as its unit, names no other value.
    named_by_topic = {value.topic for value in values if not (names_in_payload and _is_named(value.path))}
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


def _is_named(path: _Path) -> bool:
    """Whether a path has a name for its value, unlike that of `{"value": 7}`."""
    return any(isinstance(step, Mapping) or str(step).casefold() not in _WRAPPERS for step in path)


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
