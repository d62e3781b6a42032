"""A late subscriber finds true documents on `state`, `health` and `alarm`, after any fault."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.mqtt.link import WILL_DELAY_S
from edge_agent.tools.demo.broker import free_port
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, Mosquitto, wait_until
from tests.helpers.proxy import Proxy
from tests.helpers.site import Site, site_config

pytestmark = [pytest.mark.mosquitto, pytest.mark.usefixtures("require_mosquitto")]

# The contract's longest time between a change and the `state` that shows it.
STATE_WITHIN_S = 20.0
INTERVAL_S = 0.5
# The will of a replaced connection is out after this time; MQTT 3.1.1 has no will delay.
LATE_WILL_S = {"5": WILL_DELAY_S + 2, "3.1.1": 2}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of its own, which forgets everything when it is restarted."""
    with Mosquitto(tmp_path, free_port()) as broker:
        yield broker


def retained(port: int, protocol: str, base: str) -> dict[str, dict[str, Any]]:
    """The retained documents below a base, by topic."""
    with closing(Client(port, protocol)) as late:
        late.subscribe(f"{base}/#")
        late.hear_retained()
        return {m.topic.removeprefix(f"{base}/"): m.json for m in late.messages if m.retain and m.payload}


def more(board: Path) -> str:
    return f'[board]\nroot = "{board}"\n[health]\ninterval_s = {INTERVAL_S}\n'


def heat(board: Path, soc_c: float) -> None:
    """A board with one thermal zone, whose limit is 80 °C."""
    zone = board / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "type": "cpu-thermal",
        "temp": f"{soc_c * 1000:.0f}",
        "trip_point_0_type": "passive",
        "trip_point_0_temp": "80000",
    }.items():
        (zone / name).write_text(f"{text}\n", encoding="utf-8")


def test_a_killed_agent_is_offline_its_health_gone_its_alarm_void_and_the_next_one_clears_it(
    tmp_path: Path, broker: Mosquitto, start_site: Callable[..., Site], start_agent: Any, protocol: str
) -> None:
    heat(tmp_path, 85.0)
    site = start_site(protocol, port=broker.port, more=more(tmp_path))
    wait_until(lambda: "alarm/overheating" in retained(broker.port, protocol, site.base), "the alarm", 20)
    found = retained(broker.port, protocol, site.base)
    assert found["alarm/overheating"]["severity"] == "critical"
    assert (found["state"]["state"], found["health"]["overall"]) == ("online", "critical")
    assert "overheating" in found["health"]["reasons"]
    assert found["alarm/overheating"]["session"] == found["state"]["session"] == found["health"]["session"]

    site.agent.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(
        lambda: retained(broker.port, protocol, site.base)["state"]["state"] == "offline", "offline", STATE_WITHIN_S
    )
    took_s = time.monotonic() - killed_at
    print(f"offline {took_s:.1f} s after kill -9")
    found = retained(broker.port, protocol, site.base)
    # Void: the state is not online with its session.
    assert "alarm/overheating" in found
    if protocol == "5":
        wait_until(lambda: "health" not in retained(broker.port, protocol, site.base), "health is gone", 3)

    heat(tmp_path, 50.0)
    agent = start_agent(site.agent.config.read_text(encoding="utf-8"), name="again")
    wait_until(lambda: retained(broker.port, protocol, site.base)["state"]["state"] == "online", "online")
    found = retained(broker.port, protocol, site.base)
    assert not [name for name in found if name.startswith("alarm/")]
    assert "overheating" not in found["health"]["reasons"]
    assert agent.stop() == 0
    assert retained(broker.port, protocol, site.base)["state"]["state"] == "stopped"


def test_a_stopped_agent_clears_its_alarms_after_its_state(
    tmp_path: Path, broker: Mosquitto, start_site: Callable[..., Site], protocol: str
) -> None:
    heat(tmp_path, 85.0)
    site = start_site(protocol, port=broker.port, more=more(tmp_path))
    wait_until(lambda: "alarm/overheating" in retained(broker.port, protocol, site.base), "the alarm", 20)
    assert site.agent.stop() == 0
    found = retained(broker.port, protocol, site.base)
    assert found["state"]["state"] == "stopped"
    assert not [name for name in found if name.startswith("alarm/")]
    topics = [f"{site.base}/{name}" for name in ("state", "alarm/overheating")]
    wait_until(lambda: not site.client.on(topics[1])[-1].payload, "its end")
    assert [message.topic for message in site.client.messages if message.topic in topics][-2:] == topics


def test_a_broker_that_lost_everything_gets_all_of_it_again(
    tmp_path: Path, broker: Mosquitto, start_site: Callable[..., Site], protocol: str
) -> None:
    heat(tmp_path, 85.0)
    site = start_site(protocol, port=broker.port, more=more(tmp_path))
    wait_until(lambda: "alarm/overheating" in retained(broker.port, protocol, site.base), "the alarm", 20)
    before = retained(broker.port, protocol, site.base)
    broker.stop()
    broker.start()
    restarted_at = time.monotonic()
    wait_until(lambda: "state" in retained(broker.port, protocol, site.base), "the state", STATE_WITHIN_S)
    print(f"online {time.monotonic() - restarted_at:.1f} s after the broker's restart")
    wait_until(lambda: len(retained(broker.port, protocol, site.base)) == 4, "health, info, alarm", 5)
    found = retained(broker.port, protocol, site.base)
    assert set(found) == {"state", "info", "health", "alarm/overheating"}
    assert found["state"]["state"] == "online"
    assert found["state"]["session"] != before["state"]["session"]
    assert found["alarm/overheating"]["session"] == found["state"]["session"]
    assert found["alarm/overheating"]["since"] == before["alarm/overheating"]["since"]


def test_a_cut_network_is_seen_in_time_and_recovers_by_itself(
    broker: Mosquitto, start_site: Callable[..., Site], protocol: str
) -> None:
    with Proxy(broker.port) as proxy:
        site = start_site(protocol, port=proxy.port, more=f"[health]\ninterval_s = {INTERVAL_S}\n")
        proxy.cut()
        cut_at = time.monotonic()
        wait_until(lambda: retained(broker.port, protocol, site.base)["state"]["state"] == "offline", "offline", 40)
        took_s = time.monotonic() - cut_at
        print(f"offline {took_s:.1f} s after the cut")
        assert took_s < STATE_WITHIN_S
        proxy.mend()
        mended_at = time.monotonic()
        wait_until(lambda: retained(broker.port, protocol, site.base)["state"]["state"] == "online", "online", 40)
        took_s = time.monotonic() - mended_at
        print(f"online {took_s:.1f} s after the network was mended")
        assert took_s < STATE_WITHIN_S
        # The late will of the connection before must not be the last word.
        time.sleep(LATE_WILL_S[protocol])
        assert retained(broker.port, protocol, site.base)["state"]["state"] == "online"


def test_two_agents_of_one_name_raise_an_alarm_until_one_is_gone(
    broker: Mosquitto, start_site: Callable[..., Site], start_agent: Callable[..., AgentProcess], protocol: str
) -> None:
    site = start_site(protocol, port=broker.port, more=f"[health]\ninterval_s = {INTERVAL_S}\n")
    device = site.base.rsplit("/", 1)[1]
    twin = start_agent(site_config(device, broker.port, protocol, "echo:", state="twin"), name="twin")
    started_at = time.monotonic()
    name = "alarm/duplicate-client-id"
    wait_until(lambda: name in retained(broker.port, protocol, site.base), "the alarm", 40)
    print(f"alarm {time.monotonic() - started_at:.1f} s after the twin's start")
    assert "device.id" in retained(broker.port, protocol, site.base)[name]["message"]
    assert twin.stop() == 0
    stopped_at = time.monotonic()

    wait_until(
        lambda: retained(broker.port, protocol, site.base)["state"]["state"] == "online", "online", STATE_WITHIN_S
    )
    print(f"online {time.monotonic() - stopped_at:.1f} s after the twin's end")
    time.sleep(LATE_WILL_S[protocol])
    found = retained(broker.port, protocol, site.base)
    assert found["state"]["state"] == "online"
    assert found["state"]["session"] == found["health"]["session"] == found[name]["session"]
