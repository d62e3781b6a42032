"""`state`, `info` and `health` over a real broker, at both MQTT versions."""

from tests.helpers.client import Connect
from tests.helpers.site import Site, StartSite


def test_state_is_retained_and_goes_from_starting_to_stopped(start_site: StartSite, connect: Connect) -> None:
    """test_late_subscriber.py has what follows a state, at both MQTT versions."""
    site = start_site("5")
    late = connect("5")
    late.subscribe(f"{site.base}/state")
    state = late.wait(f"{site.base}/state")[0]
    assert state.retain
    assert state.json["state"] == "online"
    assert set(state.json) == {"state", "session", "connected_at", "reason", "version"}
    assert site.agent.stop() == 0
    site.client.wait_for(f"{site.base}/state", lambda document: document["state"] == "stopped")
    states = [message.json["state"] for message in site.client.on(f"{site.base}/state")]
    order = [name for i, name in enumerate(states) if i == 0 or states[i - 1] != name]
    assert order in (["offline", "online", "draining", "stopped"], ["online", "draining", "stopped"])


def test_a_foreign_message_on_our_state_is_replaced(site: Site) -> None:
    site.client.publish(f"{site.base}/state", {"state": "offline", "session": "a dead one"}, retain=True)
    before = len(site.client.on(f"{site.base}/state"))
    messages = site.client.wait(f"{site.base}/state", count=before + 1, timeout_s=10)
    assert messages[-1].json["state"] == "online"


def test_figures_that_are_not_measured_are_never_0_and_health_expires(site: Site) -> None:
    """test_documents.py compares every field with its schema."""
    message = site.client.wait_for(f"{site.base}/health", lambda document: document["worker"]["pid"] is not None)
    health = message.json
    assert (health["power"]["watts"], health["power"]["scope"]) == (None, "none")
    assert health["memory"]["agent_rss_mb"] > 0
    if site.protocol == "5":
        assert message.expiry_s is not None
        assert message.expiry_s <= 30
    assert health["overall"] in ("ok", "degraded"), health["reasons"]
