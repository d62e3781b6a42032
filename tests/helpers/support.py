"""What unit tests share: configurations from text, incoming messages, and a dispatcher between two lists."""

import importlib.util
import itertools
import json
import sys
import tomllib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

from edge_agent.core.config import Config
from edge_agent.core.messages import Message, Publication
from edge_agent.core.model import Model
from edge_agent.core.pipe import Cancel, Command, EngineRequest, Finish, Finished, Ready, TextPlan
from edge_agent.mqtt.link import MqttLink, Received
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.requests.answerers import Answerers
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.renderer import Rendered
from edge_agent.requests.request import Request
from edge_agent.requests.score_maps import ScoreMaps
from edge_agent.requests.tasks import with_built_in
from edge_agent.requests.templates import TemplateInputError, render
from edge_agent.store.fsync import Synced
from edge_agent.store.store import Store

BASE = "edgeai/v1/hall1/board1"
MODEL = Model(
    key="default", source=Path(), path=Path(), bundle_name="x", sha256="5ha", quantization="Q8_0", size_bytes=1
)

CONFIG = """
[device]
site = "hall1"
id = "board1"
[models.default]
path = "model.gguf"
"""
# The configuration of an agent without a broker, whose model echoes; its state is in the folder of the file.
ECHO_CONFIG = """
state_dir = "state"
[device]
site = "hall1"
id = "board1"
[models.default]
path = "echo:"
"""
TASKS = """
[tasks.triage]
kind = "classify"
labels = ["normal", "bearing fault"]
[tasks.careful]
kind = "classify"
labels = ["normal", "bearing fault"]
min_score = 0.8
[tasks.bold]
kind = "classify"
labels = ["normal", "bearing fault"]
outside = "answer"
[tasks.report]
kind = "extract"
schema = { type = "object", properties = { part = { type = "string" } }, required = ["part"] }
[tasks.urgent]
kind = "generate"
priority = 1
deadline_ms = 2000
max_tokens = 7
[tasks.newest]
kind = "generate"
keep = "latest"
[tasks.vibration]
kind = "generate"
template = "Hears {{ input.hz }} Hz"
subscribe = ["plant/+/vibration"]
publish = "plant/{1}/triage"
"""

# Every top-level field of a terminal reply.
REPLY_FIELDS = {
    *("id", "task", "device", "ts", "status", "output", "scores", "finish", "reasoning", "error", "degraded"),
    *("fields", "repeat", "model", "usage", "timing"),
}


@lru_cache
def config(text: str = "") -> Config:
    """A configuration with the required keys and these lines."""
    return Config.model_validate(tomllib.loads(CONFIG + text))


def with_model(path: Path) -> Config:
    """That configuration with another model; the state lies beside the model."""
    default = config().models["default"].model_copy(update={"path": path})
    return config().model_copy(update={"models": {"default": default}, "state_dir": path.parent / "state"})


def inbound(
    topic: str,
    payload: bytes | str | dict[str, Any] | list[Any] = b"",
    *,
    at: float = 0.0,
    duplicate: bool = False,
    response_topic: str | None = None,
    correlation: bytes | None = None,
    content_type: str | None = None,
    expiry_s: int | None = None,
    packet_id: int = 1,
    qos: int = 1,
) -> Message:
    """One message as it comes from the broker at a time `at`."""
    if isinstance(payload, (dict, list)):
        payload = json.dumps(payload)
    return Message(
        topic=topic,
        payload=payload.encode() if isinstance(payload, str) else payload,
        qos=qos,
        packet_id=packet_id,
        is_duplicate=duplicate,
        response_topic=response_topic,
        correlation=correlation,
        content_type=content_type,
        expiry_s=expiry_s,
        received_at=at,
    )


class FakeLink:
    """Stands in for the connection that a message came on."""

    def __init__(self) -> None:
        self.acknowledged: list[Message] = []

    def acknowledge(self, received: Received) -> None:
        self.acknowledged.append(received.message)


def received(message: Message, link: object = None) -> Received:
    """The event that brings this message."""
    return Received(link=cast("MqttLink", link or FakeLink()), epoch=1, message=message)


_numbers = itertools.count(1000)


def request(**fields: Any) -> Request:
    """A request as it waits in the queue."""
    number = fields.pop("number", next(_numbers))
    known: dict[str, Any] = {
        "number": number, "task_name": "triage", "reply_topic": f"{BASE}/infer/triage/response", "correlation": None,
        "id": "a", "key": b"key", "may_be_duplicate": True, "is_redelivery": False,
        "engine_request": EngineRequest(id=number, task="triage", messages=(), plan=TextPlan()), "priority": 5,
        "arrived_at": 0.0, "deadline_at": 60.0,
    }  # fmt: skip
    known |= fields
    limit_ms = (known["deadline_at"] - known["arrived_at"]) * 1000
    derived = {
        "deadline": f"the deadline of {limit_ms:.0f} ms (request)",
        "order": (known["priority"], False, known["deadline_at"], number),
    }
    return Request(**{**derived, **known})


def ready(**fields: Any) -> Ready:
    known: dict[str, Any] = {
        "pid": 1, "context_tokens": 4096, "max_active": 4, "threads": 2, "prefill_threads": 4, "batch_tokens": 128,
        "vocabulary": 100, "cpu_variant": "", "repacked_mib": None, "load_s": 1.0, "measure_s": 0.0,
    }  # fmt: skip
    return Ready(**{**known, **fields})


def finished(number: int, **fields: Any) -> Finished:
    known: dict[str, Any] = {
        "id": number, "finish": Finish.STOP, "text": "fine", "scores": None, "reasoning": None, "prompt_tokens": 20,
        "cached_tokens": 15, "completion_tokens": 3, "started_at": 0.0, "engine_time_s": 0.1, "prefill_ms": 150.0,
        "decode_ms": 50.0, "batch": 2,
    }  # fmt: skip
    return Finished(**{**known, **fields})


def labelled(number: int, **scores: float) -> Finished:
    """A classify answer; blanks in label names are written as `_`."""
    by_label = {label.replace("_", " "): p for label, p in scores.items()}
    return finished(number, finish=Finish.LABELS, text=None, scores=by_label, completion_tokens=0)


class Outlet(FakeLink):
    """Stands in for the data connection, with what was sent and what the broker did with it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Publication] = []
        self.results: list[tuple[int, PublishResult]] = []
        self.outbox = self
        # The largest payload that the broker takes, in bytes.
        self.largest = 1_000_000
        self.is_full = False

    def can_send(self, publication: Publication) -> bool:
        return len(publication.payload) <= self.largest

    def publish(self, publication: Publication) -> int | None:
        if self.is_full or not self.can_send(publication):
            return None
        self.sent.append(publication)
        return len(self.sent)

    def take_results(self) -> list[tuple[int, PublishResult]]:
        results, self.results = self.results, []
        return results


def delivery(
    outlet: Outlet,
    path: Path | None = None,
    deliver: Callable[[Synced], None] = lambda _: None,
    settings: Config | None = None,
) -> Delivery:
    settings = settings or config()
    return Delivery(Store(path, deliver), cast("MqttLink", outlet), settings.topics)


def rendered(request: Request, template: str, value: object) -> Rendered:
    """What the process of the renderer would make of it."""
    try:
        return Rendered(request, render(template, value, request.topic))
    except TemplateInputError as error:
        return Rendered(request, error)


def large_alone() -> Answerers:
    """The answerers of a board that does not learn."""
    return Answerers(ScoreMaps(MODEL, "hall1/board1"), MODEL)


class Desk:
    """A dispatcher with what it published and what it sent to the worker."""

    def __init__(self, text: str = "", *, tasks: str = TASKS, slots: int = 1) -> None:
        self.outlet = Outlet()
        self.commands: list[Command] = []
        settings = config(text + tasks)
        self.delivery = delivery(self.outlet, settings=settings)
        # The times of requests whose templates are rendered.
        self.now = 0.0
        self.dispatcher = Dispatcher(
            settings,
            with_built_in(settings.tasks),
            self.delivery,
            self.commands.append,
            self.render,
            answerers=large_alone(),
        )
        if slots:
            self.start_worker(slots)

    def render(self, request: Request, template: str, value: object) -> None:
        self.dispatcher.admission.on_rendered(rendered(request, template, value), self.now)
        self.dispatcher.fill_slots(self.now)

    def start_worker(self, slots: int = 1, at: float = 0.0) -> None:
        """A worker with this number of slots is ready."""
        self.dispatcher.on_worker_ready(MODEL, ready(max_active=slots), at)

    @property
    def publications(self) -> list[Publication]:
        """Everything that was sent."""
        self.delivery.flush(0.0)
        return self.outlet.sent

    def reconfigure(self, text: str) -> None:
        settings = config(text)
        self.dispatcher.reconfigure(settings, with_built_in(settings.tasks))

    def ask(
        self,
        payload: bytes | str | dict[str, Any] | list[Any],
        *,
        task: str = "generate",
        at: float = 0.0,
        **fields: Any,
    ) -> None:
        """A request that arrives at a time `at`."""
        self.now = at
        self.receive(inbound(f"{BASE}/infer/{task}/request", payload, at=at, **fields), at)

    def receive(self, message: Message, now: float = 0.0) -> None:
        self.dispatcher.admission.receive(message, now)
        self.dispatcher.fill_slots(now)

    @property
    def runs(self) -> list[EngineRequest]:
        return [command for command in self.commands if isinstance(command, EngineRequest)]

    @property
    def cancels(self) -> list[int]:
        return [command.id for command in self.commands if isinstance(command, Cancel)]

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(publication.payload) for publication in self.publications]

    @property
    def replies(self) -> list[dict[str, Any]]:
        """The terminal replies, in order."""
        return [document for document in self.documents if document["status"] != "partial"]

    @property
    def reply(self) -> dict[str, Any]:
        """The only terminal reply."""
        (reply,) = self.replies
        return reply

    @property
    def publication(self) -> Publication:
        """The only message."""
        (publication,) = self.publications
        return publication

    def statuses(self) -> list[tuple[str | int, str]]:
        return [(reply["id"], reply["status"]) for reply in self.replies]


def code_of(reply: dict[str, Any], field: str = "code") -> str:
    error = reply["error"]
    assert isinstance(error, dict)
    return str(error[field])


message_of = partial(code_of, field="message")


def loaded(path: Path) -> Any:
    """The module in a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
