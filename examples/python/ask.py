"""Asks a task of one board and prints the reply: python ask.py HOST[:PORT] BASE TASK INPUT [3.1.1]

BASE is <root>/<site>/<device>, such as edgeai/v1/hall1/board1. INPUT is a bare input or an envelope. With
`"stream": true` in it, the pieces of the answer are printed first. Needs paho-mqtt 2, and a broker with MQTT 5
unless 3.1.1 is given. A bare input is then put into an envelope, so the reply is never a bare output.
"""

import json
import queue
import socket
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

TIMEOUT_S = 60


def send_at_once(_client: mqtt.Client, _userdata: Any, connection: Any) -> None:
    """Without TCP_NODELAY the kernel holds small packets back for 40 ms."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def envelope_of(text: str, reply_topic: str) -> str:
    """An envelope with what MQTT 3.1.1 has no properties for. Raises ValueError."""
    value = json.loads(text) if text.lstrip().startswith(("{", "[")) else text
    envelope = value if isinstance(value, dict) and "input" in value else {"input": value}
    fields = {"id": str(uuid.uuid4()), "deadline_ms": TIMEOUT_S * 1000, **envelope, "reply_to": reply_topic}
    return json.dumps(fields)


def ask(host: str, base: str, task: str, text: str, version: str = "5", *, port: int = 1883) -> Iterator[str]:
    """The payload of the reply, after those of its pieces."""
    replies: queue.Queue[bytes] = queue.Queue()
    is_subscribed: queue.Queue[Any] = queue.Queue()
    reply_topic = f"{base}/infer/{task}/response/{uuid.uuid4()}"

    protocol = mqtt.MQTTv311 if version == "3.1.1" else mqtt.MQTTv5
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol)
    client.on_socket_open = send_at_once
    client.on_connect = lambda client, *_: client.subscribe(reply_topic, qos=1)
    client.on_subscribe = lambda *_: is_subscribed.put(None)
    client.on_message = lambda _client, _userdata, message: replies.put(message.payload)
    client.connect(host, port)
    client.loop_start()
    try:
        is_subscribed.get(timeout=TIMEOUT_S)
        properties = None
        if version == "3.1.1":
            text = envelope_of(text, reply_topic)
        else:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = reply_topic
            properties.CorrelationData = uuid.uuid4().bytes
            # Later, the broker drops the request; the agent answers `expired`.
            properties.MessageExpiryInterval = TIMEOUT_S
        client.publish(f"{base}/infer/{task}/request", text, qos=1, properties=properties)
        is_partial = True
        while is_partial:
            payload = replies.get(timeout=TIMEOUT_S).decode()
            is_partial = '"status":"partial"' in payload
            yield payload
    finally:
        client.disconnect()
        client.loop_stop()


if __name__ == "__main__":
    if len(sys.argv) != 5 and sys.argv[5:] != ["3.1.1"]:
        sys.exit(__doc__)
    host, _, port = sys.argv[1].partition(":")
    try:
        for payload in ask(host, *sys.argv[2:], port=int(port or 1883)):
            print(payload, flush=True)
    except queue.Empty:
        sys.exit(f"no reply within {TIMEOUT_S} s: is the agent online as {sys.argv[2]}?")
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
