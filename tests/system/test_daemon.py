"""How the daemon, as a process, starts, stops, reconnects, and withstands what callers send."""

import itertools
import select
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.helpers.processes import Mosquitto, StartAgent, children, free_port, is_running, wait_until
from tests.helpers.site import StartSite, site_config


def test_second_sigterm_cancels_at_once(start_site: StartSite) -> None:
    site = start_site("5", model="echo:step_ms=100")
    site.client.publish(site.request("generate"), {"input": "word " * 500, "id": 1})
    site.wait_until_active(1)
    site.agent.signal(signal.SIGTERM)
    site.client.wait_for(f"{site.base}/state", lambda state: state["state"] == "draining")
    site.agent.signal(signal.SIGTERM)
    assert site.agent.wait(15) == 0
    assert site.next_terminal(site.response("generate"), 0)["status"] == "cancelled"


def test_agent_without_a_broker_waits_and_still_stops(start_agent: StartAgent) -> None:
    port = free_port()
    agent = start_agent(site_config("lonely", port, "5", "echo:"))
    wait_until(lambda: "model ready" in agent.log, "the model is ready")
    reason = f"broker=127.0.0.1:{port} reason=Connection refused"
    wait_until(lambda: agent.log.count(reason) == 2, "both connections log why they cannot connect")
    started = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - started < 15


def test_sigterm_lets_running_requests_finish_and_the_next_start_unsubscribes_from_old_topics(
    start_site: StartSite, start_agent: StartAgent, protocol: str
) -> None:
    site = start_site(protocol, model="echo:step_ms=20")
    site.client.publish(site.request("generate"), {"input": "word " * 30, "id": 1})
    site.wait_until_active(1)
    assert site.agent.stop() == 0
    assert site.next_terminal(site.response("generate"), 0)["status"] == "ok"

    text = site.agent.config.read_text("utf-8").replace('"plant/+/vibration"', '"plant/+/hum"')
    start_agent(text, name=site.agent.config.stem)
    session = site.client.on(f"{site.base}/state")[-1].json["session"]
    site.client.wait_for(f"{site.base}/state", lambda now: now["state"] == "online" and now["session"] != session)
    for _ in range(5):
        site.client.publish("plant/1/vibration", '{"vibration": 1}')
    site.client.publish("plant/2/hum", '{"vibration": 1}')
    site.client.wait("plant/2/triage")
    site.client.publish(f"{site.base}/cmd/health", b"")
    health = site.client.wait_for(f"{site.base}/health", lambda health: health["queue"]["accepted_total"] == 1).json
    assert health["mqtt"]["dropped"] == 0
    assert not site.client.on("plant/1/triage")


@pytest.mark.expects_warning
@pytest.mark.mosquitto
@pytest.mark.usefixtures("require_mosquitto")
def test_reply_that_the_broker_refuses_affects_no_other(tmp_path: Path, start_site: StartSite, protocol: str) -> None:
    """At MQTT 5 the broker says what it takes; at 3.1.1 it only closes the connection, again and again."""
    with Mosquitto(tmp_path, free_port(), "max_packet_size 10850\n") as broker:
        site = start_site(protocol, port=broker.port)
        site.client.publish(
            site.request("generate"), {"input": f"{'w' * 20} " * 500, "id": "large", "options": {"max_tokens": 600}}
        )
        topic = site.response("generate")
        wait_until(lambda: site.client.on(topic), "the large request is answered", 60.0)
        assert site.next_terminal(topic, 0)["error"]["code"] == "internal"
        for number in range(3):
            site.client.publish(site.request("triage"), {"input": "normal", "id": number})
        # What crossed with the end of a connection comes twice.
        topic = site.response("triage")
        wait_until(lambda: {message.json["id"] for message in site.client.on(topic)} == {0, 1, 2}, "all are answered")
        assert site.agent.stop() == 0


def test_sigterm_in_a_flood_still_ends_the_agent(start_site: StartSite) -> None:
    site = start_site("3.1.1", model="echo:step_ms=20", more="[queue]\ndrain_timeout_s = 2\n")
    is_over = threading.Event()

    def flood() -> None:
        while not is_over.is_set():
            site.client._client.publish(site.request("triage"), b"normal", 0)
            is_over.wait(0.0002)

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        wait_until(lambda: len(site.client.on(site.response("triage"))) > 200, "the flood is answered")
        site.agent.signal(signal.SIGTERM)
        assert site.agent.wait(40) == 0
    finally:
        is_over.set()
        flooder.join()


def test_template_that_an_input_makes_endless_affects_only_its_caller(start_site: StartSite) -> None:
    template = "{% for a in input.a %}{% for b in input.a %}{% endfor %}{% endfor %}{{ input.a | join(input.b) }}"
    site = start_site("5", more=f'[tasks.joined]\nkind = "generate"\ntemplate = "{template}"\n')
    started = children(site.agent.process.pid)
    for value, why in (
        ({"a": [1] * 20_000, "b": ""}, "0.5 s of CPU time"),
        ({"a": [1] * 3000, "b": "x" * 50_000}, "64 MB of memory"),
        ({"a": [1, 2], "b": "x"}, None),
    ):
        reply = site.ask("joined", value)
        if why is None:
            assert reply["status"] == "ok"
        else:
            assert (reply["status"], reply["error"]["code"]) == ("invalid", "bad_field")
            assert f"input: does not fit the task's template: it takes more than {why}" in reply["error"]["message"]
    assert children(site.agent.process.pid) == started
    assert site.agent.stop() == 0
    assert not any(map(is_running, started))


def test_a_healthy_agent_feeds_systemd(start_site: StartSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1500000")
        site = start_site("5")
        fed_at = [time.monotonic() for _ in range(12) if systemd.recv(1000) == b"WATCHDOG=1"][-5:]
        site.agent.signal(signal.SIGSTOP)
        while select.select([systemd], [], [], 1.5)[0]:
            systemd.recv(1000)
        site.agent.signal(signal.SIGCONT)
        assert len(fed_at) == 5
        assert max(later - before for before, later in itertools.pairwise(fed_at)) < 1.5
        assert systemd.recv(1000)
