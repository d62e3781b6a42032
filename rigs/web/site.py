"""A simulated site: boards whose messages are those of docs/mqtt-api.md, with answers, audits and results of feedback.

`python -m rigs.web.site PORT` runs one as a process of its own, so that what is measured shares no interpreter with it.
"""

import argparse
import itertools
import json
import random
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import paho.mqtt.client as paho

from edge_agent.core.clock import timestamp
from edge_agent.tools.demo.readings import held_out, tasks
from tests.docs.demonstration import BASE, messages_shown
from tests.helpers.caller import Caller

ROOT, SITE = "edgeai/v1", "hall1"
TRIAGE, WATCH = "machine-triage", "pump-watch"
LABELS = tuple(tasks()[TRIAGE]["labels"])
PROMISE = 0.95
UNUSUAL = {"kind": "unusual", "false_alarms": "1 per week", "unusual_below": 0.0005}
# The outputs of so many of the newest answers are kept by id, for feedback.
_KEPT = 20_000
_KINDS = ("press", "pump", "oven", "lathe", "conveyor", "mixer")
Document = dict[str, Any]


def documents_of_a_board() -> dict[str, Document]:
    """The samples of docs/mqtt-api.md, which its test holds to those of a real agent, by the end of their topic."""
    return {topic.removeprefix(f"{BASE}/"): json.loads(text) for topic, text in messages_shown("mqtt-api")[::-1]}


def device_names(count: int) -> list[str]:
    return [f"{_KINDS[number % len(_KINDS)]}-{number // len(_KINDS) + 1:02}" for number in range(count)]


class SimulatedSite:
    """Its boards answer feedback and requests as long as it is open."""

    def __init__(
        self,
        port: int,
        devices: Sequence[str],
        *,
        site: str = SITE,
        health_interval_s: float = 10.0,
        user: tuple[str, str] | None = None,
    ) -> None:
        self.devices = list(devices)
        self.interval_s = health_interval_s
        self.feedback: list[Document] = []
        self._base = f"{ROOT}/{site}"
        self._site = site
        self._samples = documents_of_a_board()
        self._random = random.Random(0)
        self._readings = [json.loads(one.payload) for one in held_out() if one.payload.startswith("{")]
        self._numbers = itertools.count(1)
        self._sessions = {device: f"{number:016x}" for number, device in enumerate(self.devices, 1)}
        self._accuracy: dict[tuple[str, str], Document] = {}
        self._outputs: OrderedDict[tuple[str, str, object], Any] = OrderedDict()
        self._lock = threading.Lock()
        filters = tuple(f"{self._base}/+/infer/+/{end}" for end in ("feedback", "request"))
        self._caller = Caller(port, "5", filters, self._receive, user=user)

    def close(self) -> None:
        self._caller.close()

    def base(self, device: str) -> str:
        return f"{self._base}/{device}"

    def publish(self, topic: str, document: Document | None, *, retain: bool = False, **properties: Any) -> None:
        payload = b"" if document is None else json.dumps(document, ensure_ascii=False).encode()
        self._caller.send(topic, payload, retain=retain, properties=properties)

    def start(self) -> None:
        """Every board comes online."""
        for device in self.devices:
            self.state(device)
            self.info(device)
            self.health(device)

    def state(self, device: str, state: str = "online", reason: str | None = None) -> None:
        document = {"state": state, "session": self._sessions[device], "reason": reason, "connected_at": timestamp()}
        self.publish(f"{self.base(device)}/state", {**self._samples["state"], **document}, retain=True)

    def info(self, device: str, **tasks: Document) -> None:
        """`tasks` are more tasks, by name."""
        sample = self._samples["info"]
        triage = {**sample["tasks"][TRIAGE], "labels": list(LABELS), "echo_input": "audits", "audit_rate": 0.05}
        triage |= {"min_accuracy": PROMISE, "confidence": 0.95, "publish": None}
        watch = {**{name: triage[name] for name in ("max_tokens", "deadline_ms", "priority", "subscribe")}, **UNUSUAL}
        document = {
            **sample,
            "ts": timestamp(),
            "site": self._site,
            "device": device,
            "tasks": {**sample["tasks"], TRIAGE: triage, WATCH: watch, **tasks},
            "limits": {**sample["limits"], "health_interval_s": self.interval_s},
        }
        self.publish(f"{self.base(device)}/info", document, retain=True)

    def health(self, device: str, *, ts: str | None = None, expires: bool = True, **parts: Document | Any) -> None:
        """`parts` replace fields of objects such as `queue`, or whole values such as `overall`."""
        sample = self._samples["health"]
        soc_c = round(self._random.uniform(48, 64), 1)
        depth = self._random.randrange(4)
        document = {
            **sample,
            "ts": ts or timestamp(),
            "session": self._sessions[device],
            "seq": next(self._numbers),
            "queue": {**sample["queue"], "depth": depth},
            "thermal": {**sample["thermal"], "soc_c": soc_c, "limit_c": 85.0, "headroom_c": round(85 - soc_c, 1)},
            "accuracy": {**sample["accuracy"], TRIAGE: self._accuracy_of(device, TRIAGE)},
        }
        for name, value in parts.items():
            document[name] = {**document[name], **value} if isinstance(value, dict) else value
        # As with an agent's, an old one disappears by itself.
        expiry_s = max(1, round(3 * self.interval_s))
        properties = {"MessageExpiryInterval": expiry_s} if expires else {}
        self.publish(f"{self.base(device)}/health", document, retain=True, **properties)

    def signals(self, device: str, table: str, **machines: Document) -> None:
        """`machines` gives, by name, the value and the age of each signal."""
        document = {"ts": timestamp(), "machines": machines, "left_out": 0}
        self.publish(f"{self.base(device)}/signals/{table}", document)

    def alarm(self, device: str, name: str, severity: str = "critical", message: str | None = None) -> None:
        sample = self._samples["alarm/duplicate-client-id"]
        document = {"ts": timestamp(), "since": timestamp(), "severity": severity, "session": self._sessions[device]}
        more = {} if message is None else {"message": message}
        self.publish(f"{self.base(device)}/alarm/{name}", {**sample, **document, **more}, retain=True)

    def end_alarm(self, device: str, name: str) -> None:
        self.publish(f"{self.base(device)}/alarm/{name}", None, retain=True)

    def event(self, device: str, name: str = "worker-restarted") -> None:
        self.publish(
            f"{self.base(device)}/event/{name}", {**self._samples["event/worker-restarted"], "ts": timestamp()}
        )

    def answer(self, device: str, *, is_audit: bool = False, **fields: Any) -> Document:
        """Publishes an answer of machine-triage as if a sensor had asked; an audit tells its input."""
        reply = {**self._reply(device, TRIAGE, self._random.choice(self._readings)), **fields}
        if is_audit:
            reply = {**reply, "please_check": True, "input": reply["input"]}
            accuracy = self._accuracy_of(device, TRIAGE)
            accuracy["asked"] += 1
        elif "input" not in fields:
            del reply["input"]
        self.publish(f"{self.base(device)}/infer/{TRIAGE}/response", reply)
        return reply

    def unusual(self, device: str, **fields: Any) -> Document:
        """Publishes an unusual reading, which asks what it was."""
        reading = self._random.choice(self._readings)
        field, value = next(iter(reading.items()))
        because = [{"field": field, "value": value, "usual": [1.2, 3.4]}]
        reply = {
            **self._reply(device, WATCH, reading),
            "output": {"unusual": True, "rarity": 0.0002, "because": because},
            "scores": None,
            "finish": "model",
            "please_check": True,
            **fields,
        }
        self.publish(f"{self.base(device)}/infer/{WATCH}/response", reply)
        return reply

    def _reply(self, device: str, task: str, reading: Any, number: object = None) -> Document:
        output = self._random.choice(LABELS)
        probability = round(self._random.uniform(0.6, 1), 4)
        scores = {label: round((1 - probability) / (len(LABELS) - 1), 6) for label in LABELS}
        reply = {
            **self._samples["infer/machine-triage/response"],
            "id": number if number is not None else f"reading-{next(self._numbers)}",
            "task": task,
            "device": device,
            "ts": timestamp(),
            "status": "ok",
            "error": None,
            "output": output,
            "scores": {**scores, output: probability},
            "input": reading,
        }
        with self._lock:
            self._outputs[device, task, reply["id"]] = output
            while len(self._outputs) > _KEPT:
                self._outputs.popitem(last=False)
        return reply

    def set_audits(self, device: str, answered: int) -> int:
        """How many audits the board's health says are answered from now on. Returns how many it said before."""
        accuracy = self._accuracy_of(device, TRIAGE)
        before, accuracy["audits"] = accuracy["audits"], answered
        self.health(device)
        return int(before)

    def _accuracy_of(self, device: str, task: str) -> Document:
        with self._lock:
            if (device, task) not in self._accuracy:
                self._accuracy[device, task] = {**self._samples["health"]["accuracy"][TRIAGE]}
            return self._accuracy[device, task]

    def _receive(self, message: paho.MQTTMessage) -> None:
        """Runs on the network thread."""
        found = re.fullmatch(rf"{self._base}/([^/]+)/infer/([^/]+)/(feedback|request)", message.topic)
        if found is None or found[1] not in self._sessions:
            return
        device, task, what = found.groups()
        if what == "feedback":
            self._take_feedback(device, task, json.loads(message.payload))
        else:
            self._take_request(device, task, message)

    def _take_feedback(self, device: str, task: str, document: Document) -> None:
        key = (device, task, document.get("id"))
        with self._lock:
            is_kept, output = key in self._outputs, self._outputs.get(key)
        result: Document
        if is_kept:
            answer = document.get("answer", output if document.get("correct") else None)
            data = {"task": task, "output": output, "answer": answer, "is_right": answer == output}
            if "by" in document:
                data["by"] = document["by"]
            result = {"id": document["id"], "status": "ok", "error": None, "data": data}
            accuracy = self._accuracy_of(device, task)
            accuracy["audits"] += 1
        else:
            error = {"code": "not_found", "message": "id: no answer to this request is kept"}
            result = {"id": document.get("id"), "status": "failed", "error": error, "data": None}
        self.feedback.append({"device": device, **document})
        self.publish(f"{self.base(device)}/infer/{task}/feedback/result", result)

    def _take_request(self, device: str, task: str, message: paho.MQTTMessage) -> None:
        try:
            document = json.loads(message.payload)
        except ValueError:
            document = None
        envelope = document if isinstance(document, dict) and "input" in document else {"input": document}
        reply = self._reply(device, task, envelope["input"], envelope.get("id"))
        del reply["input"]
        properties = {}
        topic = getattr(message.properties, "ResponseTopic", None) or envelope.get("reply_to")
        if correlation := getattr(message.properties, "CorrelationData", None):
            properties["CorrelationData"] = correlation
        self.publish(topic or f"{self.base(device)}/infer/{task}/response", reply, **properties)

    def run(self, rate: float, until: threading.Event, *, audits: float = 0.01, quiet: Sequence[str] = ()) -> None:
        """Health of each board when it is due and so many answers a second. The quiet boards are left to the caller."""
        busy = [device for device in self.devices if device not in quiet]
        began = time.monotonic()
        answers, healths = 0, 0
        while not until.wait(0.01):
            passed_s = time.monotonic() - began
            while healths < passed_s * len(busy) / self.interval_s:
                self.health(busy[healths % len(busy)])
                healths += 1
            while answers < passed_s * rate:
                self.answer(busy[answers % len(busy)], is_audit=self._random.random() < audits)
                answers += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.web.site", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--boards", type=int, default=200)
    parser.add_argument("--rate", type=float, default=500.0, help="answers a second (default: %(default)s)")
    parser.add_argument("--audits", type=float, default=0.01, help="their share (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between healths (default: %(default)s)")
    parser.add_argument("--quiet", default="", help="boards, separated by commas, that another process plays")
    options = parser.parse_args()
    quiet = [name for name in options.quiet.split(",") if name]
    devices = [name for name in device_names(options.boards) if name not in quiet]
    with closing(SimulatedSite(options.port, devices, health_interval_s=options.interval)) as site:
        site.start()
        print("ready", flush=True)
        site.run(options.rate, threading.Event(), audits=options.audits)
    return 0


if __name__ == "__main__":
    sys.exit(main())
