from __future__ import annotations

import pytest

from edge_agent.doctor import Verdict, _memory


@pytest.mark.parametrize(
    ("available_mb", "worker_mb", "verdict", "found"),
    [
        (None, 900.0, Verdict.SKIPPED, "/proc/meminfo does not say"),
        (5000.0, None, Verdict.SKIPPED, "5000 MB available"),
        (5000.0, 900.0, Verdict.GOOD, "worker 900 MB with the mapped pages of the weights"),
        (850.0, 900.0, Verdict.WARNING, "850 MB available before loading"),
    ],
)
def test_memory_is_judged_by_what_the_model_took(
    available_mb: float | None, worker_mb: float | None, verdict: Verdict, found: str
) -> None:
    check = _memory(available_mb, worker_mb)
    assert check.verdict is verdict
    assert found in check.found
    assert (check.advice is None) == (verdict is not Verdict.WARNING)
