from typing import Any, cast

import pytest

from edge_agent.engine.step.cache_sequence import CacheSequence
from edge_agent.engine.step.scheduler import Linger, Scheduler, StepCost, StepPart, StepPolicy, next_batch

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


class Work:
    """A request that waits with a prompt of this many tokens, or that writes."""

    def __init__(self, tokens: int, *, writes: bool = False) -> None:
        self.sequence = CacheSequence(0, [0] * tokens, (tokens - 1,))
        self.branches = ()
        self.first_token_at = 0.0 if writes else None


def test_a_long_prompt_has_every_other_step_while_short_ones_keep_coming_and_those_that_write_are_in_each() -> None:
    unmeasured = StepPolicy([], threads=1, prefill_threads=1, batch_tokens=64, max_rows=64)
    scheduler = Scheduler(unmeasured, max_active=4, max_rows=64, max_outputs=8)
    long, writing = Work(600), Work(1, writes=True)
    for step in range(2 * 600 // 63 + 2):
        requests: Any = [long, Work(80), Work(70), writing]
        for part in scheduler.choose(requests):
            part.sequence.decoded += part.count
        assert not writing.sequence.pending, step
        writing.sequence.decoded = 0
    assert not long.sequence.pending


def test_it_waits_for_as_many_requests_as_were_answered_and_no_longer_than_that_is_worth() -> None:
    linger = Linger(share=0.2, way_s=0.01)
    assert linger.seconds(now=5.0) == 0

    linger.requests_ended(2, running=8, step_s=0.1, now=10.0)

    for _ in range(2):
        assert linger.seconds(now=10.001) == pytest.approx(0.004)
        linger.request_added()
    assert linger.seconds(now=10.001) == 0
    linger.requests_ended(1, running=8, step_s=0.1, now=10.0)
    assert linger.seconds(now=10.003) == 0
    linger.requests_ended(3, running=8, step_s=60.0, now=20.0)
    assert linger.seconds(now=20.0) == pytest.approx(0.03)


def policy(costs: dict[int, float], *, threads: dict[int, int] | None = None, max_rows: int = 256) -> StepPolicy:
    """The policy for `costs`, which are the milliseconds of a step by its rows."""
    found = [StepCost(rows, (threads or {}).get(rows, 2), ms / 1000) for rows, ms in costs.items()]
    return StepPolicy(found, threads=2, prefill_threads=4, batch_tokens=None, max_rows=max_rows)


# A Pi 5 as its kernels suggest, where groups of four rows cost as one, and another row is a pass of its own.
GROUPS = {1: 29.0, 2: 58.0, 3: 87.0, 4: 30.0, 5: 59.0, 6: 88.0, 8: 50.0, 16: 95.0, 64: 360.0}
# An x86 server with AMX, where flash attention gets faster at 64 rows.
CLIFF = {1: 19.0, 4: 38.0, 8: 56.0, 16: 77.0, 32: 148.0, 48: 240.0, 64: 112.0, 128: 212.0, 256: 420.0}


def test_idle_rows_are_added_where_a_wider_kernel_is_faster() -> None:
    assert policy(CLIFF).padded(40) == 64
    assert policy(CLIFF).padded(16) == 16
    assert policy(CLIFF).padded(64) == 64
    assert policy(CLIFF).padded(200) == 200
    assert policy(GROUPS).padded(3) == 4


def test_the_smallest_step_that_is_nearly_as_efficient_is_the_budget() -> None:
    assert policy(CLIFF).batch_tokens == 64
    assert policy({1: 50.0, 16: 850.0, 32: 1690.0, 64: 3400.0}).batch_tokens == 16
    assert policy({1: 5.0, 16: 10.0, 64: 20.0, 128: 30.0, 256: 50.0}, max_rows=128).batch_tokens == 128


def test_a_step_of_nothing_but_prompts_is_the_widest_of_the_best_that_nobody_waits_long_for() -> None:
    assert policy({16: 50.0, 64: 98.0, 128: 171.0, 256: 333.0}).prompt_batch_tokens == 256
    assert policy({16: 50.0, 64: 98.0, 128: 171.0, 256: 401.0}).prompt_batch_tokens == 128, "longer than 0.4 s"
    assert policy({16: 50.0, 64: 85.0, 128: 195.0, 256: 395.0}).prompt_batch_tokens == 64, "wider is worse"
    assert policy({16: 800.0, 64: 2500.0}).prompt_batch_tokens == policy({16: 800.0, 64: 2500.0}).batch_tokens


def test_a_configured_budget_is_kept() -> None:
    costs = [StepCost(1, 1, 0.02), StepCost(64, 1, 0.1), StepCost(128, 1, 0.15)]
    found = StepPolicy(costs, threads=1, prefill_threads=1, batch_tokens=32, max_rows=128)
    assert (found.batch_tokens, found.prompt_batch_tokens) == (32, 32)


def test_threads_are_those_of_the_nearest_smaller_measured_step() -> None:
    found = policy({1: 29.0, 4: 30.0, 16: 60.0}, threads={1: 2, 4: 3, 16: 4})
    assert [found.threads(rows) for rows in (1, 3, 4, 15, 16, 100)] == [2, 2, 3, 3, 4, 4]


def test_without_measurements_steps_are_as_wide_as_what_waits_and_threads_follow_the_rule() -> None:
    plain = StepPolicy([], threads=2, prefill_threads=4, batch_tokens=None, max_rows=128)
    assert (plain.batch_tokens, plain.padded(40)) == (128, 40)
    assert [plain.threads(rows) for rows in (1, 7, 8, 128)] == [2, 2, 4, 4]


def test_limits_hold_until_they_are_taken_back() -> None:
    costs = [StepCost(1, 3, 0.1), StepCost(8, 4, 0.2), StepCost(64, 4, 0.4)]
    found = StepPolicy(costs, threads=1, prefill_threads=1, batch_tokens=64, max_rows=64)
    found.limit(threads=2, prefill_threads=3, batch_tokens=16)
    assert (found.threads(1), found.threads(8), found.threads(64)) == (2, 3, 3)
    assert (found.batch_tokens, found.prompt_batch_tokens) == (16, 16)
    found.limit(threads=8, prefill_threads=8, batch_tokens=512)
    assert (found.threads(1), found.threads(64), found.batch_tokens) == (3, 4, 64)
    found.limit()
    assert (found.threads(1), found.threads(64), found.batch_tokens) == (3, 4, 64)
