"""`edge-agent demo`: runs broker, converter, agent and sensors on this machine, and prints their messages as tables."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_agent.core.extras import missing_extra
from edge_agent.core.messages import Publication
from edge_agent.core.terminal import aligned, fail
from edge_agent.core.topics import Topics
from edge_agent.core.wording import end_of_log, printable
from edge_agent.signals.state_file import FILE as WINDOWS
from edge_agent.store.database import FILE as DATABASE
from edge_agent.tools.client import Client
from edge_agent.tools.demo import pumps
from edge_agent.tools.demo.broker import Broker, BrokerError, free_port, local_mqtt, start_broker
from edge_agent.tools.demo.pumps import VALUES, Pump, SparkplugPump, TopicPump
from edge_agent.tools.demo.readings import HeldOutReading, checkpoint_folder, held_out, tasks

SITE, DEVICE = "demo", "board1"
TOPICS = Topics("edgeai/v1", SITE, DEVICE)
READINGS = "plant/+/reading"
PUMPS = (TopicPump("pump-1"), TopicPump("pump-2"), SparkplugPump("pump-3"), Pump("pump-4"))
READINGS_PER_PUMP = 3
QUANTIZATION = "q8_0"
# With the page, the seconds between two readings, and the share of pump-4's answers that a person is asked to check.
INTERVAL_S, AUDIT_RATE = 2.0, 0.5
_PAGE_PORT = 8780
START_TIMEOUT_S, ANSWER_TIMEOUT_S = 120.0, 60.0
TRIAGE, DIAGNOSIS, EXPLANATION = "machine-triage", "machine-diagnosis", "machine-explanation"
# A question that the model was not trained for. Corrections teach the board.
CHECK, CHECK_LABELS = "machine-check", ("normal", "fault")
# A new map is judged after every few corrections, not after the last, so the demonstration waits until LEARNT are used.
CHECKED, CORRECTIONS, LEARNT = 12, 40, 30
# How long the pumps take messages between two readings.
_TAKE_S = 0.1
_UNITS = ("mm/s", "°C", "A", "bar", "rpm")


class DemoError(Exception):
    """The demonstration cannot continue; the message says why."""


@dataclass(slots=True)
class _Sensors:
    """The connection of the sensors, and the documents that arrived on each topic with their monotonic times."""

    client: Client
    received: defaultdict[str, list[tuple[dict[str, Any], float]]] = field(default_factory=lambda: defaultdict(list))

    def send(self, topic: str, payload: str) -> float:
        """Publishes the payload, and returns the time."""
        return self.publish([Publication(topic=topic, payload=payload.encode())])

    def publish(self, publications: Iterable[Publication]) -> float:
        sent_at = time.monotonic()
        for publication in publications:
            self.client.link.publish(publication)
        return sent_at

    def wait_for(self, topic: str, timeout_s: float = ANSWER_TIMEOUT_S) -> tuple[dict[str, Any], float]:
        """The next document on a topic. Raises DemoError."""
        give_up_at = time.monotonic() + timeout_s
        while not self.received[topic]:
            if (left_s := give_up_at - time.monotonic()) <= 0:
                raise DemoError(f"nothing arrived on {topic} within {timeout_s:.0f} s")
            if (message := self.client.receive(left_s)) is not None:
                self.received[message.topic].append((json.loads(message.payload), message.received_at))
        return self.received[topic].pop(0)


def demo(port: int | None, work: Path | None, *, keep: bool, web: bool = False, web_port: int | None = None) -> int:
    """Runs the demonstration; returns 0 if every reading was answered `ok`."""
    # Closing the terminal ends it as Ctrl-C does, with its agent and its broker.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        bundle = convert_checkpoint(_work_folder(work))
        with tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as folder:
            return _run(bundle, Path(folder), port, keep=keep, web=web, web_port=web_port)
    except (DemoError, BrokerError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("interrupted")


def _work_folder(given: Path | None) -> Path:
    """The folder that keeps the converted model for the next time, one per user unless given. Raises DemoError."""
    try:
        work = given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-agent" / "demo"
        work = work.absolute()  # The agent's configuration is elsewhere.
        work.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: this account has no home
        raise DemoError(f"there is no folder for the converted model: {error}; name one with --work DIR") from error
    if not os.access(work, os.W_OK | os.X_OK):
        raise DemoError(f"the converted model cannot be kept in {work}; name another folder with --work DIR")
    return work


def _print(text: str) -> None:
    print(text, flush=True)


def convert_checkpoint(work: Path) -> Path:
    """The bundle of the bundled checkpoint, unless it was converted before, as in a release. Raises DemoError."""
    bundle = work / f"pump-{QUANTIZATION}"
    is_converted = _is_converted(bundle)
    if missing := missing_extra("engine" if is_converted else "demo"):
        raise DemoError(missing)
    if is_converted:
        _print(f"model      {bundle} (converted before)")
        return bundle
    command = [sys.executable, "-m", "edge_convert", str(checkpoint_folder()), "--out", str(bundle)]
    command += ["--type", QUANTIZATION, "--name", "pump-demo", "--licence", "apache-2.0", "--no-canaries", "--force"]
    _print(f"converting {checkpoint_folder()} to {QUANTIZATION.upper()}")
    started = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise DemoError(f"edge-convert ended with {done.returncode}: {done.stderr.strip()}")
    size_mb = (bundle / "model.gguf").stat().st_size / 1e6
    _print(f"model      {bundle} ({size_mb:.1f} MB, {time.monotonic() - started:.1f} s)")
    return bundle


def _is_converted(bundle: Path) -> bool:
    """Whether the bundle was made from this very checkpoint."""
    try:
        source = json.loads((bundle / "manifest.json").read_bytes())["source"]["files"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    here = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in checkpoint_folder().iterdir()}
    return bool(source == here)


def _config(bundle: Path, port: int, *, web: bool = False) -> str:
    """The configuration of the demonstration's agent, as a user would write it.

    With `web`, a person answers its audits on the page.
    """
    system = json.dumps(tasks()[TRIAGE]["system"])
    lines = [
        f"state_dir = {json.dumps(str(bundle.parent / 'state'))}",
        f'[device]\nsite = "{SITE}"\nid = "{DEVICE}"',
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}',
        f"[models.default]\npath = {json.dumps(str(bundle))}",
        "[health]\ninterval_s = 1.0\n[feedback]\nenabled = true",
        '[commands]\nallow = ["ping", "health", "drain", "resume", "cancel", "reload", "feedback-export"]',
        f'[tasks.{CHECK}]\nkind = "classify"\nsystem = {system}\nlabels = {json.dumps(CHECK_LABELS)}',
    ]
    joined = {"pump-triage": pumps.TOPICS, "line-triage": pumps.SPARKPLUG}
    for name, task in {**tasks(), **dict.fromkeys(joined, tasks()[TRIAGE])}.items():
        lines += [f"[tasks.{name}]", f'kind = "{task["kind"]}"', f"system = {json.dumps(task['system'])}"]
        if "labels" in task:
            # The model was trained for these labels.
            lines += [f"labels = {json.dumps(task['labels'])}", 'prior = "as-is"']
        if "schema" in task:
            lines += ['schema = "diagnosis.schema.json"']
        if name == TRIAGE:
            lines += [f'subscribe = ["{READINGS}"]', 'publish = "plant/{1}/triage"']
            lines += ['echo_input = "all"', f"audit_rate = {AUDIT_RATE}"] if web else []
        elif name in joined:
            lines += [f'signals = "{joined[name]}"', f"template = '{pumps.template()}'"]
            lines += ['publish = "plant/{machine}/triage"', *(['echo_input = "all"'] if web else [])]
    lines += pumps.signals_tables()
    return "\n".join(lines) + "\n"


def _run(bundle: Path, folder: Path, port: int | None, *, keep: bool, web: bool, web_port: int | None) -> int:
    """Runs all parts, with configuration and logs in the folder."""
    # The agent's measurements are kept for the next demonstration, but not what it has learned or heard.
    state = bundle.parent / "state"
    for path in (*state.glob(f"{DATABASE}*"), *state.glob(WINDOWS)):
        path.unlink()
    broker = start_broker(port, folder)
    try:
        config = folder / "config.toml"
        config.write_text(_config(bundle, broker.port), encoding="utf-8")
        schema = json.dumps(tasks()[DIAGNOSIS]["schema"], indent=2)
        (folder / "diagnosis.schema.json").write_text(schema, encoding="utf-8")
        _print(f"broker     {broker.name} on 127.0.0.1:{broker.port}")
        filters = (TOPICS.state, TOPICS.health, "plant/+/triage", TOPICS.response("+"), pumps.REBIRTH_TOPIC)
        with Client("demo-sensors", local_mqtt(broker.port), filters) as client, _agent(config) as agent:
            sensors = _Sensors(client)
            _wait_until_online(sensors, agent, config)
            _print(f"agent      {TOPICS.base} is online\n")
            _switch_on(sensors)
            are_all_ok = _triage(sensors)
            are_all_ok &= _details(sensors)
            are_all_ok &= _learning(sensors)
            _print_health(sensors)
            if keep:
                _print_commands(config, broker)
                if web:
                    # Not earlier, because the page would miss checks from before its start.
                    config.write_text(_config(bundle, broker.port, web=True), encoding="utf-8")
                    agent.send_signal(signal.SIGHUP)
                with _page(broker.port, folder, web_port) if web else nullcontext():
                    _stay_up(agent, sensors if web else None)
            return 0 if are_all_ok else 1
    finally:
        broker.stop()


@contextmanager
def _agent(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(config)]
    with config.with_suffix(".log").open("wb") as log:
        agent = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield agent
        finally:
            agent.terminate()
            try:
                agent.wait(30)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()


def _wait_until_online(sensors: _Sensors, agent: subprocess.Popen[bytes], config: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while agent.poll() is None and time.monotonic() < give_up_at:
        with suppress(DemoError):
            if sensors.wait_for(TOPICS.state, 0.5)[0]["state"] == "online":
                return
    lines = config.with_suffix(".log").read_text(encoding="utf-8", errors="replace").splitlines()
    hint = "a second demonstration needs a --work DIR of its own"
    raise DemoError(f"the agent did not come online ({hint}): {end_of_log(lines)}")


def chosen_readings() -> list[HeldOutReading]:
    """Two readings of each condition as sensors print them, one pump after the other."""
    chosen: list[HeldOutReading] = []
    for row in held_out():
        is_plain = row.variant == "standard" and not row.borderline
        if is_plain and sum(other.fault == row.fault for other in chosen) < 2:
            pump = PUMPS[len(chosen) % len(PUMPS)]
            payload = {**json.loads(row.payload), "machine": pump.name}
            chosen.append(replace(row, payload=json.dumps(payload, separators=(",", ":"))))
    return chosen[: len(PUMPS) * READINGS_PER_PUMP]


def _switch_on(sensors: _Sensors) -> None:
    """Publishes the pumps' births and first values until the board hears them. Raises DemoError.

    The board may be online before its connection for values is.
    """
    starts = [pump.start(reading.payload) for pump, reading in zip(PUMPS, chosen_readings(), strict=False)]
    expected = sum(1 for start in starts if start)
    give_up_at = time.monotonic() + START_TIMEOUT_S
    heard = 0
    while heard < expected:
        if time.monotonic() > give_up_at:
            raise DemoError(f"the board has not heard the pumps' values within {START_TIMEOUT_S:.0f} s")
        for start in starts:
            sensors.publish(start)
        health, _ = sensors.wait_for(TOPICS.health)
        heard = sum(table["machines"] for table in health["signals"].values())


def _triage(sensors: _Sensors) -> bool:
    """Four pumps publish at once, and each waits for its answer before the next reading."""
    readings = chosen_readings()
    what = f"{len(readings)} readings of {len(PUMPS)} pumps"
    _print(f"{what}, answered on plant/<pump>/triage; ms: in the agent, and as the sensor saw it")
    ways = {pump.publishes: pump.topics for pump in PUMPS}
    _print("\n".join(aligned([(f"  {way}", topics) for way, topics in ways.items()], left=2)))
    header = ("pump", "publishes", *_UNITS, "answer", "probability", "is right", "agent", "sensor")
    rows: list[tuple[str, ...]] = [header]
    are_all_ok = True
    for cycle in range(1, READINGS_PER_PUMP + 1):
        asked = dict(zip(PUMPS, readings[(cycle - 1) * len(PUMPS) :], strict=False))
        last = {}
        for pump, reading in asked.items():
            *others, last[pump] = pump.publications(reading.payload, cycle)
            sensors.publish(others)
        # Not every broker keeps the order of messages on several topics.
        sensors.client.wait_until_sent(ANSWER_TIMEOUT_S)
        sent_at = {pump: sensors.publish([publication]) for pump, publication in last.items()}
        for pump, reading in asked.items():
            reply, received_at = sensors.wait_for(f"plant/{pump.name}/triage")
            are_all_ok &= reply["status"] == "ok"
            values = json.loads(reading.payload)
            cells = _answer_cells(reading, reply, received_at - sent_at[pump])
            rows.append((pump.name, pump.publishes, *(str(values[name]) for name in VALUES), *cells))
    _print("\n".join(aligned(rows, left=2)))
    return are_all_ok


def _answer_cells(reading: HeldOutReading, reply: dict[str, Any], waited_s: float) -> tuple[str, ...]:
    if reply["status"] != "ok":
        return (_failure(reply), "", "", "", "")
    answer, timing = reply["output"], reply["timing"]
    right = "yes" if answer == reading.fault else f"no: {reading.fault}"
    times = f"{timing['total_ms']:.1f}", f"{1000 * waited_s:.1f}"
    return answer, f"{reply['scores'][answer]:.3f}", right, *times


def _details(sensors: _Sensors) -> bool:
    """Sends two requests by name, for JSON held to a schema, and for a sentence."""
    reading = next(row for row in chosen_readings() if row.fault == "bearing fault")
    are_all_ok = True
    for task in (DIAGNOSIS, EXPLANATION):
        sent_at = sensors.send(TOPICS.request(task), reading.payload)
        reply, received_at = sensors.wait_for(TOPICS.response(task))
        is_ok = reply["status"] == "ok"
        are_all_ok &= is_ok
        output = reply["output"] if is_ok else _failure(reply)
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        times = f"{reply['timing']['total_ms']:.0f} ms, as the sensor saw it {1000 * (received_at - sent_at):.0f} ms"
        _print(f"\n{task} of {reading.payload}\n  {printable(text)}  ({times})")
    return are_all_ok


def _learning(sensors: _Sensors) -> bool:
    """Asks what the model was not trained for, before and after corrections."""
    plain = [row for row in held_out() if row.variant == "standard" and not row.borderline]
    normal, faulty = ([row for row in plain if (row.fault == "normal") is is_normal] for is_normal in (True, False))
    rows = [row for pair in zip(normal, faulty, strict=False) for row in pair]
    checked, lessons = rows[:CHECKED], rows[CHECKED : CHECKED + CORRECTIONS]
    before = sum(answer == right for _, answer, right in _ask_all(sensors, checked, "before"))
    for request_id, _, right in _ask_all(sensors, lessons, "lesson"):
        sensors.send(TOPICS.feedback(CHECK), json.dumps({"id": request_id, "answer": right}))
    give_up_at = time.monotonic() + ANSWER_TIMEOUT_S
    while sensors.wait_for(TOPICS.health)[0]["accuracy"][CHECK]["feedback"] < LEARNT:
        if time.monotonic() > give_up_at:
            raise DemoError(f"the board has not learnt from its feedback within {ANSWER_TIMEOUT_S:.0f} s")
    after = sum(answer == right for _, answer, right in _ask_all(sensors, checked, "after"))
    labels = " or ".join(CHECK_LABELS)
    _print(f"\n{CHECK}, {labels}: the model was not trained for these labels")
    _print(f"  right: {before} of {CHECKED} readings; after {CORRECTIONS} corrections of others, {after} of {CHECKED}")
    return after > before


def _ask_all(sensors: _Sensors, rows: list[HeldOutReading], name: str) -> Iterator[tuple[str, object, str]]:
    """The id of each request, the board's answer and the right one."""
    for number, row in enumerate(rows):
        request_id = f"{name}-{number}"
        sensors.send(TOPICS.request(CHECK), json.dumps({"id": request_id, "input": json.loads(row.payload)}))
        reply, _ = sensors.wait_for(TOPICS.response(CHECK))
        yield request_id, reply["output"], CHECK_LABELS[row.fault != "normal"]


def _failure(reply: dict[str, Any]) -> str:
    return printable(f"{reply['status']}: {reply['error']['message']}")


def _print_health(sensors: _Sensors) -> None:
    sensors.received[TOPICS.health].clear()
    health, _ = sensors.wait_for(TOPICS.health)
    inference, memory = health["inference"], health["memory"]
    _print(
        f"\nhealth of {TOPICS.base}: {health['overall']}, {inference['requests_total']} requests, "
        f"{inference['failed_total']} failed, half of them within {inference['latency_ms']['p50']} ms; "
        f"agent {memory['agent_rss_mb']} MB, worker {memory['worker_rss_mb']} MB"
    )


def _print_commands(config: Path, broker: Broker) -> None:
    reading = chosen_readings()[0].payload
    options = f"-V 5 -p {broker.port}"
    _print(f"\nIt stays up until Ctrl-C. Its configuration is {config}. In another terminal:")
    _print(f"  mosquitto_sub {options} -t '{TOPICS.response('+')}' -t 'plant/+/triage' -v")
    _print(f"  mosquitto_pub {options} -q 1 -t {TOPICS.request(TRIAGE)} -m '{reading}'")
    _print(f"  mosquitto_pub {options} -t plant/{PUMPS[0].name}/cycle -m $(date +%s)")
    _print(f"  mosquitto_rr {options} -q 1 -t {TOPICS.request(TRIAGE)} -e {TOPICS.root}/reply/me -m '{reading}'")
    _print(f"  edge-agent ask --config {config} {TRIAGE} '{reading}'")
    _print(f"  edge-agent watch --config {config}")


@contextmanager
def _page(port: int, folder: Path, web_port: int | None) -> Iterator[None]:
    """Serves the page of this site, and opens it where there is a screen. Raises DemoError."""
    command = [sys.executable, "-m", "edge_agent", "web", "--host", "127.0.0.1", "--port", str(port), "--site", SITE]
    command += ["--listen", f"127.0.0.1:{web_port or free_port(_PAGE_PORT)}", "--data", str(folder / "page")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        try:
            assert page.stdout is not None
            if not (line := page.stdout.readline()):
                raise DemoError("the page did not start")
            address = line.split()[-1]
            _print(f"\nThe page is at {address}; it asks you to check answers about pump-4.")
            if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
                webbrowser.open(address)
            yield
        finally:
            page.terminate()


def _stay_up(agent: subprocess.Popen[bytes], sensors: _Sensors | None) -> None:
    """Waits for Ctrl-C, while the pumps of `sensors` go on publishing. Raises DemoError."""
    readings = itertools.cycle(row.payload for row in held_out() if row.variant == "standard")
    turns = itertools.cycle(PUMPS)
    connections = 0
    with suppress(KeyboardInterrupt):  # A terminal sends Ctrl-C to the agent, too.
        for cycle in itertools.count(READINGS_PER_PUMP + 1):
            with suppress(subprocess.TimeoutExpired):
                code = agent.wait(INTERVAL_S)
                raise DemoError(f"the agent has ended with {code}")
            if sensors is not None:
                pump = next(turns)
                reading = json.dumps({**json.loads(next(readings)), "machine": pump.name})
                # Nobody waits for the other messages.
                is_asked = pumps.REBIRTH_TOPIC in [message.topic for message in sensors.client.messages(_TAKE_S)]
                if is_asked or connections != sensors.client.connections:
                    connections = sensors.client.connections
                    sensors.publish(birth for other in PUMPS for birth in other.births(reading, cycle - 1))
                sensors.publish(pump.publications(reading, cycle))
    _print("")
