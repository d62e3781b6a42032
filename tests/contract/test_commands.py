"""`cmd/<op>` over a real broker, at both MQTT versions."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.helpers.processes import BrokerPort
from tests.helpers.site import Site, StartSite, running_site

ALL = '[commands]\nallow = ["ping", "health", "drain", "resume", "cancel", "reload"]\n'


def test_ping_is_answered_with_its_id(site: Site) -> None:
    result = site.command("ping", {"id": "p1"})
    assert (result["id"], result["status"], result["error"]) == ("p1", "ok", None)


def test_health_command_publishes_at_once(site: Site) -> None:
    heard = len(site.client.on(f"{site.base}/health"))
    assert site.command("health", {"id": 1})["status"] == "ok"
    site.client.wait(f"{site.base}/health", count=heard + 1, timeout_s=2)


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
def test_mqtt5_response_topic_of_a_command_is_used_if_allowed(site: Site) -> None:
    site.client.publish(f"{site.base}/cmd/ping", {"id": 5}, response_topic="edgeai/v1/reply/c", correlation=b"c")
    assert site.client.wait("edgeai/v1/reply/c")[0].correlation == b"c"
    site.client.publish(f"{site.base}/cmd/ping", {"id": 6}, response_topic="elsewhere/c")
    assert site.client.wait(f"{site.base}/cmd/ping/result")[0].json["id"] == 6


@pytest.mark.parametrize(
    ("operation", "payload", "code"),
    [
        ("explode", b"{}", "unknown_command"),
        ("drain", b"{}", "not_allowed"),
        ("health", b"x", "bad_json"),
        ("ping", b'{"timeout_s":1}', "bad_field"),
        ("ping", b"\xff", "not_utf8"),
        ("ping", b"{", "bad_json"),
        ("ping", b"[]", "bad_field"),
    ],
)
def test_bad_command_fails_with_its_code(site: Site, operation: str, payload: bytes, code: str) -> None:
    result = site.command(operation, payload)
    assert (result["status"], result["error"]["code"]) == ("failed", code)


@pytest.fixture(scope="module")
def slow_agent_of_module(broker_port: BrokerPort, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One agent whose requests last, with all commands enabled. Nothing in these tests depends on the MQTT version."""
    folder, more = tmp_path_factory.mktemp("slow"), ALL + "[engine]\nmax_active = 1\n"
    with running_site(folder, broker_port("5"), "5", model="echo:step_ms=50", more=more) as site:
        yield site


def test_cancel_ends_a_waiting_and_a_running_request(slow: Site) -> None:
    for name in ("running", "waiting"):
        slow.client.publish(slow.request("generate"), {"input": "word " * 200, "id": name})
    slow.wait_until_active(1)
    for name in ("waiting", "running"):
        assert slow.command("cancel", {"id": name, "request_id": name})["data"] == {"cancelled": 1}
    replies = {m.json["id"]: m.json for m in slow.client.wait(slow.response("generate"), count=2)}
    assert {reply["status"] for reply in replies.values()} == {"cancelled"}
    assert {reply["error"]["code"] for reply in replies.values()} == {"cancelled"}
    assert slow.command("cancel", {"request_id": "running"})["error"]["code"] == "not_found"
    assert slow.command("cancel", {"request_id": []})["error"]["code"] == "bad_field"
    assert slow.ask("triage", "normal")["status"] == "ok"


def test_drain_refuses_new_requests_until_resume(slow: Site) -> None:
    # A payload like the one that clears a retained command.
    slow.client.publish(f"{slow.base}/cmd/drain", b" ")
    assert slow.client.wait(f"{slow.base}/cmd/drain/result")[0].json["error"]["code"] == "bad_json"
    slow.client.publish(slow.request("generate"), {"input": "word " * 20, "id": "before"})
    slow.wait_until_active(1)
    assert slow.command("drain", {"timeout_s": 30})["data"] == {"cancelled": 0}
    assert slow.next_terminal(slow.response("generate"), 0)["status"] == "ok"
    refused = slow.ask("triage", "normal")
    assert (refused["status"], refused["error"]["code"]) == ("busy", "draining")
    assert refused["error"]["retry_after_s"] > 0
    slow.client.wait_for(f"{slow.base}/state", lambda state: state["state"] == "draining")
    # It comes at once, not when it is due.
    slow.client.wait_for(f"{slow.base}/health", lambda health: health["reasons"] == ["draining"], 2.0)
    assert slow.command("resume")["status"] == "ok"
    slow.client.wait_for(f"{slow.base}/health", lambda health: health["reasons"] == [], 2.0)
    assert slow.ask("triage", "bearing fault")["status"] == "ok"


def test_drain_that_runs_out_of_time_cancels_the_remaining_requests(slow: Site) -> None:
    slow.client.publish(slow.request("generate"), {"input": "word " * 200, "id": "long"})
    slow.wait_until_active(1)
    assert slow.command("drain", {"timeout_s": 0.3})["data"] == {"cancelled": 1}
    reply = slow.next_terminal(slow.response("generate"), 0)
    assert (reply["status"], reply["error"]["code"]) == ("cancelled", "cancelled")
    assert slow.command("resume")["status"] == "ok"


def test_reload_takes_new_tasks_and_refuses_a_bad_configuration(slow: Site) -> None:
    path: Path = slow.agent.config
    old = path.read_text(encoding="utf-8")
    assert slow.ask("added", "x")["error"]["code"] == "unknown_task"
    path.write_text(old + '[tasks.added]\nkind = "classify"\nlabels = ["a", "b"]\nsubscribe = ["plant/+/x"]\n', "utf-8")
    assert slow.command("reload")["data"] == {"applied": ["tasks"], "needs_restart": []}
    assert slow.agent.log.count("reload") == 2  # that it was asked for, and what it did
    assert "reloaded applied=tasks needs_restart=-\n" in slow.agent.log
    assert slow.ask("added", "b")["output"] == "b"
    slow.client.publish("plant/p1/x", "a")
    assert slow.next_terminal(slow.response("added"), 2)["output"] == "a"
    path.write_text(old + "[queue]\ncapacity = 0\n", encoding="utf-8")
    result = slow.command("reload")
    assert result["error"]["code"] == "bad_config"
    assert "queue.capacity" in result["error"]["message"]
    assert slow.ask("added", "b")["status"] == "ok"


def test_signed_commands_are_checked_where_a_key_is_configured(start_site: StartSite, tmp_path: Path) -> None:
    key = secrets.token_hex(16)
    (tmp_path / "key").write_text(key + "\n", encoding="utf-8")
    site = start_site("5", more='[commands]\nkey_file = "key"\n')
    assert site.command("ping", {"id": 1})["error"]["code"] == "unauthorized"
    fields = {"id": 2, "ts": datetime.now(UTC).isoformat(), "nonce": secrets.token_hex(8)}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["hmac"] = hmac.new(key.encode(), f"ping\n{canonical}".encode(), hashlib.sha256).hexdigest()
    assert site.command("ping", fields)["status"] == "ok"
    assert site.command("ping", fields)["error"]["code"] == "unauthorized"
