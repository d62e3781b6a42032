"""Requests to an agent or a pool, alone, many at once or at given times; every reply goes through the ledger."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import paho.mqtt.client as paho

from rigs.load.ledger import Ledger
from tests.helpers.caller import Caller

ANSWER_S = 300.0
Question = TypeVar("Question")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """The first terminal reply to a request. Both times are seconds of the monotonic clock."""

    reply: dict[str, Any]
    sent_at: float
    heard_at: float

    @property
    def status(self) -> str:
        return str(self.reply["status"])

    @property
    def device(self) -> str:
        return str(self.reply["device"])

    @property
    def waited_ms(self) -> float:
        return 1000 * (self.heard_at - self.sent_at)

    @property
    def agent_ms(self) -> float:
        """The time from arrival to reply by the agent's own account."""
        return float(self.reply["timing"]["total_ms"])


class Load:
    """A client whose requests are named by number.

    Replies are expected on a topic of its own and on `reply_filters`. A client with `is_kept` has a session that
    outlives its connections.
    """

    def __init__(
        self,
        port: int,
        protocol: str = "5",
        *,
        name: str = "load",
        reply_filters: tuple[str, ...] = (),
        is_kept: bool = False,
        in_flight: int = 1000,
        qos: int = 1,
        has_nodelay: bool = True,
        ledger: Ledger | None = None,
    ) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        self.reply_to = f"edgeai/v1/reply/{name}"
        self.torn_streams = 0
        self._qos = qos
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        # By the request's name, when it was sent, and who waits for its answer.
        self._waiting: dict[str, tuple[float, Future[Answer]]] = {}
        # By the request's name, the text of its stream so far.
        self._streams: dict[str, list[str]] = {}
        # Names by the number of the MQTT message, and the numbers that the broker has acknowledged. paho acknowledges
        # under a lock that `publish` waits for, so `_lock` must not be taken there.
        self._names: dict[int, str] = {}
        self._acknowledged: set[int] = set()
        self._caller = Caller(
            port,
            protocol,
            (self.reply_to, *reply_filters),
            self._on_message,
            self._acknowledged.add,
            session=name if is_kept else None,
            in_flight=in_flight,
            qos=qos,
            has_nodelay=has_nodelay,
        )

    def new_name(self) -> str:
        return str(next(self._numbers))

    def ask(self, topic: str, value: Any, *, expected: str | None = None, **fields: Any) -> Future[Answer]:
        """Sends an envelope with these further fields."""
        name = self.new_name()
        envelope = {"id": name, "input": value, "reply_to": self.reply_to, **fields}
        return self.send(topic, json.dumps(envelope, ensure_ascii=False), name, expected=expected)

    def send(
        self,
        topic: str,
        payload: str,
        name: str,
        *,
        expected: str | None = None,
        ends: frozenset[str] | None = None,
        times: int = 1,
        is_stream: bool = False,
    ) -> Future[Answer]:
        """Sends any payload whose reply has this name; the ledger holds the reply against the other arguments."""
        future = Future[Answer]()
        self.note_acknowledged()
        with self._lock:
            self.ledger.ask(name, expected, ends, times=times)
            self._waiting[name] = (time.monotonic(), future)
            if is_stream:
                self._streams[name] = []
        for _ in range(times):
            number = self._caller.send(topic, payload, qos=self._qos).mid
        self._names[number] = name
        return future

    def command(self, topic: str, payload: str) -> None:
        """Sends what has no reply."""
        self._caller.send(topic, payload)

    def note_acknowledged(self) -> None:
        """Tells the ledger what the broker has acknowledged since."""
        with self._lock:
            for number in self._acknowledged & self._names.keys():
                self.ledger.acknowledged(self._names.pop(number))
                self._acknowledged.discard(number)

    def struck(self, fault: str) -> None:
        """To be called when the fault is about to happen."""
        with self._lock:
            self.ledger.struck(fault)

    def close(self) -> None:
        self._caller.close()
        self.note_acknowledged()

    def _on_message(self, message: paho.MQTTMessage) -> None:
        heard_at, payload = time.monotonic(), bytes(message.payload)
        reply = json.loads(payload)
        # A sensor that publishes bare readings gets its replies below `plant/`.
        levels = message.topic.split("/")
        name = levels[1] if levels[0] == "plant" else str(reply["id"])
        with self._lock:
            if reply["status"] == "partial":
                self._streams[name].append(reply["delta"])
                return
            if not self.ledger.hear(name, reply, payload):
                return
            deltas = self._streams.pop(name, None)
            if reply["status"] == "ok" and deltas is not None and "".join(deltas) != reply["output"]:
                self.torn_streams += 1
            sent_at, future = self._waiting.pop(name)
        future.set_result(Answer(reply, sent_at, heard_at))


def in_parallel(
    ask: Callable[[Question], Result], questions: Sequence[Question], clients: int
) -> tuple[list[Result], float]:
    """A closed load, in which each client asks its next question as soon as it has an answer.

    Returns the results in the order of the questions, and the seconds that all of them took.
    """
    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        results = list(pool.map(ask, questions))
        return results, time.perf_counter() - began


def at_times(times_s: Iterable[float], ask: Callable[[int], Result]) -> list[Result]:
    """An open load, which asks at these times, in seconds from now, whether or not earlier requests are answered."""
    began, results = time.monotonic(), []
    for number, at_s in enumerate(times_s):
        time.sleep(max(0.0, began + at_s - time.monotonic()))
        results.append(ask(number))
    return results


def answers_of(futures: Iterable[Future[Answer]], timeout_s: float = ANSWER_S) -> list[Answer]:
    """The answers of all futures. Raises TimeoutError if a request is not answered."""
    return [future.result(timeout_s) for future in futures]
