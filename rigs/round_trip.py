"""How long a caller waits, from publish to reply, beside the agent's own time: by broker, client and QoS.

Brokers: mosquitto with its default, and with `set_tcp_nodelay true`. Clients: plain paho, and with TCP_NODELAY. Each
combination has a client that asks one request after the other. The clients take turns in each round. Each value is the
median of a round. Exit code 1 if broker and network add more than MAX_ADDED_MS where both set the option.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.core.pipe import ECHO_MODEL
from edge_agent.tools.demo.broker import free_port
from rigs.bench.figures import Figures
from rigs.machine import model_path, parser_of, require
from tests.helpers.caller import send_at_once
from tests.helpers.processes import Mosquitto
from tests.helpers.site import Site, running_site

BROKERS = {"default": "", "nodelay": "set_tcp_nodelay true\n"}
MAX_ADDED_MS = 15.0
_ANSWER_S = 60.0
_READING = {"vibration_mm_s": 7.9, "temperature_c": 81.5}


class Asker:
    """A client as people write it, at MQTT 3.1.1."""

    def __init__(self, site: Site, task: str, name: str, *, has_nodelay: bool, qos: int) -> None:
        self._topic, self._qos = site.request(task), qos
        self.reply_to = f"edgeai/v1/reply/{name}"
        self._replies: queue.Queue[tuple[float, bytes]] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        if has_nodelay:
            self._client.on_socket_open = send_at_once
        self._client.on_message = lambda _client, _data, message: self._replies.put(
            (time.monotonic(), bytes(message.payload))
        )
        is_subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: is_subscribed.set()
        self._client.connect("127.0.0.1", site.port)
        self._client.loop_start()
        self._client.subscribe(self.reply_to, qos)
        assert is_subscribed.wait(_ANSWER_S)

    def ask(self, value: Any) -> tuple[float, float]:
        """The time until the reply, and the agent's own: ms."""
        waited_ms, reply = self.reply(value)
        assert reply["status"] == "ok", reply
        return waited_ms, reply["timing"]["total_ms"]

    def reply(self, value: Any) -> tuple[float, dict[str, Any]]:
        """The time until the reply in ms, and the reply."""
        envelope = {"input": value, "reply_to": self.reply_to}
        started_at = time.monotonic()
        self._client.publish(self._topic, json.dumps(envelope), self._qos)
        received_at, payload = self._replies.get(timeout=_ANSWER_S)
        return 1000 * (received_at - started_at), json.loads(payload)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def main() -> int:
    parser = parser_of("rigs.round_trip", __doc__)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a bundle or a .gguf (default: echo:, without one)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=20, help="of each in each round (default: %(default)s)")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="between a reply and the next request (default: 0)")
    options = parser.parse_args()
    require({"mosquitto": "mosquitto"})
    model = ECHO_MODEL if options.model is None else str(model_path(options.model).absolute())
    figures, pause = Figures(), threading.Event()
    with ExitStack() as stack:
        askers = {}
        for broker, settings in BROKERS.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = stack.enter_context(Mosquitto(folder, free_port(), settings)).port
            site = stack.enter_context(running_site(folder, port, "5", model=model))
            for qos, has_nodelay in itertools.product((1, 0), (False, True)):
                name = f"{qos}-{has_nodelay}"
                asker = Asker(site, "triage", name, has_nodelay=has_nodelay, qos=qos)
                stack.callback(asker.close)
                askers[broker, qos, has_nodelay] = asker
        for _ in range(options.rounds):
            for (broker, qos, has_nodelay), asker in askers.items():
                times = []
                for _ in range(options.requests):
                    times.append(asker.ask(_READING))
                    pause.wait(options.pause_ms / 1000)
                waited, own = (statistics.median(column) for column in zip(*times, strict=True))
                name = f"QoS {qos}, mosquitto {broker:7}, client {'nodelay' if has_nodelay else 'plain':7}"
                figures.note(name, waited, "ms")
                figures.note("the agent's own time, in all of these", own, "ms")
                if qos == 1 and broker == "nodelay" and has_nodelay:
                    figures.note("added by broker and network at best", waited - own, "ms", at_most=MAX_ADDED_MS)
    print(figures.table())
    print(f"load of this machine: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    return 0 if figures.are_met else 1


if __name__ == "__main__":
    sys.exit(main())
