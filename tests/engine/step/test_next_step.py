from __future__ import annotations

from typing import Any, cast

import pytest

from edge_agent.engine.step.cache_sequence import CacheSequence
from edge_agent.engine.step.linger import Linger
from edge_agent.engine.step.next_step import StepPart, next_batch

OWNER = cast("Any", None)


def batch(*wants: tuple[int, tuple[int, ...]], tokens: int = 256, outputs: int = 8, slack: int = 0) -> list[int]:
    """How many tokens are taken of parts that want these, with logits after those at the offsets."""
    parts = [
        StepPart(OWNER, CacheSequence(number, [0] * count, offsets), count)
        for number, (count, offsets) in enumerate(wants)
    ]
    taken = next_batch(parts, tokens=tokens, outputs=outputs, slack=slack)
    assert [part.sequence.seq_id for part in taken] == list(range(len(taken)))
    return [part.count for part in taken]


WRITING = (1, (0,))


def test_prompts_fill_what_those_that_write_leave() -> None:
    assert batch(WRITING, WRITING, (500, (499,)), (40, (39,))) == [1, 1, 254]
    assert batch((100, (99,)), (400, (399,))) == [100, 156]
    assert batch() == []


def test_without_rows_for_logits_a_part_stops_before_the_token_that_wants_them() -> None:
    assert batch(WRITING, WRITING, (10, (9,)), outputs=2) == [1, 1, 9]
    assert batch((4, (1, 3)), outputs=1) == [3]
    assert batch(WRITING, WRITING, outputs=1) == [1]


def test_a_small_rest_is_taken_beyond_the_budget_if_nothing_is_left_then() -> None:
    wants = [(10, (9,)), (60, (59,))]

    assert batch(*wants, tokens=64, slack=16) == [10, 60]
    assert batch(*wants, tokens=64, slack=5) == [10, 54]
    assert batch(*wants, (5, ()), tokens=64, slack=16) == [10, 54]


def test_it_waits_for_as_many_requests_as_were_answered_and_no_longer_than_that_is_worth() -> None:
    linger = Linger(share=0.2, way_s=0.01)
    assert linger.seconds(now=5.0) == 0

    linger.requests_ended(2, of=8, step_s=0.1, now=10.0)

    for _ in range(2):
        assert linger.seconds(now=10.001) == pytest.approx(0.004)
        linger.request_added()
    assert linger.seconds(now=10.001) == 0
    linger.requests_ended(1, of=8, step_s=0.1, now=10.0)
    assert linger.seconds(now=10.003) == 0
    linger.requests_ended(3, of=8, step_s=60.0, now=20.0)
    assert linger.seconds(now=20.0) == pytest.approx(0.03)
