"""The whole path on the demonstration model, with our converter's bundle, the agent, a broker and held-out readings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_agent.tools.demo.readings import HeldOutReading, held_out
from tests.helpers.processes import BrokerPort
from tests.helpers.site import Site, demo_tables, running_site

LEAST_RIGHT = 0.97
READINGS = 150


@pytest.fixture(scope="module")
def pump_site(broker_port: BrokerPort, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An agent with the demonstration's tasks on the model in BF16, at MQTT 3.1.1."""
    folder = tmp_path_factory.mktemp("pumps")
    more = "[queue]\ncapacity = 500\n" + demo_tables(folder)
    with running_site(folder, broker_port("3.1.1"), "3.1.1", model=str(demo_bundle), more=more) as site:
        yield site
    assert "ERROR" not in site.agent.log


def replies_to(site: Site, task: str, readings: Sequence[HeldOutReading]) -> list[dict[str, Any]]:
    """The replies to all these readings, sent at once; each is `ok`."""
    before = len(site.client.on(site.response(task)))
    for number, reading in enumerate(readings):
        site.client.publish(site.request(task), {"id": number, "input": reading.payload})
    messages = site.client.wait(site.response(task), count=before + len(readings))[before:]
    replies = {message.json["id"]: message.json for message in messages}
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    return [replies[number] for number in range(len(readings))]


def test_labels_of_held_out_readings_are_right(pump_site: Site) -> None:
    readings = held_out()[:READINGS]
    replies = replies_to(pump_site, "machine-triage", readings)
    right = sum(reply["output"] == reading.fault for reply, reading in zip(replies, readings, strict=True))
    assert right / len(readings) >= LEAST_RIGHT
    assert all(sum(reply["scores"].values()) == pytest.approx(1, abs=0.001) for reply in replies)
    # The system prompt is decoded once, and requests run together.
    assert all(reply["usage"]["cached_tokens"] > 20 for reply in replies)
    assert max(reply["timing"]["batch"] for reply in replies) > 1


def test_diagnoses_of_held_out_readings_are_right(pump_site: Site) -> None:
    readings = held_out()[:40]
    replies = replies_to(pump_site, "machine-diagnosis", readings)
    right = sum(
        all(reply["output"][key] == reading.diagnosis[key] for key in ("fault", "severity", "stop"))
        for reply, reading in zip(replies, readings, strict=True)
    )
    assert right / len(readings) >= 0.9
