"""What Ansible prints, with a line for a board that is not reached, and at the end what has become of each board."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

from ansible.plugins.callback.default import CallbackModule as Default

from ansible import constants

DOCUMENTATION = """
name: edge_agent
type: stdout
short_description: The default output, short on boards that are not reached
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

# On each of many boards, a check that holds and a variable say nothing.
_SILENT = ("assert", "set_fact", "validate_argument_spec")


class CallbackModule(Default):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "edge_agent"

    def __init__(self) -> None:
        super().__init__()
        # A play that finds boards, or whose batch before it fails, begins nothing on a board.
        self._begun: set[str] = set()
        self._unreached: set[str] = set()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        super().v2_runner_on_start(host, task)
        if getattr(task, "_role", None) is not None:
            self._begun.add(host.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.task.action.split(".")[-1] not in _SILENT or self._display.verbosity:
            super().v2_runner_on_ok(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        name = result.host.get_name()
        self._unreached.add(name)
        # The whole result names the reason four times.
        reason = " ".join(str(result.result.get("msg", "")).split()).removeprefix("Task failed: ")
        self._display.display(f"not reached: [{name}]: {reason}", color=constants.COLOR_UNREACHABLE)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        recap = copy(stats)
        # The play that names the boards that were not reached fails on them, so the recap would count them as failed.
        recap.processed = {name: 1 for name in stats.processed if name not in self._unreached - self._begun}
        super().v2_playbook_on_stats(recap)
        if not self._begun | self._unreached:
            return
        boards, failed = set(stats.processed) - self._unreached, set(stats.failures) - self._unreached
        groups = {
            "done": (boards & self._begun) - failed,
            "failed": failed,
            "not begun": boards - self._begun - failed,
            "not reached": self._unreached,
        }
        for words, names in groups.items():
            self._display.display(f"{words + ':':13}{_listed(names)}")


def _listed(names: Iterable[str]) -> str:
    """How many boards, and their names as --limit takes them."""
    found = sorted(names)
    return f"{len(found)}: {','.join(found)}" if found else "none"
