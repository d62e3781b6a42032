"""`publish_on = "change"` and `retain`, as a listener at a plant sees them, over a real broker."""

import signal

import pytest

from tests.helpers.client import Connect
from tests.helpers.processes import wait_until
from tests.helpers.site import Site, StartSite

pytestmark = [pytest.mark.mosquitto, pytest.mark.usefixtures("require_mosquitto")]

PUMP = """
[tasks.pump]
kind = "classify"
labels = ["normal", "bearing fault"]
subscribe = ["plant/changes/+/hears"]
publish = "plant/changes/{1}/is"
publish_on = "change"
after = 2
retain = true
reply = "output"
"""


def answered(site: Site) -> int:
    """How many requests the agent has answered."""
    health = site.client.exchange(f"{site.base}/cmd/health", b"", f"{site.base}/health").json
    return int(health["inference"]["requests_total"])


def hear(site: Site, *texts: str) -> list[bytes]:
    """Everything that was published about the pump, once these readings are answered."""
    due = answered(site) + len(texts)
    for text in texts:
        site.client.publish(f"plant/changes/p{site.protocol}/hears", text)
    wait_until(lambda: answered(site) >= due, "the readings are answered")
    site.ask("triage", "a request whose reply comes after theirs")
    return [message.payload for message in site.client.on(f"plant/changes/p{site.protocol}/is")]


def test_subscribers_get_changed_answers_and_late_ones_the_retained_answer(
    start_site: StartSite, connect: Connect, protocol: str
) -> None:
    site = start_site(protocol, more=PUMP)
    assert hear(site, "normal", "normal", "normal", "bearing fault", "normal") == [b"normal"]
    assert hear(site, "bearing fault", "bearing fault") == [b"normal", b"bearing fault"]
    late = connect(protocol)
    topic = f"plant/changes/p{protocol}/is"
    late.subscribe(topic)
    late.hear_retained()
    assert [(message.payload, message.retain) for message in late.on(topic)] == [(b"bearing fault", True)]

    # What was not published is settled, so it comes again neither from the broker nor from the disk.
    site.agent.signal(signal.SIGKILL)
    site.agent.wait()
    site = start_site(protocol, more=PUMP, device=site.base.rpartition("/")[2])
    assert hear(site, "bearing fault") == [b"bearing fault"]  # the one that the broker keeps
    assert hear(site, "bearing fault") == 2 * [b"bearing fault"]
    assert answered(site) == 4  # with the two of `hear` itself
