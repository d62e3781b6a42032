"""The info document: what this board is and what it can do."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.requests.tasks import Task
from edge_agent.worker.supervisor import WorkerFacts


def info_document(
    config: Config, tasks: dict[str, Task], board: Board, worker: WorkerFacts, previous: Path | None
) -> dict[str, Any]:
    """What only a worker knows is null until one is ready. previous: the bundle that a rollback returns to."""
    ready = worker.ready
    return {
        "schema": 1,
        "ts": timestamp(),
        "site": config.device.site,
        "device": config.device.id,
        "board": {"model": board.model(), "machine": platform.machine()},
        "cpu_features": board.cpu_features(),
        "tasks": {name: task.describe() for name, task in tasks.items()},
        "models": [{**worker.model.describe(), "previous": previous.name if previous else None}],
        "limits": {
            "context_tokens": ready.context_tokens if ready else None,
            "max_active": ready.max_active if ready else None,
            "queue_capacity": config.queue.capacity,
            "max_payload_bytes": config.queue.max_payload_bytes,
            "default_deadline_ms": config.queue.default_deadline_ms,
            "health_interval_s": config.health.interval_s,
            "reply_topics": list(config.reply_topics),
            "commands": list(config.commands.allow),
        },
        "engine": {
            "threads": ready.threads if ready else None,
            "prefill_threads": ready.prefill_threads if ready else None,
            "batch_tokens": ready.batch_tokens if ready else None,
        },
        "versions": {
            "edge_agent": __version__,
            "llama_cpp_python": metadata.version("llama-cpp-python"),
            "paho_mqtt": metadata.version("paho-mqtt"),
        },
    }
