"""The source `topics`, with a topic for each value, or several values in one payload."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from edge_agent.core.messages import Publication
from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals import values
from edge_agent.signals.source import MAX_TOPIC_CHARS, NO_NUMBER, NotTakenError, Offenders, Update

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
            if not is_retained:
                error.updates = [_unreadable(payload, error.reason, *route, config) for route in routes.items()]
            raise
        updates: list[Update] = []
        reasons, is_absent = list[str](), not is_retained
        for machine, names in routes.items():
            taken, causes = dict[str, float | None](), dict[str, str]()
            is_foreign = True
            for name in names:
                value = config.values[name]
                if is_retained and not value.retained:
                    continue
                try:
                    content = values.read(value, document, now, config.max_age_of(name))
                except NotTakenError as error:
                    reasons.append(error.reason)
                    is_foreign = is_foreign and error.reason not in {values.OUT_OF_RANGE, values.BAD_QUALITY}
                    self._note(name, error.reason, machine, payload)
                    if error.content is None:
                        causes[name] = values.REASONS[error.reason]
                    else:
                        # The sensor says that it has no number, so its last one does not hold either.
                        taken[name], causes[name] = None, error.cause
                    continue
                if isinstance(content, values.Absent):
                    causes[name] = f"has nothing at `{values.shown_path(value.path)}`"
                else:
                    taken[name], is_foreign, is_absent = content, False, False
                    if content is None:
                        causes[name] = f"{NO_NUMBER}: null"
            if taken or causes:
                updates.append(Update(machine, taken, causes=causes, is_foreign=is_foreign))
        if is_absent and not reasons:
            machine, (name, *_) = next(iter(routes.items()))
            self._note(name, values.ABSENT.value, machine, payload)
            reasons.append(values.ABSENT.value)
        if reasons:
            raise NotTakenError(reasons[0], updates)
        return updates

    def machines_of(self, topic: str) -> Collection[str]:
        return self._route(topic)

    def _note(self, name: str, reason: str, machine: str, payload: bytes) -> None:
        if (name, reason) not in self.offenders:
            self.offenders[name, reason] = machine, _text(payload)

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
                if (machine := self._config.machine_of(value.topic or "", topic)) is not None:
                    routes.setdefault(machine, []).append(name)
        return routes


def _unreadable(payload: bytes, reason: str, machine: str, names: Sequence[str], config: SignalsTable) -> Update:
    """What a payload that cannot be read changes.

    It makes a value missing if it stands where the number should be: as the whole payload, or as a damaged object.
    """
    is_object = payload.lstrip().startswith(b"{")
    is_content = reason in {"bad-json", "not-text"}
    missing = [name for name in names if is_content and (is_object or not config.values[name].path)]
    cause = NotTakenError(reason, content=_text(payload)).cause
    causes = dict.fromkeys(names, values.REASONS[reason]) | dict.fromkeys(missing, cause)
    return Update(machine, dict.fromkeys(missing), causes=causes, is_foreign=True)


def _text(payload: bytes) -> str:
    return payload[:MAX_TOPIC_CHARS].decode("utf-8", "replace")
