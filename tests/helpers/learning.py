"""Learning over a store, as the agent uses it, for a task `t`."""

import json
import time
from pathlib import Path
from typing import Any

from edge_agent.core.envelope import Envelope
from edge_agent.core.messages import Message, Publication
from edge_agent.learning.learning import Learning
from edge_agent.requests.request import Request
from edge_agent.requests.score_maps import ScoreMaps
from edge_agent.requests.tasks import with_built_in
from edge_agent.store.database import FILE
from edge_agent.store.store import Store
from tests.helpers.support import MODEL, config


class LearningBench:
    def __init__(self, folder: Path, text: str) -> None:
        settings = config(text)
        self.tasks = with_built_in(settings.tasks)
        self.store = Store(folder / FILE, lambda _: None)
        self.store.start()
        self.sent: list[Publication] = []
        self.learning = Learning(ScoreMaps(MODEL, "s/d"), settings, self.tasks, self.store, MODEL, self.sent.append)

    def request(self, number: int, *, audit: bool = True) -> Request:
        return Request(
            task_name="t", reply_topic="r", correlation=None, id=number, key=b"", may_be_duplicate=True,
            is_redelivery=False, arrived_at=0.0, task=self.tasks["t"],
            envelope=Envelope(input={"n": number}), may_be_audited=audit,
        )  # fmt: skip

    def mark(self, number: int, **more: Any) -> dict[str, Any]:
        """The result of feedback."""
        payload = json.dumps({"id": number, **more}).encode()
        message = Message(topic="x", payload=payload, qos=1, packet_id=1, received_at=0.0)
        assert self.learning.receive_feedback("t", message, time.monotonic())
        result: dict[str, Any] = json.loads(self.sent[-1].payload)
        return result
