"""Inputs that killed the worker twice, running alone the second time. They run again only after their release."""

from __future__ import annotations

import hashlib

from edge_agent.core.protocol import Run

# The oldest are released first.
MAX_QUARANTINED = 100


def fingerprint(run: Run) -> str:
    """16 hex digits of task and prompt. The caller and the options do not count."""
    asked = "\0".join((run.task, *(f"{message.role}\0{message.content}" for message in run.messages)))
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()[:16]
