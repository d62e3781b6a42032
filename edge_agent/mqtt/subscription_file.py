"""What the broker's persistent session may be subscribed to: the session outlives processes and configurations.

One small file in `state_dir`. If it is lost, unwanted messages keep coming and are dropped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from edge_agent.core import state_files
from edge_agent.core.topics import filter_fault

log = logging.getLogger(__name__)

FILE = "subscriptions-1.json"


class SubscriptionFile:
    """Belongs to the agent's thread."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._known: frozenset[str] = frozenset()
        try:
            content = state_files.read(self._path)
            known = [] if content is None else json.loads(content)
            self._known = frozenset(one for one in known if isinstance(one, str) and filter_fault(one) is None)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            log.warning("%s cannot be read, earlier subscriptions may remain: %s", self._path, error)

    def add(self, filters: Iterable[str]) -> frozenset[str]:
        """Records filters before the broker gets them. Gives the earlier ones that are not among them."""
        wanted = frozenset(filters)
        former = self._known - wanted
        self._write(self._known | wanted)
        return former

    def replace(self, filters: Iterable[str]) -> None:
        """The broker has confirmed that it has no other filters."""
        self._write(frozenset(filters))

    def _write(self, known: frozenset[str]) -> None:
        if known == self._known:
            return
        self._known = known
        try:
            state_files.replace(self._path, json.dumps(sorted(known), indent=1).encode() + b"\n")
        except OSError as error:
            log.warning("%s cannot be written, subscriptions may remain after a restart: %s", self._path, error)
