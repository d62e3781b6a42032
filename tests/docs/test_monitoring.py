"""docs/monitoring.md shows what `edge-agent watch` prints, and names fields, alarms and reasons as they are."""

import re

from edge_agent.status.alarms import ALARMS
from edge_agent.status.health import OVERALL, REASONS
from edge_agent.tools.watch.site import BoardLevel
from edge_agent.tools.watch.table import level_word
from tests.docs.pages import ROOT, health_sample, page, rows, samples, table
from tests.tools.watch.scenes import mixed_site, plain


def test_the_sample_of_watch_is_its_output() -> None:
    sample, _ = samples("monitoring", "text")
    assert sample.splitlines() == plain(mixed_site())


def test_every_level_of_watch_has_a_row() -> None:
    levels = rows(page("monitoring").split("### Levels")[1].split("\n## ")[0])
    assert [row[0].strip("`") for row in levels] == [level_word(level) for level in BoardLevel]


def test_alarms_stand_with_their_times() -> None:
    rows = table("monitoring", "Alarms")
    assert [row[0].strip("`") for row in rows] == [rule.name for rule in ALARMS]
    for rule, (_, _, raised, ends, _) in zip(ALARMS, rows, strict=True):
        assert not rule.raise_after_s or f"for {rule.raise_after_s:g} s" in raised
        assert not rule.clear_after_s or ends == f"after {rule.clear_after_s:g} s"


def test_reasons_stand_with_what_they_make_of_the_whole() -> None:
    shown = [(row[0].strip("`"), row[1]) for row in table("monitoring", "Reasons")]
    assert shown == [(name, OVERALL[severity]) for name, severity in REASONS.items()]


def test_fields_of_health_exist() -> None:
    shown = [path for row in table("monitoring", "Health") for path in re.findall(r"`([a-z0-9_.]+)`", row[0])]
    assert len(shown) > 10
    for path in shown:
        value = health_sample()
        for name in path.split("."):
            assert name in value, path
            value = value[name]


def test_the_alerts_of_prometheus_are_those_of_the_rules() -> None:
    rules = (ROOT / "examples/monitoring/edge-agent.rules.yml").read_text("utf-8")
    shown = [(row[0].strip("`"), row[1]) for row in table("monitoring", "Prometheus") if "EdgeAgent" in row[0]]
    assert shown == re.findall(r"- alert: (\w+)\n.*?severity: (\w+)", rules, flags=re.DOTALL)
