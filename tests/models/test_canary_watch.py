"""When the running model is asked its canaries, and what becomes of other answers."""

from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.core.pipe import Cancelled, EngineRequest, Ready
from edge_agent.models.bundle import open_model
from edge_agent.models.canary_watch import FIRST_AFTER_S, RETRY_S, CanaryWatch
from edge_agent.worker.supervisor import Supervisor
from tests.helpers.facts import READY
from tests.helpers.support import labelled
from tests.models.test_bundle import GGUF, bundle
from tests.models.test_switch import CANARIES

HOUR = 3600.0


class Fake:
    """Stands for the supervisor, with a model, and what its worker is asked."""

    def __init__(self, folder: Path) -> None:
        self.model = open_model("default", folder)
        self.ready: Ready | None = READY
        self.commands: list[EngineRequest | None] = []

    def ask_canary(self, run: EngineRequest) -> None:
        self.commands.append(run)

    def cancel_canary(self) -> None:
        self.commands.append(None)

    @property
    def asked(self) -> list[str]:
        return [one.messages[-1].content for one in self.commands if isinstance(one, EngineRequest)]


class Watch:
    def __init__(self, folder: Path, interval_s: float = HOUR) -> None:
        self.worker = Fake(bundle(folder, {"model.gguf": GGUF, "canaries.json": CANARIES.encode()}))
        self.told: list[str | None] = []
        self.watch = CanaryWatch(interval_s, cast("Supervisor", self.worker), self.told.append)
        self.watch.on_worker_ready(0.0, was_asked=False)

    def tick(self, now: float, *, is_idle: bool = True) -> int:
        """How many canaries are asked by now, once their file has been read."""
        self.watch.tick(now, is_idle=is_idle)
        if self.watch._reading is not None:
            wait([self.watch._reading])
            self.watch.tick(now, is_idle=is_idle)
        return len(self.worker.asked)

    def answer(self, now: float, normal: float = 0.9) -> None:
        self.watch.receive(labelled(0, normal=normal, bearing_fault=1 - normal), now)


Make = Callable[..., Watch]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **fields: Watch(tmp_path / "bundle", **fields)


def test_a_round_is_asked_after_the_start_and_then_at_intervals_one_by_one(make: Make) -> None:
    one = make()
    assert one.tick(FIRST_AFTER_S - 1) == 0
    assert one.tick(FIRST_AFTER_S) == 1
    assert one.tick(FIRST_AFTER_S + 1) == 1
    one.answer(62.0)
    assert one.tick(62.0) == 2
    one.answer(63.0)
    assert one.worker.asked == ["a", "b"]
    assert one.told == [None, ""]
    assert one.tick(62.0 + HOUR) == 2
    assert one.tick(63.0 + HOUR) == 3


def test_differing_answers_are_reported_at_the_end_of_a_round_until_a_round_is_right(make: Make) -> None:
    one = make()
    for at, scores in ((100.0, (0.9, 0.5)), (100.0 + 2 * HOUR, (0.95, 0.85))):
        for normal in scores:
            one.tick(at)
            one.answer(at, normal)
    first, wrong, right = one.told
    assert (first, right) == (None, "")
    assert wrong is not None
    assert wrong.startswith("1 of 2 canaries are answered differently")
    assert 'canaries[1] (t): "normal" has 0.500' in wrong


def test_a_request_cancels_the_canary_that_runs(make: Make) -> None:
    one = make()
    assert one.tick(100.0, is_idle=False) == 0
    one.tick(101.0)
    for now in (102.0, 102.1):
        one.tick(now, is_idle=False)
    assert one.worker.commands[1:] == [None]
    one.watch.receive(Cancelled(id=0), 103.0)
    assert one.tick(102.9 + RETRY_S) == 1
    assert one.tick(103.0 + RETRY_S) == 2
    assert one.worker.asked == ["a", "a"]
    # One that ended before it could be called off counts.
    one.tick(120.0, is_idle=False)
    one.answer(120.0)
    one.tick(121.0)
    assert one.worker.asked[2:] == ["b"]


def test_a_model_that_was_just_asked_is_asked_after_the_interval(make: Make, tmp_path: Path) -> None:
    one = make()
    one.tick(100.0)
    files: dict[str, Any] = {"model.gguf": GGUF, "canaries.json": CANARIES.encode()}
    one.worker.model = open_model("default", bundle(tmp_path / "other", files))
    one.tick(200.0, is_idle=False)
    one.watch.on_worker_ready(200.0, was_asked=True)
    one.answer(201.0, 0.1)  # of the worker before
    assert one.tick(199.0 + HOUR) == 1
    assert one.tick(200.0 + HOUR) == 2
    assert one.told == [None, ""]


@pytest.mark.expects_warning
def test_a_canary_that_ends_the_worker_is_asked_again_only_after_the_interval(make: Make) -> None:
    one = make()
    one.tick(100.0)
    one.worker.ready = None
    assert one.tick(101.0) == 1
    one.worker.ready = READY
    one.watch.on_worker_ready(102.0, was_asked=False)
    assert one.tick(101.0 + HOUR) == 1
    assert one.tick(102.0 + HOUR) == 2


def test_nothing_is_asked_without_interval_worker_or_canaries(make: Make, tmp_path: Path) -> None:
    one = make(interval_s=0)
    assert one.tick(1e6) == 0
    for name in ("plain", None):
        two = Watch(tmp_path / f"two-{name}")
        two.worker.model = open_model("default", bundle(tmp_path / name) if name else Path("echo:"))
        two.watch.on_worker_ready(1.0, was_asked=False)
        assert two.tick(1e6) == 0
    three = Watch(tmp_path / "three")
    three.worker.ready = None
    assert three.tick(1e6) == 0
