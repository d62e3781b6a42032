"""The demonstration as a reader of the documentation runs it, and whether samples look like what it says."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.docs.pages import page
from tests.helpers.processes import free_port, wait_until

BASE = "edgeai/v1/demo/board1"


@contextmanager
def running_demonstration(folder: Path) -> Iterator[tuple[int, Path]]:
    """Runs `edge-agent demo --keep` while the context is entered; yields the broker's port and the configuration."""
    port, log = free_port(), folder / "demo.log"
    command = [sys.executable, "-m", "edge_agent", "demo", "--keep", "--port", str(port), "--work", str(folder)]
    with log.open("wb") as output:
        demo = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(lambda: "until Ctrl-C" in log.read_text("utf-8") or demo.poll() is not None, "the demo is up", 120)
        (config,) = re.findall(r"Its configuration is (.*)\. In another", log.read_text("utf-8"))
        yield port, Path(config)
    finally:
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) in (0, 1), log.read_text("utf-8")


def messages_shown(name: str) -> list[tuple[str, str]]:
    """Topic and payload of each message of a page: a line names the topic, and a sample of JSON follows."""
    shown = r"^.*`(<base>/[^`]+|edgeai/v1/reply/[^`]+)`.*:\n\n```json\n((?:(?!```).*\n)+)```$"
    found = re.findall(shown, page(name), flags=re.MULTILINE)
    return [(topic.replace("<base>", BASE), payload) for topic, payload in found]


def fields_of(value: Any) -> Any:
    """The names of all fields, nested as the value is, without those that depend on the machine."""
    if isinstance(value, dict):
        return {name: fields_of(one) for name, one in value.items() if name != "zones"}
    return [fields_of(value[0])] if isinstance(value, list) and value else None
