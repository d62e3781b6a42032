"""Malformed messages to a real agent over mosquitto. Each is answered once, in the right place and form.

`malformed.py` makes the messages, `answers.py` knows the right answers. No process may end or grow.
"""

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psutil

from rigs.fuzz.answers import fault, is_reply, must_be_invalid, topics
from rigs.fuzz.children import FAILED, Outcome
from rigs.fuzz.malformed import Message, message
from tests.helpers.caller import Caller
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, Mosquitto, children, free_port, workers
from tests.helpers.site import written_config

DEVICE = "fuzz"
BASE = f"edgeai/v1/test/{DEVICE}"
# How many messages may be without an answer yet.
AHEAD = 48
STUCK_S = 60.0
# Each fourth message uses MQTT 3.1.1.
OLD_EVERY = 4
# By then the bounded memories (answers to repeat, the times of runs, SQLite's cache) are full. The interpreter's table
# of names doubles once, at some time (1 MiB).
SETTLED_AFTER = 20_000
MAX_GROWTH = 1.03


class Book:
    """The messages that were sent, and what is wrong with the answers that came.

    Answers to messages without a key are only counted. `owed` and `answered` count those to messages that cannot
    vanish.
    """

    def __init__(self, base: str) -> None:
        self.owed = self.answered = 0
        self.statuses = Counter[str]()
        self.faults: list[str] = []
        self._base = base
        self._lock = threading.Lock()
        self._expected: dict[bytes | str, Message] = {}
        self._seen = Counter[bytes | str]()
        self._unkeyed = 0

    def sent(self, fuzzed: Message) -> None:
        """Notes a message before it goes out."""
        with self._lock:
            if fuzzed.key is None:
                self._unkeyed += fuzzed.copies
            else:
                self._expected[fuzzed.key] = fuzzed
            self.owed += 0 if fuzzed.may_vanish else fuzzed.copies

    def hear(self, message: paho.MQTTMessage) -> None:
        self.note(message.topic, getattr(message.properties, "CorrelationData", None), bytes(message.payload))

    def note(self, topic: str, correlation: bytes | None, payload: bytes) -> None:
        """Takes any message of the bus."""
        try:
            reply: Any = None if topic.endswith("/request") else json.loads(payload)
        except (ValueError, RecursionError):  # what sensors publish
            return
        if not is_reply(reply) or reply["status"] == "partial":
            return
        code = (reply["error"] or {}).get("code")
        end = f"{reply['status']}/{code}" if code else str(reply["status"])
        with self._lock:
            self.statuses[end] += 1
            if (wrong := fault(reply, topic, self._base)) is not None:
                self.faults.append(f"{wrong}: {payload[:300]!r} on {topic[:200]!r}")
            key = topic if correlation is None or correlation not in self._expected else correlation
            fuzzed = self._expected.get(key)
            self.answered += fuzzed is None or not fuzzed.may_vanish
            if fuzzed is None:
                self._unkeyed -= 1
                return
            self._seen[key] += 1
            if topic not in (allowed := topics(fuzzed, self._base)):
                self.faults.append(
                    f"{fuzzed.number} {fuzzed.kind}: answered on {topic[:200]!r}, not {sorted(allowed)[:2]}"
                )
            if must_be_invalid(fuzzed) and reply["status"] != "invalid":
                self.faults.append(f"{fuzzed.number} {fuzzed.kind}: {end}, and it is invalid")

    def close(self) -> None:
        """Notes every message without an answer, or with too many."""
        for key, fuzzed in self._expected.items():
            seen, most = self._seen[key], fuzzed.copies
            if seen > most or (seen < most and not fuzzed.may_vanish):
                self.faults.append(f"{fuzzed.number} {fuzzed.kind}: {seen} answers, not {most}")
        if self._unkeyed:
            self.faults.append(f"{self._unkeyed} messages that nothing tells apart were not answered")


def outcomes(numbers: range, _model: Path) -> Iterator[tuple[int, Outcome]]:
    """The statuses of the answers, then the faults, each of which names its message."""
    with tempfile.TemporaryDirectory() as folder:
        book = run(Path(folder), numbers)
    print(f"{len(numbers)} messages, {book.owed} answers owed, {book.answered} received", flush=True)
    yield from ((0, (status, "")) for status in book.statuses.elements())
    yield from ((0, (FAILED, what)) for what in book.faults)


def run(folder: Path, numbers: range) -> Book:
    (folder / "broker").mkdir()
    book = Book(BASE)
    with Mosquitto(folder / "broker", free_port(), "max_packet_size 2000000\n") as broker:
        agent = AgentProcess(written_config(folder, "echo:", device=DEVICE, port=broker.port))
        client = Client(broker.port, "5")
        try:
            client.subscribe(f"{BASE}/state", f"{BASE}/infer/triage/response/last")
            client.wait_for(f"{BASE}/state", lambda state: state["state"] == "online")
            before = _processes(agent)
            book.faults += _ask_all(book, broker.port, numbers, before)
            if _processes(agent) != before:
                book.faults.append("a process was ended")
            book.faults += _last_question(client)
        finally:
            client.close()
            code = agent.stop()
    book.close()
    book.faults += [f"the agent ended with {code}"] if code else []
    signs = ("ERROR", "Traceback", "disconnected client")
    book.faults += [line for line in agent.log.splitlines() if any(sign in line for sign in signs)]
    return book


def _processes(agent: AgentProcess) -> dict[str, int]:
    pid = agent.process.pid
    (worker,), (renderer,) = workers(pid), children(pid, "edge_agent.requests.renderer")
    return {"agent": pid, "worker": worker, "renderer": renderer}


def _ask_all(book: Book, port: int, numbers: range, processes: dict[str, int]) -> list[str]:
    """The processes that grew."""
    settled_mib: dict[str, float] = {}
    listener = Caller(port, "5", ("#",), book.hear)
    clients = {protocol: Caller(port, protocol) for protocol in ("5", "3.1.1")}
    for asked, number in enumerate(numbers):
        protocol = "3.1.1" if number % OLD_EVERY == 0 else "5"
        fuzzed = message(number, BASE, is_v5=protocol == "5")
        book.sent(fuzzed)
        for _ in range(fuzzed.copies):
            clients[protocol].send(
                fuzzed.topic, fuzzed.payload, qos=fuzzed.qos, retain=fuzzed.retain, properties=fuzzed.properties
            )  # fmt: skip
        give_up_at = time.monotonic() + STUCK_S
        while book.owed - book.answered > AHEAD and time.monotonic() < give_up_at:
            time.sleep(0.001)
        if asked == SETTLED_AFTER:
            settled_mib = {name: resident_mib(pid) for name, pid in processes.items()}
    give_up_at = time.monotonic() + STUCK_S
    while book.answered < book.owed and time.monotonic() < give_up_at:
        time.sleep(0.05)
    # Second answers may come in this time.
    time.sleep(0.5)
    for caller in (listener, *clients.values()):
        caller.close()
    grown = {name: (mib, resident_mib(processes[name])) for name, mib in settled_mib.items()}
    return [
        f"the {name} has grown from {old:.1f} to {new:.1f} MiB"
        for name, (old, new) in grown.items()
        if new > old * MAX_GROWTH
    ]


def resident_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)


def _last_question(client: Client) -> list[str]:
    topic = f"{BASE}/infer/triage/response/last"
    client.publish(f"{BASE}/infer/triage/request", {"id": "last", "input": "a bearing fault", "reply_to": topic})
    reply = client.wait(topic)[0].json
    return [] if reply["status"] == "ok" else [f"a good question is not answered: {reply}"]
