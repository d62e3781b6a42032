from __future__ import annotations

import itertools

import pytest

from edge_agent.worker.memory_bound import LASTING_S, PAUSE_S, MemoryBound

PLENTY_MB = 8000.0


@pytest.mark.parametrize(
    ("available_mb", "bound_mb"), [(PLENTY_MB, 756.0), (200.0, 600.0), (10.0, 564.0), (None, 756.0)]
)
def test_the_bound_is_what_the_worker_asked_for_plus_half_of_the_free_memory_within_limits(
    available_mb: float | None, bound_mb: float
) -> None:
    memory = MemoryBound()
    assert not memory.observe(400.0, 500.0, available_mb, 0.0)
    # What it asks for later is growth.
    assert not memory.observe(400.0, 5000.0, 1.0, 1.0)
    assert memory.bound_mb == bound_mb


def test_a_peak_above_the_bound_is_ignored() -> None:
    memory = MemoryBound()
    for second in range(60):
        held_mb = 900.0 if second % 4 else 700.0
        assert not memory.observe(400.0 if second == 0 else held_mb, 500.0, PLENTY_MB, float(second))
        assert memory.excess is None


def leak(memory: MemoryBound, seconds: int, *, mb_per_s: float, most_mb: float = 1e9) -> list[float]:
    """When a worker was replaced that holds more and more, up to a limit; it begins anew each time."""
    replaced_at, held_mb = [], 400.0
    for second in range(seconds):
        if memory.observe(held_mb, 500.0, PLENTY_MB, float(second)):
            replaced_at.append(float(second))
            memory.reset()
            held_mb = 400.0
        held_mb = min(held_mb + mb_per_s, most_mb)
    return replaced_at


def test_a_slow_leak_leads_to_a_replacement_each_time() -> None:
    found = leak(MemoryBound(), 40_000, mb_per_s=0.0625)
    to_the_bound_s = (756.0 - 400.0) / 0.0625 + LASTING_S
    assert len(found) == 7
    assert {later - sooner for sooner, later in itertools.pairwise(found)} == {to_the_bound_s + 1.0}


def test_a_bound_that_is_too_small_is_an_alarm_and_replacements_become_rare() -> None:
    memory = MemoryBound()
    found = leak(memory, 100_000, mb_per_s=100.0, most_mb=800.0)
    pauses = [later - sooner for sooner, later in itertools.pairwise(found)]
    assert pauses[:7] == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0]
    assert set(pauses[7:]) == {PAUSE_S[1]}
    assert memory.excess == "the worker holds 800 MB and should need at most 756 MB"


def test_the_pause_is_shortest_again_after_a_long_time_within_the_bound() -> None:
    memory = MemoryBound()
    assert len(leak(memory, 400, mb_per_s=100.0)) == 3
    now = 1000.0 + PAUSE_S[1]
    for since in (now, now + PAUSE_S[0]):
        memory.reset()
        memory.observe(400.0, 500.0, PLENTY_MB, since)
        assert not memory.observe(900.0, 500.0, PLENTY_MB, since + 1.0)
        assert memory.observe(900.0, 500.0, PLENTY_MB, since + 1.0 + LASTING_S)
