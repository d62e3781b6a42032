"""The service on a board: stopped and started, asked over the bus, told to take another bundle."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.edge_agent_places import CONFIG, MODELS, OPT, UNIT, VERSIONS, bundle_in_force

PROGRAM = str(OPT / "current" / "bin" / "edge-agent")
LOG_LINES = 5
SANDBOX = (
    *("User=", "Group=", "UMask=", "CapabilityBoundingSet=", "NoNewPrivileges=", "Protect", "Private", "RemoveIPC="),
    *("Device", "Restrict", "LockPersonality=", "MemoryDenyWriteExecute=", "SystemCall", "TasksMax="),
)


class ServiceError(Exception):
    """It does not work as asked; the message says why, and goes on from what is not as asked."""


class UnsureError(Exception):
    """A command may have been carried out, or be under way."""


class Service:
    """given: `task`, `input`, `options` of the request that tells whether it answers; `ready_timeout_s` of a start or
    another bundle, `answer_timeout_s` of an answer; `memory_spare_mb` that a probe needs beside the weights.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.stopped_at: float | None = None
        self.gap_s: float | None = None

    def stop(self) -> None:
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
        subprocess.run(["systemctl", "stop", UNIT], check=False, capture_output=True)

    def start(self) -> None:
        """Until the model answers. Raises ServiceError."""
        if _property("NeedDaemonReload") == "yes":
            subprocess.run(["systemctl", "daemon-reload"], check=False, capture_output=True)
        subprocess.run(["systemctl", "reset-failed", UNIT], check=False, capture_output=True)
        since_s = int(time.time())
        try:
            done = subprocess.run(
                ["systemctl", "start", UNIT],
                capture_output=True,
                text=True,
                check=False,
                timeout=self.given["ready_timeout_s"],
            )
        except subprocess.TimeoutExpired:
            within = f"within {self.given['ready_timeout_s']} s"
            raise ServiceError(f"does not get ready {within}: {_log(since_s)}") from None
        if done.returncode:
            raise ServiceError(f"does not start: {_log(since_s)}")
        self.gap_s = round(time.monotonic() - (self.stopped_at or time.monotonic()), 1)

    def ask(self, bundle: str | None = None) -> None:
        """One request over the bus, as any client sends it. bundle: whose model is to answer. Raises ServiceError."""
        given = self.given
        command = [PROGRAM, "ask", "--config", CONFIG, given["task"], given["input"], "--deadline-ms", "20000"]
        if given["options"]:
            command += ["--options", json.dumps(given["options"])]
        until = time.monotonic() + given["answer_timeout_s"]
        while (done := _output_of(command)).returncode:
            if time.monotonic() > until:
                error = _error(done.stdout)
                why = f"{error['code']}: {error['message']}" if error else _tail(done.stderr)
                raise ServiceError(f"does not answer over the bus: {why}")
            time.sleep(1)
        answering = json.loads(done.stdout)["model"]["sha256"]
        if bundle is not None and answering != files_of(bundle)["model.gguf"]["sha256"]:
            raise ServiceError(f"answers with another model, of sha256 {answering}")

    def take(self, bundle: str | None, *, allow_downgrade: bool) -> None:
        """By the agent's own command, until it is in force. Raises ServiceError with the agent's words, UnsureError."""
        if bundle == bundle_in_force():
            return
        fields = json.dumps({"model": "default", "bundle": bundle, "allow_downgrade": allow_downgrade})
        until = time.monotonic() + self.given["ready_timeout_s"]
        while True:
            left_s = max(1.0, until - time.monotonic())
            command = [PROGRAM, "command", "--config", CONFIG, "--timeout", str(left_s), "model-switch", fields]
            done = _output_of(command)
            if done.returncode == 0:
                return
            error = _error(done.stdout)
            # A command whose end was not heard: a second one hears that the first goes on, or that nothing is to do.
            if done.returncode != 1 and error.get("code") != "switching":
                why = f"{error['code']}: {error['message']}" if error else _tail(done.stderr)
                raise ServiceError(f"was refused by the agent: {why}")
            if time.monotonic() > until:
                raise UnsureError(f"{bundle}: {_tail(done.stderr) or error.get('message')}")
            time.sleep(1)

    def has_room_beside(self, bundle: str | None) -> bool:
        """Whether a probe and the service both have enough memory."""
        needed = (
            sum(listed["bytes"] for listed in files_of(bundle).values()) + self.given["memory_spare_mb"] * 1_000_000
        )
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8"), flags=re.MULTILINE)
        return found is not None and int(found.group(1)) * 1024 >= needed


def probe(agent: str | None, bundle: str | None) -> None:
    """A bundle's canaries, asked in a worker of that version. Raises ServiceError.

    In the service's sandbox, after everything else on this board: nothing vouches for these bytes yet.
    """
    if "canaries.json" not in files_of(bundle):
        return
    command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"]
    for line in (*_sandbox(), "Nice=19", "OOMScoreAdjust=1000", "CPUWeight=1"):
        command += ["-p", line]
    program = str(VERSIONS / str(agent) / "bin" / "edge-agent")
    done = _output_of([*command, program, "probe", "--bundle", str(MODELS / str(bundle)), "--config", CONFIG])
    if done.returncode:
        raise ServiceError(f"does not answer as its bundle's canaries: {_tail(done.stderr or done.stdout)}")


def _sandbox() -> list[str]:
    """What the unit says of who the service is and what it may: a model that needs more must not be found good."""
    lines = Path(f"/etc/systemd/system/{UNIT}").read_text("utf-8").splitlines()
    return [line for line in lines if line.startswith(SANDBOX)]


def files_of(bundle: str | None) -> dict[str, Any]:
    """What its manifest lists."""
    files: dict[str, Any] = json.loads((MODELS / str(bundle) / "manifest.json").read_text("utf-8"))["files"]
    return files


def state() -> str:
    """As systemd calls it."""
    return _property("ActiveState")


def is_serving() -> bool:
    return state() == "active"


def started_s() -> float | None:
    """When the service's process was started, in seconds since 1970 by the clock as it is now; None = not known."""
    # Not the time of day of then: systemd 249 tells it in words only, and a board without a battery is told it later.
    since_boot_us = _property("ExecMainStartTimestampMonotonic")
    if not since_boot_us.isdecimal() or since_boot_us == "0":
        return None
    return time.time() - (time.monotonic() - int(since_boot_us) / 1e6)


def _property(name: str) -> str:
    command = ["systemctl", "show", UNIT, "--value", "-p", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _tail(text: str) -> str:
    return "; ".join(line.strip() for line in text.strip().splitlines()[-LOG_LINES:])


def _output_of(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _error(stdout: str) -> dict[str, Any]:
    """Of a reply or a result that says no; empty where there is none."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return dict(json.loads(stdout)["error"])
    return {}


def _log(since_s: int) -> str:
    """What the service said itself; where that is nothing, what systemd says of it, which tells nothing of why."""
    own = [line for line in _journal(f"_SYSTEMD_UNIT={UNIT}", since_s) if not line.startswith("INFO")]
    return _tail("\n".join(own or _journal(f"--unit={UNIT}", since_s)))


def _journal(match: str, since_s: int) -> list[str]:
    command = ["journalctl", match, "-o", "cat", "-n", "40", "--no-pager", f"--since=@{since_s}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
