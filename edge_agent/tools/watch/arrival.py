"""PURE. A message of a board and how it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """at: seconds of the monotonic clock; wall: seconds since 1970."""

    at: float
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """is_live: sent just now, not from the broker's store. connection: the number of ours that it came on. expiry_s: of
    MQTT 5, what is left of it."""

    payload: bytes
    now: Now
    connection: int
    is_live: bool
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard(Generic[_T]):
    """What a message said. at: when it came."""

    document: _T
    at: float
    is_live: bool
    connection: int


def heard(document: _T, arrival: Arrival) -> Heard[_T]:
    return Heard(document=document, at=arrival.now.at, is_live=arrival.is_live, connection=arrival.connection)
