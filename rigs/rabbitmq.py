"""Agent, `ask`, `doctor` and `watch` over a RabbitMQ of this machine's package, at MQTT 5 and 3.1.1.

RabbitMQ brings retained messages to subscriptions without wildcards only; doctor and watch must say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.tools.demo.broker import free_port
from edge_agent.tools.doctor.check import Verdict
from edge_agent.tools.doctor.doctor import checks
from rigs.machine import parser_of, require
from tests.helpers.processes import EDGE_AGENT, ends, wait_until
from tests.helpers.site import running_site

START_S = 120.0
# Debian's own commands require the account rabbitmq and its folders.
SERVERS = Path("/usr/lib/rabbitmq/lib")
_CONFIG = """\
listeners.tcp = none
mqtt.listeners.tcp.default = 127.0.0.1:{port}
anonymous_login_user = guest
anonymous_login_pass = guest
"""


@contextmanager
def rabbitmq(folder: Path) -> Iterator[int]:
    """A node with its files in the folder; its MQTT port."""
    port = free_port()
    (folder / "rabbitmq.conf").write_text(_CONFIG.format(port=port), encoding="utf-8")
    (folder / "enabled_plugins").write_text("[rabbitmq_mqtt].\n", encoding="utf-8")
    epmd = {"ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(free_port())}
    environment = {**os.environ, **epmd, "HOME": str(folder), "RABBITMQ_NODENAME": "rig@localhost"}
    environment["RABBITMQ_DIST_PORT"] = str(free_port())
    for name, path in (
        ("CONFIG_FILE", "rabbitmq.conf"),
        ("ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("MNESIA_BASE", "data"),
        ("LOG_BASE", "log"),
    ):
        environment[f"RABBITMQ_{name}"] = str(folder / path)
    (program,) = SERVERS.glob("rabbitmq_server-*/sbin/rabbitmq-server")
    output = folder / "output"
    with output.open("wb") as file:
        node = subprocess.Popen([program], cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        wait_until(
            lambda: "completed with" in output.read_text("utf-8") or node.poll() is not None, "it starts", START_S
        )
        assert node.poll() is None, output.read_text("utf-8")
        yield port
    finally:
        ends(node)
        subprocess.run(["epmd", "-kill"], env=environment, check=True, capture_output=True)


def check(folder: Path, port: int, protocol: str) -> None:
    with running_site(folder, port, protocol) as site:
        assert site.ask("triage", "cavitation")["output"] == "cavitation"
        config = folder / "config.toml"
        found = {one.name: one for one in checks(config, is_broker_only=True)}
        for one in found.values():
            print(f"MQTT {protocol}: {one.verdict} {one.name}: {one.found}")
        assert {name for name, one in found.items() if one.verdict is not Verdict.GOOD} == {"retained", "name"}
        assert "RabbitMQ works so" in found["retained"].found
        assert "an agent is online" in found["name"].found
        command = [*EDGE_AGENT, "watch", "--config", str(config), "--json", "--wait", "15"]
        seen = subprocess.run(command, check=True, capture_output=True, text=True)
        (board,) = json.loads(seen.stdout)["boards"]
        print(f"MQTT {protocol}: watch: {board['level']}, {seen.stderr.strip()}")
        assert (board["level"], board["why"]) == ("ok", [])
        assert "as RabbitMQ" in seen.stderr


def main() -> int:
    parser_of("rigs.rabbitmq", __doc__).parse_args()
    require({"rabbitmqctl": "rabbitmq-server", "epmd": "rabbitmq-server"})
    with tempfile.TemporaryDirectory() as name, rabbitmq(Path(name)) as port:
        for protocol in ("5", "3.1.1"):
            folder = Path(name) / protocol
            folder.mkdir()
            check(folder, port, protocol)
    return 0


if __name__ == "__main__":
    sys.exit(main())
