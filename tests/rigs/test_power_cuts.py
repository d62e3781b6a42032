"""After all processes were killed at a random point of a model switch, one whole, verified model runs."""

import os
import random
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edge_agent.loader import load_config
from edge_agent.models.record import in_force, open_in_force
from tests.helpers.bundles import sha256_of
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, BrokerPort, children, wait_until
from tests.helpers.site import SHORT_OF_MEMORY, written_config

CUTS = int(os.environ.get("EDGE_AGENT_POWER_CUTS", "4"))
SEED = int(os.environ.get("EDGE_AGENT_SEED", "1"))
ALLOWED = '[commands]\nallow = ["model-switch"]\n[engine]\nthreads = 1\nprefill_threads = 1\n'


class Board:
    """An agent with its client; it is killed and started again."""

    def __init__(self, folder: Path, port: int, protocol: str, more: str) -> None:
        self.base = f"edgeai/v1/test/cut{protocol[0]}"
        self.folder = folder
        device = self.base.rsplit("/", 1)[1]
        self.config = written_config(folder, "models/one", ALLOWED + more, device=device, port=port, protocol=protocol)
        self.client = Client(port, protocol)
        self.client.subscribe(f"{self.base}/#")
        self.start()

    def start(self) -> None:
        seen = len(self.client.on(f"{self.base}/state"))
        self.agent = AgentProcess(self.config)
        wait_until(
            lambda: any(m.json["state"] == "online" for m in self.client.on(f"{self.base}/state")[seen:]), "online"
        )

    def cut_power(self) -> None:
        for pid in (self.agent.process.pid, *children(self.agent.process.pid)):
            os.kill(pid, signal.SIGKILL)
        self.agent.stop()

    def switch(self, bundle: str) -> None:
        self._results_before = len(self.client.on(f"{self.base}/cmd/model-switch/result"))
        fields = {"model": "default", "bundle": bundle, "allow_downgrade": True}
        self.client.publish(f"{self.base}/cmd/model-switch", fields)

    def record_written(self) -> set[tuple[str, int]]:
        """What tells one state of the record, or of its draft, from another."""
        found = set()
        for path in (self.folder / "state").glob("model-1.*"):
            with suppress(FileNotFoundError):
                found.add((path.name, path.stat().st_ino))
        return found

    def is_answered_ok(self) -> bool:
        """Whether the latest switch succeeded, by its result."""
        results = self.client.on(f"{self.base}/cmd/model-switch/result")[self._results_before :]
        return any(result.json["status"] == "ok" for result in results)

    def answers_with(self) -> str:
        topic = f"{self.base}/infer/triage"
        reply = self.client.exchange(f"{topic}/request", "normal", f"{topic}/response").json
        assert reply["status"] == "ok"
        return str(reply["model"]["sha256"])


@pytest.mark.parametrize(("protocol", "more"), [("5", ""), ("3.1.1", SHORT_OF_MEMORY)], ids=["beside", "after"])
def test_a_power_cut_at_any_point_of_a_switch_leaves_one_whole_verified_model(
    broker_port: BrokerPort, model_bundles: Path, tmp_path: Path, protocol: str, more: str
) -> None:
    chance = random.Random(SEED)
    models = Path(shutil.copytree(model_bundles, tmp_path / "models"))
    hashes = {name: sha256_of(models / name) for name in ("one", "two")}
    board = Board(tmp_path, broker_port(protocol), protocol, more)
    config = load_config(board.config)
    began = time.monotonic()
    board.switch("two")
    wait_until(board.is_answered_ok, "one switch without a cut")
    taken_s = time.monotonic() - began
    ended = {"before": 0, "after": 0}
    for number in range(CUTS // 2):
        before = in_force(config).name
        other = {"one": "two", "two": "one"}[before]
        bundle = chance.choice([other, other, other, "damaged"])
        written = board.record_written()
        board.switch(bundle)
        if number % 2 and bundle == other:  # around the moment that decides
            wait_until(lambda before=written: board.record_written() != before, "the switch is recorded")
            threading.Event().wait(chance.uniform(0.0, 0.05))
        else:
            threading.Event().wait(chance.uniform(0.0, 1.2 * taken_s))
        board.cut_power()

        now = in_force(config).name
        assert now in {before, other}
        if bundle == "damaged":
            assert now == before
        if board.is_answered_ok():
            assert now == other
        assert open_in_force(config).sha256 == hashes[now]
        ended["before" if now == before else "after"] += 1
        board.start()
        assert board.answers_with() == hashes[now]
    told = [event.json["reason"] for event in board.client.on(f"{board.base}/event/agent-restarted")]
    assert told == ["killed"] * (CUTS // 2)
    assert board.agent.stop() == 0
    board.client.close()
    print(f"model in force after a cut, of the switch that it cut: {ended}")
