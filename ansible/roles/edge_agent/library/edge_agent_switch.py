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
from ansible.module_utils.edge_agent_places import (
    CONFIG,
    MODELS,
    OPT,
    SWITCHED,
    UNIT,
    VERSIONS,
    bundle_in_force,
    linked_agent,
    linked_bundle,
)

DOCUMENTATION = """
module: edge_agent_switch
short_description: Runs another version or bundle, once it has proved itself, or returns to what ran before
description:
  - A bundle is changed by the agent itself, which goes on meanwhile (C(cmd/model-switch)); the link C(current) follows.
  - For a version, the canaries of the bundle in force are probed beside the service if memory allows, else while it is
    stopped; then the link is moved, the service started, and one request asked over the bus.
  - Where no service runs, version and bundle are changed that way together.
  - What does not start or answer is left for what ran before. Only these two are kept.
options:
  agent:
    description: Folder below /opt/edge-agent/versions; default the current one.
    type: str
  bundle:
    description: Folder below /var/lib/edge-agent/models; default the one in force.
    type: str
  is_back:
    description: To what ran before the last switch, which has been proved already.
    type: bool
    default: false
  allow_downgrade:
    description: A bundle may be older than the one that runs.
    type: bool
    default: false
  is_asked_before:
    description: Nothing is touched on a board whose service does not answer; else a failure would be blamed on the new.
    type: bool
    default: false
  restart_if_newer:
    description: The service is restarted first if it runs for longer than one of these is there.
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
    description: How long a start may take, and a change of the bundle.
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

PROGRAM = str(OPT / "current" / "bin" / "edge-agent")
RECORD = OPT / "last-switch.json"
LOG_LINES = 5
SANDBOX = (
    *("User=", "Group=", "UMask=", "CapabilityBoundingSet=", "NoNewPrivileges=", "Protect", "Private", "RemoveIPC="),
    *("Device", "Restrict", "LockPersonality=", "MemoryDenyWriteExecute=", "SystemCall", "TasksMax="),
)


class SwitchError(Exception):
    """It does not work as asked; the message says why."""


class UnsureError(Exception):
    """A command may have been carried out, or be under way."""


@dataclass(frozen=True)
class Pair:
    """What runs: names of folders."""

    agent: str | None
    bundle: str | None

    def __str__(self) -> str:
        return f"{self.agent} with {self.bundle}"


class Switch:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given = module.params
        record = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
        # A board that lost power on the way has its link on a version that was never proved.
        self.is_interrupted = record.get("outcome") == "switching"
        agent = record["from"]["agent"] if self.is_interrupted else linked_agent()
        self.old = Pair(agent, bundle_in_force())
        self.new = self._wanted()
        self.gap_s: float | None = None
        self.stopped_at: float | None = None

    def _wanted(self) -> Pair:
        if self.given["is_back"]:
            wanted = _linked("previous")
            if wanted.agent is None:
                raise SwitchError("nothing ran here before the last switch: there is no way back")
        else:
            wanted = Pair(self.given["agent"], self.given["bundle"])
        found = Pair(wanted.agent or linked_agent(), wanted.bundle or self.old.bundle)
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
        is_due = self._is_restart_due()
        is_astray = linked_bundle() != self.new.bundle
        if not (is_other or is_due or is_astray):
            return {"changed": False, "gap_s": None}
        told = {"before": {"runs": str(self.old)}, "after": {"runs": str(self.new)}}
        if self.module.check_mode:
            return {"changed": True, "diff": told, "gap_s": None}
        try:
            if is_due and self.new.agent == self.old.agent and (_is_serving() or not is_other):
                self._restart()
            if is_other:
                self._switch()
            if is_other or is_astray:
                self._follow()
        except UnsureError as error:
            # Whatever is under way is not to lose its files.
            raise SwitchError(
                f"{error}; {bundle_in_force()} is in force. Mend its connection (see `doctor`) and play this again"
            ) from error
        except SwitchError:
            _prune()
            raise
        _prune()
        return {"changed": True, "diff": told, "gap_s": self.gap_s}

    def _is_restart_due(self) -> bool:
        """Stopped, or started before one of its files was last written."""
        if not _is_serving():
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
            self._ask()
        except SwitchError as error:
            raise SwitchError(f"{self.old} was restarted and {error}") from error

    def _switch(self) -> None:
        if _is_serving() and self.given["is_asked_before"] and not self.is_interrupted:
            try:
                self._ask()
            except SwitchError as error:
                raise SwitchError(f"nothing was touched: already before the switch, {self.old} {error}") from error
        try:
            self._bring(self.new, is_back=self.given["is_back"])
        except SwitchError as error:
            raise SwitchError(self._return(str(error))) from error

    def _bring(self, pair: Pair, *, is_back: bool) -> None:
        """Until it answers. Raises SwitchError, UnsureError."""
        if not _is_serving():  # there is nobody to ask for another bundle
            self._change_stopped(pair, is_proved=is_back)
        elif is_back:  # a version may not know what a newer one takes
            self._change_bundle(pair.bundle, allow_downgrade=True)
            self._change_version(pair.agent, is_proved=True)
        else:
            self._change_version(pair.agent, is_proved=False)
            self._change_bundle(pair.bundle, allow_downgrade=self.given["allow_downgrade"])
        self._ask(pair.bundle)

    def _change_version(self, agent: str | None, *, is_proved: bool) -> None:
        if agent == linked_agent() and not self.is_interrupted:
            return
        pair = Pair(agent, bundle_in_force())
        has_room = self._has_room_beside(pair)
        if has_room and not is_proved:
            self._probe(pair)
        self._record("switching", None)
        self._stop()
        if not has_room and not is_proved:
            self._probe(pair)
        _link(OPT, "versions", agent)
        self._start()
        self._ask(pair.bundle)

    def _change_bundle(self, bundle: str | None, *, allow_downgrade: bool) -> None:
        """By the agent's own command, until it is in force. Raises SwitchError with the agent's words, UnsureError."""
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
                raise SwitchError(f"was refused by the agent: {why}")
            if time.monotonic() > until:
                raise UnsureError(f"{bundle}: {_tail(done.stderr) or error.get('message')}")
            time.sleep(1)

    def _change_stopped(self, pair: Pair, *, is_proved: bool) -> None:
        if not is_proved:
            self._probe(pair)
        self._record("switching", None)
        self._stop()
        if bundle_in_force() != pair.bundle:
            SWITCHED.unlink(missing_ok=True)
        _link(OPT, "versions", pair.agent)
        _link(MODELS, "", pair.bundle)
        self._start()

    def _follow(self) -> None:
        """The links name what runs, and what ran before."""
        before = self.old if self.new != self.old else _linked("current")
        _link(MODELS, "", self.new.bundle)
        if before.agent is not None and before != self.new:
            _link(OPT, "versions", before.agent, "previous")
            _link(MODELS, "", before.bundle, "previous")
        self._record("committed", None)

    def _return(self, why: str) -> str:
        """What is to be told."""
        if self.old.agent is None:
            if self.stopped_at is None:
                return f"{self.new} was not let in: it {why}"
            self._record("failed", why)
            return f"{self.new} is the first here, and {why}"
        if self.stopped_at is None and bundle_in_force() == self.old.bundle and not self.is_interrupted:
            self._record("refused", why)
            return f"{self.new} was not let in, {self.old} was not touched: it {why}"
        try:
            self._bring(self.old, is_back=True)
        except (SwitchError, UnsureError) as error:
            self._record("failed", f"{why}; after the return, {error}")
            return f"{self.new} {why}; returned to {self.old}, which now {error}"
        self._record("returned", why)
        gap = "" if self.gap_s is None else f"; no service for {self.gap_s} s"
        return f"{self.new} {why}; returned to {self.old}, which answers{gap}"

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

    def _has_room_beside(self, pair: Pair) -> bool:
        needed = (
            sum(listed["bytes"] for listed in _files(pair.bundle).values()) + self.given["memory_spare_mb"] * 1_000_000
        )
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8"), flags=re.MULTILINE)
        return found is not None and int(found.group(1)) * 1024 >= needed

    def _probe(self, pair: Pair) -> None:
        """In the service's sandbox, after everything else on this board: nothing vouches for these bytes yet."""
        if "canaries.json" not in _files(pair.bundle):
            return
        command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"]
        for line in (*_sandbox(), "Nice=19", "OOMScoreAdjust=1000", "CPUWeight=1"):
            command += ["-p", line]
        program = str(VERSIONS / str(pair.agent) / "bin" / "edge-agent")
        done = _output_of([*command, program, "probe", "--bundle", str(MODELS / str(pair.bundle)), "--config", CONFIG])
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
            raise SwitchError(f"does not get ready within {self.given['ready_timeout_s']} s: {_log(since_s)}") from None
        if done.returncode:
            raise SwitchError(f"does not start: {_log(since_s)}")
        self.gap_s = round(time.monotonic() - (self.stopped_at or time.monotonic()), 1)

    def _ask(self, bundle: str | None = None) -> None:
        """One request over the bus, as any client sends it. bundle: whose model is to answer. Raises SwitchError."""
        given = self.given
        command = [PROGRAM, "ask", "--config", CONFIG, given["task"], given["input"], "--deadline-ms", "20000"]
        if given["options"]:
            command += ["--options", json.dumps(given["options"])]
        until = time.monotonic() + given["answer_timeout_s"]
        while (done := _output_of(command)).returncode:
            if time.monotonic() > until:
                error = _error(done.stdout)
                why = f"{error['code']}: {error['message']}" if error else _tail(done.stderr)
                raise SwitchError(f"does not answer over the bus: {why}")
            time.sleep(1)
        answering = json.loads(done.stdout)["model"]["sha256"]
        if bundle is not None and answering != _files(bundle)["model.gguf"]["sha256"]:
            raise SwitchError(f"answers with another model, of sha256 {answering}")


def _sandbox() -> list[str]:
    """What the unit says of who the service is and what it may: a model that needs more must not be found good."""
    lines = Path(f"/etc/systemd/system/{UNIT}").read_text("utf-8").splitlines()
    return [line for line in lines if line.startswith(SANDBOX)]


def _linked(link: str) -> Pair:
    return Pair(linked_agent(link), linked_bundle(link))


def _link(folder: Path, below: str, target: str | None, name: str = "current") -> None:
    """Has a link name another folder, or nothing: an agent that was installed by hand has no such link."""
    if target is None:
        (folder / name).unlink(missing_ok=True)
        return
    new = folder / f".{name}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(Path(below) / target)
    new.replace(folder / name)


def _files(bundle: str | None) -> dict[str, Any]:
    """What its manifest lists."""
    files: dict[str, Any] = json.loads((MODELS / str(bundle) / "manifest.json").read_text("utf-8"))["files"]
    return files


def _prune() -> None:
    """Leaves what runs and what ran before; where nothing runs yet, what is there is to be tried again."""
    if linked_agent() is None:
        return
    kept = [_linked("current"), _linked("previous"), Pair(None, bundle_in_force())]
    for folder, names in ((VERSIONS, {pair.agent for pair in kept}), (MODELS, {pair.bundle for pair in kept})):
        for path in folder.iterdir():
            if path.name not in names and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def _is_serving() -> bool:
    return _property("ActiveState") == "active"


def _property(name: str, *options: str) -> str:
    command = ["systemctl", "show", UNIT, "--value", "-p", name, *options]
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
    command = ["journalctl", "-u", UNIT, "-o", "cat", "-n", "40", "--no-pager", f"--since=@{since_s}"]
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
            "allow_downgrade": {"type": "bool", "default": False},
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
        module.fail_json(msg=str(error), runs={"agent": linked_agent(), "bundle": bundle_in_force()})
    module.exit_json(**result, runs=vars(switch.new))


if __name__ == "__main__":
    main()
