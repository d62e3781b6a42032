from pathlib import Path

import pytest
from pika.exceptions import ConnectionClosedByBroker, ProbableAuthenticationError

from edge_agent.tools.doctor import doctor
from edge_agent.tools.doctor.check import Check, Verdict
from edge_agent.tools.doctor.doctor import pool_check
from tests.helpers.rabbit import QUEUE, REFUSED, FakeBroker, fake_broker
from tests.helpers.support import CONFIG, config

POOL = '[pool]\nname = "pumps"\n'
LOGIN = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    return fake_broker(monkeypatch)


def check() -> Check:
    return pool_check(config(POOL))


def test_a_queue_that_can_be_read_is_good_and_says_its_figures(broker: FakeBroker) -> None:
    broker.publish(b"x")
    assert check() == Check(
        "pool", Verdict.GOOD, f"{QUEUE} at localhost:5672: 1 requests wait, the boards have 0 places"
    )
    assert not broker.connection.is_open


@pytest.mark.parametrize(
    ("refusal", "found", "advice"),
    [
        (None, f"NOT_FOUND - no queue '{QUEUE}' in vhost '/'", "create the queues with `edge-agent pool declare`"),
        (ProbableAuthenticationError(repr(ConnectionClosedByBroker(403, LOGIN))), LOGIN, "mqtt.username and mqtt.pass"),
        (REFUSED, "Connection refused", "pool.port"),
    ],
)
def test_each_fault_has_its_own_advice(broker: FakeBroker, refusal: Exception | None, found: str, advice: str) -> None:
    broker.queues.clear()
    if refusal:
        broker.refusals["localhost"] = refusal
    failed = check()
    assert (failed.verdict, failed.found) == (Verdict.FAILED, f"localhost:5672: {found}")
    assert advice in (failed.advice or "")


def test_without_the_extra_its_installation_is_named(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.core.extras.find_spec", lambda _: None)
    found = check()
    assert (found.verdict, broker.attempts) == (Verdict.FAILED, [])
    command = "pip install '.[pool]' in a copy of the repository, or 'edge-agent[pool]' from a release's wheelhouse"
    assert found.found == f"packages are missing (pika): {command}"


@pytest.mark.parametrize(("more", "names"), [("", []), (POOL, ["pool"])])
def test_only_a_board_of_a_pool_has_this_check(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, names: list[str]
) -> None:
    monkeypatch.setattr(doctor, "broker_checks", lambda *_, **__: iter(()))
    (tmp_path / "config.toml").write_text(CONFIG + more, encoding="utf-8")
    checks = doctor.checks(tmp_path / "config.toml", is_broker_only=True)
    assert [one.name for one in checks] == ["configuration", *names]
    assert len(broker.attempts) == len(names)
