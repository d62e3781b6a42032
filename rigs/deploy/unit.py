"""The unit on booted systems with systemd 249, 252 and 257: `python -m rigs.deploy unit`."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rigs.deploy.roots import RELEASES, Board, image
from rigs.deploy.service import READING, FaultTests, Service
from rigs.machine import ROOT
from tests.docs.pages import sample
from tests.helpers.boards import trees
from tests.helpers.bundles import convert_demo_model
from tests.helpers.certificates import CERTIFICATE, KEY
from tests.helpers.processes import wait_until

BASE = "edgeai/v1/hall1/board1"
# docs/install.md has the same names.
BUNDLE = "qwen2.5-0.5b-q8_0"
MODEL = f"/var/lib/edge-agent/models/{BUNDLE}"
# The agent's dependencies, because compiling llama.cpp would take half an hour.
WHEELS = ROOT / "dist" / "wheelhouse" / "x86_64"
MOSQUITTO = """
listener 8883
certfile /etc/mosquitto/certs/server.pem
keyfile /etc/mosquitto/certs/server.key
password_file /etc/mosquitto/passwords
"""
CONFIG = f"""
[device]
site = "hall1"
id = "board1"
[mqtt]
host = "localhost"
username = "board1"
password_file = "credentials/mqtt_password"
[mqtt.tls]
ca_file = "ca.pem"
[models.default]
path = "{MODEL}"
[tasks.pump-triage]
kind = "classify"
system = "Name the condition of the machine: normal, imbalance, bearing fault or cavitation."
labels = ["normal", "imbalance", "bearing fault", "cavitation"]
"""


class InstalledService(Service):
    """The agent under systemd on a board, and all messages on the board's bus."""

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._heard = board.root / "srv" / "heard"

    def install(self, release: str, wheel: Path, bundle: Path) -> None:
        """Follows the samples of docs/install.md, with a configuration of our own, and adds a broker."""
        board, etc = self.board, self.board.root / "etc"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        board.run("mkdir", "-p", "/srv/repository")
        copy = ["cp", "--parents", *files.stdout.rstrip("\0").split("\0"), str(board.root / "srv/repository")]
        subprocess.run(copy, cwd=ROOT, check=True)
        install = sample("install", "sh", "pip install '.[engine]'")
        install = install.replace("python3 ", f"python{RELEASES[release].python} ")
        (board.root / "srv" / wheel.name).write_bytes(wheel.read_bytes())
        install = install.replace("'.[engine]'", f"'/srv/{wheel.name}[engine]'")
        self.shell(install, PIP_NO_INDEX="1", PIP_FIND_LINKS="/srv/wheels")
        self.shell(sample("install", "sh", "ln -sfn /opt/edge-agent/current/bin/edge-agent"))
        # This machine lacks these sensors.
        trees.load("rk3588-mainline").write(board.root / "srv/tree")
        self.shell("mount --bind /srv/tree/sys/class /sys/class")
        self.shell(sample("install", "sh", "systemd-tmpfiles"))
        repository = board.root / "srv/repository"
        for name, text in (("config.toml", CONFIG), ("ca.pem", CERTIFICATE), ("mqtt_password", "sesame")):
            (repository / name).write_text(text, encoding="utf-8")
        subprocess.run(["cp", "-r", str(bundle), str(repository / BUNDLE)], check=True)
        self.shell(sample("install", "sh", "install -m 600 mqtt_password"))
        certificates = etc / "mosquitto/certs"
        (certificates / "server.pem").write_text(CERTIFICATE, encoding="ascii")
        (certificates / "server.key").write_text(KEY, encoding="ascii")
        (etc / "mosquitto/conf.d/test.conf").write_text(MOSQUITTO, encoding="ascii")
        listen = f"{self._client('sub')} -F %j -t '#' > /srv/heard"
        self.shell(
            "mosquitto_passwd -c -b /etc/mosquitto/passwords board1 sesame; "
            "mosquitto_passwd -b /etc/mosquitto/passwords sensor open; "
            "chown -R mosquitto /etc/mosquitto/certs /etc/mosquitto/passwords; systemctl enable --quiet mosquitto; "
            "systemctl restart mosquitto; "
            f"systemd-run --quiet sh -c {shlex.quote(listen)}"
        )
        self.shell(sample("install", "sh", "systemctl start edge-agent"), timeout_s=300)

    @staticmethod
    def _client(name: str) -> str:
        return f"mosquitto_{name} -V 5 -h localhost -p 8883 --cafile /etc/edge-agent/ca.pem -u sensor -P open"

    def configure(self, text: str) -> None:
        (self.board.root / "etc/edge-agent/config.toml").write_text(text, encoding="utf-8")
        self.shell("chown root:edge-agent /etc/edge-agent/config.toml; chmod 640 /etc/edge-agent/config.toml")

    def set_secret(self, name: str, content: str) -> None:
        path = self.board.root / "etc/edge-agent/credentials" / name
        path.write_text(content, encoding="ascii")
        path.chmod(0o600)

    @property
    def pid(self) -> int:
        """The agent's process, by its number on the board."""
        return int(self.show("MainPID"))

    @property
    def worker_pid(self) -> int:
        return int(self.shell(f"pgrep --parent {self.pid} --full edge_agent.engine.worker"))

    def ask(self, task: str = "pump-triage") -> dict[str, Any]:
        """One request over TLS, like a sensor's."""
        output = self.shell(
            f"{self._client('rr')} -W 60 -t {BASE}/infer/{task}/request -e edgeai/v1/reply/me -m {shlex.quote(READING)}"
        )
        reply = json.loads(output)
        assert isinstance(reply, dict)
        return reply

    def publish(self, topic: str, *payloads: str) -> None:
        lines = "\n".join(payloads)
        self.board.run("sh", "-c", f"{self._client('pub')} -q 1 -l -t {topic}", stdin=lines)

    def heard(self, topic: str) -> list[dict[str, Any]]:
        """All messages on a topic so far."""
        messages = [json.loads(line) for line in self._heard.read_text(encoding="utf-8").splitlines(keepends=True)]
        return [json.loads(message["payload"]) for message in messages if message["topic"] == topic]


@pytest.fixture(scope="module")
def agent_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent of this working tree."""
    folder = tmp_path_factory.mktemp("agent")
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", f"--wheel-dir={folder}", str(ROOT)],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_demo_model(tmp_path_factory.mktemp("model"), "q8_0")


@pytest.fixture(scope="module", params=RELEASES)
def service(request: pytest.FixtureRequest, agent_wheel: Path, bundle: Path) -> Iterator[InstalledService]:
    with TemporaryDirectory(dir="/var/tmp") as name:
        # A firmware's device that does not answer.
        device = Path(name) / "vcio"
        subprocess.run(["mknod", str(device), "c", "1", "3"], check=True)
        device.chmod(0o660)
        subprocess.run(["chown", "root:44", str(device)], check=True)
        options = (f"--bind-ro={WHEELS}:/srv/wheels", f"--bind={device}:/dev/vcio")
        with Board(image(request.param), Path(name), name="board1", options=options) as board:
            service = InstalledService(board)
            service.install(request.param, agent_wheel, bundle)
            yield service


def test_it_answers_over_tls(service: InstalledService) -> None:
    reply = service.ask()
    assert (reply["status"], reply["finish"]) == ("ok", "labels")
    assert reply["output"] in ("normal", "imbalance", "bearing fault", "cavitation")
    assert service.show("ActiveState") == "active"
    assert service.show("StatusText").startswith("online")
    assert service.show("NRestarts") == "0"


def test_systemd_knows_every_line(service: InstalledService) -> None:
    output = service.shell("systemd-analyze verify edge-agent.service 2>&1")
    assert [line for line in output.splitlines() if "edge-agent" in line] == []


def test_account_and_folders_are_as_install_md_says(service: InstalledService) -> None:
    owned = {
        "/etc/edge-agent": "root:edge-agent 750",
        "/etc/edge-agent/credentials": "root:root 700",
        "/var/lib/edge-agent": "root:root 755",
        "/var/lib/edge-agent/models": "root:root 755",
        "/var/lib/edge-agent/state": "edge-agent:edge-agent 700",
    }
    output = service.shell(f"stat --format='%n %U:%G %a' {' '.join(owned)}")
    assert dict(line.split(" ", 1) for line in output.splitlines()) == owned
    assert service.shell("id --name --groups edge-agent").split() == ["edge-agent", "video"]


def test_root_uses_the_same_configuration(service: InstalledService) -> None:
    program = "/opt/edge-agent/current/bin/edge-agent"
    assert json.loads(service.shell(f"{program} ask pump-triage '{READING}'"))["status"] == "ok"
    assert "hint" not in service.shell(f"{program} check-config 2>&1")
    # doctor may find other faults, because the clock of a container is not its own.
    assert re.search(r"^good +broker", service.shell(f"{program} doctor || true"), re.MULTILINE)


def test_the_unit_allows_what_the_agent_needs_and_no_more(service: InstalledService) -> None:
    found = probed(service)
    # Before systemd 253 a filter of system calls refuses it, and since then the kernel does.
    assert found["tried"].pop("map memory to write and execute") in ("EPERM", "EACCES")
    assert found["tried"] == {
        # The unit lets it open the device, behind which there is no firmware here.
        "ask the firmware": "ENOTTY",
        "call back from C": "done",
        "map the model": "done",
        "write state": "done",
        "write models": "EROFS",
        "write the configuration": "EROFS",
        "write the program": "EROFS",
        "write temporary files": "done",
        "read homes": "EACCES",
        "see no other processes": "done",
        "change the kernel": "EROFS",
        "find a host by name": "done",
        "open a raw socket": "EAFNOSUPPORT",
        "become root": "EPERM",
        "make a namespace": "EPERM",
        "use real-time priority": "EPERM",
    }
    assert found["secrets"] == {"command_key": "\n", "mqtt_key": "\n", "mqtt_password": "sesame"}
    command = "/opt/edge-agent/current/bin/python /srv/probe.py /dev/shm/probe; cat /dev/shm/probe"
    outside = json.loads(service.shell(command))
    assert (found["sensor_errors"], found["readings"]) == (outside["sensor_errors"], outside["readings"])


def probed(service: InstalledService) -> dict[str, Any]:
    """The result of probe.py instead of the agent."""
    unit = (service.board.root / "etc/systemd/system/edge-agent.service").read_text(encoding="utf-8")
    run = "/opt/edge-agent/current/bin/python /srv/probe.py"
    changes = {
        r"^ExecStart=.*": f"ExecStart={run} /var/lib/edge-agent/state/probe.json",
        r"^Type=.*": "Type=oneshot",
        r"^(Restart|WatchdogSec|NotifyAccess)=.*\n": "",
    }
    for pattern, instead in changes.items():
        unit, count = re.subn(pattern, instead, unit, flags=re.MULTILINE)
        assert count, pattern
    (service.board.root / "run").mkdir(exist_ok=True)
    service.board.run("tee", "/run/systemd/system/edge-agent-probe.service", stdin=unit)
    probe = (ROOT / "rigs/deploy/probe.py").read_text(encoding="utf-8")
    service.board.run("tee", "/srv/probe.py", stdin=probe)
    service.shell("systemctl daemon-reload; systemctl start edge-agent-probe || journalctl -u edge-agent-probe")
    return dict(json.loads(service.shell("cat /var/lib/edge-agent/state/probe.json")))


def test_out_of_memory_the_worker_is_chosen(service: InstalledService) -> None:
    def score(pid: int) -> int:
        return int(service.shell(f"cat /proc/{pid}/oom_score_adj"))

    # A container may not be allowed to lower a score.
    assert (score(service.pid), score(service.worker_pid)) in ((-500, 500), (0, 500))
    assert (service.show("OOMPolicy"), service.show("OOMScoreAdjust")) == ("continue", "-500")


def test_a_secret_that_is_named_and_absent_is_a_bad_configuration(service: InstalledService) -> None:
    service.configure(CONFIG + '[commands]\nkey_file = "credentials/command_key"\n')
    assert service.board.run("sh", "-c", "systemctl restart edge-agent", check=False).returncode == 1
    assert service.show("ExecMainStatus") == "78"
    assert "commands.key_file: should hold a secret, but is blank" in service.log
    service.set_secret("command_key", "open says me\n")
    service.shell("systemctl start edge-agent")
    service.publish(f"{BASE}/cmd/ping", '{"id":"unsigned"}')
    wait_until(lambda: service.heard(f"{BASE}/cmd/ping/result"), "an answer to ping", 20)
    assert service.heard(f"{BASE}/cmd/ping/result")[-1]["error"]["code"] == "unauthorized"
    service.configure(CONFIG)
    service.shell("systemctl restart edge-agent")


def test_a_stop_finishes_what_runs(service: InstalledService) -> None:
    topic = f"{BASE}/infer/generate/response"
    before, count = len(service.heard(topic)), 6
    payloads = [f'{{"id":{number},"input":"bearing {number}"}}' for number in range(count)]
    service.publish(f"{BASE}/infer/generate/request", *payloads)
    wait_until(lambda: len(service.heard(topic)) > before, "a first answer", 60)
    service.shell("systemctl stop edge-agent")
    replies = service.heard(topic)[before:]
    assert sorted(reply["id"] for reply in replies) == list(range(count))
    assert {reply["status"] for reply in replies} <= {"ok", "cancelled"}
    assert [state["state"] for state in service.heard(f"{BASE}/state")][-2:] == ["draining", "stopped"]
    assert service.show("Result") == "success"
    service.shell("systemctl start edge-agent")


class TestFaults(FaultTests):
    """These come last, because what listens on the board does not outlive a restart."""

    config = CONFIG


def test_nothing_is_left_of_it_where_it_is_removed(service: InstalledService) -> None:
    service.shell(sample("install", "sh", "userdel edge-agent"))
    assert service.shell("find /etc /opt /usr/local /var/lib -name '*edge-agent*'") == ""
    assert "edge-agent" not in service.shell("getent passwd; getent group")
