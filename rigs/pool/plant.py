"""A plant with RabbitMQ's nodes, and boards of one pool, each behind a network of its own."""

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from edge_agent.loader import load_config
from edge_agent.pool.amqp import channel_at_first_host
from edge_agent.pool.queues import declare_queues, queues_of, read_figures
from rigs.chaos.asker import LABELS
from rigs.pool.cluster import Cluster
from tests.helpers.processes import AgentProcess, wait_until
from tests.helpers.proxy import Proxy

SITE, POOL = "hall1", "pumps"
BASE = f"edgeai/v1/{SITE}/pool/{POOL}"
NODES, MAX_WAITING = 3, 100_000
START_S = 60.0


class Board:
    """An agent of the pool with the echo engine, which answers one request at a time in a fixed time."""

    def __init__(self, folder: Path, number: int, cluster: Cluster, step_ms: float) -> None:
        self.name = f"board{number}"
        self.proxies: list[Proxy] = []
        hosts = [f"127.0.{number}.{place}" for place, _ in enumerate(cluster.nodes, 1)]
        mqtt_port, amqp_port = cluster.nodes[0].mqtt_port, cluster.nodes[0].amqp_port
        for host, node in zip(hosts, cluster.nodes, strict=True):
            for port in (mqtt_port, amqp_port):
                self.proxies.append(Proxy((node.address, port), listen=(host, port)))
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
        """Ends it as a power cut does."""
        assert self.agent is not None
        self.agent.process.kill()
        self.agent.stop()
        self.agent = None

    def stop(self) -> int:
        """Returns the agent's exit code; 0 if it is down."""
        code = 0 if self.agent is None else self.agent.stop()
        self.agent = None
        return code


class Plant:
    """Nodes and boards that run while the context is entered. A sensor finds a node that is up at `port`."""

    def __init__(self, folder: Path, steps_ms: list[float]) -> None:
        self.cluster = Cluster(folder, NODES)
        self.boards = [Board(folder, number, self.cluster, step_ms) for number, step_ms in enumerate(steps_ms, 1)]
        self._to_nodes = Proxy(*((node.address, node.mqtt_port) for node in self.cluster.nodes))
        self.port = self._to_nodes.port
        # The settings of a board, to reach RabbitMQ as it does.
        self._settings = load_config(self.boards[0].config)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Returns when the pool is declared and each board takes a request."""
        with ExitStack() as stack:
            for proxy in (self._to_nodes, *(proxy for board in self.boards for proxy in board.proxies)):
                stack.enter_context(proxy)
            stack.enter_context(self.cluster)
            with channel_at_first_host(self._settings) as (channel, _):
                declare_queues(channel, queues_of(self._settings), MAX_WAITING)
            for board in self.boards:
                stack.callback(board.stop)
                board.start()
            wait_until(lambda: self._places() == len(self.boards), "the boards take requests", START_S, every_s=0.05)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _places(self) -> int:
        """How many requests the boards take at once now."""
        with channel_at_first_host(self._settings) as (channel, _):
            return read_figures(channel, queues_of(self._settings)).places
