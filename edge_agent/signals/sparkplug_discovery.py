"""Proposes a table for the metrics of Sparkplug nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import MAX_METRIC_CHARS
from edge_agent.core.wording import shown
from edge_agent.signals import sparkplug, sparkplug_source
from edge_agent.signals.proposal import Candidate, Proposal, choose, listed, may_be_value, value_name
from edge_agent.signals.source import NotTakenError

# Metrics that every node has.
_OWN_METRICS = re.compile(r"bdSeq$|(?:Node|Device) (?:Control|Info)/")


def of_sparkplug(messages: Iterable[Message]) -> Proposal:
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
            if may_be_value(known):
                candidates.setdefault(name, Candidate(value_name("", (name,)), metric=name)).add(machine, known)
            else:
                texts.add(shown(name))
    values, machines, left_out = choose(candidates.values())
    texts |= {shown(name) for name, one in candidates.items() if not one.is_value}
    if texts:
        left_out.append(f"{listed(sorted(texts))}: text that is neither a number nor one of several states")
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
