"""Malformed messages to a real agent over mosquitto: each is answered once, in the right place and form; nobody dies.

    python -m rigs.fuzz.messages [--count 100000] [--first 0] [--model PATH]

Exit code 1 if not. `rigs/fuzz/malformed.py` makes them, `rigs/fuzz/answers.py` says what is right.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psutil
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.tools.demo.broker import free_port
from rigs.fuzz.answers import fault, is_reply, must_be_invalid, topics
from rigs.fuzz.malformed import REPLIES, Message, mark, message
from rigs.fuzz.packets import RawClient
from rigs.soak.samples import process_sample
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, Mosquitto, children, workers
from tests.helpers.site import site_config

DEVICE = "fuzz"
BASE = f"edgeai/v1/test/{DEVICE}"
# So many more are asked than are answered.
AHEAD = 48
STUCK_S = 60.0
# One in so many comes by MQTT 3.1.1.
OLD_EVERY = 4
SAMPLE_EVERY = 10_000
# By then what is bounded has filled up: 4096 answers to repeat and 1024 other ends, of each kind of request the times
# that 64 runs took, SQLite's cache. The interpreter's own table of names doubles once, at some time (1 MiB).
SETTLED_AFTER = 20_000
MOST_GROWTH = 1.03
_MAX_SHOWN = 20


@dataclass(slots=True)
class Book:
    """What was sent, by what its answers are known by; and what is wrong with those that came.

    anonymous: answers that nothing tells apart are only counted. owed, answered: of messages that cannot have vanished.
    """

    base: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    expected: dict[bytes | str, Message] = field(default_factory=dict)
    heard: Counter[bytes | str] = field(default_factory=Counter)
    anonymous: int = 0
    anonymous_heard: int = 0
    owed: int = 0
    answered: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def sent(self, one: Message) -> None:
        """Before it goes out."""
        with self.lock:
            key = _key(one)
            if key is not None:
                self.expected[key] = one
            else:
                self.anonymous += one.copies
            self.owed += 0 if one.may_vanish else one.copies

    def refused(self, one: Message, copies: int) -> None:
        """The broker did not take so many of its copies."""
        with self.lock:
            self.owed -= 0 if one.may_vanish else copies
            key = _key(one)
            if key is None:
                self.anonymous -= copies
            elif copies == one.copies:
                del self.expected[key]

    def hear(self, topic: str, correlation: bytes | None, payload: bytes) -> None:
        try:
            reply: Any = None if topic.endswith("/request") else json.loads(payload)
        except (ValueError, RecursionError):  # what sensors publish
            return
        if not is_reply(reply) or reply["status"] == "partial":
            return
        with self.lock:
            self.statuses[_end(reply)] += 1
            if (wrong := fault(reply, topic, self.base)) is not None:
                self._wrong(f"{wrong}: {payload[:300]!r} on {topic[:200]!r}")
            key = topic if correlation is None or correlation not in self.expected else correlation
            one = self.expected.get(key)
            self.answered += one is None or not one.may_vanish
            if one is None:
                self.anonymous_heard += 1
                return
            self.heard[key] += 1
            if topic not in (allowed := topics(one, self.base)):
                self._wrong(f"{one.number} {one.kind}: answered on {topic[:200]!r}, not on {sorted(allowed)[:2]}")
            if must_be_invalid(one) and reply["status"] != "invalid":
                self._wrong(f"{one.number} {one.kind}: {_end(reply)}, and it is invalid")

    def close(self) -> None:
        """All is said: who was not answered, or twice?"""
        for key, one in self.expected.items():
            heard, most = self.heard[key], one.copies
            if heard > most or (heard < most and not one.may_vanish):
                self._wrong(f"{one.number} {one.kind}: {heard} answers, not {most}")
        if self.anonymous_heard != self.anonymous:
            self._wrong(f"of {self.anonymous} that nothing tells apart {self.anonymous_heard} were answered")

    def _wrong(self, what: str) -> None:
        self.faults.append(what)


def _key(one: Message) -> bytes | str | None:
    if one.is_marked:
        return mark(one.number)
    own = f"{REPLIES}/{one.number}"
    return own if one.response_topic == own else None


def _end(reply: dict[str, Any]) -> str:
    code = (reply["error"] or {}).get("code")
    return f"{reply['status']}/{code}" if code else str(reply["status"])


class Listener:
    """Hears everything on the bus."""

    def __init__(self, port: int, book: Book) -> None:
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = lambda _client, _userdata, message: book.hear(
            message.topic, getattr(message.properties, "CorrelationData", None), bytes(message.payload)
        )
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port, 60)
        self._client.subscribe("#", qos=1)
        self._client.loop_start()
        assert self._ready.wait(10), "the broker lets nobody listen"

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass(slots=True)
class Outcome:
    """refused: messages that the broker does not take. resident: MiB of agent and worker, by how many were asked."""

    book: Book
    refused: int
    resident: dict[str, dict[int, float]]
    seconds: float
    faults: list[str]


def run(folder: Path, model: str, first: int, count: int) -> Outcome:
    (folder / "broker").mkdir()
    book, began = Book(BASE), time.monotonic()
    with Mosquitto(folder / "broker", free_port(), "max_packet_size 2000000\n") as broker:
        config = folder / "config.toml"
        config.write_text(site_config(DEVICE, broker.port, "5", model), encoding="utf-8")
        agent = AgentProcess(config)
        client = Client(broker.port, "5")
        try:
            client.subscribe(f"{BASE}/state", f"{BASE}/infer/triage/response/last")
            client.wait_for(f"{BASE}/state", lambda state: state["state"] == "online")
            processes = _processes(agent)
            listener = Listener(broker.port, book)
            resident, refused = _ask_all(book, broker.port, first, count, processes)
            _wait_until_quiet(book)
            listener.close()
            faults = _faults(agent, client, processes)
        finally:
            client.close()
            code = agent.stop()
    book.close()
    faults += [f"the agent ended with {code}"] if code else []
    faults += [line for line in agent.log.splitlines() if line.startswith("ERROR") or "Traceback" in line]
    return Outcome(book, refused, resident, time.monotonic() - began, book.faults + faults)


def _processes(agent: AgentProcess) -> dict[str, psutil.Process]:
    pid = agent.process.pid
    (worker,), (renderer,) = workers(pid), children(pid, "edge_agent.requests.renderer")
    return {"agent": psutil.Process(pid), "worker": psutil.Process(worker), "renderer": psutil.Process(renderer)}


def _ask_all(
    book: Book, port: int, first: int, count: int, processes: dict[str, psutil.Process]
) -> tuple[dict[str, dict[int, float]], int]:
    resident: dict[str, dict[int, float]] = {who: {} for who in processes}
    refused = 0

    def weigh(asked: int) -> None:
        for who, process in processes.items():
            if (found := process_sample(process.pid)) is not None:
                resident[who][asked] = found.resident_mib

    with RawClient(port, "5") as new, RawClient(port, "3.1.1") as old:
        for number in range(first, first + count):
            is_old = number % OLD_EVERY == 0
            one = message(number, BASE, is_v5=not is_old)
            book.sent(one)
            client = old if is_old else new
            sent = sum(
                client.send(one.topic, one.payload, qos=one.qos, retain=one.retain, properties=one.properties)
                for _ in range(one.copies)
            )
            if sent < one.copies:
                book.refused(one, one.copies - sent)
                refused += 1
            if (number - first) % SAMPLE_EVERY == 0:
                weigh(number - first)
            _wait_for_answers(book)
            if sys.stderr.isatty() and number % 100 == 0:
                print(f"\r{number - first} asked, {len(book.faults)} faults ", end="", file=sys.stderr)
    weigh(count)
    return resident, refused


def _wait_for_answers(book: Book) -> None:
    give_up_at = time.monotonic() + STUCK_S
    while book.owed - book.answered > AHEAD and time.monotonic() < give_up_at:
        time.sleep(0.001)


def _wait_until_quiet(book: Book) -> None:
    """Until all is answered, and a little longer: for what is answered twice."""
    give_up_at = time.monotonic() + STUCK_S
    while book.answered < book.owed and time.monotonic() < give_up_at:
        time.sleep(0.05)
    time.sleep(0.5)


def _faults(agent: AgentProcess, client: Client, processes: dict[str, psutil.Process]) -> list[str]:
    """What is wrong with the agent after it all."""
    faults = [f"the {who} was ended" for who, process in processes.items() if not process.is_running()]
    topic = f"{BASE}/infer/triage/response/last"
    client.publish(f"{BASE}/infer/triage/request", {"id": "last", "input": "a bearing fault", "reply_to": topic})
    reply = client.wait(topic)[0].json
    if (reply["status"], reply["output"] if reply["status"] == "ok" else None) == ("ok", None):
        faults.append(f"a good question is not answered: {reply}")
    if reply["status"] != "ok":
        faults.append(f"a good question is answered with {_end(reply)}")
    lost = [line for line in agent.log.splitlines() if "disconnected client" in line]
    return faults + lost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first message")
    parser.add_argument("--model", default="echo:", help="of the agent (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), given.model, given.first, given.count)
    book = outcome.book
    print(f"\n{given.count} messages in {outcome.seconds:.0f} s, {outcome.refused} not taken by the broker")
    print(f"{book.owed} answers owed, {book.answered} heard")
    print(", ".join(f"{count} {status}" for status, count in book.statuses.most_common()))
    faults = list(outcome.faults)
    for who, samples in outcome.resident.items():
        print(f"{who}, MiB: " + ", ".join(f"{mib:.1f} after {asked}" for asked, mib in samples.items()))
        settled = [mib for asked, mib in samples.items() if asked >= SETTLED_AFTER]
        if settled and settled[-1] > settled[0] * MOST_GROWTH:
            faults.append(f"the {who}'s memory has grown by more than {MOST_GROWTH - 1:.0%} since {SETTLED_AFTER}")
    for one in faults[:_MAX_SHOWN]:
        print(f"  {one}")
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
