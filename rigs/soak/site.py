"""The processes of one run: mosquitto, and the agent with the demonstration's tasks and a sensor's topic."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edge_agent.tools.demo.readings import tasks
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, Mosquitto, free_port
from tests.helpers.site import demo_tables, online, written_config

DEVICE = "soak"
BASE = f"edgeai/v1/test/{DEVICE}"
TRIAGE, DIAGNOSIS, EXPLANATION = "machine-triage", "machine-diagnosis", "machine-explanation"
START_S = 120.0


@contextmanager
def running(folder: Path, model: str, protocol: str) -> Iterator[tuple[int, AgentProcess]]:
    """The broker's port, and an agent that is online. State and log stay in the folder, which exists."""
    sensor = tasks()[TRIAGE] | {"subscribe": ["plant/+/reading"], "publish": "plant/{1}/triage"}
    more = '[commands]\nallow = ["ping", "health", "cancel", "reload"]\n' + demo_tables(folder, sensor=sensor)
    (folder / "broker").mkdir()
    with Mosquitto(folder / "broker", free_port(), is_persistent=True) as broker:
        config = written_config(folder, model, more, device=DEVICE, port=broker.port, protocol=protocol)
        with closing(Client(broker.port, protocol)) as client:
            client.subscribe(f"{BASE}/state")
            with online(config, client, BASE, timeout_s=START_S) as agent:
                yield broker.port, agent
