"""The simulation's tests of whole years are the agent's, and its short form runs."""

import math

import numpy as np
import pytest

from edge_agent.learning.maths import drift
from rigs.promises import check_maps, check_promises, evidence


def test_the_evidence_of_many_runs_is_the_agents_after_each_audit() -> None:
    rng = np.random.default_rng(0)
    outcomes = rng.random((3, 2600)) < np.array([[0.6], [0.9], [0.98]])
    outcomes[:, 2200:] &= rng.random((3, 400)) < 0.7
    logs = evidence(outcomes)
    for audits in (51, 52, 400, 950, 951, 1000, 1001, 1500, 1950, 2001, 2600):
        for run, log in zip(outcomes.tolist(), logs, strict=True):
            agent = drift._evidence(run[max(0, audits - drift.MAX_AUDITS) : audits])
            assert log[audits - 1] == pytest.approx(math.log(agent), rel=1e-6)


def test_the_short_form_meets_its_targets() -> None:
    assert all(check_promises(np.random.default_rng(0), resamplings=2))
    assert all(check_maps(np.random.default_rng(0), runs=1))
