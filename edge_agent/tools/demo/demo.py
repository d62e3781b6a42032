"""`edge-agent demo`: broker, converter, agent and sensors on this machine; what they say is shown as tables."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_agent.core.config import MqttConfig
from edge_agent.core.errors import last_words, printable
from edge_agent.core.publications import Publication
from edge_agent.core.topics import Topics
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import LinkEvent, Received
from edge_agent.tools.demo.broker import BrokerMissingError, free_port, start_broker
from edge_agent.tools.demo.readings import HeldOutReading, checkpoint_folder, held_out, tasks

SITE, DEVICE = "demo", "board1"
PUMPS = ("pump-1", "pump-2", "pump-3", "pump-4")
READINGS_PER_PUMP = 3
QUANTIZATION = "q8_0"
START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0
TRIAGE, DIAGNOSIS, EXPLANATION = "machine-triage", "machine-diagnosis", "machine-explanation"


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


@dataclass(slots=True)
class _Bus:
    """The sensors' connection to the broker, and what came back on it."""

    link: MqttLink
    events: queue.Queue[LinkEvent]
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def wait_for(self, topic: str, timeout_s: float, *, count: int = 1) -> list[dict[str, Any]]:
        """The first `count` messages on a topic, from whenever they came. Raises DemoError."""
        give_up_at = time.monotonic() + timeout_s
        while len(self.answers.get(topic, [])) < count:
            try:
                event = self.events.get(timeout=max(0.0, give_up_at - time.monotonic()))
            except queue.Empty:
                raise DemoError(f"nothing came on {topic} within {timeout_s:.0f} s") from None
            if isinstance(event, Received):
                self.link.acknowledge(event)
                self.answers.setdefault(event.message.topic, []).append(json.loads(event.message.payload))
        return self.answers[topic]


def demo(protocol: str, port: int | None, work: Path | None, *, keep: bool) -> int:
    """Runs the demonstration; 0 if every reading was answered `ok`."""
    # A terminal that is closed ends the demonstration as Ctrl-C does: with its agent and its broker.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        bundle = _convert(_work_folder(work))
        with tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as folder:
            return _run(protocol, port or free_port(), bundle, Path(folder), keep=keep)
    except (DemoError, BrokerMissingError, OSError) as error:
        print(printable(f"edge-agent: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("edge-agent: interrupted", file=sys.stderr)
        return 1


def _work_folder(given: Path | None) -> Path:
    """One per user, unless it was given: a second demonstration finds the converted model there. Raises DemoError."""
    try:
        work = given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-agent" / "demo"
        work.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows a home for this account
        raise DemoError(f"there is no folder for the converted model: {error}; name one with --work DIR") from error
    if not os.access(work, os.W_OK | os.X_OK):
        raise DemoError(f"the converted model cannot be kept in {work}; name another folder with --work DIR")
    return work


def _say(text: str) -> None:
    print(text, flush=True)


def _convert(work: Path) -> Path:
    """The bundle made from the bundled checkpoint; made again when the checkpoint or the converter is newer."""
    bundle = work / f"pump-{QUANTIZATION}"
    command = [sys.executable, "-m", "edge_convert", str(checkpoint_folder()), "--out", str(bundle)]
    command += ["--type", QUANTIZATION, "--name", "pump-demo", "--licence", "apache-2.0", "--no-canaries", "--force"]
    manifest = bundle / "manifest.json"
    newest = max(file.stat().st_mtime for file in checkpoint_folder().iterdir())
    if manifest.is_file() and manifest.stat().st_mtime > newest:
        _say(f"model      {bundle} (converted before)")
        return bundle
    _say(f"converting {checkpoint_folder()} to {QUANTIZATION.upper()}")
    started = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise DemoError(f"edge-convert ended with {done.returncode}: {done.stderr.strip()}")
    size_mb = (bundle / "model.gguf").stat().st_size / 1e6
    _say(f"model      {bundle} ({size_mb:.1f} MB, {time.monotonic() - started:.1f} s)")
    return bundle


def _config(protocol: str, port: int, bundle: Path) -> str:
    """The configuration of the demonstration's agent, as a user would write it."""
    lines = [
        f"state_dir = {json.dumps(str(bundle.parent / 'state'))}",
        "[device]",
        f'site = "{SITE}"',
        f'id = "{DEVICE}"',
        "[mqtt]",
        'host = "127.0.0.1"',
        f"port = {port}",
        f'protocol = "{protocol}"',
        "[models.default]",
        f"path = {json.dumps(str(bundle))}",
        "[health]",
        "interval_s = 2.0",
        "[commands]",
        'allow = ["ping", "health", "drain", "resume", "cancel", "reload"]',
    ]
    for name, task in tasks().items():
        lines += [f"[tasks.{name}]", f'kind = "{task["kind"]}"', f"system = {json.dumps(task['system'])}"]
        if "labels" in task:
            lines += [f"labels = {json.dumps(task['labels'])}"]
        if "schema" in task:
            lines += ['schema = "diagnosis.schema.json"']
        if name == TRIAGE:
            lines += ['subscribe = ["plant/+/reading"]', 'publish = "plant/{1}/triage"']
    return "\n".join(lines) + "\n"


def _run(protocol: str, port: int, bundle: Path, folder: Path, *, keep: bool) -> int:
    topics = Topics("edgeai/v1", SITE, DEVICE)
    config_path = folder / "config.toml"
    config_path.write_text(_config(protocol, port, bundle), encoding="utf-8")
    schema = tasks()[DIAGNOSIS]["schema"]
    (folder / "diagnosis.schema.json").write_text(json.dumps(schema, indent=2), encoding="utf-8")
    broker = start_broker(protocol, port, folder)
    _say(f"broker     127.0.0.1:{port}, MQTT {protocol}")
    try:
        with _sensors(protocol, port, topics) as bus, _agent(config_path, folder) as agent:
            _wait_until_online(bus, topics, agent, folder)
            _say(f"agent      {topics.base} is online\n")
            are_all_ok = _triage(bus, protocol)
            are_all_ok &= _details(bus, topics)
            _health(bus, topics)
            if keep:
                _keep(config_path, topics, protocol, port, agent)
            return 0 if are_all_ok else 1
    finally:
        broker.stop()


@contextmanager
def _agent(config_path: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [sys.executable, "-m", "edge_agent", "run", "--config", str(config_path)], stdout=log, stderr=log
        )
        try:
            yield agent
        finally:
            agent.terminate()
            try:
                agent.wait(30)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()


@contextmanager
def _sensors(protocol: str, port: int, topics: Topics) -> Iterator[_Bus]:
    events: queue.Queue[LinkEvent] = queue.Queue()
    mqtt = MqttConfig.model_validate({"host": "127.0.0.1", "port": port, "protocol": protocol})
    link = MqttLink("demo-sensors", mqtt, events.put)
    link.set_subscriptions({topics.state, topics.health, "plant/+/triage", topics.response("+")})
    link.start()
    try:
        yield _Bus(link, events)
    finally:
        link.stop(1.0)


def _wait_until_online(bus: _Bus, topics: Topics, agent: subprocess.Popen[bytes], folder: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while agent.poll() is None and time.monotonic() < give_up_at:
        try:
            states = bus.wait_for(topics.state, 0.5)
        except DemoError:
            continue
        if states[-1]["state"] == "online":
            return
        bus.answers.pop(topics.state)
    log = (folder / "agent.log").read_text(encoding="utf-8", errors="replace").splitlines()
    hint = "a second demonstration needs a --work DIR of its own"
    raise DemoError(f"the agent did not come online ({hint}): {last_words(log)}")


def _chosen() -> list[HeldOutReading]:
    """Readings for the table: one of each condition first, as sensors print them, in turns of the pumps."""
    rows = [row for row in held_out() if row.variant == "standard" and not row.borderline]
    chosen: list[HeldOutReading] = []
    seen: dict[str, int] = {}
    for row in rows:
        if seen.get(row.fault, 0) < 2:
            seen[row.fault] = seen.get(row.fault, 0) + 1
            chosen.append(row)
    return [_read_by(PUMPS[n % len(PUMPS)], row) for n, row in enumerate(chosen[: len(PUMPS) * READINGS_PER_PUMP])]


def _read_by(pump: str, row: HeldOutReading) -> HeldOutReading:
    """The reading under the name of the pump on whose topic it is published."""
    payload = {**json.loads(row.payload), "machine": pump}
    return replace(row, payload=json.dumps(payload, separators=(",", ":")))


def _triage(bus: _Bus, protocol: str) -> bool:
    """Sensors publish bare readings on their own topics, all at once; answers come on theirs."""
    readings = _chosen()
    by_pump = {pump: readings[n :: len(PUMPS)] for n, pump in enumerate(PUMPS)}
    for at in range(READINGS_PER_PUMP):
        for pump, rows in by_pump.items():
            bus.link.publish(Publication(topic=f"plant/{pump}/reading", payload=rows[at].payload.encode()))
    what = f"{len(readings)} readings from {len(PUMPS)} sensors"
    _say(f"{what} on plant/<pump>/reading, MQTT {protocol}, answered on …/triage")
    _say("pump    mm/s   °C      A     bar    rpm   answer          probability  is right     ms  batch")
    are_all_ok = True
    for pump, rows in by_pump.items():
        replies = bus.wait_for(f"plant/{pump}/triage", ANSWER_TIMEOUT_S, count=len(rows))
        for row, reply in zip(rows, replies, strict=True):
            are_all_ok &= reply["status"] == "ok"
            values = json.loads(row.payload)
            shown = [f"{values[name]:>6}" for name in _FIELDS]
            if reply["status"] != "ok":
                _say(f"{pump:6} {' '.join(shown)}   {reply['status']}: {reply['error']['message']}")
                continue
            answer, timing = reply["output"], reply["timing"]
            right = "yes" if answer == row.fault else f"no: {row.fault}"
            score = reply["scores"][answer]
            _say(
                f"{pump:6} {' '.join(shown)}   {answer:15} {score:>11.3f}  {right:8} {timing['total_ms']:>7.1f}"
                f"  {timing['batch']:>5}"
            )
    return are_all_ok


_FIELDS = ("vibration_mm_s", "temperature_c", "current_a", "pressure_bar", "speed_rpm")


def _details(bus: _Bus, topics: Topics) -> bool:
    """Two requests by name: JSON held to a schema, and a sentence."""
    reading = next(row for row in _chosen() if row.fault == "bearing fault")
    are_all_ok = True
    for task in (DIAGNOSIS, EXPLANATION):
        bus.link.publish(Publication(topic=topics.request(task), payload=reading.payload.encode()))
        reply = bus.wait_for(topics.response(task), ANSWER_TIMEOUT_S)[0]
        are_all_ok &= reply["status"] == "ok"
        _say(f"\n{task} of {reading.payload}")
        if reply["status"] == "ok":
            output = reply["output"]
            text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
            _say(f"  {printable(text)}  ({reply['timing']['total_ms']:.0f} ms)")
        else:
            _say(f"  {reply['status']}: {printable(reply['error']['message'])}")
    return are_all_ok


def _health(bus: _Bus, topics: Topics) -> None:
    bus.answers.pop(topics.health, None)
    health = bus.wait_for(topics.health, ANSWER_TIMEOUT_S)[0]
    inference, memory, thermal, worker = (health[name] for name in ("inference", "memory", "thermal", "worker"))
    latency = inference["latency_ms"]
    unknown = "unknown here"
    rows = {
        "overall": f"{health['overall']} {', '.join(health['reasons'])}".strip(),
        "requests": f"{inference['requests_total']} ({inference['failed_total']} failed, "
        f"{health['queue']['rejected_total']} busy), latency p50 {latency['p50']} ms, p95 {latency['p95']} ms",
        "tokens": f"{inference['prompt_tokens_total']} of prompts, {inference['cached_tokens_total']} of them shared, "
        f"{inference['completion_tokens_total']} written",
        "temperature": unknown if thermal["soc_c"] is None else f"{thermal['soc_c']:.1f} °C",
        "power": unknown if health["power"]["watts"] is None else f"{health['power']['watts']:.1f} W",
        "memory": f"agent {memory['agent_rss_mb']} MB, worker {memory['worker_rss_mb']} MB",
        "kernels": f"{worker['cpu_variant']}",
    }
    _say(f"\nhealth of {topics.base}")
    for name, value in rows.items():
        _say(f"  {name:12} {value}")


def _keep(config_path: Path, topics: Topics, protocol: str, port: int, agent: subprocess.Popen[bytes]) -> None:
    version = "mqttv5" if protocol == "5" else "mqttv311"
    reading = _chosen()[0].payload
    _say(f"\nIt stays up until Ctrl-C. Its configuration is {config_path}. In another terminal:")
    _say(f"  mosquitto_sub -V {version} -p {port} -t '{topics.response('+')}' -t 'plant/+/triage' -v")
    _say(f"  mosquitto_pub -V {version} -p {port} -q 1 -t {topics.request(TRIAGE)} -m '{reading}'")
    _say(f"  edge-agent ask --config {config_path} {TRIAGE} '{reading}'")
    try:
        code = agent.wait()
    except KeyboardInterrupt:  # which a terminal's Ctrl-C brings the agent, too: that it ends is no fault
        _say("")
        return
    raise DemoError(f"the agent has ended with {code}")
