"""What a part behind a seam has to say in health and alarms: learning from answers, a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from edge_agent.status.alarms import Finding


class Part(Protocol):
    """Asked on the agent's thread, each second and for each health document."""

    def as_health(self, now: float) -> dict[str, Any]:
        """Its sections of the health document, by name."""

    def reasons(self) -> Mapping[str, bool]:
        """Whether each of its reasons of health holds now."""

    def findings(self, now: float) -> Mapping[str, Finding | None]:
        """The causes of its alarms by name: UNKNOWN where the board cannot tell, None where all is well."""
