"""Ansible module: runs another version or bundle, once it has proved itself, or returns to what ran before.

All of it happens on the board, in one go: a controller that loses the connection meanwhile leaves no half of it behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils import edge_agent_former
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.edge_agent_places import (
    MODELS,
    OPT,
    SWITCH_LOCK,
    SWITCHED,
    VERSIONS,
    bundle_in_force,
    linked_agent,
    linked_bundle,
    switched,
)
from ansible.module_utils.edge_agent_service import Service, ServiceError, UnsureError, is_serving, probe, started_s

DOCUMENTATION = """
module: edge_agent_switch
short_description: Runs another version or bundle, once it has proved itself, or returns to what ran before
description:
  - A bundle is changed by the agent itself, which goes on meanwhile (C(cmd/model-switch)); the link C(current) follows.
  - For a version, the canaries of the bundle in force are probed beside the service if memory allows, else while it is
    stopped; then the link is moved, the service started, and one request asked over the bus.
  - Where no service runs, version and bundle are changed that way together.
  - What does not start or answer is left for what ran before, with the configuration of then. Only these two are kept.
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

RECORD = OPT / "last-switch.json"


class SwitchError(Exception):
    """It does not work as asked; the message says why."""


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
        self.interrupted = record if record.get("outcome") == "switching" else None
        agent = linked_agent() if self.interrupted is None else self.interrupted["from"]["agent"]
        self.old = Pair(agent, bundle_in_force())
        self.new = self._wanted()
        self.service = Service(self.given)

    def _wanted(self) -> Pair:
        if self.given["is_back"]:
            wanted = self._before()
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

    def _before(self) -> Pair:
        """What ran before what is in force."""
        if self.interrupted is not None:
            return Pair(**self.interrupted["from"])
        # Another bundle was switched to than the links say: they name what ran before it.
        return _linked("previous" if linked_bundle() == self.old.bundle else "current")

    def run(self) -> dict[str, Any]:
        """Raises SwitchError."""
        is_other = self.new != self.old or self.interrupted is not None
        is_due = self._is_restart_due()
        is_astray = linked_bundle() != self.new.bundle
        if not (is_other or is_due or is_astray):
            if not self.module.check_mode:
                edge_agent_former.forget()
            return {"changed": False, "gap_s": None}
        told = {"before": {"runs": str(self.old)}, "after": {"runs": str(self.new)}}
        if self.module.check_mode:
            return {"changed": True, "diff": told, "gap_s": None}
        try:
            if is_due and self.new.agent == self.old.agent and (is_serving() or not is_other):
                self._restart()
            if is_other:
                self._switch()
            if is_other or is_astray:
                self._follow()
            edge_agent_former.forget()
        except UnsureError as error:
            # Whatever is under way is not to lose its files.
            raise SwitchError(
                f"{error}; {bundle_in_force()} is in force. Mend its connection (see `doctor`) and play this again"
            ) from error
        except SwitchError:
            _prune()
            raise
        _prune()
        return {"changed": True, "diff": told, "gap_s": self.service.gap_s}

    def _is_restart_due(self) -> bool:
        """Stopped, or started before one of its files was last written."""
        if not is_serving() or edge_agent_former.is_kept():
            return True
        since_s = started_s()
        if since_s is None:
            return False
        files = [Path(name) for name in self.given["restart_if_newer"]]
        files += [below for file in files if file.is_dir() for below in file.iterdir()]
        return any(file.stat().st_mtime > since_s for file in files if file.exists())

    def _restart(self) -> None:
        try:
            self.service.stop()
            self.service.start()
            self.service.ask()
        except ServiceError as error:
            raise SwitchError(f"{self.old} was restarted and {error}{self._returned_configuration()}") from error
        edge_agent_former.forget()

    def _returned_configuration(self) -> str:
        """What is to be told; nothing where it was not changed."""
        if not edge_agent_former.restore():
            return ""
        told = "; the configuration before it is back, with which it"
        try:
            self.service.stop()
            self.service.start()
            self.service.ask()
        except ServiceError as error:
            return f"{told} {error}"
        return f"{told} answers"

    def _switch(self) -> None:
        if is_serving() and self.given["is_asked_before"] and self.interrupted is None:
            try:
                self.service.ask()
            except ServiceError as error:
                raise SwitchError(f"nothing was touched: already before the switch, {self.old} {error}") from error
        try:
            self._bring(self.new, is_back=self.given["is_back"])
        except ServiceError as error:
            raise SwitchError(self._return(str(error))) from error

    def _bring(self, pair: Pair, *, is_back: bool) -> None:
        """Until it answers. Raises ServiceError, UnsureError."""
        if not is_serving():  # there is nobody to ask for another bundle
            self._change_stopped(pair, is_proved=is_back)
        elif is_back:  # a version may not know what a newer one takes
            self.service.take(pair.bundle, allow_downgrade=True)
            self._change_version(pair.agent, is_proved=True)
        else:
            self._change_version(pair.agent, is_proved=False)
            self.service.take(pair.bundle, allow_downgrade=self.given["allow_downgrade"])
        self.service.ask(pair.bundle)

    def _change_version(self, agent: str | None, *, is_proved: bool) -> None:
        if agent == linked_agent() and self.interrupted is None:
            return
        pair = Pair(agent, bundle_in_force())
        has_room = self.service.has_room_beside(pair.bundle)
        if has_room and not is_proved:
            probe(pair.agent, pair.bundle)
        self._record("switching", None)
        self.service.stop()
        if not has_room and not is_proved:
            probe(pair.agent, pair.bundle)
        _link(OPT, "versions", agent)
        self.service.start()
        self.service.ask(pair.bundle)

    def _change_stopped(self, pair: Pair, *, is_proved: bool) -> None:
        if not is_proved:
            probe(pair.agent, pair.bundle)
        self._record("switching", None)
        self.service.stop()
        if bundle_in_force() != pair.bundle:
            SWITCHED.unlink(missing_ok=True)
        _link(OPT, "versions", pair.agent)
        _link(MODELS, "", pair.bundle)
        self.service.start()

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
        if edge_agent_former.restore():
            why += " (and the configuration that came with it is taken back)"
        if self.old.agent is None:
            if self.service.stopped_at is None:
                return f"{self.new} was not let in: it {why}"
            self._record("failed", why)
            return f"{self.new} is the first here, and {why}"
        if self.service.stopped_at is None and bundle_in_force() == self.old.bundle and self.interrupted is None:
            self._record("refused", why)
            return f"{self.new} was not let in, {self.old} was not touched: it {why}"
        try:
            self._bring(self.old, is_back=True)
        except (ServiceError, UnsureError) as error:
            self._record("failed", f"{why}; after the return, {error}")
            return f"{self.new} {why}; returned to {self.old}, which now {error}"
        self._record("returned", why)
        gap = "" if self.service.gap_s is None else f"; no service for {self.service.gap_s} s"
        return f"{self.new} {why}; returned to {self.old}, which answers{gap}"

    def _record(self, outcome: str, why: str | None) -> None:
        content = {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 - boards may have 3.10 here
            "from": vars(self.old),
            "gap_s": self.service.gap_s,
            "outcome": outcome,
            "to": vars(self.new),
            "why": why,
        }
        RECORD.with_suffix(".new").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        RECORD.with_suffix(".new").replace(RECORD)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """After the switch that is under way already: a controller that was stopped left it to go on."""
    SWITCH_LOCK.parent.mkdir(exist_ok=True)
    with SWITCH_LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


def _prune() -> None:
    """Leaves what runs, what ran before, and what the agent could go back to; all of it where nothing runs yet."""
    if linked_agent() is None:
        return
    kept = [_linked("current"), _linked("previous"), Pair(None, bundle_in_force())]
    kept += [Pair(None, path.name) for path in switched()]
    for folder, names in ((VERSIONS, {pair.agent for pair in kept}), (MODELS, {pair.bundle for pair in kept})):
        for path in folder.iterdir():
            if path.name not in names and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


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
        with contextlib.nullcontext() if module.check_mode else alone():
            switch = Switch(module)
            result = switch.run()
    except SwitchError as error:
        module.fail_json(msg=str(error), runs={"agent": linked_agent(), "bundle": bundle_in_force()})
    module.exit_json(**result, runs=vars(switch.new))


if __name__ == "__main__":
    main()
