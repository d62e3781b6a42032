"""Clients that we did not write: mosquitto_rr, mosquitto_pub, mosquitto_sub."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.helpers.site import Site

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(
        shutil.which("mosquitto_rr") is None, reason="needs mosquitto_rr: apt-get install mosquitto-clients"
    ),
    pytest.mark.usefixtures("require_mosquitto"),
]


def test_mosquitto_rr_gets_its_answer_at_mqtt5(start_site: Callable[..., Site]) -> None:
    site = start_site("5")
    command = ["mosquitto_rr", "-V", "5", "-p", str(site.port), "-W", "30", "-e", "edgeai/v1/reply/rr"]
    done = subprocess.run(
        [*command, "-t", site.request("triage"), "-m", "cavitation"], capture_output=True, check=True, timeout=60
    )
    assert json.loads(done.stdout)["output"] == "cavitation"


def test_mosquitto_pub_and_sub_work_at_mqtt_3_1_1(start_site: Callable[..., Site]) -> None:
    site = start_site("3.1.1")
    base = ["-V", "311", "-p", str(site.port)]
    # By lines, or its word that it has subscribed would lie in a buffer.
    listen = ["stdbuf", "-oL", "mosquitto_sub", *base, "-t", "edgeai/v1/reply/mcu", "-C", "1", "-W", "30", "-d"]
    with subprocess.Popen(listen, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None
        while b"SUBACK" not in listener.stdout.readline():
            pass
        request = json.dumps({"id": 17, "reply_to": "edgeai/v1/reply/mcu", "input": "bearing fault"})
        subprocess.run(
            ["mosquitto_pub", *base, "-q", "1", "-t", site.request("triage"), "-m", request], check=True, timeout=60
        )
        lines = listener.stdout.read().decode().splitlines()
    reply = json.loads(next(line for line in lines if line.startswith("{")))
    assert (reply["id"], reply["output"]) == (17, "bearing fault")
