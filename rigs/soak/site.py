"""The processes of one run: mosquitto, and the agent with the demonstration's tasks and a sensor's topic."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_agent.tools.demo.broker import free_port
from edge_agent.tools.demo.readings import tasks
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, Mosquitto
from tests.helpers.site import demo_tables, online

DEVICE = "soak"
BASE = f"edgeai/v1/test/{DEVICE}"
TRIAGE, DIAGNOSIS, EXPLANATION = "machine-triage", "machine-diagnosis", "machine-explanation"
START_S = 120.0


@dataclass(frozen=True, slots=True)
class SoakSite:
    """Where an agent runs. folder: its configuration, `config.log` and `state`."""

    folder: Path
    port: int
    agent: AgentProcess


@contextmanager
def running(
    folder: Path, model: str, *, protocol: str = "5", journal: str = "disk", queue: str = ""
) -> Iterator[SoakSite]:
    """State and log stay in the folder, which exists; `queue` has more lines of the table [queue]."""
    (folder / "broker").mkdir(exist_ok=True)
    with Mosquitto(folder / "broker", free_port(), is_persistent=True) as broker:
        config = folder / "config.toml"
        config.write_text(_config(folder, broker.port, model, protocol, journal, queue), encoding="utf-8")
        with closing(Client(broker.port, protocol)) as client:
            client.subscribe(f"{BASE}/state")
            with online(config, client, BASE, timeout_s=START_S) as agent:
                yield SoakSite(folder, broker.port, agent)


def _config(folder: Path, port: int, model: str, protocol: str, journal: str, queue: str) -> str:
    sensor = tasks()[TRIAGE] | {"subscribe": ["plant/+/reading"], "publish": "plant/{1}/triage"}
    return (
        f'models_dir = "."\nstate_dir = "state"\n[device]\nsite = "test"\nid = "{DEVICE}"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprotocol = "{protocol}"\n'
        f"[models.default]\npath = {json.dumps(model)}\n"
        f'[queue]\njournal = "{journal}"\n{queue}'
        '[commands]\nallow = ["ping", "health", "cancel", "reload"]\n'
    ) + demo_tables(folder, sensor=sensor)
