import pytest

from edge_agent.board.energy import LONGEST_GAP_S, EnergyMeter, EnergySample

IDLE_W, BUSY_W = 3.0, 9.0


def sample(
    at_s: float, watts: float | None, busy_s: float = 0.0, tokens: int = 0, *, active: bool = False
) -> EnergySample:
    return EnergySample(at_s, watts, busy_s, tokens, active)


def idle(meter: EnergyMeter, *, begin: int, seconds: int, busy_s: float = 0.0, tokens: int = 0) -> None:
    for at in range(begin, begin + seconds):
        meter.add(sample(at, IDLE_W, busy_s, tokens))


def test_power_is_integrated_over_time() -> None:
    meter = EnergyMeter()
    for at_s, watts in ((0.0, 4.0), (1.0, 6.0), (3.0, 6.0)):
        meter.add(sample(at_s, watts))
    assert meter.joules_total == pytest.approx(5.0 + 12.0)


def test_where_no_power_is_measured_all_figures_are_unknown() -> None:
    meter = EnergyMeter()
    for at in range(20):
        meter.add(sample(at, None, busy_s=at / 2, tokens=at, active=True))
    found = meter.joules_total, meter.idle_watts, meter.joules_per_busy_s, meter.joules_per_token
    assert found == (None,) * 4


def test_a_gap_is_not_filled() -> None:
    meter = EnergyMeter()
    for at_s, watts in ((0.0, 5.0), (1.0, 5.0), (2.0, None), (3.0, 5.0), (3.1 + LONGEST_GAP_S, 5.0)):
        meter.add(sample(at_s, watts))
    assert meter.joules_total == pytest.approx(5.0)


def test_work_costs_what_it_takes_beyond_idle_power() -> None:
    meter = EnergyMeter()
    idle(meter, begin=0, seconds=5)
    assert meter.idle_watts == pytest.approx(IDLE_W)
    # The engine works for half of each second and computes 10 tokens.
    for at in range(5, 15):
        meter.add(sample(at, BUSY_W, busy_s=(at - 4) / 2, tokens=(at - 4) * 10, active=True))
    first_half = (BUSY_W - IDLE_W) / 2  # the interval in which power rose
    dynamic = first_half + 9 * (BUSY_W - IDLE_W)
    assert meter.joules_per_busy_s == pytest.approx(dynamic / 5.0, rel=0.01)
    assert meter.joules_per_token == pytest.approx(dynamic / 100, rel=0.01)


def test_costs_are_unknown_until_idle_power_is_known() -> None:
    meter = EnergyMeter()
    for at in range(30):
        meter.add(sample(at, BUSY_W, busy_s=at, tokens=at, active=True))
    assert meter.joules_total is not None
    assert meter.joules_per_busy_s is None


def test_work_that_is_reported_late_does_not_count_as_idle_power() -> None:
    meter = EnergyMeter()
    idle(meter, begin=0, seconds=4)
    # Busy from 4 to 6, which the totals show at 7.
    for at_s in (4, 5, 6):
        meter.add(sample(at_s, BUSY_W, active=at_s == 4))
    meter.add(sample(7, IDLE_W, busy_s=2.0, tokens=9))
    assert meter.idle_watts == pytest.approx(IDLE_W)
