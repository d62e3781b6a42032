from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent import doctor
from edge_agent.config import MqttConfig
from edge_agent.doctor import Check, Verdict, _broker, _counted, _memory
from edge_agent.mqtt_link import Broken, Connected, Disconnected, LinkEvent
from tests.test_mqtt_link import hangs_up


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


def judged(monkeypatch: pytest.MonkeyPatch, broken: Broken | None, reason: str = "why", **fields: Any) -> Check:
    """What doctor says of a broker whose connection breaks so, at a port where somebody listens; None = it stands."""

    class Link:
        def __init__(self, _client_id: str, _mqtt: MqttConfig, deliver: Any) -> None:
            self.deliver = deliver

        def start(self) -> None:
            link: Any = self
            event: LinkEvent = Connected(link=link)
            if broken is not None:
                event = Disconnected(link=link, broken=broken, reason=reason)
            self.deliver(event)

        def stop(self, _timeout_s: float) -> None:
            pass

    monkeypatch.setattr(doctor, "MqttLink", Link)
    with hangs_up() as port:
        return _broker(MqttConfig.model_validate({"host": "127.0.0.1", "port": port, **fields}), "doctor")


@pytest.mark.parametrize(
    ("broken", "tls", "found", "advice"),
    [
        (None, {}, ", MQTT 5, with TLS", ""),
        (Broken.REFUSED, None, " refuses the connection: why", "mqtt.username"),
        (Broken.NOT_REACHED, {}, " can be reached, but not with TLS: why", "mqtt.port is the broker's TLS listener"),
        (Broken.NOT_REACHED, None, " cannot be reached: why", "check the broker"),
        (Broken.NOT_ANSWERED, None, " does not answer a CONNECT of MQTT 5 without TLS", "wants TLS"),
        (Broken.NOT_ANSWERED, {}, " does not answer a CONNECT of MQTT 5 with TLS", "mqtt.tls.cert_file"),
    ],
)
def test_what_keeps_the_broker_away_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, broken: Broken | None, tls: dict[str, str] | None, found: str, advice: str
) -> None:
    check = judged(monkeypatch, broken, tls=tls)
    assert check.verdict is (Verdict.GOOD if broken is None else Verdict.FAILED)
    assert check.found.startswith("127.0.0.1:")
    assert check.found.endswith(found)
    assert advice in (check.advice or "")


def test_files_that_the_connection_lacks_are_named(tmp_path: Path) -> None:
    check = _broker(MqttConfig(password_file=tmp_path / "none"), "doctor")
    assert check.verdict is Verdict.FAILED
    assert check.found.startswith("mqtt.password_file: should be a file that can be read")


def test_a_configuration_that_is_not_there_is_to_be_named(tmp_path: Path) -> None:
    (check,) = doctor._checks(tmp_path / "none.toml")
    assert check.advice == "name the configuration with --config FILE"


def test_one_thread_is_no_threads() -> None:
    assert [_counted(count, "thread") for count in (1, 2)] == ["1 thread", "2 threads"]
