"""What the board says of itself without being asked: `state` (birth, will) and `info`."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.identity import machine
from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.core.model import Model
from edge_agent.core.protocol import Ready
from edge_agent.core.publications import Publication, json_publication
from edge_agent.core.strict_json import parse_json
from edge_agent.core.topics import Topics
from edge_agent.requests.tasks import Task


class State(StrEnum):
    ONLINE = "online"
    DRAINING = "draining"
    STOPPED = "stopped"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class _Session:
    name: str
    connected_at: str | None


class Presence:
    """The `state` topic. Each connection has a session of its own, the same in its will and its birth: a watcher can
    tell the will of a dead connection from the word of the living one.

    `will` is called by the network thread, before each attempt; the rest by the agent's thread.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        # The end of every session of this process.
        self._process = secrets.token_hex(4)
        self._session = _Session("", None)
        self.state = State.OFFLINE
        self.reason: str | None = "starting"

    @property
    def session(self) -> str:
        return self._session.name

    def foreign_session(self, payload: bytes) -> str | None:
        """The session that a word on our state tells, if it is none of this process."""
        try:
            document = parse_json(payload.decode("utf-8"))
        except ValueError:
            return None
        session = document.get("session") if isinstance(document, dict) else None
        return session if isinstance(session, str) and not session.endswith(self._process) else None

    def will(self) -> Publication:
        """The last will of the connection that is about to be made."""
        self._session = _Session(secrets.token_hex(4) + self._process, timestamp())
        return self._publication(State.OFFLINE, "connection-lost")

    def birth(self) -> Publication:
        """The state as it is."""
        return self._publication(self.state, self.reason)

    def _publication(self, state: State, reason: str | None) -> Publication:
        document = {
            "state": state.value,
            "session": self._session.name,
            "connected_at": self._session.connected_at,
            "reason": reason,
            "version": __version__,
        }
        return json_publication(self._topics.state, document, retain=True)


def info_document(
    config: Config,
    board: Board,
    model: Model,
    tasks: dict[str, Task],
    *,
    worker: Ready | None,
    previous: Path | None = None,
) -> dict[str, Any]:
    """Who this is and what it can do. previous: the model in force before this one."""
    return {
        "schema": 1,
        "ts": timestamp(),
        "site": config.device.site,
        "device": config.device.id,
        "board": {"model": board.model(), "machine": machine()},
        "cpu_features": board.cpu_features(),
        "tasks": {name: task.describe() for name, task in tasks.items()},
        "models": [{**model.describe(), "previous": previous.name if previous else None}],
        "limits": {
            "context_tokens": worker.context_tokens if worker else None,
            "max_active": worker.max_active if worker else None,
            "queue_capacity": config.queue.capacity,
            "max_payload_bytes": config.queue.max_payload_bytes,
            "default_deadline_ms": config.queue.default_deadline_ms,
            "health_interval_s": config.health.interval_s,
            "reply_topics": list(config.reply_topics),
            "commands": list(config.commands.allow),
        },
        "engine": {
            "threads": worker.threads if worker else None,
            "prefill_threads": worker.prefill_threads if worker else None,
            "batch_tokens": worker.batch_tokens if worker else None,
        },
        "versions": {
            "edge_agent": __version__,
            "llama_cpp_python": metadata.version("llama-cpp-python"),
            "paho_mqtt": metadata.version("paho-mqtt"),
        },
    }
