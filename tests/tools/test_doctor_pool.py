from __future__ import annotations

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


def test_a_queue_that_is_missing_is_to_be_declared(broker: FakeBroker) -> None:
    broker.queues.clear()
    found = check()
    assert (found.verdict, found.found) == (
        Verdict.FAILED,
        f"localhost:5672: NOT_FOUND - no queue '{QUEUE}' in vhost '/'",
    )
    assert found.advice == "make the queues with `edge-agent pool declare`, or correct pool.name"


def test_an_account_that_is_refused_is_to_be_checked(broker: FakeBroker) -> None:
    broker.refusals["localhost"] = ProbableAuthenticationError(repr(ConnectionClosedByBroker(403, LOGIN)))
    found = check()
    assert (found.verdict, found.found) == (Verdict.FAILED, f"localhost:5672: {LOGIN}")
    assert "mqtt.username and mqtt.password_file" in (found.advice or "")


def test_a_broker_that_is_not_reached_is_to_be_checked_with_its_port(broker: FakeBroker) -> None:
    broker.refusals["localhost"] = REFUSED
    found = check()
    assert (found.verdict, found.found) == (Verdict.FAILED, "localhost:5672: Connection refused")
    assert "pool.port" in (found.advice or "")


def test_without_the_extra_the_command_that_installs_it_is_named(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.core.extras.find_spec", lambda _: None)
    found = check()
    assert (found.verdict, broker.attempts) == (Verdict.FAILED, [])
    assert found.found == "packages are missing (pika): pip install '.[pool]' in a copy of the repository"


@pytest.mark.parametrize(("more", "names"), [("", []), (POOL, ["pool"])])
def test_only_a_board_of_a_pool_has_this_check(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, names: list[str]
) -> None:
    monkeypatch.setattr(doctor, "broker_checks", lambda *_, **__: iter(()))
    (tmp_path / "config.toml").write_text(CONFIG + more, encoding="utf-8")
    checks = doctor.checks(tmp_path / "config.toml", is_broker_only=True)
    assert [one.name for one in checks] == ["configuration", *names]
    assert len(broker.attempts) == len(names)
