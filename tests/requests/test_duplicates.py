from __future__ import annotations

import pytest

from edge_agent.core.messages import Code, Error, Origin, Outcome, Status
from edge_agent.requests.duplicates import (
    MAX_OTHER_ENDS,
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    Duplicates,
    Key,
    key_of,
    may_be_duplicate,
)
from tests.helpers.support import inbound, origin, request

OK = Outcome(status=Status.OK, output="fine")


def key(text: str = "a") -> Key:
    return key_of(origin(id=text), inbound("t", b"payload"))


@pytest.mark.parametrize(
    "other",
    [
        (origin(task="report"), b"x"),
        (origin(reply_topic="elsewhere"), b"x"),
        (origin(id="b"), b"x"),
        (origin(id=1), b"x"),
        (origin(correlation=b"1"), b"x"),
        (origin(), b"y"),
    ],
)
def test_task_reply_topic_correlation_and_payload_tell_requests_apart(other: tuple[Origin, bytes]) -> None:
    assert key_of(other[0], inbound("t", other[1])) != key_of(origin(), inbound("t", b"x"))


def test_the_id_1_and_the_id_text_1_are_two() -> None:
    assert key_of(origin(id=1), inbound("t", b"x")) != key_of(origin(id="1"), inbound("t", b"x"))


def test_a_generated_id_does_not_tell_requests_apart() -> None:
    one, two = origin(id="f00d", is_id_given=False), origin(id="beef", is_id_given=False)
    assert key_of(one, inbound("t", b"x")) == key_of(two, inbound("t", b"x"))


def test_only_a_correlation_of_the_client_or_a_redelivery_makes_duplicates() -> None:
    without = origin(is_id_given=False)
    assert may_be_duplicate(origin(), inbound("t", duplicate=False))
    assert may_be_duplicate(origin(is_id_given=False, correlation=b"1"), inbound("t", duplicate=False))
    assert may_be_duplicate(without, inbound("t", duplicate=True))
    assert not may_be_duplicate(without, inbound("t", duplicate=False))


def test_a_running_request_is_found_until_it_ends() -> None:
    duplicates, running = Duplicates(300.0), request()
    assert duplicates.find(key(), 0.0) is None
    duplicates.begin(key(), running)
    assert duplicates.find(key(), 1.0) is running


@pytest.mark.parametrize(
    "outcome", [OK, Outcome.refused(Error(code=Code.BAD_FIELD, message="m"))], ids=["ok", "invalid"]
)
def test_ok_and_invalid_are_given_again_within_the_window(outcome: Outcome) -> None:
    duplicates = Duplicates(300.0)
    duplicates.begin(key(), request())
    duplicates.end(key(), outcome, 10.0)
    assert duplicates.find(key(), 299.0) is outcome
    assert duplicates.find(key(), 311.0) is None


@pytest.mark.parametrize("code", [c for c in Code if c.status is not Status.INVALID])
def test_after_any_other_end_the_question_is_asked_anew(code: Code) -> None:
    duplicates = Duplicates(300.0)
    duplicates.begin(key(), request())
    refused = Outcome.refused(Error(code=code, message="m"))
    duplicates.end(key(), refused, 10.0)
    assert duplicates.find(key(), 11.0) is None
    # But the broker may bring the very message once more.
    assert duplicates.find(key(), 11.0, is_redelivered=True) is refused


def test_a_flood_of_refusals_pushes_no_answer_out() -> None:
    busy = Outcome.refused(Error(code=Code.QUEUE_FULL, message="m"))
    forgotten: list[int | None] = []
    duplicates = Duplicates(300.0, forgotten.append)
    duplicates.end(key("answered"), OK, 0.0, 1)
    for number in range(MAX_OTHER_ENDS + 3):
        duplicates.end(key(str(number)), busy, 0.0, 10 + number)
    assert duplicates.find(key("answered"), 1.0) is OK
    assert forgotten == [10, 11, 12]


def test_only_so_many_answers_are_remembered_and_the_oldest_go_first() -> None:
    duplicates = Duplicates(300.0)
    for number in range(MAX_REMEMBERED + 5):
        duplicates.end(key(str(number)), OK, 0.0)
    assert duplicates.find(key("4"), 1.0) is None
    assert duplicates.find(key("5"), 1.0) is OK


def test_only_as_many_answers_are_forgotten_as_the_memory_needs() -> None:
    duplicates, large = Duplicates(300.0), Outcome(status=Status.OK, output="x" * (MAX_REMEMBERED_BYTES // 4))
    for number in range(5):
        duplicates.end(key(str(number)), large, 0.0)
    assert [duplicates.find(key(str(number)), 1.0) is large for number in range(5)] == [False, False, True, True, True]


def test_running_requests_are_never_forgotten() -> None:
    duplicates, running = Duplicates(300.0), request()
    duplicates.begin(key("running"), running)
    for number in range(MAX_REMEMBERED + 5):
        duplicates.end(key(str(number)), OK, 0.0)
    assert duplicates.find(key("running"), 1.0) is running


def test_an_answer_larger_than_the_memory_is_not_remembered() -> None:
    duplicates = Duplicates(300.0)
    duplicates.end(key(), Outcome(status=Status.OK, output="x" * MAX_REMEMBERED_BYTES), 0.0)
    assert duplicates.find(key(), 1.0) is None
    duplicates.end(key("next"), OK, 1.0)
    assert duplicates.find(key("next"), 2.0) is OK


def test_the_same_bytes_read_in_another_way_are_another_question() -> None:
    text, document = (
        inbound("t", b"{}", content_type="text/plain"),
        inbound("t", b"{}", content_type="application/json"),
    )
    assert key_of(origin(), text) != key_of(origin(), document)


def test_equal_readings_are_one_only_under_the_same_packet_id() -> None:
    reading = origin(is_id_given=False)
    first, again, other = (inbound("t", b"4", packet_id=number) for number in (7, 7, 8))
    assert key_of(reading, first) == key_of(reading, again)
    assert key_of(reading, first) != key_of(reading, other)


def test_empty_correlation_data_is_none() -> None:
    assert not may_be_duplicate(origin(is_id_given=False, correlation=b""), inbound("t"))


def test_what_is_recorded_is_recalled_and_not_kept() -> None:
    recorded = {7: OK}
    duplicates = Duplicates(300.0, recall=recorded.get)
    duplicates.end(key("recorded"), Outcome(status=Status.OK, output="not kept"), 0.0, 7, 100)
    duplicates.end(key("refused"), Outcome(status=Status.OK, output="kept"), 0.0, 8)
    assert duplicates.find(key("recorded"), 1.0) is OK
    assert duplicates.find(key("refused"), 1.0) == Outcome(status=Status.OK, output="kept")
    recorded.clear()  # it cannot be read any more
    assert duplicates.find(key("recorded"), 1.0) is None
