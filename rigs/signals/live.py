"""A plant of many machines where everything goes wrong, an agent that asks about it, and a replay of the messages.

Bursts, gaps, duplicates, retained and late messages, unreadable payloads, restarts of the broker and the agent.
The model echoes, so a reply holds the bytes that the task was asked with.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.core.strict_json import compact_json
from edge_agent.loader import load_config
from edge_agent.signals.machine import Reading
from edge_agent.signals.replay import LOST, readings_of
from edge_agent.signals.signal_table import new_table
from rigs.machine import kept_or_temporary, parser_of
from tests.helpers.client import Client
from tests.helpers.processes import Mosquitto, free_port, wait_until
from tests.signals.reference import Sample, features

CONFIG = """
state_dir = "state"
models_dir = "models"
[device]
site = "rig"
id = "board"
[mqtt]
port = {port}
[models.default]
path = "echo:"
[engine]
max_active = 8
[queue]
capacity = 1000
[tasks.asked]
kind = "generate"
max_tokens = 64
signals = "pump"
publish = "asked/{{machine}}"
[signals.pump]
window_s = {window_s}
every_s = {every_s}
min_gap_s = 2
min_coverage = 0.2
features = ["last", "mean", "min", "max", "std", "slope", "count"]
[signals.pump.values]
vibration = {{ topic = "plant/+/vibration" }}
temperature = {{ topic = "plant/+/plc", path = ["t"], time = ["ts"], max_age_s = 30 }}
pressure = {{ topic = "plant/+/plc", path = ["p"], optional = true }}
running = {{ topic = "plant/+/state", map = {{ ON = 1, OFF = 0 }}, retained = true, max_age_s = 0 }}
[signals.pump.trigger]
on_change = ["running"]
above = {{ vibration = 9 }}
hysteresis = {{ vibration = 1 }}
"""
AGES = {"vibration": None, "temperature": 30.0, "pressure": None, "running": float("inf")}
# An agent that stops, or loses its connection, may not ask about readings that became due within its last steps.
LAST_STEP_S = 0.5


@dataclass
class Publication:
    topic: str
    payload: bytes
    retain: bool = False


def plant(dice: random.Random, machines: int) -> Iterator[list[Publication]]:
    """The messages of each tenth of a second."""
    states = ["OFF"] * machines
    while True:
        messages = []
        for number in range(machines):
            name = f"m{number}"
            if dice.random() < 0.05:
                text = dice.choice(["9,5", "", "nan"]) if dice.random() < 0.02 else f"{dice.gauss(5, 2):.3f}"
                count = dice.choice([1] * 20 + [2, 30])  # duplicates and bursts
                messages += [Publication(f"plant/{name}/vibration", text.encode())] * count
            if dice.random() < 0.02:
                late = dice.choice([0.0] * 10 + [100.0])
                document: dict[str, Any] = {"ts": time.time() - late, "t": round(dice.gauss(70, 5), 2)}
                document |= {"p": dice.choice([None, 1.5, 2.5])} if dice.random() < 0.5 else {}
                messages.append(Publication(f"plant/{name}/plc", json.dumps(document).encode()))
            if dice.random() < 0.002:
                states[number] = "ON" if states[number] == "OFF" else "OFF"
                messages.append(Publication(f"plant/{name}/state", states[number].encode(), retain=dice.random() < 0.5))
        yield messages


class Run:
    def __init__(self, folder: Path, minutes: float, machines: int, seed: int) -> None:
        self.folder, self.minutes, self.machines = folder, minutes, machines
        self.recording = folder / "recording.txt"
        self.config = folder / "config.toml"
        self.dice = random.Random(seed)
        self.published = 0
        self.stops: list[float] = []

    def agent(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rigs.signals.recorded_agent", self.recording, "run", "--config", self.config]
        log = (self.folder / "agent.log").open("ab")
        return subprocess.Popen([*map(str, command)], stderr=log, env={**os.environ, "PYTHONPATH": str(Path.cwd())})

    def publish_until(self, client: Client, deadline: float) -> None:
        for messages in plant(self.dice, self.machines):
            for message in messages:
                client._client.publish(message.topic, message.payload, qos=0, retain=message.retain)
            self.published += len(messages)
            # Now and then, the whole plant is silent.
            time.sleep(0.1 if self.dice.random() < 0.999 else 20.0)
            if time.monotonic() >= deadline:
                return

    def asked(self) -> dict[str, list[bytes]]:
        """The inputs of all readings that were answered, in order, by machine."""
        port = free_port()
        seconds = self.minutes * 60
        window_s = min(600.0, seconds / 6)
        self.config.write_text(CONFIG.format(port=port, window_s=window_s, every_s=max(2.0, window_s / 10)), "utf-8")
        broker = Mosquitto(self.folder, port)
        broker.start()
        began = time.monotonic()
        agent = self.agent()
        heard: dict[str, list[bytes]] = defaultdict(list)
        for part in range(3):
            client = Client(port, "5")
            client.subscribe("asked/#", "edgeai/#")
            client.wait_for("edgeai/v1/rig/board/state", lambda state: state["state"] == "online")
            self.publish_until(client, began + seconds * (part + 1) / 3)
            if part == 0:
                broker.stop()
                broker.start()
            elif part == 1:
                agent = self.restart(agent)
            else:
                self.stop(agent)
            for message in client.messages:
                if message.topic.startswith("asked/"):
                    heard[message.topic.removeprefix("asked/")].append(message.payload)
            client.close()
            print(f"{time.monotonic() - began:.0f} s: {self.published} messages", file=sys.stderr, flush=True)
        broker.stop()
        return heard

    def restart(self, agent: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        self.stop(agent)
        return self.agent()

    def stop(self, agent: subprocess.Popen[bytes]) -> None:
        agent.send_signal(signal.SIGTERM)
        wait_until(lambda: agent.poll() is not None, "the agent ends")
        self.stops.append(time.time())

    def replayed(self) -> list[Reading]:
        config = load_config(self.config)
        tables = {name: new_table(name, table) for name, table in config.signals.items()}
        with self.recording.open(encoding="utf-8") as file:
            return [reading for reading in readings_of(file, tables) if not reading.lacking]


def compare(run: Run, heard: dict[str, list[bytes]], replayed: list[Reading]) -> tuple[int, int, int]:
    """How many readings are equal, how many were no longer asked because of a stop, and how many differ."""
    equal = stopped = different = 0
    ends = [float(line.split()[0]) for line in run.recording.read_text("utf-8").splitlines() if line.endswith(LOST)]
    by_machine = defaultdict(list)
    for reading in replayed:
        by_machine[reading.machine].append(reading)
    for machine in by_machine.keys() | heard.keys():
        asked = [json.loads(payload) for payload in heard[machine]]
        asked = [reply["output"] for reply in asked if reply["status"] == "ok"]
        for reading in by_machine[machine]:
            if asked and asked[0] == compact_json(reading.input):
                asked.pop(0)
                equal += 1
            elif any(0 <= end - reading.at < LAST_STEP_S for end in ends):
                stopped += 1
            else:
                different += 1
        different += len(asked)
    return equal, stopped, different


def furthest(run: Run, replayed: list[Reading], count: int, dice: random.Random) -> float:
    """The greatest relative difference between a feature and the same computed from all samples."""
    config = load_config(run.config).signals["pump"]
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for line in run.recording.read_text("utf-8").splitlines():
        at, *rest = line.split(" ", 3)
        if rest == [LOST]:
            for known in samples.values():
                known.append(Sample(float(at), None))
            continue
        retained, payload, topic = rest
        _, machine, name = topic.split("/")
        text = bytes.fromhex(payload).decode()
        for value, number in _numbers(name, text, float(at)).items():
            known = samples[machine, value]
            if retained == "0":
                known.append(Sample(float(at), number))
    worst = 0.0
    for reading in dice.sample(replayed, min(count, len(replayed))):
        for value in ("vibration", "temperature", "pressure"):
            known = [sample for sample in samples[reading.machine, value] if sample.at <= reading.at]
            age = AGES[value] or config.window_s
            expected = features(known, reading.at, window_s=config.window_s, max_age_s=age)
            actual = {field.partition("_")[0]: figure for field, figure in reading.input[value].items()}
            for name, figure in expected.items():
                if figure is None or actual[name] is None:
                    worst = max(worst, float("inf") if figure is not actual[name] else 0.0)
                else:
                    # What is published has six digits.
                    worst = max(worst, abs(actual[name] - figure) / max(abs(figure), 1.0) - 5e-6)  # type: ignore[operator]
    return max(worst, 0.0)


def _numbers(topic: str, text: str, at: float) -> dict[str, float | None]:
    if topic == "vibration":
        try:
            number = float(text)
        except ValueError:
            # Text makes the value missing; an empty message leaves it as it was.
            return {"vibration": None} if text else {}
        return {"vibration": number if number == number else None}
    if topic == "plc":
        document = json.loads(text)
        known = {"temperature": document["t"]} if at - document["ts"] <= AGES["temperature"] else {}
        # Only the temperature has a `time`.
        return known | ({"pressure": document["p"]} if "p" in document else {})
    return {}


def main(words: list[str]) -> int:
    parser = parser_of("rigs.signals live", __doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--machines", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keeps the recording there")
    options: argparse.Namespace = parser.parse_args(words)
    with kept_or_temporary(options.folder) as folder:
        run = Run(folder, options.minutes, options.machines, options.seed)
        heard = run.asked()
        replayed = run.replayed()
        equal, stopped, different = compare(run, heard, replayed)
        worst = furthest(run, replayed, 300, random.Random(options.seed))
    print(f"{run.published} messages, {len(replayed)} readings: {equal} asked with equal bytes, {different} different,")
    print(f"{stopped} due in the last half second before a stop. Features differ by {worst:.1e} at most.")
    return 0 if not different and equal > 10 * options.machines * options.minutes / 60 and worst < 1e-6 else 1
