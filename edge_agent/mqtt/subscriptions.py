"""What the broker's session may still be subscribed to: it outlives processes, and their configurations.

One small file in `state_dir`. Where it is lost, messages that nobody wants any more go on coming, and are dropped.
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


class Subscriptions:
    """Belongs to the agent's thread."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._known: frozenset[str] = frozenset()
        try:
            content = state_files.read(self._path)
            known = [] if content is None else json.loads(content)
            self._known = frozenset(one for one in known if isinstance(one, str) and filter_fault(one) is None)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            log.warning("%s cannot be read, earlier subscriptions may go on: %s", self._path, error)

    def want(self, filters: Iterable[str]) -> frozenset[str]:
        """These are asked for from now on. Gives those that are to be ended."""
        wanted = frozenset(filters)
        former = self._known - wanted
        self._keep(self._known | wanted)
        return former

    def are(self, filters: Iterable[str]) -> None:
        """The broker has no others any more."""
        self._keep(frozenset(filters))

    def _keep(self, known: frozenset[str]) -> None:
        if known == self._known:
            return
        self._known = known
        try:
            state_files.replace(self._path, json.dumps(sorted(known), indent=1).encode() + b"\n")
        except OSError as error:
            log.warning("%s cannot be written, subscriptions of today may outlast them: %s", self._path, error)
