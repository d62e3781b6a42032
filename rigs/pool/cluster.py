"""One or three RabbitMQ nodes from this machine's package, alongside the system's own service.

Debian's own commands require the account rabbitmq and its folders; these nodes run as the current user.
"""

import os
import random
import secrets
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import psutil

from tests.helpers.processes import ends, is_running, wait_until

START_S = 120.0
SERVERS = Path("/usr/lib/rabbitmq/lib")
# Below the ports that the kernel gives to clients, so none takes a port of a node that is down, or connects to itself.
_PORTS = range(20000, 32000)
_CONFIG = """\
listeners.tcp.default = {address}:{amqp_port}
mqtt.listeners.tcp.default = {address}:{mqtt_port}
anonymous_login_user = guest
anonymous_login_pass = guest
message_interceptors.incoming.set_header_timestamp.overwrite = true
log.console.level = warning
log.file.level = warning
"""
_CLUSTERED = """\
cluster_partition_handling = pause_minority
mqtt.durable_queue_type = quorum
cluster_formation.peer_discovery_backend = classic_config
"""
# Many nodes share few cores. Nodes that listen to each other at all addresses would be open to the network.
_VM = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


class Node:
    """One RabbitMQ with its files in a folder: `rabbitmq.conf`, `enabled_plugins`, `data`, `log`, `output`."""

    def __init__(
        self, name: str, address: str, ports: tuple[int, int], folder: Path, config: str, environment: Mapping[str, str]
    ) -> None:
        """Ports are for MQTT and AMQP. The configuration joins it to other nodes; all share the environment."""
        self.name, self.address = name, address
        self.mqtt_port, self.amqp_port = ports
        (distribution_port,) = free_ports(1)
        self._folder = folder
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        listeners = _CONFIG.format(address=address, amqp_port=self.amqp_port, mqtt_port=self.mqtt_port)
        (folder / "rabbitmq.conf").write_text(listeners + config, encoding="utf-8")
        (folder / "enabled_plugins").write_text("[rabbitmq_mqtt].\n", encoding="utf-8")
        self.environment = {
            **environment,
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _VM,
            # Makes the script become the Erlang VM. Otherwise it stays between, and a signal to it would miss the VM.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    @property
    def output(self) -> str:
        """What it has printed since its start."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Starts it with the data that it has; returns at once."""
        assert self._process is None
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                [_program("rabbitmq-server")],
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Waits until its listeners are open. Raises AssertionError, with its output if it has ended."""
        process = self._process
        assert process is not None, f"{self.name} is not started"
        wait_until(
            lambda: "completed with" in self.output or process.poll() is not None,
            f"{self.name} starts",
            timeout_s,
            every_s=0.1,
        )
        assert process.poll() is None, self.output

    def kill(self) -> None:
        """Ends the Erlang VM and its helpers as a power cut does; one that is down stays so."""
        if self._process is None:
            return
        helpers = []
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            helpers = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        self._process = None
        for helper in helpers:
            with suppress(psutil.NoSuchProcess):
                helper.kill()
        wait_until(lambda: not any(is_running(helper.pid) for helper in helpers), f"all of {self.name} ends")


class Cluster:
    """Nodes that run while the context is entered, on 127.0.0.1 and the next addresses, with an epmd of their own.

    All have the same ports, as the nodes of a plant do.
    """

    def __init__(self, folder: Path, count: int = 1) -> None:
        epmd_port, mqtt_port, amqp_port = free_ports(3)
        self._environment = {
            **os.environ,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            # Erlang's cookie lies there.
            "HOME": str(folder),
        }
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16), encoding="ascii")
        cookie.chmod(0o600)
        names = [f"rig{number}@localhost" for number in range(1, count + 1)]
        peers = "".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}\n" for number, name in enumerate(names, 1)
        )
        config = _CLUSTERED + peers if count > 1 else ""
        self.nodes = [
            Node(name, f"127.0.0.{number}", (mqtt_port, amqp_port), folder / f"node{number}", config, self._environment)
            for number, name in enumerate(names, 1)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """All nodes start at once, because each waits for the others."""
        with ExitStack() as stack:
            epmd = subprocess.Popen(["epmd"], env=self._environment)
            stack.callback(ends, epmd)
            wait_until(self._has_epmd, "epmd listens")
            for node in self.nodes:
                stack.callback(node.kill)
                node.start()
            for node in self.nodes:
                node.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _has_epmd(self) -> bool:
        names = subprocess.run(["epmd", "-names"], env=self._environment, check=False, capture_output=True)
        return names.returncode == 0


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens at and that the kernel gives to no client."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


def _program(name: str) -> Path:
    (program,) = SERVERS.glob(f"rabbitmq_server-*/sbin/{name}")
    return program
