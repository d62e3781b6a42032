"""A `[signals]` table that discovery proposes, and the values that it may have."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.signal_tables import MAX_VALUES, JsonPath
from edge_agent.core.strict_json import number_of
from edge_agent.signals.values import has_decimal_comma

# With more different texts than this, or longer ones, a value is not a state.
_MAX_STATES, _MAX_STATE_CHARS = 6, 24
MAX_NAMED = 8
# A text that came more often than this from a machine, and was never retained, is reported on change only if no message
# repeated the one before.
_MAX_CHANGES = 3
# A number that never fell and rose this often, at all machines together, is hardly one that varies by chance.
_MIN_RISES = 10
_OFF_WORDS = {"off", "false", "no", "stopped", "stop", "closed", "idle", "inactive", "standby"}
_PAIRS = (
    ("off", "on"), ("false", "true"), ("no", "yes"), ("closed", "open"), ("stopped", "running"), ("offline", "online"),
)  # fmt: skip
# A date, a time of day, a duration, a version or an address.
_NO_STATE = re.compile(r"[-+]?\d+[,.:T/-]\d")
# Keys that only wrap others, so they do not name a value.
_WRAPPERS = {"v", "value", "val", "values", "tags", "fields", "params", "payload", "data", "metrics"}


@dataclass(slots=True)
class Candidate:
    """A value that the table may have, with where it was found and what was heard."""

    name: str
    topic: str = ""
    metric: str | None = None
    """The Sparkplug metric, instead of a topic."""
    path: JsonPath = ()
    quality: JsonPath = ()
    example: str = ""
    machines: set[str] = field(default_factory=set)
    messages: int = 0
    has_numbers: bool = False
    is_switch: bool = True
    """Whether its only numbers are booleans."""
    has_decimal_comma: bool = False
    rises: int = 0
    has_fallen: bool = False
    states: set[str] = field(default_factory=set)
    is_optional: bool = False
    was_retained: bool = False
    repeats: int = 0

    def add(self, machine: str, contents: Sequence[Any]) -> None:
        numbers = [number for content in contents if (number := number_of(content)) is not None]
        steps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
        self.rises += sum(step > 0 for step in steps)
        self.has_fallen = self.has_fallen or any(step < 0 for step in steps)
        for content in contents:
            self.example = self.example or (content if isinstance(content, str) else json.dumps(content))
            self.machines.add(machine)
            self.messages += 1
            if is_number(content):
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
    def only_rises(self) -> bool:
        """Whether it rose again and again and never fell, like a counter or a clock."""
        return self.rises >= _MIN_RISES and not self.has_fallen

    @property
    def is_on_change(self) -> bool:
        """Whether it seems to be reported on change, which may be days ago."""
        again = self.messages - len(self.machines)
        is_rare = self.was_retained or self.messages <= _MAX_CHANGES * len(self.machines)
        return not self.repeats or (is_rare and 2 * self.repeats <= again)

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
    """A table that takes what was heard, and what was left out of it."""

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
    topics: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The topic of each machine by the filter for it, also where nothing in it is proposed."""

    @property
    def common_name(self) -> str:
        """The first level of the topics, or the Sparkplug group."""
        topics = [value.topic for value in self.values.values() if value.topic]
        first = min(topics, default=self.keys.get("group", "")).split("/")[0]
        return re.sub(r"[^A-Za-z0-9_-]", "", first)[:64] or self.keys.get("source", "machines")

    def table(self) -> dict[str, Any]:
        return {**self.keys, "values": {name: value.table for name, value in self.values.items()}}

    @property
    def kinds(self) -> list[tuple[list[str], dict[str, Candidate]]]:
        """The machines of each kind, and their values. Machines of different kinds have no value in common.

        Counters are left out, because machines of every kind count their messages.
        """
        values = {name: value for name, value in self.values.items() if not value.only_rises}
        return [
            (sorted(machines_of(group)), {name: value for name, value in values.items() if value in group})
            for group in kinds_of(values.values())
        ]

    def filters_of(self, machines: Collection[str]) -> list[str]:
        """The filters that find all topics of these machines, and none of others that were heard."""
        filters = set[str]()
        for wide, topics in self.topics.items():
            own = {topic for machine, topic in topics.items() if machine in machines}
            filters |= {wide} if len(own) == len(topics) else own
        return sorted(filters)

    def tables(self, name: str) -> dict[str, dict[str, Any]]:
        """All tables by name, this one first."""
        tables = {name: self.table()}
        for proposal in self.more:
            tables[_unused(proposal.common_name, tables)] = proposal.table()
        return tables


def kinds_of(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Groups of values that share no machine, the one with the most machines first."""
    groups: list[list[Candidate]] = []
    for candidate in candidates:
        joined = [group for group in groups if any(candidate.machines & each.machines for each in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([candidate, *itertools.chain.from_iterable(joined)])
    return sorted(groups, key=lambda group: (-len(machines_of(group)), group[0].topic))


def machines_of(candidates: Iterable[Candidate]) -> set[str]:
    return set[str]().union(*(candidate.machines for candidate in candidates))


def choose(candidates: Iterable[Candidate]) -> tuple[dict[str, Candidate], list[str], list[str]]:
    """The values by name, their machines, and what is left out."""
    good, left_out = [candidate for candidate in candidates if candidate.is_value], list[str]()
    # It may be the bridge of a gateway.
    shared = {machine for candidate in good if len(candidate.machines) > 1 for machine in candidate.machines}
    if shared and (alone := {machine for candidate in good for machine in candidate.machines} - shared):
        good = [candidate for candidate in good if candidate.machines & shared]
        left_out.append(f"{listed(sorted(alone))}: shares no value with other machines")
    machines = sorted({machine for candidate in good for machine in candidate.machines})
    values: dict[str, Candidate] = {}
    # If there are more values than a table takes, those of the most machines are kept.
    good.sort(key=lambda one: (-len(one.machines), one.topic, one.metric or "", str(one.path)))
    names = Counter(candidate.name for candidate in good)
    for candidate in good[:MAX_VALUES]:
        part = candidate.topic.split("/")[-1]
        if names[candidate.name] > 1 and part not in {"", "+"} and is_named(candidate.path):
            candidate.name = value_name("", (part, *candidate.path))
        candidate.is_optional = len(candidate.machines) < len(machines)
        values[_unused(candidate.name, values)] = candidate
    if over := [candidate.name for candidate in good[MAX_VALUES:]]:
        left_out.append(f"{len(over)} of {len(good)} values, because a table takes {MAX_VALUES}: {listed(over)}")
    return dict(sorted(values.items())), machines, left_out


def listed(names: Sequence[str]) -> str:
    """The first names, as text."""
    return ", ".join(names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "")


def numbered(states: Iterable[str]) -> dict[str, int]:
    """A number for each state, 0 for one that means off. A known pair is completed if only one of it was heard."""
    known = set(states)
    for off, on in _PAIRS:
        for change in (str.lower, str.upper, str.capitalize):
            if known and known <= {change(off), change(on)}:
                return {change(off): 0, change(on): 1}
    ordered = sorted(known, key=lambda text: (text.casefold() not in _OFF_WORDS, text.casefold()))
    return {text: number for number, text in enumerate(ordered)}


def is_number(content: Any) -> bool:
    return isinstance(content, bool) or number_of(content) is not None


def may_be_value(contents: list[Any]) -> bool:
    """Whether all that was heard is numbers, or texts that are few and short enough for states."""
    texts = [text for text in contents if not (is_number(text) or has_decimal_comma(text))]
    return all(isinstance(text, str) and _is_state(text) for text in texts) and len(set(texts)) <= _MAX_STATES


def _is_state(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= _MAX_STATE_CHARS and not _NO_STATE.match(text)


def is_named(path: JsonPath) -> bool:
    """Whether a path has a name for its value, unlike that of `{"value": 7}`."""
    return any(isinstance(step, Mapping) or str(step).casefold() not in _WRAPPERS for step in path)


def value_name(pattern: str, path: JsonPath) -> str:
    """A name for a value: the steps of its path that name it, or else the last such level of its topic."""
    steps = [str(next(iter(step.values()))) if isinstance(step, Mapping) else str(step) for step in path]
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
