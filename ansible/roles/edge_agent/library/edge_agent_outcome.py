"""Ansible module: waits for a switch that goes on by itself on the board, and tells how it ended.

It may be asked again after the connection was lost, or the board restarted.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.edge_agent_places import SWITCH_LOCK, bundle_in_force, linked_agent
from ansible.module_utils.edge_agent_service import state

DOCUMENTATION = """
module: edge_agent_outcome
short_description: Waits for a switch that goes on by itself on the board, and tells how it ended
options:
  job:
    description: The file that the outcome comes to, in memory; none = the board was restarted.
    type: path
    required: true
"""

POLL_S = 0.5
# Until the file is there, at most: Ansible does not wait for it longer than some seconds.
START_S = 10.0
# From its start until it has the lock, and from there until its outcome is written.
IDLE_S = 30.0


class EndedError(Exception):
    """There is no outcome, nor will there be one; the message says why."""


def outcome(job: Path) -> dict[str, Any]:
    """What the switch said at its end. Raises EndedError."""
    began_at = seen_at = time.monotonic()
    while True:
        is_under_way = _is_under_way()
        told: dict[str, Any] | None = json.loads(job.read_text("utf-8")) if job.exists() else None
        if told is not None and "started" not in told:
            return told
        now = time.monotonic()
        if is_under_way:
            seen_at = now
        if told is None and now - began_at > START_S:
            raise EndedError("the switch died with the board, which was restarted,")
        if now - seen_at > IDLE_S:
            raise EndedError("something on the board ended the switch")
        time.sleep(POLL_S)


def _is_under_way() -> bool:
    try:
        with SWITCH_LOCK.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def main() -> None:
    module = AnsibleModule(argument_spec={"job": {"type": "path", "required": True}})
    try:
        told = outcome(Path(module.params["job"]))
    except EndedError as error:
        runs = {"agent": linked_agent(), "bundle": bundle_in_force()}
        module.fail_json(
            msg=f"{error} before it was over; now the board runs {runs['agent']} with {runs['bundle']}, and its "
            f"service is {state()}. Play this again: it begins anew from there",
            runs=runs,
        )
    # As async_status does: it has been through exit_json or fail_json once.
    print(f"\n{json.dumps(told)}")
    sys.exit(0)


if __name__ == "__main__":
    main()
