"""Ansible module: runs another version or bundle, once it has proved itself, or returns to what ran before.

All of it happens on the board, in one go: a controller that loses the connection meanwhile leaves no half of it behind.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: edge_agent_switch
short_description: Runs another version or bundle, once it has proved itself, or returns to what ran before
description:
  - Probes the bundle's canaries beside the service if memory allows, else while it is stopped; then stops the service,
    moves the links, starts it, and asks one request over the bus.
  - What does not start or answer is left for what ran before. Only these two are kept.
options:
  agent:
    description: Folder below /opt/edge-agent/versions; default the current one.
    type: str
  bundle:
    description: Folder below /var/lib/edge-agent/models; default the current one.
    type: str
  is_back:
    description: To what ran before the last switch, which has been proved already.
    type: bool
    default: false
  is_probed:
    description: Whether the bundle has canaries to ask.
    type: bool
    default: true
  is_asked_before:
    description: Nothing is touched on a board whose service does not answer; else a failure would be blamed on the new.
    type: bool
    default: false
  restart_if_newer:
    description: Without anything to switch, the service is restarted if it runs for longer than one of these is there.
    type: list
    elements: path
    default: []
  task:
    description: The task of the request.
    type: str
    required: true
  input:
    description: Its input.
    type: str
    required: true
  options:
    description: Its options; of a `generate` task.
    type: dict
    default: {}
  ready_timeout_s:
    description: How long a start may take.
    type: int
    default: 300
  answer_timeout_s:
    description: How long the answer may take, with the connection to the broker.
    type: int
    default: 90
  memory_spare_mb:
    description: What a probe needs beside the weights.
    type: int
    default: 300
"""

UNIT = "edge-agent.service"
CONFIG = "/etc/edge-agent/config.toml"
VERSIONS = Path("/opt/edge-agent/versions")
AGENT_LINKS = Path("/opt/edge-agent")
MODELS = Path("/var/lib/edge-agent/models")
RECORD = Path("/opt/edge-agent/last-switch.json")
LOG_LINES = 5
SANDBOX = (
    *("User=", "Group=", "UMask=", "CapabilityBoundingSet=", "NoNewPrivileges=", "Protect", "Private", "RemoveIPC="),
    *("Device", "Restrict", "LockPersonality=", "MemoryDenyWriteExecute=", "SystemCall", "TasksMax="),
)


class SwitchError(Exception):
    """It does not work as asked; the message says why."""


@dataclass(frozen=True)
class Pair:
    """What runs: names of folders."""

    agent: str | None
    bundle: str | None

    def __str__(self) -> str:
        return f"{self.agent} with {self.bundle}"

    @property
    def program(self) -> str:
        return str(VERSIONS / str(self.agent) / "bin" / "edge-agent")


class Switch:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given = module.params
        record = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
        # A board that lost power on the way has its links on what was never proved.
        self.is_interrupted = record.get("outcome") == "switching"
        self.old = Pair(**record["from"]) if self.is_interrupted else _linked("current")
        self.new = self._wanted()
        self.gap_s: float | None = None
        self.stopped_at: float | None = None

    def _wanted(self) -> Pair:
        current = _linked("current")
        wanted = _linked("previous") if self.given["is_back"] else Pair(self.given["agent"], self.given["bundle"])
        found = Pair(wanted.agent or current.agent, wanted.bundle or current.bundle)
        if self.given["is_back"] and wanted.agent is None:
            raise SwitchError("nothing ran here before the last switch: there is no way back")
        for folder, is_there in (
            (VERSIONS / str(found.agent), (VERSIONS / str(found.agent) / "bin" / "edge-agent").exists()),
            (MODELS / str(found.bundle), (MODELS / str(found.bundle) / "manifest.json").is_file()),
        ):
            if not is_there and not self.module.check_mode:
                raise SwitchError(f"{folder} is not there, or not whole")
        return found

    def run(self) -> dict[str, Any]:
        """Raises SwitchError."""
        is_other = self.new != self.old or self.is_interrupted
        if not is_other and not self._is_restart_due():
            return {"changed": False, "gap_s": None}
        told = {"before": {"runs": str(self.old)}, "after": {"runs": str(self.new)}}
        if self.module.check_mode:
            return {"changed": True, "diff": told, "gap_s": None}
        if is_other:
            try:
                self._switch()
            finally:
                _prune()
        else:
            self._restart()
        return {"changed": True, "diff": told, "gap_s": self.gap_s}

    def _is_restart_due(self) -> bool:
        """Stopped, or started before one of its files was last written."""
        if _property("ActiveState") != "active":
            return True
        stamp = _property("ExecMainStartTimestamp", "--timestamp=unix").removeprefix("@")
        if not stamp.isdecimal():  # systemd 246 and older know no such form
            return False
        files = [Path(name) for name in self.given["restart_if_newer"]]
        files += [below for file in files if file.is_dir() for below in file.iterdir()]
        return any(file.stat().st_mtime >= int(stamp) + 1 for file in files if file.exists())

    def _restart(self) -> None:
        try:
            self._stop()
            self._start()
            self._ask(self.new)
        except SwitchError as error:
            raise SwitchError(f"{self.new} was restarted and {error}") from error

    def _switch(self) -> None:
        is_running = self.old.agent is not None and _property("ActiveState") == "active"
        if is_running and self.given["is_asked_before"] and not self.is_interrupted:
            try:
                self._ask(self.old)
            except SwitchError as error:
                raise SwitchError(f"nothing was touched: already before the switch, {self.old} {error}") from error
        is_probe_due = self.given["is_probed"] and not self.given["is_back"]
        has_room = self._has_room_beside()
        if is_probe_due and has_room:
            try:
                self._probe()
            except SwitchError as error:
                if self.is_interrupted:
                    raise SwitchError(self._return(str(error))) from error
                stays = f", {self.old} was not touched" if self.old.agent else ""
                raise SwitchError(f"{self.new} was not let in{stays}: it {error}") from error
        self._record("switching", None)
        try:
            self._stop()
            if is_probe_due and not has_room:
                self._probe()
            _link(self.new)
            self._start()
            self._ask(self.new)
        except SwitchError as error:
            raise SwitchError(self._return(str(error))) from error
        if self.old.agent is not None:
            _link(self.old, "previous")
        self._record("committed", None)

    def _return(self, why: str) -> str:
        """What is to be told."""
        if self.old.agent is None:
            self._record("failed", why)
            return f"{self.new} is the first here, and {why}"
        with contextlib.suppress(SwitchError):
            self._stop()
        _link(self.old)
        try:
            self._start()
            self._ask(self.old)
        except SwitchError as error:
            self._record("failed", f"{why}; after the return, {error}")
            return f"{self.new} {why}; returned to {self.old}, which now {error}"
        self._record("returned", why)
        return f"{self.new} {why}; returned to {self.old}, which answers; no service for {self.gap_s} s"

    def _record(self, outcome: str, why: str | None) -> None:
        content = {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 - boards may have 3.10 here
            "from": vars(self.old),
            "gap_s": self.gap_s,
            "outcome": outcome,
            "to": vars(self.new),
            "why": why,
        }
        RECORD.with_suffix(".new").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        RECORD.with_suffix(".new").replace(RECORD)

    def _has_room_beside(self) -> bool:
        if _property("ActiveState") != "active":
            return True
        files = json.loads((MODELS / str(self.new.bundle) / "manifest.json").read_text("utf-8"))["files"]
        needed = sum(listed["bytes"] for listed in files.values()) + self.given["memory_spare_mb"] * 1_000_000
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8"), flags=re.MULTILINE)
        return found is not None and int(found.group(1)) * 1024 >= needed

    def _probe(self) -> None:
        """In the service's sandbox, after everything else on this board: nothing vouches for these bytes yet."""
        command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"]
        for line in (*_sandbox(), "Nice=19", "OOMScoreAdjust=1000", "CPUWeight=1"):
            command += ["-p", line]
        command += [self.new.program, "probe", "--bundle", str(MODELS / str(self.new.bundle)), "--config", CONFIG]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SwitchError(f"does not answer as its bundle's canaries: {_tail(done.stderr or done.stdout)}")

    def _stop(self) -> None:
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
        subprocess.run(["systemctl", "stop", UNIT], check=False, capture_output=True)

    def _start(self) -> None:
        """Until the model answers. Raises SwitchError."""
        if _property("NeedDaemonReload") == "yes":
            subprocess.run(["systemctl", "daemon-reload"], check=False, capture_output=True)
        subprocess.run(["systemctl", "reset-failed", UNIT], check=False, capture_output=True)
        try:
            done = subprocess.run(
                ["systemctl", "start", UNIT],
                capture_output=True,
                text=True,
                check=False,
                timeout=self.given["ready_timeout_s"],
            )
        except subprocess.TimeoutExpired:
            raise SwitchError(f"does not get ready within {self.given['ready_timeout_s']} s: {_log()}") from None
        if done.returncode:
            raise SwitchError(f"does not start: {_log()}")
        self.gap_s = round(time.monotonic() - (self.stopped_at or time.monotonic()), 1)

    def _ask(self, who: Pair) -> None:
        """One request over the bus, as any client sends it. Raises SwitchError."""
        given = self.given
        command = [who.program, "ask", "--config", CONFIG, given["task"], given["input"], "--deadline-ms", "20000"]
        if given["options"]:
            command += ["--options", json.dumps(given["options"])]
        until = time.monotonic() + given["answer_timeout_s"]
        while True:
            done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode == 0:
                return
            if time.monotonic() > until:
                raise SwitchError(f"does not answer over the bus: {_told(done.stdout) or _tail(done.stderr)}")
            time.sleep(1)


def _sandbox() -> list[str]:
    """What the unit says of who the service is and what it may: a model that needs more must not be found good."""
    lines = Path(f"/etc/systemd/system/{UNIT}").read_text("utf-8").splitlines()
    return [line for line in lines if line.startswith(SANDBOX)]


def _linked(link: str) -> Pair:
    return Pair(_name(AGENT_LINKS / link), _name(MODELS / link))


def _name(link: Path) -> str | None:
    return link.readlink().name if link.is_symlink() else None


def _link(pair: Pair, name: str = "current") -> None:
    for folder, below, target in ((AGENT_LINKS, "versions", pair.agent), (MODELS, "", pair.bundle)):
        if target is None:  # an agent that was installed by hand has no such link
            (folder / name).unlink(missing_ok=True)
            continue
        new = folder / f".{name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(Path(below) / target)
        new.replace(folder / name)


def _prune() -> None:
    """Leaves what runs and what ran before; where nothing runs yet, what is there is to be tried again."""
    if _linked("current").agent is None:
        return
    kept = [_linked("current"), _linked("previous")]
    for folder, names in ((VERSIONS, {pair.agent for pair in kept}), (MODELS, {pair.bundle for pair in kept})):
        for path in folder.iterdir():
            if path.name not in names and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def _property(name: str, *options: str) -> str:
    command = ["systemctl", "show", UNIT, "--value", "-p", name, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _tail(text: str) -> str:
    return "; ".join(line.strip() for line in text.strip().splitlines()[-LOG_LINES:])


def _told(stdout: str) -> str:
    """What a reply that is not `ok` says."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        reply = json.loads(stdout)
        return f"{reply['status']}: {reply['error']['code']}: {reply['error']['message']}"
    return ""


def _log() -> str:
    command = ["journalctl", "-u", UNIT, "-o", "cat", "-n", "40", "--no-pager"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    # What systemd itself says of the unit tells nothing of why.
    own = [line for line in lines if "edge-agent.service" not in line and not line.startswith("INFO")]
    return _tail("\n".join(own)) or _tail("\n".join(lines))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "agent": {"type": "str"},
            "bundle": {"type": "str"},
            "is_back": {"type": "bool", "default": False},
            "is_probed": {"type": "bool", "default": True},
            "is_asked_before": {"type": "bool", "default": False},
            "restart_if_newer": {"type": "list", "elements": "path", "default": []},
            "task": {"type": "str", "required": True},
            "input": {"type": "str", "required": True},
            "options": {"type": "dict", "default": {}},
            "ready_timeout_s": {"type": "int", "default": 300},
            "answer_timeout_s": {"type": "int", "default": 90},
            "memory_spare_mb": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    try:
        switch = Switch(module)
        result = switch.run()
    except SwitchError as error:
        module.fail_json(msg=str(error), runs=vars(_linked("current")))
    module.exit_json(**result, runs=vars(switch.new))


if __name__ == "__main__":
    main()
