"""The examples for RabbitMQ and mosquitto as a plant has them, with TLS, accounts, a bridge, one node and one board."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rigs.machine import ROOT
from rigs.pool.cluster import SERVERS, Cluster, Node, free_ports
from tests.helpers.certificates import CERTIFICATE, KEY
from tests.helpers.processes import EDGE_AGENT, AgentProcess, Mosquitto, free_port, wait_until

EXAMPLES = ROOT / "examples"
BOARD, REPLY = "press-04", "edgeai/v1/reply/sensor/1"
BASE = "edgeai/v1/hall1/pool/presses"


def examples(folder: Path) -> int:
    """Raises AssertionError at the first thing that does not work as the examples say."""
    cluster = Cluster(folder)
    (node,) = cluster.nodes
    certificates = _write_certificates(folder)
    _use_examples(node, folder / "node1", certificates)
    with cluster:
        passwords = _make_accounts(node, folder)
        config = _board_config(folder, node, certificates / "ca.pem", passwords)
        admin = ("--username", "plant-admin", "--password-file", str(passwords / "plant-admin"))
        print(_run("pool", "declare", "--config", str(config), *admin))
        print(_run("doctor", "--broker", "--config", str(config)))
        monitoring = _board_config(folder, node, certificates / "ca.pem", passwords, "monitoring")
        agent = AgentProcess(config)
        bridge = _bridge(node, certificates / "ca.pem", passwords)
        try:
            # A persistent one runs as this user, who may read the certificate.
            with Mosquitto(folder, free_port(), bridge, is_persistent=True) as mosquitto:
                wait_until(lambda: _has_board(monitoring), "the board is in its pool", 60.0)
                for version in ("5", "311"):
                    reply = _ask(mosquitto.port, version)
                    assert (reply["status"], reply["device"]) == ("ok", BOARD), reply
                    print(f"a sensor at mosquitto, MQTT {version}: {reply['status']} by {reply['device']}")
            agent.process.kill()
            topic = f"edgeai/v1/hall1/{BOARD}/state"
            account = ("-u", "monitoring", "-P", (passwords / "monitoring").read_text(encoding="ascii").strip())
            listen = ["mosquitto_sub", "-V", "5", "-h", "localhost", "-p", str(node.mqtt_port), *account]
            listen += ["--cafile", str(certificates / "ca.pem"), "-t", topic, "-C", "1", "-W", "5"]
            wait_until(
                lambda: '"offline"' in _output(listen), "RabbitMQ retains that the killed board is offline", 30.0
            )
            print("a board that is killed is offline for those who look later")
        finally:
            agent.stop()
    return 0


def _write_certificates(folder: Path) -> Path:
    certificates = folder / "certs"
    certificates.mkdir()
    for name, text in (("ca.pem", CERTIFICATE), ("broker.pem", CERTIFICATE), ("broker.key", KEY)):
        (certificates / name).write_text(text, encoding="ascii")
    return certificates


def _use_examples(node: Node, folder: Path, certificates: Path) -> None:
    """The node gets the plant's files, with this machine's ports and without the other nodes."""
    text = (EXAMPLES / "rabbitmq" / "rabbitmq.conf").read_text(encoding="utf-8")
    (prometheus_port,) = free_ports(1)
    for old, new in (
        ("/etc/rabbitmq/certs", str(certificates)),
        ("= 5671", f"= {node.address}:{node.amqp_port}"),
        ("= 8883", f"= {node.address}:{node.mqtt_port}"),
        ("= 15692", f"= {prometheus_port}"),
        ("= 2GB", "= 100MB"),
        ("nodes.1 = rabbit@rabbit1", f"nodes.1 = {node.name}"),
        ("cluster_formation.classic_config.nodes.2", "# "),
        ("cluster_formation.classic_config.nodes.3", "# "),
    ):
        assert old in text, old
        text = text.replace(old, new)
    (folder / "rabbitmq.conf").write_text(text, encoding="utf-8")
    plugins = (EXAMPLES / "rabbitmq" / "enabled_plugins").read_text(encoding="utf-8")
    (folder / "enabled_plugins").write_text(plugins, encoding="utf-8")


def _make_accounts(node: Node, folder: Path) -> Path:
    """The folder of the passwords that users.sh made; it runs a second time as after a change."""
    passwords = folder / "passwords"
    passwords.mkdir()
    # Debian's own rabbitmqctl requires the account rabbitmq.
    (programs,) = SERVERS.glob("rabbitmq_server-*/sbin")
    environment = {**node.environment, "PATH": f"{programs}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run([EXAMPLES / "rabbitmq" / "users.sh", passwords], env=environment, check=True)
    return passwords


def _board_config(folder: Path, node: Node, ca_file: Path, passwords: Path, account: str = BOARD) -> Path:
    path = folder / account
    path.mkdir(exist_ok=True)
    config = path / "config.toml"
    config.write_text(
        f'models_dir = "models"\nstate_dir = "state"\n[device]\nsite = "hall1"\nid = "{BOARD}"\n'
        f'[mqtt]\nhost = "localhost"\nport = {node.mqtt_port}\nusername = "{account}"\n'
        f'password_file = "{passwords / account}"\ntls = {{ ca_file = "{ca_file}" }}\n'
        f'[pool]\nname = "presses"\nport = {node.amqp_port}\n[models.default]\npath = "echo:"\n'
        '[health]\ninterval_s = 1\n[tasks.triage]\nkind = "classify"\nlabels = ["normal", "worn"]\n',
        encoding="utf-8",
    )
    return config


def _bridge(node: Node, ca_file: Path, passwords: Path) -> str:
    """The example with this machine's addresses."""
    text = (EXAMPLES / "mosquitto" / "pool-bridge.conf").read_text(encoding="utf-8")
    for old, new in (
        ("rabbit1:8883 rabbit2:8883 rabbit3:8883", f"localhost:{node.mqtt_port}"),
        ("/etc/mosquitto/certs/ca.pem", str(ca_file)),
        ("its-password", (passwords / "bridge").read_text(encoding="ascii").strip()),
    ):
        assert old in text, old
        text = text.replace(old, new)
    return text


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _run(*words: str) -> str:
    done = subprocess.run([*EDGE_AGENT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def _has_board(config: Path) -> bool:
    """Whether the account that looks at the site sees a board."""
    command = [*EDGE_AGENT, "pool", "status", "--config", str(config), "--json", "--wait", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    boards = json.loads(done.stdout)["boards"] if done.stdout else []
    return [board["device"] for board in boards] == [BOARD]


def _ask(port: int, version: str) -> dict[str, Any]:
    """The reply that mosquitto's own client gets at the plant's mosquitto."""
    envelope = {"id": 1, "input": "it is worn", "reply_to": REPLY}
    command = ["mosquitto_rr", "-V", version, "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-e", REPLY, "-W", "20"]
    command += ["-t", f"{BASE}/infer/triage/request", "-m", json.dumps(envelope)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reply: dict[str, Any] = json.loads(done.stdout)
    return reply
