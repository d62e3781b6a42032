"""A plant: RabbitMQ's nodes, and boards of one pool, each behind a network of its own."""

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from edge_agent.core.config import Config
from edge_agent.loader import load_config
from edge_agent.pool.amqp import channel_at_first_host
from edge_agent.pool.queues import declare_queues, queues_of, read_figures
from rigs.chaos.asker import LABELS
from rigs.pool.cluster import Cluster
from tests.helpers.processes import AgentProcess, wait_until
from tests.helpers.proxy import Proxy

SITE, POOL = "hall1", "pumps"
BASE = f"edgeai/v1/{SITE}/pool/{POOL}"
MAX_WAITING = 100_000
START_S = 60.0


class Board:
    """An agent of the pool with the echo engine, which answers one request at a time in a fixed time."""

    def __init__(self, folder: Path, number: int, cluster: Cluster, step_ms: float, *, has_proxies: bool) -> None:
        self.name, self.step_ms = f"board{number}", step_ms
        self.proxies: list[Proxy] = []
        hosts = [node.address for node in cluster.nodes]
        mqtt_port, amqp_port = cluster.nodes[0].mqtt_port, cluster.nodes[0].amqp_port
        if has_proxies:
            for place, node in enumerate(cluster.nodes, 1):
                hosts[place - 1] = f"127.0.{number}.{place}"
                for port in (mqtt_port, amqp_port):
                    self.proxies.append(Proxy((node.address, port), listen=(hosts[place - 1], port)))
        path = folder / self.name
        path.mkdir()
        self.config = path / "config.toml"
        labels = ", ".join(f'"{label}"' for label in LABELS)
        self.config.write_text(
            f'models_dir = "models"\nstate_dir = "state"\n[device]\nsite = "{SITE}"\nid = "{self.name}"\n'
            f"[mqtt]\nhost = {hosts}\nport = {mqtt_port}\n"
            f'[pool]\nname = "{POOL}"\nport = {amqp_port}\n'
            f'[models.default]\npath = "echo:step_ms={step_ms:g}"\n[engine]\nmax_active = 1\n'
            f'[log]\nlevel = "WARNING"\n[tasks.triage]\nkind = "classify"\nlabels = [{labels}]\n',
            encoding="utf-8",
        )
        self.agent: AgentProcess | None = None

    def start(self) -> None:
        self.agent = AgentProcess(self.config)

    def kill(self) -> None:
        """As a power cut ends it."""
        assert self.agent is not None
        self.agent.process.kill()
        self.agent.stop()
        self.agent = None

    def stop(self) -> int:
        """Its exit code; 0 for one that is down."""
        code = 0 if self.agent is None else self.agent.stop()
        self.agent = None
        return code


class Plant:
    """Nodes and boards that run while the context is entered; the pool is declared."""

    def __init__(self, folder: Path, nodes: int, steps_ms: list[float], *, has_proxies: bool = False) -> None:
        self.cluster = Cluster(folder, nodes)
        self.boards = [
            Board(folder, number, self.cluster, step_ms, has_proxies=has_proxies)
            for number, step_ms in enumerate(steps_ms, 1)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for proxy in (proxy for board in self.boards for proxy in board.proxies):
                stack.enter_context(proxy)
            stack.enter_context(self.cluster)
            with channel_at_first_host(self.settings) as (channel, _):
                declare_queues(channel, queues_of(self.settings), MAX_WAITING)
            for board in self.boards:
                stack.callback(board.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def settings(self) -> Config:
        """Those of a board, to reach RabbitMQ as it does."""
        return load_config(self.boards[0].config)

    def start_boards(self) -> None:
        """Returns when they take requests: each has one place."""
        for board in self.boards:
            board.start()
        wait_until(lambda: self.places() == len(self.boards), "the boards take requests", START_S, every_s=0.05)

    def places(self) -> int:
        """How many requests the boards take at once now."""
        with channel_at_first_host(self.settings) as (channel, _):
            return read_figures(channel, queues_of(self.settings)).places
