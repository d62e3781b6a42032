"""The source `sparkplug`, with sessions of Sparkplug B nodes: their births, data and deaths.

A birth has every metric of a node or device with its name, type and value. The data that follow report by exception,
mostly by alias and without a type, so whoever missed a birth cannot read them.

All messages of a node except its deaths have a sequence number. One that comes too early waits in a reorder buffer for
those before it, for WAIT_S at most; if they do not come, they are lost. After such a gap, as after a missed birth, the
node may be asked for a rebirth.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge_agent.core.messages import Publication
from edge_agent.core.signal_tables import MAX_METRIC_CHARS, SignalsTable
from edge_agent.signals import sparkplug, values
from edge_agent.signals.source import MAX_TOPIC_CHARS, NotTakenError, Offenders, Update
from edge_agent.signals.sparkplug import Metric, Payload

WAIT_S = 2.0
MAX_NODES = 256
MAX_DEVICES = 5000
MAX_WAITING = 64
MAX_WAITING_BYTES = 4_000_000
MAX_METRIC_NAMES = 5000
# The time between two requests to a node, which doubles while they do not help.
REBIRTH_S, MAX_REBIRTH_S = 60.0, 3600.0
_NAMESPACE = "spBv1.0"
# Where brokers that are aware of Sparkplug keep the last births.
_CERTIFICATES = "$sparkplug/certificates/"
_BIRTHS = frozenset({"NBIRTH", "DBIRTH"})
_NODE_TYPES = ("NBIRTH", "NDATA", "NDEATH")
_DEVICE_TYPES = ("DBIRTH", "DDATA", "DDEATH")
_SEQUENCE = 256


def is_sparkplug(topic: str) -> bool:
    return topic.removeprefix(_CERTIFICATES).startswith(f"{_NAMESPACE}/")


def address_of(topic: str) -> tuple[str, str, str, str] | None:
    """The group, type, node and device, which is "" for the node itself; None for any other topic."""
    namespace, *levels = topic.removeprefix(_CERTIFICATES).split("/")
    if namespace != _NAMESPACE or not (len(levels) == 3 or (len(levels) == 4 and levels[3])):
        return None
    group, kind, node, *rest = levels
    if kind not in (_DEVICE_TYPES if rest else _NODE_TYPES):
        return None
    return group, kind, node, rest[0] if rest else ""


def rebirth_request(group: str, node: str, now: float) -> Publication:
    """Asks a node for a rebirth. `now` is in seconds since 1970."""
    payload = sparkplug.encode_rebirth(int(now * 1000))
    return Publication(topic=f"{_NAMESPACE}/{group}/NCMD/{node}", payload=payload, qos=0)


class RebirthLimiter:
    """Limits how often each node is asked for a rebirth. Tables that follow the same nodes share one."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[float, float]] = {}  # By topic, when it was asked and the back-off since.

    def allow(self, topic: str, now: float) -> bool:
        """True if the node may be asked now; the request then counts as sent."""
        asked_at, interval_s = self._asked.get(topic, (-MAX_REBIRTH_S, 0.0))
        since = now - asked_at
        if since < interval_s:
            return False
        if len(self._asked) >= 4 * MAX_NODES:
            self._asked = {other: asked for other, asked in self._asked.items() if now - asked[0] < MAX_REBIRTH_S}
        # Being due again so soon, the last request did not help for long.
        interval_s = min(2 * interval_s, MAX_REBIRTH_S) if since < 2 * interval_s else REBIRTH_S
        self._asked[topic] = now, interval_s
        return True


@dataclass(slots=True)
class _Device:
    """A device, or the node itself as one."""

    machine: str
    is_born: bool = False
    is_dead: bool = False
    has_missed_birth: bool = False
    """It has sent data although its birth is not known."""
    names: dict[int, str] = field(default_factory=dict)
    """The names of the table's metrics, by alias."""
    types: dict[str, int] = field(default_factory=dict)
    """The types of the table's metrics, by name."""
    known: set[str] = field(default_factory=set)
    """The names of the table's values that it currently gives."""

    def end(self, cause: str) -> Update | None:
        """Ends its session, so that it gives no value until its next birth."""
        known, self.known = self.known, set()
        self.is_born = self.is_dead = self.has_missed_birth = False
        self.names.clear()
        self.types.clear()
        return Update(self.machine, dict.fromkeys(sorted(known)), cause) if known else None


@dataclass(frozen=True, slots=True)
class _Message:
    """A message of a node, which may have to wait in the reorder buffer."""

    expires_at: float
    """When the messages before it are given up."""
    expected: int | None
    """The number that its node expected when it came."""
    number: int | None
    """Its sequence number; None if its node does not number messages."""
    kind: str
    device: str
    payload: Payload
    size: int


@dataclass(slots=True, eq=False)
class _Node:
    group: str
    name: str
    heard_at: float
    is_online: bool = False
    has_session: bool = False
    """Its birth or death has come over this connection, so a device whose birth has not come is not born."""
    bd_seq: int | None = None
    """The number of its session."""
    last_bd_seq: int | None = None
    """The number of the session before."""
    expected: int | None = None
    """The sequence number of its next message."""
    waiting: list[_Message] = field(default_factory=list)
    """The reorder buffer, in the order of arrival."""
    devices: dict[str, _Device] = field(default_factory=dict)
    lacks_birth: bool = False
    """Whether a rebirth would help, because a birth or other messages were missed."""

    def is_late_death(self, bd_seq: int | None) -> bool:
        """True for the death of an earlier session. Some clients number a death one higher than its birth."""
        if bd_seq is None or self.bd_seq is None:
            return False
        ahead = (bd_seq - self.bd_seq) % _SEQUENCE
        return ahead >= _SEQUENCE // 2 or (ahead > 1 and bd_seq == self.last_bd_seq)

    def end(self, cause: str) -> list[Update]:
        """Ends its session and those of its devices."""
        ends = [device.end(cause) for device in self.devices.values()]
        self.devices.clear()
        self.waiting.clear()
        self.is_online = self.lacks_birth = False
        self.expected = None
        return [end for end in ends if end is not None]


class SparkplugSource:
    def __init__(self, config: SignalsTable, limiter: RebirthLimiter | None = None) -> None:
        self.metric_names: set[str] = set()
        """The metrics' names in births of the nodes and devices that the table follows, MAX_METRIC_NAMES at most."""
        self.offenders: Offenders = {}
        self._config = config
        self._limiter = limiter or RebirthLimiter()
        self._values: dict[str, list[str]] = {}  # The names of values, by metric.
        for name, value in config.values.items():
            self._values.setdefault(value.metric or "", []).append(name)
        self._nodes: dict[tuple[str, str], _Node] = {}
        self._blocked: dict[_Node, None] = {}  # The nodes with waiting messages, as an ordered set.
        # What was not taken but raised no NotTakenError, by reason: metrics of messages that were taken, and messages
        # that waited in vain.
        self._not_taken = Counter[str]()
        self._gaps = self._missed_births = self._requests = 0

    @property
    def metric_faults(self) -> dict[str, tuple[str, str]]:
        first = reversed(self.offenders.items())
        return {name: (reason, content) for (name, reason), (_, content) in first}

    @property
    def filters(self) -> frozenset[str]:
        config = self._config
        # All devices, whichever the table follows, because their messages share the sequence numbers of the node.
        topics = {f"{_NAMESPACE}/{config.group}/{kind}/{config.node}" for kind in _NODE_TYPES}
        topics |= {f"{_NAMESPACE}/{config.group}/{kind}/{config.node}/+" for kind in _DEVICE_TYPES}
        if config.certificates:
            topics |= {_CERTIFICATES + topic for topic in topics if topic.split("/")[2] in _BIRTHS}
        return frozenset(topics)

    def read(self, topic: str, payload: bytes, *, is_retained: bool, now: float) -> list[Update]:
        address = self._address(topic)
        if address is None:
            return []
        if len(topic) > MAX_TOPIC_CHARS:
            raise NotTakenError("too-long")
        group, kind, name, device = address
        content = sparkplug.decode(payload)
        node = self._node(group, name, now)
        if is_retained or topic.startswith(_CERTIFICATES):
            # It may be old: names and types still hold, but values do not.
            if kind in _BIRTHS:
                target = self._device(node, device, self._not_taken)
                if target is not None and not target.is_born:
                    self._learn(target, content.metrics)
            return []
        node.heard_at = now
        not_taken = Counter[str]()
        if kind == "NDEATH":
            if node.is_late_death(content.bd_seq):
                raise NotTakenError("late-death")
            node.has_session = True
            return node.end("its node has died")
        number = None if content.seq is None else content.seq % _SEQUENCE
        message = _Message(now + WAIT_S, node.expected, number, kind, device, content, len(payload))
        if kind == "NBIRTH":
            updates = self._begin(node, message, not_taken)
        else:
            updates = self._take_in_order(node, message, not_taken)
        self._blocked = {blocked: None for blocked in self._blocked if blocked.waiting}
        if not_taken and not updates:
            # Nothing in the message could be used, so it counts as a whole.
            reason = next(iter(not_taken))
            not_taken[reason] -= 1
            self._not_taken += not_taken
            raise NotTakenError(reason)
        self._not_taken += not_taken
        return updates

    @property
    def due_at(self) -> float | None:
        """When `advance` has something to do."""
        return min((node.waiting[0].expires_at for node in self._blocked if node.waiting), default=None)

    def advance(self, now: float) -> list[Update]:
        """Takes the messages that have waited long enough."""
        updates = []
        for node in self._blocked:
            while node.waiting and node.waiting[0].expires_at <= now:
                updates += self._give_up(node, self._not_taken)
        return updates

    def on_connection_lost(self) -> None:
        """Ends all sessions, because deaths may be missed, and a new birth may assign other aliases."""
        for node in self._nodes.values():
            node.end("the connection was lost")
            node.has_session = False
            node.bd_seq = node.last_bd_seq = None

    def machines_of(self, topic: str) -> Collection[str]:  # noqa: ARG002 - a Source's
        return ()

    def keeps_alive(self, machine: str) -> bool:
        """True while a device of the machine is in session. It reports by exception, so silence means no change."""
        devices = (device for node in self._nodes.values() for device in node.devices.values())
        return any(device.known and device.machine == machine for device in devices)

    def take_requests(self, now: float) -> Sequence[Publication]:
        if not self._config.rebirth:
            return ()
        lacking = [rebirth_request(node.group, node.name, now) for node in self._nodes.values() if node.lacks_birth]
        asked = [request for request in lacking if self._limiter.allow(request.topic, now)]
        self._requests += len(asked)
        return asked

    def as_health(self) -> dict[str, Any]:
        online = sum(node.is_online for node in self._nodes.values())
        return {
            "nodes_online": online,
            "nodes_offline": len(self._nodes) - online,
            "gaps_total": self._gaps,
            "births_missed_total": self._missed_births,
            "rebirths_asked_total": self._requests,
            "metrics_not_taken": dict(self._not_taken),
        }

    def _address(self, topic: str) -> tuple[str, str, str, str] | None:
        """The same as `address_of`; None also if the table does not follow the node."""
        address = address_of(topic)
        if address is None or self._config.group not in ("+", address[0]) or self._config.node not in ("+", address[2]):
            return None
        return address

    def _node(self, group: str, name: str, now: float) -> _Node:
        """A node, which is known from now on. Raises NotTakenError if there are too many."""
        node = self._nodes.get((group, name))
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                forgotten_at = now - self._config.forget_s
                self._nodes = {
                    key: other for key, other in self._nodes.items() if other.is_online or other.heard_at > forgotten_at
                }
            if len(self._nodes) >= MAX_NODES:
                raise NotTakenError("too-many-nodes")
            node = self._nodes[group, name] = _Node(group, name, now)
        return node

    def _device(self, node: _Node, name: str, not_taken: Counter[str]) -> _Device | None:
        """A device, which is known from now on; None if the table does not follow it, or if there are too many."""
        if not (name and self._config.device == "+") and self._config.device != name:
            return None
        device = node.devices.get(name)
        if device is None:
            if sum(len(other.devices) for other in self._nodes.values()) >= MAX_DEVICES:
                not_taken["too-many-devices"] += 1
                return None
            parts = {"{group}": node.group, "{node}": node.name, "{device}": name}
            machine = re.sub(r"\{(?:group|node|device)\}", lambda match: parts[match[0]], self._config.machine_pattern)
            device = node.devices[name] = _Device(self._config.names.get(machine, machine))
        return device

    def _begin(self, node: _Node, birth: _Message, not_taken: Counter[str]) -> list[Update]:
        """Takes a node's birth. Its devices are not born yet, unless their births overtook it."""
        waiting = [message for message in node.waiting if _follows(message, birth)]
        updates = node.end("no birth of it has followed that of its node")
        bd_seq = birth.payload.bd_seq
        if bd_seq != node.bd_seq:
            node.bd_seq, node.last_bd_seq = bd_seq, node.bd_seq
        node.is_online = node.has_session = True
        node.expected = None if birth.number is None else (birth.number + 1) % _SEQUENCE
        node.waiting = [replace(message, expected=node.expected) for message in waiting]
        updates += self._birth(node, birth, not_taken)
        return [*updates, *self._take_next(node, not_taken)]

    def _take_in_order(self, node: _Node, message: _Message, not_taken: Counter[str]) -> list[Update]:
        if message.number is None:  # Its node does not number messages.
            return self._take(node, message, not_taken)
        if message.number == node.expected:
            return [*self._take(node, message, not_taken), *self._take_next(node, not_taken)]
        node.waiting.append(message)
        self._blocked[node] = None
        size = sum(waiting.size for waiting in node.waiting)
        is_full = len(node.waiting) > MAX_WAITING or size > MAX_WAITING_BYTES
        return self._give_up(node, not_taken) if is_full else []

    def _take_next(self, node: _Node, not_taken: Counter[str]) -> list[Update]:
        """Takes the messages that waited for the one that has just come."""
        updates = []
        while (following := next((it for it in node.waiting if it.number == node.expected), None)) is not None:
            node.waiting.remove(following)
            updates += self._take(node, following, not_taken)
        return updates

    def _give_up(self, node: _Node, not_taken: Counter[str]) -> list[Update]:
        """Takes the waiting messages, and gives up those that they wait for."""
        first, *others = node.waiting
        if first.expected != node.expected:
            # The sequence has moved on since it came, so it is a duplicate or too late.
            not_taken["out-of-order"] += 1
            node.waiting = others
            return []
        if node.expected is not None:
            self._gaps += 1
            node.lacks_birth = True
        messages, node.waiting = node.waiting, []
        start = first.number if node.expected is None else node.expected
        messages.sort(key=lambda message: _distance(start, message.number))
        updates = self._take(node, messages[0], not_taken)
        for message in messages[1:]:
            if _SEQUENCE // 2 <= _distance(node.expected, message.number) < _SEQUENCE - 1:
                not_taken["out-of-order"] += 1
            else:
                updates += self._take(node, message, not_taken)
        return updates

    def _take(self, node: _Node, message: _Message, not_taken: Counter[str]) -> list[Update]:
        """Takes a message other than a node's birth or death, when it is its turn."""
        node.is_online = True
        if message.number is not None:
            node.expected = (message.number + 1) % _SEQUENCE
        if message.kind == "DBIRTH":
            return self._birth(node, message, not_taken)
        device = self._device(node, message.device, not_taken)
        if device is None:
            return []
        if message.kind == "DDEATH":
            end = device.end("its device has died")
            device.is_dead = True
            return [] if end is None else [end]
        if not device.is_born:
            self._missed_births += not device.has_missed_birth
            device.has_missed_birth = node.lacks_birth = True
            if node.has_session or device.is_dead:
                not_taken["no-birth"] += 1
                return []
        taken, causes = self._numbers(device, message.payload.metrics, not_taken)
        return [Update(device.machine, taken, causes=causes)] if taken else []

    def _birth(self, node: _Node, message: _Message, not_taken: Counter[str]) -> list[Update]:
        device = self._device(node, message.device, not_taken)
        if device is None:
            return []
        end = device.end("")
        device.is_born = True
        self._learn(device, message.payload.metrics)
        taken, causes = self._numbers(device, message.payload.metrics, not_taken)
        if end is not None:
            taken = end.values | taken
        return [Update(device.machine, taken, "its last birth has no usable number", causes)] if taken else []

    def _learn(self, device: _Device, metrics: Iterable[Metric]) -> None:
        device.names.clear()
        device.types.clear()
        for metric in metrics:
            # Only the first alias of a name, because a birth that repeats one must not fill the memory.
            if metric.name in self._values and metric.name not in device.types:
                device.types[metric.name] = metric.datatype
                if metric.alias is not None:
                    device.names[metric.alias] = metric.name
            if len(self.metric_names) < MAX_METRIC_NAMES and 1 <= len(metric.name) <= MAX_METRIC_CHARS:
                self.metric_names.add(metric.name)

    def _numbers(
        self, device: _Device, metrics: Iterable[Metric], not_taken: Counter[str]
    ) -> tuple[dict[str, float | None], dict[str, str]]:
        """The numbers of the table's values by name, and why some are missing: a limit, or a bad quality."""
        taken, causes = dict[str, float | None](), dict[str, str]()
        for metric in metrics:
            metric_name = metric.name or device.names.get(-1 if metric.alias is None else metric.alias, "")
            names = self._values.get(metric_name, ())
            if names and metric.is_historical:
                not_taken["historical"] += 1
                continue
            datatype = metric.datatype or device.types.get(metric_name, 0)
            for name in names:
                taken[name] = None
                try:
                    if metric.has_bad_quality:
                        raise values.bad_quality(metric.quality)
                    if metric.is_missing:
                        continue
                    taken[name] = values.number(metric.content(datatype), self._config.values[name])
                except NotTakenError as error:
                    # Even if the new value cannot be read, the old one no longer holds.
                    not_taken[error.reason] += 1
                    if error.fault is not None:
                        causes[name] = error.cause
                    content = metric.value if error.content is None else error.content
                    offender = device.machine, str(content)[:MAX_TOPIC_CHARS]
                    self.offenders.setdefault((name, error.reason), offender)
        device.known = {name for name in device.known | taken.keys() if taken.get(name, 0.0) is not None}
        return taken, causes


def _distance(start: int | None, number: int | None) -> int:
    """How far a sequence number is ahead of another, modulo 256."""
    return ((number or 0) - (start or 0)) % _SEQUENCE


def _follows(message: _Message, birth: _Message) -> bool:
    """True if a message that overtook a node's birth belongs after it."""
    sent_at, born_at = message.payload.timestamp, birth.payload.timestamp
    is_older = sent_at is not None and born_at is not None and sent_at < born_at
    return not is_older and birth.number is not None and _distance(birth.number, message.number) <= MAX_WAITING
