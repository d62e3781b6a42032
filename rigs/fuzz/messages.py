"""Malformed messages to a real agent over mosquitto: each is answered once, in the right place and form.

    python -m rigs.fuzz.messages [--count 100000] [--first 0] [--model PATH]

Exit code 1 if not, or if a process ends. `malformed.py` makes the messages, `answers.py` knows the right answers.
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
# Messages without an answer yet.
AHEAD = 48
STUCK_S = 60.0
# Each fourth message uses MQTT 3.1.1.
OLD_EVERY = 4
SAMPLE_EVERY = 10_000
# By then the bounded memories are full: answers to repeat, the times of runs, SQLite's cache. The interpreter's table
# of names doubles once, at some time (1 MiB).
SETTLED_AFTER = 20_000
MOST_GROWTH = 1.03
_MAX_SHOWN = 20


@dataclass(slots=True)
class Book:
    """The messages that were sent, by the key of their answers, and the faults of the answers that came.

    anonymous: messages without a key; their answers are only counted. owed, answered: messages that cannot vanish.
    """

    base: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    expected: dict[bytes | str, Message] = field(default_factory=dict)
    seen: Counter[bytes | str] = field(default_factory=Counter)
    anonymous: int = 0
    anonymous_seen: int = 0
    owed: int = 0
    answered: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def sent(self, one: Message) -> None:
        """Notes a message before it goes out."""
        with self.lock:
            key = _key(one)
            if key is not None:
                self.expected[key] = one
            else:
                self.anonymous += one.copies
            self.owed += 0 if one.may_vanish else one.copies

    def refused(self, one: Message, copies: int) -> None:
        """The broker did not take this number of copies."""
        with self.lock:
            self.owed -= 0 if one.may_vanish else copies
            key = _key(one)
            if key is None:
                self.anonymous -= copies
            elif copies == one.copies:
                del self.expected[key]

    def note_answer(self, topic: str, correlation: bytes | None, payload: bytes) -> None:
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
                self.anonymous_seen += 1
                return
            self.seen[key] += 1
            if topic not in (allowed := topics(one, self.base)):
                self._wrong(f"{one.number} {one.kind}: answered on {topic[:200]!r}, not on {sorted(allowed)[:2]}")
            if must_be_invalid(one) and reply["status"] != "invalid":
                self._wrong(f"{one.number} {one.kind}: {_end(reply)}, and it is invalid")

    def close(self) -> None:
        """Notes every message without an answer, or with too many."""
        for key, one in self.expected.items():
            seen, most = self.seen[key], one.copies
            if seen > most or (seen < most and not one.may_vanish):
                self._wrong(f"{one.number} {one.kind}: {seen} answers, not {most}")
        if self.anonymous_seen != self.anonymous:
            self._wrong(f"of {self.anonymous} that nothing tells apart {self.anonymous_seen} were answered")

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
    """Subscribes to every topic."""

    def __init__(self, port: int, book: Book) -> None:
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = lambda _client, _userdata, message: book.note_answer(
            message.topic, getattr(message.properties, "CorrelationData", None), bytes(message.payload)
        )
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.connect("127.0.0.1", port, 60)
        self._client.subscribe("#", qos=1)
        self._client.loop_start()
        assert self._ready.wait(10), "the broker confirms no subscription"

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass(slots=True)
class Outcome:
    """refused: messages that the broker does not take. resident: MiB of each process, by the number of messages."""

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

    def sample(asked: int) -> None:
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
                sample(number - first)
            _wait_for_answers(book)
            if sys.stderr.isatty() and number % 100 == 0:
                print(f"\r{number - first} asked, {len(book.faults)} faults ", end="", file=sys.stderr)
    sample(count)
    return resident, refused


def _wait_for_answers(book: Book) -> None:
    give_up_at = time.monotonic() + STUCK_S
    while book.owed - book.answered > AHEAD and time.monotonic() < give_up_at:
        time.sleep(0.001)


def _wait_until_quiet(book: Book) -> None:
    """Until all is answered, and a little longer, for second answers."""
    give_up_at = time.monotonic() + STUCK_S
    while book.answered < book.owed and time.monotonic() < give_up_at:
        time.sleep(0.05)
    time.sleep(0.5)


def _faults(agent: AgentProcess, client: Client, processes: dict[str, psutil.Process]) -> list[str]:
    """What is wrong with the agent afterwards."""
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
    print(f"{book.owed} answers owed, {book.answered} received")
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
