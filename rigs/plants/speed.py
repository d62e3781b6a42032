"""How long a caller waits for a trained model, and how many requests a second eight callers get, over mosquitto.

`python -m rigs.plants.speed BUNDLE` asks the inputs of the bundle's canaries. Broker and clients set TCP_NODELAY.
Exits with 1 if the median at one client is above 8 ms, or if eight get fewer than 500 requests a second.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.tools.demo.broker import free_port
from rigs.bench.figures import Figures
from rigs.machine import model_path, parser_of, require
from tests.helpers.caller import send_at_once
from tests.helpers.processes import Mosquitto
from tests.helpers.site import Site, running_site, task_table

_CLIENTS = 8
_MOST_MS = 8.0
_LEAST_PER_S = 500.0
_ANSWER_S = 60.0


class _Asker:
    """One request after the other, at MQTT 3.1.1 and QoS 1."""

    def __init__(self, site: Site, task: str, number: int) -> None:
        self._topic, self._reply_to = site.request(task), f"edgeai/v1/reply/{number}"
        self._replies: queue.Queue[bytes] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_socket_open = send_at_once
        self._client.on_message = lambda _client, _data, message: self._replies.put(bytes(message.payload))
        is_subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: is_subscribed.set()
        self._client.connect("127.0.0.1", site.port)
        self._client.loop_start()
        self._client.subscribe(self._reply_to, 1)
        assert is_subscribed.wait(_ANSWER_S)

    def ask(self, value: Any) -> float:
        """The time until the reply: ms."""
        began = time.monotonic()
        self._client.publish(self._topic, json.dumps({"input": value, "reply_to": self._reply_to}), 1)
        reply = json.loads(self._replies.get(timeout=_ANSWER_S))
        assert reply["status"] == "ok", reply
        return 1000 * (time.monotonic() - began)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def main() -> int:
    parser = parser_of("rigs.plants.speed", __doc__)
    parser.add_argument("model", metavar="BUNDLE", type=model_path, help="of `edge-convert train`, with canaries")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=200, help="of a client in each round (default: %(default)s)")
    options = parser.parse_args()
    require({"mosquitto": "mosquitto"})
    document = json.loads((options.model / "canaries.json").read_text("utf-8"))
    name, config = next(iter(document["tasks"].items()))
    inputs = [one["input"] for one in document["canaries"] if one["task"] == name]
    figures = Figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(Mosquitto(folder, free_port(), "set_tcp_nodelay true\n")).port
        more = task_table(name, kind="classify", labels=config["labels"])
        site = stack.enter_context(running_site(folder, port, "5", model=str(options.model.absolute()), more=more))
        askers = [_Asker(site, name, number) for number in range(_CLIENTS)]
        for asker in askers:
            stack.callback(asker.close)
        pool = stack.enter_context(ThreadPoolExecutor(_CLIENTS))

        def ask_all(asker: _Asker) -> list[float]:
            return [asker.ask(value) for value in itertools.islice(itertools.cycle(inputs), options.requests)]

        for _ in range(options.rounds):
            alone = ask_all(askers[0])
            figures.note("from publish to reply, one client", statistics.median(alone), "ms", at_most=_MOST_MS)
            began = time.monotonic()
            answered = sum(map(len, pool.map(ask_all, askers)))
            rate = answered / (time.monotonic() - began)
            figures.note(f"requests, {_CLIENTS} clients", rate, "/s", at_least=_LEAST_PER_S)
    print(name, figures.table(), sep="\n")
    print(f"load of this machine: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    return 0 if figures.are_met else 1


if __name__ == "__main__":
    sys.exit(main())
