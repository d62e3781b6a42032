"""docs/quickstart.md and the README: their requests are answered by the demonstration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.codes import Status
from edge_agent.core.topics import Topics
from edge_agent.requests.replies import reply_document
from edge_agent.tools.demo.broker import free_port
from tests.docs.pages import samples, section
from tests.helpers.processes import wait_until
from tests.helpers.support import request


def test_allowed_reply_topics_are_named_beside_the_first_requests() -> None:
    text = section("quickstart", "One request")
    assert all(f"`{topic}`" in text for topic in Topics("<root>", "<site>", "<device>").default_reply_topics)
    assert "reply_topic_refused" in text


def test_reply_sample_has_the_fields_of_a_reply() -> None:
    (sample,) = samples("README", "json")
    shown: dict[str, Any] = json.loads(sample)
    real = reply_document(request(), Status.OK, 0.0, "d")
    assert set(shown) == set(real)


@pytest.mark.skipif(
    shutil.which("mosquitto_rr") is None, reason="needs mosquitto_rr: apt-get install mosquitto-clients"
)
def test_request_samples_are_answered_by_the_demonstration(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "edge_agent", "demo", "--keep", "--port", str(port)]
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        demo = subprocess.Popen([*command, "--work", str(tmp_path)], stdout=output, stderr=output)
    try:
        wait_until(lambda: "until Ctrl-C" in log.read_text("utf-8") or demo.poll() is not None, "the demo is up", 120)
        for client in ("mosquitto_rr", "mosquitto_pub"):
            (sample,) = (text for text in samples("quickstart", "sh") if client in text)
            # The samples use the default port.
            script = re.sub(r"\b(mosquitto_\w+)", rf"\1 -p {port}", sample)
            done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True, timeout=60)
            reply = json.loads(done.stdout)
            assert reply["status"] == "ok", reply
    finally:
        demo.send_signal(2)
        assert demo.wait(60) in (0, 1), log.read_text("utf-8")
