"""Agent, `ask`, `doctor` and `watch` over a RabbitMQ of this machine's package, at MQTT 5 and 3.1.1.

RabbitMQ brings retained messages to subscriptions without wildcards only; doctor and watch must say so.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_agent.tools.doctor.check import Verdict
from edge_agent.tools.doctor.doctor import checks
from rigs.machine import parser_of, require
from rigs.pool.cluster import Cluster
from tests.helpers.processes import EDGE_AGENT
from tests.helpers.site import running_site


def check(folder: Path, port: int, protocol: str) -> None:
    with running_site(folder, port, protocol) as site:
        assert site.ask("triage", "cavitation")["output"] == "cavitation"
        config = folder / "config.toml"
        found = {one.name: one for one in checks(config, is_broker_only=True)}
        for one in found.values():
            print(f"MQTT {protocol}: {one.verdict} {one.name}: {one.found}")
        assert {name for name, one in found.items() if one.verdict is not Verdict.GOOD} == {"retained"}
        assert "as with RabbitMQ" in found["retained"].found
        command = [*EDGE_AGENT, "watch", "--config", str(config), "--json", "--wait", "15"]
        seen = subprocess.run(command, check=True, capture_output=True, text=True)
        (board,) = json.loads(seen.stdout)["boards"]
        print(f"MQTT {protocol}: watch: {board['level']}, {seen.stderr.strip()}")
        assert (board["level"], board["why"]) == ("ok", [])
        (folder / "boards").write_text(f"{board['device']}\nabsent\n", "utf-8")
        expecting = [*command, "--expect", str(folder / "boards")]
        missing = json.loads(subprocess.run(expecting, check=False, capture_output=True, text=True).stdout)["boards"]
        assert [(one["device"], one["level"]) for one in missing] == [("absent", "missing"), (board["device"], "ok")]
        assert "like RabbitMQ" in seen.stderr


def main() -> int:
    parser_of("rigs.rabbitmq", __doc__).parse_args()
    require({"rabbitmqctl": "rabbitmq-server", "epmd": "rabbitmq-server"})
    with tempfile.TemporaryDirectory() as name, Cluster(Path(name)) as cluster:
        for protocol in ("5", "3.1.1"):
            folder = Path(name) / protocol
            folder.mkdir()
            check(folder, cluster.nodes[0].mqtt_port, protocol)
    return 0


if __name__ == "__main__":
    sys.exit(main())
