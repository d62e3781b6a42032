"""What a real Home Assistant shows of a board, from its discovery to its removal. Installs 1 GB below build/."""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from rigs.llama_sources import make_environment
from rigs.machine import ROOT, require
from tests.contract.test_late_subscriber import heat
from tests.helpers.processes import AgentProcess, Mosquitto, free_port
from tests.helpers.site import site_config

DEVICE = "hall_board"
REQUIREMENTS = ("homeassistant>=2025.10", "paho-mqtt>=2.1")


class HomeAssistant:
    """Home Assistant in its own process, and the latest state of its entities."""

    def __init__(self, python: str, folder: Path, port: int) -> None:
        self._log_path = folder / "homeassistant.log"
        self._log = self._log_path.open("wb")
        script = Path(__file__).with_name("instance.py")
        command = [python, str(script), str(folder / "homeassistant"), str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log)
        self._entities: dict[str, dict[str, str]] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"{"):
                self._entities = json.loads(line)

    @property
    def entities(self) -> dict[str, dict[str, str]]:
        """The entities of the board, without the name of their device."""
        return {
            re.sub(rf"^(binary_)?sensor\.{DEVICE}_", "", name): entity
            for name, entity in self._entities.items()
            if DEVICE in name
        }

    @property
    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, what: str, timeout_s: float, **wanted: str | None) -> None:
        """Waits until these entities are in these states, or gone for None, and prints how long it took; else ends."""
        started = time.monotonic()
        while time.monotonic() - started < timeout_s:
            entities = self.entities
            if all(entities.get(name, {}).get("state") == state for name, state in wanted.items()):
                print(f"{time.monotonic() - started:5.1f} s  {what}", flush=True)
                return
            time.sleep(0.1)
        found = {name: self.entities.get(name, {}).get("state") for name in wanted}
        self.fail(f"{what}: not within {timeout_s} s; found {found}, wanted {wanted}")

    def fail(self, message: str) -> None:
        print(self.log[-3000:], file=sys.stderr)
        raise SystemExit(message)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def main() -> None:
    argparse.ArgumentParser(prog="python -m rigs.homeassistant", description=__doc__).parse_args()
    require({"mosquitto": "mosquitto"})
    if sys.version_info < (3, 13):
        raise SystemExit("this rig needs Python 3.13, which Home Assistant needs")
    python = str(make_environment(ROOT / "build" / "homeassistant", REQUIREMENTS))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        heat(folder, 61.5)
        (folder / "proc").mkdir()
        memory = "MemTotal: 4000000 kB\nMemFree: 1000000 kB\nMemAvailable: 2000000 kB\n"
        (folder / "proc/meminfo").write_text(memory, encoding="utf-8")
        (folder / "proc/loadavg").write_text("0.5 0.5 0.5 1/100 1\n", encoding="utf-8")
        # It never changes, so the load is unknown.
        (folder / "proc/stat").write_text("cpu 1 0 1 8 0 0 0 0 0 0\n", encoding="utf-8")
        with Mosquitto(folder, free_port()) as broker:
            text = site_config("board", broker.port, "5", "echo:").replace('site = "test"', 'site = "hall"')
            text += f'[board]\nroot = "{folder}"\n[health]\ninterval_s = 1\n[homeassistant]\nenabled = true\n'
            agent = _start(folder, "agent", text)
            with HomeAssistant(python, folder, broker.port) as home:
                _check(home, folder, agent, text)
    print("Home Assistant shows the board as it is")


def _check(home: HomeAssistant, folder: Path, agent: AgentProcess, text: str) -> None:
    # The first start installs what Home Assistant itself needs.
    home.wait_for("it starts, and finds the board online", 600, state="online")
    home.wait_for(
        "figures of the board", 10, health="ok", queue="0", soc_temperature="61.5", headroom="18.5",
        memory_available="2048.0", alarm_overheating="off", alarm_disk_low="off",
    )  # fmt: skip
    unknown = ("power", "energy", "decode_rate", "cpu", "throttled", "undervoltage", "latency_p95")
    home.wait_for("figures that are not measured are unknown", 1, **dict.fromkeys(unknown, "unknown"))

    heat(folder, 85.0)
    home.wait_for("heat is an alarm", 15, alarm_overheating="on", health="critical", headroom="-5.0")
    if "cool the board" not in home.entities["alarm_overheating"].get("message", ""):
        home.fail(f"the alarm does not say what to do: {home.entities['alarm_overheating']}")
    heat(folder, 50.0)
    # Limits are eased step by step, which takes minutes.
    home.wait_for("the alarm is over", 90, alarm_overheating="off", health="degraded")

    agent.signal(signal.SIGKILL)
    gone = dict.fromkeys(("health", "soc_temperature", "alarm_overheating", "throttled"), "unavailable")
    home.wait_for("a board that is killed is unavailable", 20, state="offline", **gone)
    again = _start(folder, "again", text)
    home.wait_for("and comes back", 20, state="online", soc_temperature="50.0", alarm_overheating="off")
    again.stop()
    home.wait_for("a board that is stopped says so", 5, state="stopped", health="unavailable")

    if complaints := re.findall(r".*(?:WARNING|ERROR).*(?:mqtt|hall).*", home.log):
        home.fail("Home Assistant complains:\n" + "\n".join(complaints))
    last = _start(folder, "last", text.replace("enabled = true", "enabled = false"))
    home.wait_for("a board that is removed is gone", 20, **dict.fromkeys(home.entities))
    last.stop()


def _start(folder: Path, name: str, text: str) -> AgentProcess:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return AgentProcess(path)


if __name__ == "__main__":
    main()
