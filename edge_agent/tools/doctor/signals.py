"""Checks of `[signals]`: which values arrive, which payloads cannot be read, and which values machines lack."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from edge_agent.core.config import Config
from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import SignalsTable
from edge_agent.core.wording import cut, printable, shown
from edge_agent.models.bundle import trained_fields
from edge_agent.models.record import in_force
from edge_agent.signals import values
from edge_agent.signals.machine import Machine
from edge_agent.signals.signal_table import SignalTable, new_table
from edge_agent.signals.source import NotTakenError
from edge_agent.signals.sparkplug_source import address_of
from edge_agent.tools.client import Client
from edge_agent.tools.doctor.check import Check, failed, good, warning

# Most plants publish every value at least once a minute.
LISTEN_S = 60.0
_WAIT_S = 3.0
# How long no new machine must have come before listening may end.
_QUIET_S = 5.0
# How long to listen for the nodes of other groups, if a table hears none of its own.
_NODES_S = 10.0
_MAX_NAMED = 5
_MAX_FAULTS = 1000
_ON_CHANGE = "a value that is sent only on change may not have changed meanwhile"
_ADVICE = {
    "decimal-comma": "set `decimal_comma = true` for this value, or have the sender write a point",
    values.OUT_OF_RANGE: "look at the sensor, or correct the range",
    values.BAD_QUALITY: "look at the sensor, and at its connection to the sender",
    "late": "check the sender's clock, or raise `max_age_s`",
    "bad-time": "have the sender write RFC 3339 with an offset, or seconds since 1970; or remove `time`",
}


@dataclass(slots=True)
class _Value:
    """The messages that were heard for one value."""

    messages: int = 0
    retained: int = 0
    taken: int = 0
    first_faults: dict[str, tuple[Message, str]] = field(default_factory=dict)
    """The first message of each machine that was not taken, and the reason."""

    def add_fault(self, machine: str, message: Message, reason: str) -> None:
        if len(self.first_faults) < _MAX_FAULTS:
            self.first_faults.setdefault(machine, (message, reason))


@dataclass(slots=True)
class Heard:
    """The messages that one table hears, value by value."""

    config: SignalsTable
    table: SignalTable
    by_value: dict[str, _Value] = field(default_factory=dict)
    elsewhere: AbstractSet[str] = frozenset()
    """Machines that only other tables follow, whose messages on the same topics look different."""
    other_nodes: Sequence[str] = ()
    """Sparkplug nodes that other groups or filters have, if the table hears none."""

    def receive(self, message: Message, now: float) -> None:
        for _ in self.table.receive(message.topic, message.payload, is_retained=message.is_retained, now=now):
            pass
        for name, value in self.config.values.items():
            machine = self.config.machine_of(value.topic or "", message.topic)
            if machine is None:
                continue
            heard = self.by_value.setdefault(name, _Value())
            if message.is_retained and not value.retained:
                heard.retained += 1
                continue
            heard.messages += 1
            try:
                content = values.read(value, values.parse(message.payload), now, self.config.max_age_of(name))
            except NotTakenError as error:
                heard.add_fault(machine, message, error.reason)
                continue
            if isinstance(content, values.Absent):
                heard.add_fault(machine, message, values.ABSENT.value)
            else:
                heard.taken += 1

    @property
    def is_complete(self) -> bool:
        """Whether each value was taken at least once, and each machine has had those that it needs."""
        if any(map(self.lacking, self.table.machines.values())):
            return False
        return all(self.by_value.get(name, _Value()).taken or name in self.arrived for name in self.config.values)

    def lacking(self, machine: Machine) -> list[str]:
        """The values that a machine needs and has not had."""
        required = (name for name, value in self.config.values.items() if not value.optional)
        return [name for name in required if machine.tracks[name].arrived_at is None]

    @property
    def lacks_nodes(self) -> bool:
        """Whether the source is Sparkplug, and no node was heard."""
        figures = self.table.source.as_health()
        return self.config.source == "sparkplug" and not figures["nodes_online"] + figures["nodes_offline"]

    @property
    def arrived(self) -> set[str]:
        """The values that at least one machine has had."""
        machines = self.table.machines.values()
        return {name for machine in machines for name, track in machine.tracks.items() if track.arrived_at}


def signals_checks(config: Config, *, listen_s: float = LISTEN_S) -> Iterator[Check]:
    """Listens to the topics of all tables at once, for listen_s at most."""
    heard = {name: Heard(table, new_table(name, table)) for name, table in config.signals.items()}
    filters = {text for each in heard.values() for text in each.table.source.filters}
    client_id = f"{config.device.site}.{config.device.id}.doctor-signals"
    print(f"listening to the topics of [signals] for up to {listen_s:g} s …", file=sys.stderr, flush=True)
    began = time.monotonic()
    with Client(client_id, config.mqtt, filters) as client:
        if not client.connect(_WAIT_S):
            return
        listen(heard.values(), client.messages(listen_s))
        refused = {text: why for text, why in client.link.subscriptions.answers.items() if why}
    if refused:
        text, why = next(iter(refused.items()))
        advice = "in the broker's access list, allow this user to read the topics of [signals]"
        yield failed("signals", f"may not subscribe to {shown(text)} ({why})", advice)
    seconds = time.monotonic() - began
    if any(each.lacks_nodes for each in heard.values()):
        nodes = _sparkplug_nodes(client_id, config, min(listen_s, _NODES_S))
        for each in heard.values():
            each.other_nodes = nodes
    followed = {machine for each in heard.values() for machine in each.table.machines}
    for name, each in heard.items():
        each.elsewhere = followed - each.table.machines.keys()
        yield from table_checks(name, each, seconds)
    yield from trained_checks(config, trained_fields(in_force(config)))


def listen(tables: Collection[Heard], messages: Iterable[Message]) -> None:
    """Gives the messages to all tables until each is complete, and no new machine has come for _QUIET_S."""
    machines, look_at = 0, 0.0
    for message in messages:
        for each in tables:
            each.receive(message, time.time())
        number = sum(len(each.table.machines) for each in tables)
        # Not after each message, because there may be a thousand machines.
        if number > machines or message.received_at >= look_at:
            if number == machines and all(each.is_complete for each in tables):
                return
            machines, look_at = number, message.received_at + _QUIET_S


def _sparkplug_nodes(client_id: str, config: Config, listen_s: float) -> list[str]:
    """The group and node of each message of any Sparkplug node."""
    nodes = set()
    with Client(client_id, config.mqtt, {"spBv1.0/#"}) as client:
        if client.connect(_WAIT_S):
            for message in client.messages(listen_s):
                if (address := address_of(message.topic)) is not None:
                    group, _, node, _ = address
                    nodes.add(f"{group}/{node}")
    return sorted(nodes)


def table_checks(name: str, heard: Heard, seconds: float) -> Iterator[Check]:
    key = f"signals.{name}"
    problems = [*_value_checks(key, heard, seconds), *_machine_checks(key, heard, seconds)]
    yield from problems
    if not problems:
        machines = heard.table.machines
        yield good("signals", f"{name}: all values were read; machines: {_listed(sorted(machines))}")


def _value_checks(key: str, heard: Heard, seconds: float) -> Iterator[Check]:
    if heard.lacks_nodes:
        yield _no_node_check(key, heard, seconds)
        return
    for name, value in heard.config.values.items():
        known = heard.by_value.get(name, _Value())
        where = f"{key}.values.{name}"
        if value.metric is not None:
            yield from _metric_checks(where, name, value.metric, heard, seconds)
        elif known.first_faults and not known.taken:
            message, reason = next(iter(known.first_faults.values()))
            found = f"{where}: {shown(message.topic)} {_why(reason)} {_payload(message)}"
            yield warning("signals", found, _advice(reason))
        elif own := [fault for machine, fault in known.first_faults.items() if machine not in heard.elsewhere]:
            message, reason = own[0]
            why = _why(reason)
            taken = f"{known.taken} of {known.messages} messages could be read"
            found = f"{where}: {taken}; the first of the others: {shown(message.topic)} {why} {_payload(message)}"
            advice = "such messages are not taken, and `not_taken` in `health` counts them"
            yield warning("signals", found, _ADVICE.get(reason, advice))
        elif not known.messages and known.retained:
            found = f"{where}: only retained messages on {shown(value.topic)} in {seconds:.0f} s"
            yield warning("signals", found, "set `retained = true` to take them, or wait for a new message")
        elif not known.messages:
            found = f"{where}: no message on {shown(value.topic)} in {seconds:.0f} s"
            advice = "check the topic with `mosquitto_sub -v`, and the access list"
            yield warning("signals", found, f"{_ON_CHANGE}; otherwise {advice}")


def _why(reason: str) -> str:
    return values.REASONS.get(reason, reason)


def _advice(reason: str) -> str:
    return _ADVICE.get(reason, "correct `path` or `map` to match the payload")


def _no_node_check(key: str, heard: Heard, seconds: float) -> Check:
    found = f"{key}: no Sparkplug message of {heard.config.group}/{heard.config.node} came in {seconds:.0f} s"
    if not heard.other_nodes:
        return warning("signals", found, "check that the nodes publish, and that the access list lets this user read")
    return warning("signals", f"{found}, but of {_listed(heard.other_nodes)}", "correct `group` or `node`")


def _metric_checks(where: str, name: str, metric: str, heard: Heard, seconds: float) -> Iterator[Check]:
    """The checks of a value that is a metric. Births announce its name, and may not have come."""
    names = heard.table.source.metric_names
    if name in heard.table.source.metric_faults:
        reason, content = heard.table.source.metric_faults[name]
        advice = _ADVICE.get(reason, "correct `metric` or `map`")
        yield warning("signals", f"{where}: {shown(metric)} {_why(reason)} (got {cut(printable(content))})", advice)
    elif name in heard.arrived:
        return
    elif not names:
        advice = "have a node send its births again, or set `rebirth` or `certificates`"
        if heard.config.certificates:
            advice = "have a node send its births again, or set `rebirth`"
        if heard.config.rebirth:
            advice = "none is needed: unlike doctor, the agent will ask for a rebirth"
        yield warning("signals", f"{where}: no birth came in {seconds:.0f} s", advice)
    elif metric in names:
        yield warning("signals", f"{where}: {shown(metric)} never had a usable value", "check it at the node")
    else:
        near = difflib.get_close_matches(metric, names, 1, 0.4)
        found = f"{where}: no birth has the metric {shown(metric)}{f', but one has {shown(near[0])}' if near else ''}"
        yield warning("signals", found, "correct `metric`")


def _machine_checks(key: str, heard: Heard, seconds: float) -> Iterator[Check]:
    # A value that no machine has is reported by its own check.
    known = heard.arrived - heard.table.source.metric_faults.keys()
    lacking = [
        f"{shown(name)} had no {', '.join(missing)}"
        for name, machine in sorted(heard.table.machines.items())
        if (missing := [value for value in heard.lacking(machine) if value in known])
    ]
    if lacking:
        found = f"{key}: in {seconds:.0f} s of listening, {_listed(lacking, '; ')}"
        advice = "publish the value, or make it `optional`; if it is not a machine at all, a filter is too wide"
        yield warning("signals", found, f"{_ON_CHANGE}; otherwise {advice}")
    if refused := sorted(heard.table.refused):
        found = f"{key}: machines that are not followed: {_listed([shown(name) for name in refused])}"
        yield warning("signals", found, "raise `max_machines`, or narrow the filters")


def trained_checks(config: Config, trained: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    """Fields that a task's model was trained with but its readings do not have."""
    for name, task in config.tasks.items():
        for table in task.signal_tables:
            if missing := sorted(set(trained.get(name, ())) - set(config.signals[table].field_names())):
                found = f"task {name}: its model reads {_listed(missing)}, which [signals.{table}] does not have"
                advice = "restore the window, features and values of the training, or train again on rows of this table"
                yield failed("signals", found, advice)


def _payload(message: Message) -> str:
    """As other faults quote values, because `edge-agent diag` leaves these out."""
    return f"(got {cut(printable(message.payload.decode('utf-8', 'replace')))})"


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return separator.join(names[:_MAX_NAMED]) + more
