"""What callers and operators see of workers that die, hang or cannot load."""

import os
import shutil
import signal
import time
from pathlib import Path

from tests.helpers.client import Connect
from tests.helpers.ggufs import STRING, changed_model
from tests.helpers.processes import StartAgent, is_running, wait_until, workers
from tests.helpers.site import Site, StartSite, site_config


def worker_pid(site: Site) -> int:
    """The process number of the worker that runs now."""
    (pid,) = workers(site.agent.process.pid)
    return pid


def test_a_model_that_llama_cpp_cannot_load_is_told_on_the_bus_and_to_callers(
    tmp_path: Path, start_agent: StartAgent, connect: Connect
) -> None:
    (tmp_path / "broken.gguf").write_bytes(changed_model({"tokenizer.ggml.pre": (STRING, "none of these")}))
    base = "edgeai/v1/test/broken"
    client = connect("5")
    client.subscribe(f"{base}/#")
    agent = start_agent(site_config("broken", client.port, "5", "broken.gguf"))
    state = client.wait_for(f"{base}/state", lambda state: (state["reason"] or "").startswith("model-load-failed"))
    assert state.json["state"] == "offline"
    alarm = client.wait_for_alarm(base, "model-load-failed")
    assert alarm["message"].startswith(f'no model can be used: "{tmp_path / "broken.gguf"}": ')
    client.publish(f"{base}/infer/generate/request", b"text")
    reply = client.wait(f"{base}/infer/generate/response")[0].json
    assert (reply["status"], reply["error"]["code"]) == ("busy", "loading")
    assert agent.stop() == 0


def test_a_board_without_its_model_says_so_and_answers_once_the_bundle_is_copied(
    tmp_path: Path, demo_bundle: Path, start_agent: StartAgent, connect: Connect
) -> None:
    base = "edgeai/v1/test/bare"
    client = connect("5")
    client.subscribe(f"{base}/#")
    agent = start_agent(site_config("bare", client.port, "5", "model.gguf"))
    client.wait_for(
        f"{base}/state",
        lambda state: (state["reason"] or "").startswith(f'model-load-failed: "{tmp_path / "model.gguf"}" '),
    )
    assert "does not exist" in client.wait_for_alarm(base, "model-load-failed")["message"]
    # Requests come over another connection than the state goes.
    wait_until(lambda: "connected client=test.bare.data" in agent.log, "the connection for requests", 10)
    client.publish(f"{base}/infer/generate/request", {"input": "text", "id": 1})
    error = client.wait(f"{base}/infer/generate/response")[0].json["error"]
    assert error["code"] == "loading"
    assert str(tmp_path / "model.gguf") in error["message"]

    (tmp_path / "model.gguf").symlink_to(demo_bundle / "model.gguf")

    client.wait_for(f"{base}/state", lambda state: state["state"] == "online", timeout_s=60)
    wait_until(lambda: not client.on(f"{base}/alarm/model-load-failed")[-1].payload, "the end of the alarm", 10)
    client.publish(f"{base}/infer/generate/request", {"input": "text", "id": 2, "options": {"max_tokens": 1}})
    assert client.wait(f"{base}/infer/generate/response", count=2)[1].json["status"] == "ok"

    (tmp_path / "model.gguf").unlink()
    os.kill(workers(agent.process.pid)[0], signal.SIGKILL)
    wait_until(lambda: client.on(f"{base}/alarm/model-load-failed")[-1].payload, "the alarm", 10)
    message = client.on(f"{base}/alarm/model-load-failed")[-1].json["message"]
    assert str(tmp_path / "model.gguf") in message
    assert "copy the bundle there again" in message
    (tmp_path / "model.gguf").symlink_to(demo_bundle / "model.gguf")
    wait_until(lambda: client.on(f"{base}/state")[-1].json["state"] == "online", "the model's return", 60)
    assert not any(message.payload for message in client.on(f"{base}/alarm/worker-crash-loop"))
    assert agent.stop() == 0


def test_a_board_without_its_model_can_be_switched_to_another_one(
    tmp_path: Path, demo_bundle: Path, start_agent: StartAgent, connect: Connect
) -> None:
    base = "edgeai/v1/test/rescued"
    shutil.copytree(demo_bundle, tmp_path / "models" / "good")
    client = connect("5")
    client.subscribe(f"{base}/#")
    more = '[commands]\nallow = ["model-switch"]\n'
    agent = start_agent(site_config("rescued", client.port, "5", "none", more))
    client.wait_for_alarm(base, "model-load-failed")
    topic = f"{base}/cmd/model-switch"
    result = client.exchange(topic, {"model": "default", "bundle": "good"}, f"{topic}/result", timeout_s=60).json
    assert (result["status"], result["data"]["new"]["folder"]) == ("ok", "good")
    client.wait_for(f"{base}/state", lambda state: state["state"] == "online")
    client.publish(f"{base}/infer/triage/request", b"normal")
    assert client.wait(f"{base}/infer/triage/response")[0].json["status"] == "ok"
    assert agent.stop() == 0


def test_a_worker_that_dies_before_its_first_load_ends_is_started_again_and_the_state_says_so(
    start_agent: StartAgent, connect: Connect
) -> None:
    base = "edgeai/v1/test/loop"
    client = connect("5")
    client.subscribe(f"{base}/state")
    agent = start_agent(site_config("loop", client.port, "5", "echo:load_ms=1000"))
    wait_until(lambda: workers(agent.process.pid), "the worker")
    os.kill(workers(agent.process.pid)[0], signal.SIGKILL)
    client.wait_for(f"{base}/state", lambda state: state["state"] == "online")
    told = [(message.json["state"], message.json["reason"]) for message in client.on(f"{base}/state")]
    assert ("offline", "model-load-failed: killed by SIGKILL; the worker is started again") in told


def test_killed_worker_costs_no_request_and_none_outlives_a_killed_agent(start_site: StartSite) -> None:
    site = start_site("5", model="echo:step_ms=20")
    pid = worker_pid(site)
    site.client.publish(f"{site.base}/cmd/health", b"")
    site.client.wait_for(f"{site.base}/health", lambda health: health["worker"]["pid"] == pid)
    for number in range(3):
        site.client.publish(site.request("generate"), {"input": "word " * 50, "id": number})
    site.wait_until_active(3)
    os.kill(pid, signal.SIGKILL)
    replies = [message.json for message in site.client.wait(site.response("generate"), count=3)]
    assert {reply["status"] for reply in replies} == {"ok"}
    event = site.client.wait(f"{site.base}/event/worker-restarted")[0]
    assert (event.json["restarts"], event.json["reason"]) == (1, "killed by SIGKILL")
    assert event.expiry_s is not None
    assert not event.retain
    assert site.ask("triage", "normal")["status"] == "ok"
    assert "worker ended" in site.agent.log

    pid = worker_pid(site)
    site.agent.signal(signal.SIGKILL)
    site.agent.wait()
    wait_until(lambda: not is_running(pid), "the worker ends", 10)


def test_while_workers_die_callers_get_a_time_to_retry(start_site: StartSite) -> None:
    site = start_site("5", model="echo:load_ms=1000")
    seen: set[int] = set()
    for _ in range(3):
        wait_until(lambda: set(workers(site.agent.process.pid)) - seen, "another worker")
        (pid,) = set(workers(site.agent.process.pid)) - seen
        seen.add(pid)
        os.kill(pid, signal.SIGKILL)
    alarm = site.client.wait_for_alarm(site.base, "worker-crash-loop", 10)
    assert alarm["severity"] == "critical"
    assert alarm["message"].startswith("the worker ended 3 times within 10 minutes, most recently killed by SIGKILL: ")

    reply = site.ask("triage", {"input": "normal", "deadline_ms": 200})
    asked_at = time.monotonic()

    assert (reply["status"], reply["error"]["code"]) == ("busy", "loading")
    assert reply["timing"]["total_ms"] < 1000
    retry_after_s = reply["error"]["retry_after_s"]
    ready_at = site.client.wait(f"{site.base}/event/worker-restarted")[0].at
    # It is a pause of 4 s, part of which has passed, and what the first start took, but for what else the machine does.
    assert retry_after_s > 1.0
    assert -2.0 < ready_at - asked_at - retry_after_s < 5.0
    assert site.ask("triage", {"input": "normal", "deadline_ms": 10_000})["status"] == "ok"


def test_stopped_worker_delays_no_other_request(start_site: StartSite) -> None:
    site = start_site("5", more="[engine]\nmax_active = 2\n[queue]\ndrain_timeout_s = 1\n")
    pid = worker_pid(site)
    os.kill(pid, signal.SIGSTOP)
    for number in range(2):
        site.client.publish(site.request("triage"), {"input": "x" * 60_000, "id": number, "deadline_ms": 500})
    replies = [message.json for message in site.client.wait(site.response("triage"), count=2, timeout_s=10)]
    assert {reply["status"] for reply in replies} == {"expired"}
    site.client.publish(f"{site.base}/cmd/ping", b"{}")
    site.client.wait(f"{site.base}/cmd/ping/result", timeout_s=5)
    assert site.agent.stop() == 0
