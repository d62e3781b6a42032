"""A broker whose access list refuses a reply."""

import getpass
from pathlib import Path

import pytest

from tests.helpers.processes import Mosquitto, free_port
from tests.helpers.site import StartSite

pytestmark = [pytest.mark.mosquitto, pytest.mark.usefixtures("require_mosquitto")]


def test_a_reply_that_the_broker_refuses_goes_to_the_task_and_health(tmp_path: Path, start_site: StartSite) -> None:
    (tmp_path / "acl").write_text("topic deny edgeai/v1/reply/mute\ntopic readwrite #\n", "utf-8")
    with Mosquitto(tmp_path, free_port(), f"acl_file {tmp_path}/acl\nuser {getpass.getuser()}\n") as broker:
        site = start_site("5", port=broker.port, more="[health]\ninterval_s = 0.2\n")
        site.client.publish(site.request("triage"), {"id": 7, "input": "normal", "reply_to": "edgeai/v1/reply/mute"})
        reply = site.next_terminal(site.response("triage"), 0)
        assert (reply["id"], reply["output"]) == (7, "normal")
        site.client.wait_for(f"{site.base}/health", lambda health: health["reasons"] == ["publishing-refused"])
        assert "the broker refuses a message topic='edgeai/v1/reply/mute': Not authorized" in site.agent.log
