"""In a few requests, the latency rig asks every combination, and the two settings together take the stalls away."""

import sys

import pytest

from rigs import round_trip


@pytest.mark.usefixtures("require_mosquitto")
def test_each_combination_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Other tests keep this machine busy.
    monkeypatch.setattr(round_trip, "MAX_ADDED_MS", 1000.0)
    monkeypatch.setattr(sys, "argv", ["rig", "--rounds", "1", "--requests", "5"])
    assert round_trip.main() == 0
    lines = capsys.readouterr().out.splitlines()
    medians = [float(line.split()[6]) for line in lines if line.startswith("QoS")]
    assert len(medians) == 8
    # The plain client has a stall on each leg with mosquitto's default, which both settings take away.
    assert medians[0] > medians[5] + 40
