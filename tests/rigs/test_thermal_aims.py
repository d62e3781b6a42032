"""What the governor reaches on the simulated board. A simulation: no board was measured."""

from __future__ import annotations

from rigs.thermal import parameters as p
from rigs.thermal.aims import LOWER_MHZ, aims
from rigs.thermal.simulation import simulate


def test_with_a_fan_nothing_throttles_and_nothing_is_lost_at_40_degrees() -> None:
    reached = aims(p.ACTIVE)
    assert reached.throttled_s_at_40 == reached.throttled_s_at_50 == 0
    assert reached.tokens_share_at_40 >= 0.95
    assert reached.urgent_p95_share_at_50 <= 1.25


def test_without_a_fan_nothing_throttles_but_work_is_lost() -> None:
    reached = aims(p.PASSIVE)
    assert reached.throttled_s_at_40 == reached.throttled_s_at_50 == 0
    assert reached.urgent_p95_share_at_50 <= 1.25
    # The firmware lowers clock and voltage, which saves more per token than fewer threads do.
    assert 0.68 <= reached.tokens_share_at_40 < 0.95
    assert 1 < reached.joules_per_token_share_at_40 <= 1.2


def test_without_a_fan_a_lower_clock_gives_more_tokens_per_joule() -> None:
    reached = aims(p.PASSIVE, full_mhz=LOWER_MHZ)
    assert reached.throttled_s_at_40 == reached.throttled_s_at_50 == 0
    assert reached.tokens_share_at_40 >= 0.8
    assert reached.joules_per_token_share_at_40 < 1
    assert reached.urgent_p95_share_at_50 <= 1.25


def test_without_the_governor_the_firmware_throttles() -> None:
    assert simulate(p.PASSIVE, 40.0, is_governed=False).throttled_s > 3000
    assert simulate(p.ACTIVE, 50.0, is_governed=False).throttled_s > 200


def test_a_run_is_repeatable_and_its_level_rarely_changes() -> None:
    one = simulate(p.PASSIVE, 50.0, is_governed=True)
    assert one == simulate(p.PASSIVE, 50.0, is_governed=True)
    assert one.level_changes <= 10
    assert simulate(p.PASSIVE, 25.0, is_governed=True).level_changes <= 30
