from typing import Any, cast

import pytest

from edge_agent.core.codes import Code, Status
from edge_agent.requests.duplicates import MAX_BYTES, MAX_REPLIES, Duplicates
from edge_agent.requests.origin import Origin, StoreRow
from edge_agent.requests.request import Request
from edge_agent.store.store import Store
from tests.helpers.support import request


def asked(key: str = "a", **fields: Any) -> Request:
    return request(key=key.encode(), **fields)


class Memory(Duplicates):
    """Duplicates, and the rows that they forget."""

    def __init__(self) -> None:
        self.forgotten: list[int] = []
        super().__init__(300.0, cast("Store", self))

    def end_repetition(self, row: int) -> None:
        self.forgotten.append(row)


@pytest.mark.parametrize("status", [Status.OK, Status.INVALID])
def test_ok_and_invalid_are_repeated_within_the_window(status: Status) -> None:
    memory = Memory()
    memory.end(asked(), status, b"reply", 10.0)
    assert memory.find(asked(), 299.0) == b"reply"
    assert memory.find(asked(), 311.0) is None


@pytest.mark.parametrize("status", sorted({code.status for code in Code} - {Status.INVALID}))
def test_any_other_end_is_repeated_to_a_redelivery_alone(status: Status) -> None:
    memory = Memory()
    memory.end(asked(), status, b"reply", 10.0)
    assert memory.find(asked(), 11.0) is None
    assert memory.find(asked(is_redelivery=True), 11.0) == b"reply"


def test_the_oldest_replies_are_forgotten_first() -> None:
    memory, running = Memory(), asked("running")
    memory.begin(running)
    for number in range(MAX_REPLIES + 3):
        memory.end(asked(str(number), origin=StoreRow(10, []) if number == 0 else Origin()), Status.OK, b"reply", 0.0)
    assert memory.forgotten == [10]
    assert memory.find(asked("2"), 1.0) is None
    assert memory.find(asked("3"), 1.0) == b"reply"
    assert memory.find(asked("running"), 1.0) is running


def test_only_as_many_answers_are_forgotten_as_the_memory_needs() -> None:
    memory, large = Memory(), b"x" * (MAX_BYTES // 8)
    for number in range(5):
        memory.end(asked(str(number), correlation=large), Status.OK, large, 0.0)
    assert [memory.find(asked(str(number)), 1.0) is None for number in range(5)] == [True, True, False, False, False]
    memory.end(asked("too large"), Status.OK, b"x" * MAX_BYTES, 0.0)
    assert memory.find(asked("too large"), 1.0) is None


def test_the_reply_of_one_that_is_refused_beside_an_equal_open_one_is_not_repeated() -> None:
    memory, running = Memory(), asked()
    memory.begin(running)
    assert not memory.end(asked(), Status.BUSY, b"busy", 0.0)
    assert memory.find(asked(), 1.0) is running
    assert memory.end(running, Status.OK, b"ok", 1.0)
    assert memory.find(asked(), 2.0) == b"ok"
