"""The parts of the page that have to do with answers, with boards and replies that a test makes up."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Message, Publication
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.tools.watch.site import BoardLevel, Row
from edge_agent.web.guard import Endpoint
from edge_agent.web.journal import Journal
from edge_agent.web.live import Live
from edge_agent.web.marks import UNDO_S
from edge_agent.web.server import application
from edge_agent.web.sessions import Sessions
from tests.web.pages import HOST, LOOPBACK, WRITE, Browser

LABELS = ["normal", "imbalance", "bearing fault"]
TASKS: dict[str, Any] = {
    "triage": {
        "kind": "classify",
        "labels": LABELS,
        "audit_rate": 0.1,
        "min_accuracy": None,
        "subscribe": ["+/M7/+", "plant/+/x"],
        "publish": None,
    },
    "hours": {"kind": "estimate", "unit": "h", "audit_rate": 1.0},
    "odd": {"kind": "unusual"},
    "remark": {"kind": "generate"},
    "label": {"kind": "classify", "labels": LABELS, "publish": "plant/{1}/label", "reply": "output"},
}
ACCURACY: dict[str, Any] = {name: {"asked": 0, "audits": 0} for name in ("triage", "hours", "label")}
# The folder of the journal; a test that writes it puts its own here.
FOLDER = Path("/nowhere")
INPUT = {"vibration_mm_s": 7.9}
FEEDBACK = "edgeai/v1/hall1/press-04/infer/triage/feedback"
RESPONSE = "edgeai/v1/hall1/press-04/infer/triage/response"


class FakeLive(Live):
    """Has no broker, but keeps what is published, with a number for each."""

    def __init__(self) -> None:
        super().__init__(MqttConfig(), "hall1", Journal(FOLDER))
        self.is_up = True
        self.up_s = 0.0
        self.published: list[Publication] = []
        self.on_publish: Callable[[Publication], object] = lambda _: None

    @property
    def is_connected(self) -> bool:
        return self.is_up

    @property
    def connected_s(self) -> float:
        return self.up_s

    def publish(self, publication: Publication) -> int | None:
        self.published.append(publication)
        self.on_publish(publication)
        return len(self.published)


class Bench:
    """A page with one board, `press-04`, at a time that a test advances."""

    def __init__(self, tasks: Mapping[str, Any] = TASKS) -> None:
        self.live = FakeLive()
        self.app = application(self.live, Endpoint(listens_on=LOOPBACK), Sessions(None))
        self.browser = Browser(self.app)
        self.passed_s = 0.0
        self.board("press-04", tasks=tasks)

    def board(
        self,
        device: str,
        level: BoardLevel = BoardLevel.OK,
        tasks: Mapping[str, Any] = TASKS,
        health: Mapping[str, Any] | None = None,
        model: str = "first",
    ) -> None:
        limits = {"default_deadline_ms": 2000}
        health = {"accuracy": ACCURACY} if health is None else health
        self.live.rows[device] = Row(
            device=device,
            level=level,
            why=("connection-lost",) if level is BoardLevel.OFFLINE else (),
            state={},
            info={"tasks": dict(tasks), "limits": limits, "models": [{"sha256": model}]},
            health=dict(health),
            health_age_s=1.0,
            alarms=(),
        )
        self.tick()

    def tick(self, passed_s: float = 0.0) -> None:
        self.passed_s += passed_s
        for part in self.live._parts:
            part.tick(time.monotonic() + self.passed_s)

    def hear(self, topic: str, document: Any, **more: Any) -> None:
        payload = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
        message = Message(topic=topic, payload=payload, qos=1, packet_id=1, received_at=time.monotonic(), **more)
        with self.live.lock:
            for part in self.live._parts:
                part.receive(message, time.time())

    def reply(self, task: str = "triage", number: Any = 1, *, topic: str | None = None, **fields: Any) -> str:
        """A reply of press-04 comes; returns the key under which the page has it."""
        document = {
            "id": number,
            "task": task,
            "device": "press-04",
            "status": "ok",
            "output": "bearing fault",
            "scores": {"normal": 0.02, "imbalance": 0.01, "bearing fault": 0.97},
            "degraded": [],
            "error": None,
            "repeat": False,
            **fields,
        }
        retained = document.pop("is_retained", False)
        if "reading_topic" in document:
            document["topic"] = document.pop("reading_topic")
        self.hear(topic or f"edgeai/v1/hall1/press-04/infer/{task}/response", document, is_retained=retained)
        self.tick()
        return str(self.rows()[0]["key"])

    def audit(self, task: str = "triage", number: Any = 1, **fields: Any) -> str:
        return self.reply(task, number, **{"please_check": True, "input": INPUT, **fields})

    def rows(self, **query: Any) -> list[Any]:
        rows: list[Any] = self.browser.get("/api/v1/answers", params=query).json()["rows"]
        return rows

    def checks(self, **query: Any) -> Any:
        return self.browser.get("/api/v1/checks", params=query).json()

    def mark(self, key: str, **said: Any) -> httpx.Response:
        return self.browser.post("/api/v1/feedback", {"key": key, **said})

    def undo(self, mark: str, **by: str) -> httpx.Response:
        return self.browser.post("/api/v1/feedback/undo", {"mark": mark, **by})

    def reveal(self, mark: str, **by: str) -> httpx.Response:
        return self.browser.post("/api/v1/feedback/reveal", {"mark": mark, **by})

    def mark_and_keep(self, key: str, **said: Any) -> str:
        """Marks an answer, and the board keeps that. Returns the mark's name."""
        mark = self.mark(key, **said).json()["mark"]
        self.tick(UNDO_S)
        self.result(correlation=self.live.published[-1].correlation)
        return str(mark)

    @property
    def sent(self) -> list[tuple[str, Any]]:
        return [(publication.topic, json.loads(publication.payload)) for publication in self.live.published]

    def result(self, task: str = "triage", *, correlation: bytes | None = None, **fields: Any) -> None:
        document = {"id": 1, "status": "ok", "error": None, "data": {"is_right": True}, **fields}
        self.hear(f"edgeai/v1/hall1/press-04/infer/{task}/feedback/result", document, correlation=correlation)

    def refuse(self, number: int, result: PublishResult) -> None:
        for part in self.live._parts:
            part.sent(number, result)

    def marks(self) -> list[Any]:
        marks: list[Any] = self.checks()["marks"]
        return marks

    def ask(self, path: str, content: bytes, content_type: str = "application/json", **headers: str) -> httpx.Response:
        headers = {**WRITE, "Content-Type": content_type, **headers}
        return self.browser.post(f"/api/v1/ask/{path}", content=content, headers=headers)

    async def ask_in_loop(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
            headers = {**WRITE, "Content-Type": "application/json", **headers}
            return await client.post(f"/api/v1/ask/{path}", content=content, headers=headers)

    def answer_asks(self, document: Mapping[str, Any] | bytes) -> None:
        """From now on, the board answers each request at once on its reply topic."""

        def answer(publication: Publication) -> None:
            topic = json.loads(publication.payload)["reply_to"]
            # Later, because the lock is held while a request is sent.
            asyncio.get_running_loop().call_soon(lambda: self.hear(topic, document))

        self.live.on_publish = answer
