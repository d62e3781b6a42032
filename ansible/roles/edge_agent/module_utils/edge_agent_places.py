"""Where the agent's things are on a board, and which of them are in use."""

from __future__ import annotations

import json
from pathlib import Path

UNIT = "edge-agent.service"
CONFIG = "/etc/edge-agent/config.toml"
OPT = Path("/opt/edge-agent")
VERSIONS = OPT / "versions"
MODELS = Path("/var/lib/edge-agent/models")
# Held while a switch is under way; in memory, beside what Ansible keeps of it.
SWITCH_LOCK = Path("/run/edge-agent-switch/lock")
# The agent's own record of its last model-switch.
SWITCHED = Path("/var/lib/edge-agent/state/model-1.json")


def linked_agent(link: str = "current") -> str | None:
    """The version that a link names, or None."""
    return _name(OPT / link)


def linked_bundle(link: str = "current") -> str | None:
    """The bundle that a link names, or None."""
    return _name(MODELS / link)


def bundle_in_force() -> str | None:
    """What the agent opens when it starts: that of its last switch, else the one before, else what the link names."""
    whole = (path for path in switched() if (path / "manifest.json").is_file())
    return next((path.name for path in whole), None) or linked_bundle()


def switched() -> list[Path]:
    """By the agent's last switch: that in force, then the one that `model-rollback` goes to; none if there was none."""
    try:
        record = json.loads(SWITCHED.read_text("utf-8"))
        # A switch from another configured path counts no more.
        if record["configured"] == str(MODELS / "current"):
            return [Path(path) for path in (record["current"], record["previous"]) if path]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return []


def _name(link: Path) -> str | None:
    return link.readlink().name if link.is_symlink() else None
