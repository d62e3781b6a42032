"""A late subscriber finds true documents on `state`, `health` and `alarm`, after any fault."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_agent.mqtt.link import WILL_DELAY_S
from tests.helpers.client import Client
from tests.helpers.processes import Mosquitto, StartAgent, free_port, wait_until
from tests.helpers.proxy import Proxy
from tests.helpers.site import Site, StartSite, site_config

pytestmark = [pytest.mark.mosquitto, pytest.mark.usefixtures("require_mosquitto")]

# The contract's longest time between a change and the `state` that shows it.
STATE_WITHIN_S = 20.0
INTERVAL_S = 0.5
# The will of a replaced connection is out after this time.
LATE_WILL_S = WILL_DELAY_S + 2


Start = Callable[..., list[Site]]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of its own, which forgets everything when it is restarted."""
    with Mosquitto(tmp_path, free_port()) as broker:
        yield broker


@pytest.fixture
def start(start_site: StartSite, broker: Mosquitto) -> Start:
    """Two agents, one for each MQTT version, so that they wait at the same time."""
    return lambda more, port=broker.port: [
        start_site(protocol, port=port, more=more, state=protocol) for protocol in ("5", "3.1.1")
    ]


def retained(broker: Mosquitto, site: Site) -> dict[str, dict[str, Any]]:
    """The retained documents of an agent, by topic."""
    with closing(Client(broker.port, site.protocol)) as late:
        late.subscribe(f"{site.base}/#")
        late.hear_retained()
        return {m.topic.removeprefix(f"{site.base}/"): m.json for m in late.messages if m.retain and m.payload}


def wait_until_retained(is_so: Any, what: str, timeout_s: float) -> None:
    """`wait_until`, for a condition that connects to the broker."""
    wait_until(is_so, what, timeout_s, every_s=0.2)


def wait_for_state(broker: Mosquitto, sites: list[Site], state: str) -> float:
    """Returns how many seconds it took until all of them have it, which is what the contract allows at most."""
    began = time.monotonic()
    for site in sites:
        wait_until_retained(lambda site=site: retained(broker, site).get("state", {}).get("state") == state, state, 40)
    took_s = time.monotonic() - began
    print(f"{state} after {took_s:.1f} s")
    assert took_s < STATE_WITHIN_S
    return took_s


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


@pytest.fixture
def hot(tmp_path: Path, broker: Mosquitto, start: Start) -> list[Site]:
    """The agents on a board so hot that both have raised the alarm; the board is `tmp_path`."""
    heat(tmp_path, 85.0)
    sites = start(f'[board]\nroot = "{tmp_path}"\n[health]\ninterval_s = {INTERVAL_S}\n')
    for site in sites:
        wait_until_retained(lambda site=site: "alarm/overheating" in retained(broker, site), "the alarm", 20)
    return sites


def alarms(found: dict[str, Any]) -> list[str]:
    return [name for name in found if name.startswith("alarm/")]


def test_a_killed_agent_is_offline_its_health_gone_its_alarm_void_and_the_next_one_clears_it(
    tmp_path: Path, broker: Mosquitto, hot: list[Site], start_agent: Any
) -> None:
    births = []
    for site in hot:
        found = retained(broker, site)
        assert found["alarm/overheating"]["severity"] == "critical"
        assert (found["state"]["state"], found["health"]["overall"]) == ("online", "critical")
        assert "overheating" in found["health"]["reasons"]
        assert found["alarm/overheating"]["session"] == found["state"]["session"] == found["health"]["session"]
        births.append(found["state"])

    for site in hot:
        site.agent.signal(signal.SIGKILL)
    wait_for_state(broker, hot, "offline")
    for site, birth in zip(hot, births, strict=True):
        found = retained(broker, site)
        # It is void, because the state is not online with its session.
        assert "alarm/overheating" in found
        assert found["state"]["reason"] == "connection-lost"
        assert found["state"]["session"] == birth["session"]
        assert found["state"]["connected_at"] == birth["connected_at"]
        if site.protocol == "5":
            wait_until_retained(lambda site=site: "health" not in retained(broker, site), "health is gone", 3)

    heat(tmp_path, 50.0)
    agents = [start_agent(site.agent.config.read_text(encoding="utf-8"), name=site.agent.config.stem) for site in hot]
    wait_for_state(broker, hot, "online")
    for site, agent in zip(hot, agents, strict=True):
        found = retained(broker, site)
        assert not alarms(found)
        assert "overheating" not in found["health"]["reasons"]
        assert agent.stop() == 0
        assert retained(broker, site)["state"]["state"] == "stopped"


def test_a_broker_that_lost_everything_gets_all_of_it_again_and_a_stop_clears_alarms_after_the_state(
    broker: Mosquitto, hot: list[Site]
) -> None:
    before = [retained(broker, site) for site in hot]
    broker.stop()
    broker.start()
    wait_for_state(broker, hot, "online")
    for site, old in zip(hot, before, strict=True):
        wait_until(lambda site=site: site.agent.log.count(".data") >= 3, "the data connection is back, too")
        wait_until_retained(lambda site=site: len(retained(broker, site)) == 4, "health, info, alarm", 5)
        found = retained(broker, site)
        assert set(found) == {"state", "info", "health", "alarm/overheating"}
        assert found["state"]["state"] == "online"
        assert found["state"]["session"] != old["state"]["session"]
        assert found["alarm/overheating"]["session"] == found["state"]["session"]
        assert found["alarm/overheating"]["since"] == old["alarm/overheating"]["since"]

        topics = [f"{site.base}/{name}" for name in ("state", "alarm/overheating")]
        with closing(Client(broker.port, site.protocol)) as client:
            client.subscribe(*topics, site.response("triage"))
            client.hear_retained()
            urgent = {"input": "normal", "priority": 0}
            answer = client.exchange(site.request("triage"), urgent, site.response("triage"))
            assert answer.json["status"] == "ok"
            assert site.agent.stop() == 0
            wait_until(lambda client=client, topics=topics: not client.on(topics[1])[-1].payload, "its end")
            assert [message.topic for message in client.messages if message.topic in topics][-2:] == topics
        found = retained(broker, site)
        assert found["state"]["state"] == "stopped"
        assert not alarms(found)


def test_a_cut_network_is_seen_in_time_and_recovers_by_itself(broker: Mosquitto, start: Start) -> None:
    with Proxy(broker.port) as proxy:
        sites = start(f"[health]\ninterval_s = {INTERVAL_S}\n", proxy.port)
        proxy.cut()
        wait_for_state(broker, sites, "offline")
        proxy.mend()
        wait_for_state(broker, sites, "online")
        # The late will of the connection before must not be the last word.
        time.sleep(LATE_WILL_S)
        assert [retained(broker, site)["state"]["state"] for site in sites] == ["online", "online"]


def test_two_agents_of_a_name_alarm_until_one_ends(broker: Mosquitto, start: Start, start_agent: StartAgent) -> None:
    sites = start(f"[health]\ninterval_s = {INTERVAL_S}\n")
    name = "alarm/duplicate-client-id"
    twins = []
    for site in sites:
        device = site.base.rsplit("/", 1)[1]
        config = site_config(device, broker.port, site.protocol, "echo:", state=f"twin-{device}")
        twins.append(start_agent(config, name=f"twin-{device}"))
    for site in sites:
        wait_until_retained(lambda site=site: name in retained(broker, site), "the alarm", 40)
        assert "device.id" in retained(broker, site)[name]["message"]
    assert [twin.stop() for twin in twins] == [0, 0]

    wait_for_state(broker, sites, "online")
    time.sleep(LATE_WILL_S)
    for site in sites:
        found = retained(broker, site)
        assert found["state"]["state"] == "online"
        assert found["state"]["session"] == found["health"]["session"] == found[name]["session"]
