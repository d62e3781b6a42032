from __future__ import annotations

from typing import Any, cast

import pytest

from edge_agent.core.messages import Code, Status
from edge_agent.requests.duplicates import MAX_ANSWERS, MAX_BYTES, MAX_OTHER_ENDS, Duplicates
from edge_agent.requests.request import Request
from edge_agent.store.store import Store
from tests.helpers.support import request


def asked(key: str = "a", **fields: Any) -> Request:
    return request(key=key.encode(), **fields)


class Memory(Duplicates):
    """With the rows that it forgets, and the replies that the store has."""

    def __init__(self) -> None:
        self.forgotten: list[int] = []
        self.stored: dict[int, bytes] = {}
        super().__init__(300.0, cast("Store", self))

    def forget(self, row: int) -> None:
        self.forgotten.append(row)

    def recall(self, row: int) -> bytes | None:
        return self.stored.get(row)


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


def test_a_flood_of_refusals_pushes_no_answer_out() -> None:
    memory = Memory()
    memory.end(asked("answered"), Status.OK, b"reply", 0.0)
    for number in range(MAX_OTHER_ENDS + 3):
        memory.end(asked(str(number), row=10 + number), Status.BUSY, b"busy", 0.0)
    assert memory.find(asked("answered"), 1.0) == b"reply"
    assert memory.forgotten == [10, 11, 12]


def test_the_oldest_answers_are_forgotten_first() -> None:
    memory, running = Memory(), asked("running")
    memory.begin(running)
    for number in range(MAX_ANSWERS + 5):
        memory.end(asked(str(number)), Status.OK, b"reply", 0.0)
    assert memory.find(asked("4"), 1.0) is None
    assert memory.find(asked("5"), 1.0) == b"reply"
    assert memory.find(asked("running"), 1.0) is running


def test_only_as_many_answers_are_forgotten_as_the_memory_needs() -> None:
    memory, large = Memory(), b"x" * (MAX_BYTES // 4)
    for number in range(5):
        memory.end(asked(str(number)), Status.OK, large, 0.0)
    assert [memory.find(asked(str(number)), 1.0) is None for number in range(5)] == [True, True, False, False, False]
    memory.end(asked("too large"), Status.OK, b"x" * MAX_BYTES, 0.0)
    assert memory.find(asked("too large"), 1.0) is None


def test_replies_of_an_earlier_process_are_repeated_and_refusals_can_be_forgotten() -> None:
    memory = Memory()
    memory.stored.update({1: b"ok", 2: b"invalid"})
    assert memory.restore(b"a", Status.OK, 0.0, 1, 100)
    assert not memory.restore(b"a", Status.OK, 0.0, 3, 100)
    assert memory.restore(b"b", Status.INVALID, 0.0, 2, 100)
    assert memory.find(asked("a"), 1.0) == b"ok"
    assert memory.find(asked("b"), 1.0) == b"invalid"
    memory.forget_refusals()
    assert memory.find(asked("a"), 1.0) == b"ok"
    assert memory.find(asked("b"), 1.0) is None
