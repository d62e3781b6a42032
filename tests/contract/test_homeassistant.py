"""What Home Assistant would hear of a board; `python -m rigs.homeassistant` asks a real one."""

import json
import time

from edge_agent.status.publisher import REPUBLISH_AFTER_S
from tests.helpers.client import Connect
from tests.helpers.processes import wait_until
from tests.helpers.site import StartSite


def test_a_board_is_announced_at_each_start_of_home_assistant_and_removed_on_demand(
    start_site: StartSite, connect: Connect
) -> None:
    client = connect("3.1.1")
    client.subscribe("ha/device/#")
    # An old word of it, which comes with the subscription at MQTT 3.1.1.
    client.publish("ha/status", b"online", retain=True)
    more = '[homeassistant]\nenabled = {}\nprefix = "ha"\n'
    site = start_site("3.1.1", more=more.format("true"))
    wait_until(lambda: client.messages, "the board is announced", 30)
    (topic,) = {message.topic for message in client.messages}
    told = client.wait(topic)[0]
    assert json.loads(told.payload)["state_topic"] == f"{site.base}/health"
    # What a new connection and a new model are told anyway.
    time.sleep(REPUBLISH_AFTER_S + 1)
    before, infos = len(client.on(topic)), len(site.client.on(f"{site.base}/info"))

    client.publish("ha/status", b"offline")
    client.publish("ha/status", b"online")
    started_at = time.monotonic()
    client.wait(topic, count=before + 1, timeout_s=12)
    assert time.monotonic() - started_at > 0.9
    site.client.wait(f"{site.base}/info", count=infos + 1, timeout_s=2)
    assert site.agent.stop() == 0
    assert "retained message dropped" not in site.agent.log

    device = site.base.rsplit("/", 1)[1]
    start_site("3.1.1", more=more.format("false"), device=device)
    client.wait(topic, count=before + 2)
    assert client.on(topic)[-1].payload == b""
    late = connect("3.1.1")
    late.subscribe("ha/device/#")
    late.hear_retained()
    assert [message for message in late.messages if message.topic == topic] == []
