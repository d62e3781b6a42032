from edge_agent.status.alarms import ALARMS
from edge_agent.status.health import REASONS
from edge_agent.tools.watch.advice import ADVICE, advice_for, with_advice
from edge_agent.tools.watch.site import BoardLevel


def test_each_reason_and_alarm_and_each_level_that_health_does_not_explain_has_advice() -> None:
    explained = {BoardLevel.OK, BoardLevel.CRITICAL, BoardLevel.DEGRADED, BoardLevel.DRAINING}
    levels = {level.name.lower() for level in set(BoardLevel) - explained}
    assert {*REASONS, *(rule.name for rule in ALARMS), *levels} <= ADVICE.keys()


def test_each_advice_is_given_once_and_the_levels_only_where_no_phrase_has_any() -> None:
    assert advice_for(["connection-lost", "last health 6 s ago"], "offline") == [ADVICE["connection-lost"]]
    assert advice_for(["model-load-failed: no such file"], "offline") == [ADVICE["model-load-failed"]]
    assert advice_for(["draining", "draining: more"], "draining") == [ADVICE["draining"]]
    assert advice_for(["last health 90 s ago"], "stale") == [ADVICE["stale"]]
    assert advice_for([], "ok") == []


def test_each_phrase_has_its_advice_and_the_level_speaks_where_none_has() -> None:
    assert with_advice(["connection-lost", "last health 6 s ago"], "offline") == [
        f"connection-lost: {ADVICE['connection-lost']}",
        "last health 6 s ago",
    ]
    assert with_advice(["model-load-failed: no such file"], "offline") == [
        f"model-load-failed: no such file: {ADVICE['model-load-failed']}"
    ]
    assert with_advice(["last health 90 s ago"], "stale") == [f"last health 90 s ago: {ADVICE['stale']}"]
    assert with_advice([], "stopped") == [ADVICE["stopped"]]
    assert with_advice([], "ok") == []
