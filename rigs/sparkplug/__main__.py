"""Sparkplug B as others send it: tasks are asked with exactly the values of two independent publishers.

The npm package sparkplug-client and the Python package pysparkplug, each in its own process, send to an agent through
mosquitto: births, data by alias and by name, null, deaths, lost connections, gaps in the sequence, an agent that starts
late, and the death of an earlier session. Afterwards all their messages are read again, out of order.
Exit code 1 if a value differs, or if the agent sends anything but requests for a rebirth, at most one a minute.
"""

import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self

from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals.sparkplug_source import SparkplugSource
from rigs.llama_sources import make_environment, run_program
from rigs.machine import ROOT, parser_of, require
from tests.helpers.client import Client, Message
from tests.helpers.processes import Mosquitto, free_port
from tests.helpers.site import running_site
from tests.helpers.sparkplug import Payload

HERE, BUILD = Path(__file__).parent, ROOT / "build" / "sparkplug"
NODES = ("npm node", "python node")
DEVICES = ("Press 1", "Pump-7")
VALUE_S, REBIRTH_S = 30.0, 60.0
RANGES = {
    "Int8": (-(2**7), 2**7 - 1), "Int16": (-(2**15), 2**15 - 1), "Int32": (-(2**31), 2**31 - 1),
    "Int64": (-(2**52), 2**52), "UInt8": (0, 2**8 - 1), "UInt16": (0, 2**16 - 1), "UInt32": (0, 2**32 - 1),
    "UInt64": (0, 2**52),
}  # fmt: skip
TYPES = (*RANGES, "Float", "Double", "Boolean", "String")
TEXTS = {"RUN": 1.0, "STOP": 0.0}
TABLE: dict[str, Any] = {
    "source": "sparkplug", "group": "Plant", "rebirth": True, "window_s": 60, "every_s": 1, "min_gap_s": 0,
    "min_coverage": 0, "features": ["last"],
    "values": {name.lower(): {"metric": f"Motor/{name}", "optional": True, "map": TEXTS} for name in TYPES},
}  # fmt: skip
TASK = """
[tasks.values]
kind = "generate"
template = "{{ input | tojson }}"
max_tokens = 500
signals = "line"
publish = "values/{machine}"
"""
Values = dict[str, float | None]


class Publisher:
    """One node, and the values that its devices should have."""

    def __init__(self, node: str, command: list[str], source: random.Random) -> None:
        self.node = node
        self.expected: dict[str, Values] = {f"{node}/{device}": dict.fromkeys(TABLE["values"]) for device in DEVICES}
        self._source = source
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, command: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": command, **fields}) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise SystemExit(f"{self.node}: {command} failed")

    def birth(self, device: str) -> None:
        self._send("birth", device, list(TYPES))

    def data(self, device: str, count: int | None = None) -> None:
        self._send("data", device, self._source.sample(TYPES, count or self._source.randint(1, len(TYPES))))

    def death(self, device: str) -> None:
        self.do("death", device=device)
        self.expected[f"{self.node}/{device}"] = dict.fromkeys(TABLE["values"])

    def _send(self, command: str, device: str, types: list[str]) -> None:
        metrics = []
        aliases = DEVICES.index(device) * 100
        for name in types:
            value = self._value(name)
            metrics.append(
                {"name": f"Motor/{name}", "alias": aliases + TYPES.index(name), "type": name, "value": value}
            )
            expected = TEXTS[value] if isinstance(value, str) else value
            self.expected[f"{self.node}/{device}"][name.lower()] = None if expected is None else float(expected)
        self.do(command, device=device, metrics=metrics)

    def _value(self, name: str) -> Any:
        if self._source.random() < 0.1:
            return None
        match name:
            case "Boolean":
                return self._source.random() < 0.5
            case "String":
                return self._source.choice(list(TEXTS))
            case "Float":
                return float(f"{self._source.gauss(0, 100):.6g}")
            case "Double":
                return self._source.gauss(0, 1e6)
        return self._source.randint(*RANGES[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


class Watch:
    """What tasks are asked with, and what is published in the namespace of Sparkplug."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.compared = 0
        self.steps = 0
        client.subscribe("values/#", "spBv1.0/#")

    def expect(self, what: str, *publishers: Publisher) -> None:
        """Waits until new answers for all machines have the values, or exits."""
        expected = {machine: values for publisher in publishers for machine, values in publisher.expected.items()}
        rounded = {machine: _rounded(values) for machine, values in expected.items()}
        started = time.monotonic()
        answers: dict[str, Values] = {}
        while time.monotonic() - started < VALUE_S:
            answers = self._answers(started)
            if all(answers.get(machine) == values for machine, values in rounded.items()):
                self.compared += sum(len(values) for values in rounded.values())
                self.steps += 1
                return
            time.sleep(0.05)
        differing = {
            f"{machine} {name}": (value, answers.get(machine, {}).get(name, "no answer"))
            for machine, values in rounded.items()
            for name, value in values.items()
            if answers.get(machine, {}).get(name, "no answer") != value
        }
        raise SystemExit(f"{what}: (sent, asked with) differ after {VALUE_S:g} s: {differing}")

    def _answers(self, since: float) -> dict[str, Values]:
        """The newest answer of each machine."""
        answers: dict[str, Values] = {}
        for message in reversed(tuple(self.client.messages)):
            if message.at < since:
                break
            machine = message.topic.removeprefix("values/")
            if message.topic != machine and machine not in answers and message.json["status"] == "ok":
                readings = json.loads(message.json["output"])
                answers[machine] = {name: features["last"] for name, features in readings.items()}
        return answers

    def wait_for(self, kind: str, count: int) -> None:
        """Waits until there are more than count messages of a kind, or exits."""
        until = time.monotonic() + VALUE_S
        while len(self.sent(kind)) <= count:
            if time.monotonic() > until:
                raise SystemExit(f"no {kind} comes")
            time.sleep(0.05)

    def sent(self, *kinds: str) -> list[Message]:
        """The messages in the namespace, of these kinds or of all."""
        messages = [message for message in tuple(self.client.messages) if message.topic.startswith("spBv1.0/")]
        return [message for message in messages if not kinds or message.topic.split("/")[2] in kinds]


def _rounded(values: Values) -> Values:
    """The values as readings round them."""
    return {name: None if value is None else float(f"{value:.6g}") for name, value in values.items()}


def main() -> int:
    parser = parser_of("rigs.sparkplug", __doc__)
    parser.add_argument("--steps", type=int, default=20, help="data of each node in each part (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    require({"mosquitto": "mosquitto", "node": "nodejs", "npm": "npm"})
    source = random.Random(options.seed)
    python = make_environment(BUILD / "python", ("pysparkplug==0.6.1",))
    npm = [
        "npm",
        "install",
        "--silent",
        "--no-fund",
        "--no-audit",
        "--prefix",
        str(BUILD / "node"),
        "sparkplug-client@3",
    ]
    run_program(npm)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(Mosquitto(folder, free_port())).port
        watch = Watch(stack.enter_context(closing(Client(port, "5"))))
        commands = (
            ["node", str(HERE / "publisher.js"), str(BUILD / "node" / "node_modules"), str(port), NODES[0]],
            [str(python), str(HERE / "publisher.py"), str(port), NODES[1]],
        )
        pairs = zip(NODES, commands, strict=True)
        publishers = [stack.enter_context(Publisher(node, command, source)) for node, command in pairs]
        with _agent(folder / "first", port):
            _live(watch, publishers, options.steps)
        first = len(watch.sent("NCMD"))
        with _agent(folder / "second", port):
            _late(watch, publishers)
        sent = watch.sent()
        _check_requests(sent, first)
        shuffles = _check_out_of_order(sent, publishers, source)
    print(f"{watch.compared} values in {watch.steps} steps are those of the publishers")
    print(f"out of order: the same values {shuffles} times")
    print(f"messages: {dict(sorted(Counter(message.topic.split('/')[2] for message in sent).items()))}")
    return 0


@contextmanager
def _agent(folder: Path, port: int) -> Iterator[None]:
    folder.mkdir()
    table = {key: value for key, value in TABLE.items() if key != "values"}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in table.items()]
    for name, value in TABLE["values"].items():
        lines.append(f"[signals.line.values.{name}]\n")
        lines += [f"{key} = {json.dumps(content)}\n" for key, content in value.items() if key != "map"]
        lines.append("map = { RUN = 1, STOP = 0 }\n")
    with running_site(folder, port, "5", more="".join(("[signals.line]\n", *lines, TASK))):
        yield


def _live(watch: Watch, publishers: list[Publisher], steps: int) -> None:
    for publisher in publishers:
        for device in DEVICES:
            publisher.birth(device)
        publisher.do("connect")
    watch.expect("births", *publishers)
    _send_data(watch, publishers, steps)
    for publisher in publishers:
        publisher.death(DEVICES[1])
    watch.expect("deaths of devices", *publishers)
    for publisher in publishers:
        publisher.data(DEVICES[0])
        publisher.birth(DEVICES[1])
    watch.expect("births of devices", *publishers)
    for publisher in publishers:
        counts = [len(watch.sent(kind)) for kind in ("NDEATH", "NBIRTH")]
        publisher.do("drop")
        for kind, count in zip(("NDEATH", "NBIRTH"), counts, strict=True):
            watch.wait_for(kind, count)
    watch.expect("connections that come back", *publishers)
    _send_data(watch, publishers, steps)
    for publisher in publishers:
        watch.client.publish(f"spBv1.0/Plant/NDEATH/{publisher.node}", _late_death(watch, publisher.node))
    watch.expect("deaths of earlier sessions", *publishers)
    # Longer than the agent waits before it asks a second time.
    until = time.monotonic() + REBIRTH_S + 15
    while time.monotonic() < until:
        for publisher in publishers:
            publisher.do("skip")
            publisher.data(DEVICES[0])
        watch.expect("gaps", *publishers)
    _send_data(watch, publishers, steps)


def _late(watch: Watch, publishers: list[Publisher]) -> None:
    """Checks an agent that missed the births."""
    for publisher in publishers:
        for device in DEVICES:
            publisher.data(device, 1)
    watch.expect("births on request", *publishers)
    _send_data(watch, publishers, 3)
    for publisher in publishers:
        publisher.do("stop")
        for values in publisher.expected.values():
            values.update(dict.fromkeys(values))
    watch.expect("nodes that leave", *publishers)


def _send_data(watch: Watch, publishers: list[Publisher], steps: int) -> None:
    for step in range(steps):
        for publisher in publishers:
            publisher.data(DEVICES[step % len(DEVICES)])
        watch.expect("data", *publishers)


def _late_death(watch: Watch, node: str) -> bytes:
    """A death of the session before the present one, which neither publisher can be made to send late."""
    birth = [Payload.FromString(one.payload) for one in watch.sent("NBIRTH") if one.topic.endswith(f"/{node}")][-1]
    (bd_seq,) = (metric.long_value for metric in birth.metrics if metric.name == "bdSeq")
    return bytes(Payload(metrics=[{"name": "bdSeq", "long_value": (bd_seq - 1) % 256}]).SerializeToString())


def _check_requests(sent: list[Message], first: int) -> None:
    """Exits unless the agents asked for rebirths and nothing else, with `first` requests from the first agent."""
    others = {message.topic for message in sent if message.topic.split("/")[2] in ("STATE", "DCMD")}
    if others:
        raise SystemExit(f"the agent sends more than requests for a rebirth: {others}")
    requests = [message for message in sent if message.topic.split("/")[2] == "NCMD"]
    for message in requests:
        metrics = [(metric.name, metric.boolean_value) for metric in Payload.FromString(message.payload).metrics]
        if metrics != [("Node Control/Rebirth", True)]:
            raise SystemExit(f"a command that is no request for a rebirth: {metrics}")
    for node, asked in itertools.product(NODES, (requests[:first], requests[first:])):
        times = [message.at for message in asked if message.topic.endswith(f"/{node}")]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        print(
            f"{node}: asked for a rebirth {len(times)} times, {', '.join(f'{gap:.1f}' for gap in gaps) or '-'} s apart"
        )
        # The delay through the broker may differ by as much.
        if not times or min(gaps, default=REBIRTH_S) < REBIRTH_S - 1:
            raise SystemExit(f"{node}: was not asked, or more than once a minute")


def _check_out_of_order(
    sent: list[Message], publishers: list[Publisher], source: random.Random, count: int = 100
) -> int:
    """Exits unless messages that are up to a second late give the values of the right order, until the first gap."""
    messages = [message for message in sent if message.topic.split("/")[2] != "NCMD"]
    ends = [index for index, message in enumerate(messages) if "/NDEATH/" in message.topic]
    messages = messages[: ends[0]]
    machines = {machine for publisher in publishers for machine in publisher.expected}
    ordered = _read(messages)
    assert ordered.keys() == machines
    for _ in range(count):
        delays = [index + source.randrange(8) for index in range(len(messages))]
        shuffled = _read(
            [message for _, message in sorted(zip(delays, messages, strict=True), key=lambda pair: pair[0])]
        )
        if shuffled != ordered:
            raise SystemExit(f"out of order: {shuffled} instead of {ordered}")
    return count


def _read(messages: list[Message]) -> dict[str, Values]:
    source = SparkplugSource(SignalsTable.model_validate(TABLE))
    machines: dict[str, Values] = {}
    for number, message in enumerate(messages):
        for update in source.read(message.topic, message.payload, is_retained=False, now=number / 10):
            machines.setdefault(update.machine, {}).update(update.values)
    return machines


if __name__ == "__main__":
    sys.exit(main())
