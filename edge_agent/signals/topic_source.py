"""The source `topics`: a topic for each value, or several values in one payload."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from edge_agent.core import topics
from edge_agent.core.messages import Publication
from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals import values
from edge_agent.signals.source import MAX_TOPIC_CHARS, NotTakenError, Offenders, Update

# A plant that makes up new topics must not fill the memory.
_MAX_ROUTES = 10_000


class TopicSource:
    def __init__(self, config: SignalsTable) -> None:
        self.due_at = None
        self.metric_names: Collection[str] = ()
        self.metric_faults: Mapping[str, tuple[str, str]] = {}
        self.offenders: Offenders = {}
        self.filters = frozenset(value.topic for value in config.values.values() if value.topic is not None)
        self._config = config
        self._routes: dict[str, dict[str, list[str]]] = {}

    def read(self, topic: str, payload: bytes, *, is_retained: bool, now: float) -> list[Update]:
        routes = self._route(topic)
        if not routes:
            return []
        config = self._config
        try:
            document = values.parse(payload)
        except NotTakenError as error:
            machine, (name, *_) = next(iter(routes.items()))
            self._note(name, error.reason, machine, payload)
            raise
        updates: list[Update] = []
        reason = None
        for machine, names in routes.items():
            taken: dict[str, float | None] = {}
            for name in names:
                if is_retained and not config.values[name].retained:
                    continue
                try:
                    content = values.read(config.values[name], document, now, config.max_age_of(name))
                except NotTakenError as error:
                    reason = reason or error.reason
                    self._note(name, error.reason, machine, payload)
                    if error.reason == values.OUT_OF_RANGE:
                        taken[name] = None  # The sensor is broken, so its last value does not hold either.
                    continue
                if not isinstance(content, values.Absent):
                    taken[name] = content
            if taken:
                updates.append(Update(machine, taken))
        if reason is not None:
            raise NotTakenError(reason, updates)
        return updates

    def _note(self, name: str, reason: str, machine: str, payload: bytes) -> None:
        if (name, reason) not in self.offenders:
            self.offenders[name, reason] = machine, payload[:MAX_TOPIC_CHARS].decode("utf-8", "replace")

    def advance(self, now: float) -> list[Update]:  # noqa: ARG002 - a Source's
        return []

    def on_connection_lost(self) -> None:
        pass

    def keeps_alive(self, machine: str) -> bool:  # noqa: ARG002 - a Source's
        return False

    def take_requests(self, now: float) -> Sequence[Publication]:  # noqa: ARG002 - a Source's
        return ()

    def as_health(self) -> dict[str, Any]:
        return {}

    def _route(self, topic: str) -> dict[str, list[str]]:
        """The names of the values that a topic may have, by machine."""
        routes = self._routes.get(topic)
        if routes is None:
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            routes = {}
            if len(topic) <= MAX_TOPIC_CHARS:
                self._routes[topic] = routes
            for name, value in self._config.values.items():
                matched = topics.wildcard_values(value.topic or "", topic)
                if matched is not None:
                    machine = topics.fill_publish_pattern(self._config.machine, matched)
                    routes.setdefault(self._config.names.get(machine, machine), []).append(name)
        return routes
