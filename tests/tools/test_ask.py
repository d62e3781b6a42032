import json
import time
from typing import Any

import pytest

from edge_agent.core.strict_json import NotJsonError
from edge_agent.tools.ask import parse_input
from tests.helpers.caller import Caller
from tests.helpers.processes import BrokerPort, EdgeAgent


def test_only_objects_and_arrays_are_json_on_the_command_line() -> None:
    assert [parse_input(text) for text in (' \n{"hz": 1}', "[1, 2]")] == [{"hz": 1}, [1, 2]]
    assert all(parse_input(text) == text for text in ("hums loudly", "42", "null", '"quoted"', ""))
    for text in ("{not json", '{"a": NaN}', "[pump 3] hums"):
        with pytest.raises(NotJsonError):
            parse_input(text)


@pytest.mark.parametrize("state", [{"state": "offline", "reason": "connection-lost"}, {"state": "stopped"}])
def test_nobody_waits_for_a_board_that_goes_away(
    broker_port: BrokerPort, edge_agent: EdgeAgent, state: dict[str, str]
) -> None:
    port = broker_port("5")
    board = "edgeai/v1/hall1/ask-away"

    def go_away(_: Any) -> None:
        caller.send(f"{board}/state", json.dumps(state))

    caller = Caller(port, "5", (f"{board}/infer/triage/request",), go_away)
    caller.send(f"{board}/state", json.dumps({"state": "online"}), retain=True).wait_for_publish(5)
    bus = ["--host", "127.0.0.1", "--port", str(port), "--site", "hall1", "--device", "ask-away"]
    began = time.monotonic()
    done = edge_agent("ask", "triage", "text", *bus)
    caller.close()
    assert time.monotonic() - began < 20
    assert (done.returncode, f"went away before it answered; it is {state['state']}" in done.stderr) == (1, True)


def test_a_pool_is_asked_on_its_own_topics_and_asks_for_no_audit(
    broker_port: BrokerPort, edge_agent: EdgeAgent
) -> None:
    port = broker_port("5")
    request = "edgeai/v1/hall1/pool/pumps/infer/triage/request"
    requests = list[dict[str, Any]]()

    def answer(message: Any) -> None:
        requests.append(asked := json.loads(message.payload))
        caller.send(asked["reply_to"], json.dumps({"id": asked["id"], "status": "ok", "device": "board2"}))

    caller = Caller(port, "5", (request,), answer)
    bus = ["--host", "127.0.0.1", "--port", str(port), "--site", "hall1", "--device", "any"]
    done = edge_agent("ask", "triage", "text", "--pool", "pumps", *bus)
    caller.close()
    assert (done.returncode, done.document["device"]) == (0, "board2")
    assert [asked["audit"] for asked in requests] == [False]
    assert edge_agent("ask", "triage", "text", "--pool", "no/name", *bus).returncode == 64
