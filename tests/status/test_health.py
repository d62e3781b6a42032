import json
from typing import Any

import pytest

from edge_agent.status.alarms import ALARMS
from edge_agent.status.health import REASONS, health_document


def health(*parts: dict[str, Any], holds: set[str] | None = None, **more: Any) -> dict[str, Any]:
    reasons = {name: name in (holds or set()) for name in REASONS}
    return health_document(list(parts), **{"reasons": reasons, "alarms": {}, "unmeasured": set(), **more})


@pytest.mark.parametrize(
    ("holds", "alarms", "overall", "why"),
    [
        (set(), {}, "ok", []),
        ({"queue-full", "connection-unstable"}, {}, "degraded", ["connection-unstable", "queue-full"]),
        (set(), {"throttled": "warning"}, "degraded", ["throttled"]),
        # What is critical comes first.
        ({"draining"}, {"disk-low": "critical"}, "critical", ["disk-low", "draining"]),
        ({"limited", "model-not-loaded"}, {}, "critical", ["model-not-loaded", "limited"]),
    ],
)
def test_what_holds_is_a_reason_and_decides_the_whole(
    holds: set[str], alarms: dict[str, str], overall: str, why: list[str]
) -> None:
    document = health(holds=holds, alarms=alarms)
    assert (document["overall"], document["reasons"]) == (overall, why)
    assert set(document["severity"]) == {*REASONS, *(rule.name for rule in ALARMS)}
    assert {name for name, severity in document["severity"].items() if severity} == set(why)
    assert ["ok", "degraded", "critical"][max(document["severity"].values())] == overall


def test_a_model_that_is_being_loaded_is_no_critical_fault() -> None:
    document = health(holds={"model-not-loaded", "sensor-errors"}, is_loading=True)
    assert (document["overall"], document["severity"]["model-not-loaded"]) == ("degraded", 1)
    assert health(holds={"data-connection-lost"}, is_loading=True)["overall"] == "critical"


def test_an_alarm_whose_cause_cannot_be_found_is_null_and_not_0() -> None:
    document = health(unmeasured={"overheating", "model-quality"})
    assert (document["overall"], document["reasons"]) == ("ok", [])
    unknown = {name for name, value in document["severity"].items() if value is None}
    assert unknown == {"overheating", "model-quality"}


def test_parts_share_a_section_and_numbers_are_rounded() -> None:
    document = health({"seq": 3, "memory": {"total_mb": 8454.0}}, {"memory": {"agent_rss_mb": 30.12345}, "pool": None})
    assert (document["seq"], document["pool"]) == (3, None)
    assert document["memory"] == {"total_mb": 8454.0, "agent_rss_mb": 30.123}
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_reason_of_a_part_that_the_board_does_not_have_does_not_hold() -> None:
    assert health(reasons={}) == health()
