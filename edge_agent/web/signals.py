"""The latest values of machines, which boards publish as often as their health."""

from collections.abc import Iterable, Mapping
from typing import Any

from edge_agent.core.messages import Message
from edge_agent.core.topics import Topics, wildcard_values
from edge_agent.core.wording import printable
from edge_agent.tools.client import object_or_empty
from edge_agent.tools.watch.site import Document, Row, number_at, object_at, texts_at
from edge_agent.web.parts import Part

_MAX_TABLES = 16
_MAX_MACHINES, _MAX_VALUES = 256, 64
_MAX_BYTES = 64 * 1024
# By table, when its newest message came, in seconds since 1970, and its payload.
Heard = dict[str, tuple[float, bytes]]


class Signals(Part):
    """Keeps the newest message of each board's tables as bytes, which are parsed only when somebody looks."""

    def __init__(self, root: str, site: str, rows: Mapping[str, Row]) -> None:
        self._filter = Topics(root, site, "+").signals("+")
        self._rows = rows
        self._tables: dict[str, Heard] = {}

    @property
    def filters(self) -> Iterable[str]:
        return (self._filter,)

    def receive(self, message: Message, wall: float) -> None:
        if "/signals/" not in message.topic or len(message.payload) > _MAX_BYTES:
            return
        values = wildcard_values(self._filter, message.topic)
        if values is None or values[0] not in self._rows:
            return
        device, table = values
        tables = self._tables.setdefault(device, {})
        if table in tables or len(tables) < _MAX_TABLES:
            tables[table] = (wall, message.payload)

    def tick(self, now: float) -> None:  # noqa: ARG002
        if len(self._tables) > len(self._rows):
            self._tables = {device: tables for device, tables in self._tables.items() if device in self._rows}

    def heard_of(self, device: str) -> Heard:
        return dict(self._tables.get(device, {}))


def signals_document(row: Row, heard: Heard) -> list[Document]:
    """A board's tables. For one that health names but that has not been heard yet, `at` is null. Needs no lock."""
    known = object_at(row.health, "signals")
    names = sorted({*heard, *(texts_at(row.health, "signals") if known else ())})[:_MAX_TABLES]
    return [_table(name, heard.get(name), known) for name in names]


def _table(name: str, message: tuple[float, bytes] | None, known: Document) -> Document:
    at, payload = message or (None, b"")
    values = object_at(object_or_empty(payload), "machines")
    lacking = object_at(object_at(known, name), "lacking")
    names = list(dict.fromkeys([*values, *lacking]))[:_MAX_MACHINES]
    return {
        "name": printable(name[:64]),
        "at": at,
        "machines": [
            {
                "machine": printable(machine[:64]),
                "values": _values(values.get(machine)),
                "lacking": [printable(text) for text in texts_at({"names": lacking.get(machine)}, "names")],
            }
            for machine in names
        ],
    }


def _values(values: Any) -> list[Document]:
    if not isinstance(values, dict):
        return []
    return [
        {"name": printable(name[:64]), "value": number_at(values, f"{name}.0"), "age_s": number_at(values, f"{name}.1")}
        for name in list(values)[:_MAX_VALUES]
        if "." not in name
    ]
