"""Numbers with feedback: how near they are to the true ones, and how often their intervals hold these."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.envelope import Envelope
from edge_agent.core.messages import Message, Publication
from edge_agent.core.pipe import Finish
from edge_agent.learning.answers import read_answers
from edge_agent.learning.commands.rows import rows_of
from edge_agent.learning.learning import Learning
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.score_maps import ScoreMaps
from edge_agent.requests.tasks import with_built_in
from edge_agent.store.database import FILE
from edge_agent.store.store import Store
from tests.helpers.support import MODEL, config, finished

TASK = """
[feedback]
enabled = true
keep_inputs = true
[tasks.t]
kind = "estimate"
minimum = 0
audit_rate = 1
"""
# The median is 20, and the interval 10 to 40.
SCORES = {"0.0..10.0": 0.1, "10.0..20.0": 0.4, "20.0..40.0": 0.4, "40.0..90.0": 0.1}


class Bench:
    """Learning over a store, as the agent uses it."""

    def __init__(self, folder: Path, text: str = TASK) -> None:
        settings = config(text)
        self.tasks = with_built_in(settings.tasks)
        self.store = Store(folder / FILE, lambda _: None)
        self.store.start()
        self.sent: list[Publication] = []
        self.learning = Learning(ScoreMaps(MODEL, "s/d"), settings, self.tasks, self.store, MODEL, self.sent.append)

    def answer(self, number: int, *, unlike: float | None = None, error_topic: str | None = None) -> bool:
        """Whether the caller is asked to check it."""
        request = Request(
            task_name="t", reply_topic="r", correlation=None, id=number, key=b"", may_be_duplicate=True,
            is_redelivery=False, arrived_at=0.0, task=self.tasks["t"], envelope=Envelope(input={"n": number}),
            error_topic=error_topic,
        )  # fmt: skip
        assert self.learning.first(request, is_large_refused=False) == LARGE
        request.answerer = LARGE
        event = finished(1, finish=Finish.MODEL, text=None, scores=SCORES, unlike=unlike)
        return self.learning.final_answer(request, event, time.monotonic()).please_check

    def mark(self, number: int, answer: Any) -> dict[str, Any]:
        """The result of feedback."""
        payload = json.dumps({"id": number, "answer": answer}).encode()
        message = Message(topic="x", payload=payload, qos=1, packet_id=1, received_at=0.0)
        assert self.learning.receive_feedback("t", message, time.monotonic())
        result: dict[str, Any] = json.loads(self.sent[-1].payload)
        return result

    @property
    def accuracy(self) -> dict[str, Any]:
        found: dict[str, Any] = self.learning.as_health(0.0)["accuracy"]["t"]
        return found


def test_true_numbers_of_audits_measure_the_error_and_the_intervals(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.accuracy["mean_error"] is None
    assert [bench.answer(number) for number in range(6)] == [True] * 6
    assert bench.mark(0, 22)["data"] == {"task": "t", "output": 20, "answer": 22, "is_right": True}
    assert bench.mark(1, "30.5")["data"] == {"task": "t", "output": 20, "answer": 30.5, "is_right": False}
    bench.mark(3, 45)
    known = bench.accuracy
    assert known["mean_error"] == pytest.approx((2 + 10.5 + 25) / 3)
    assert known["holds"] == pytest.approx(2 / 3)
    assert (known["asked"], known["audits"], known["feedback"]) == (4, 3, 0)
    # The newest feedback counts.
    bench.mark(3, 20)
    assert bench.accuracy["holds"] == 1


def test_what_is_known_outlives_the_process(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.answer(1)
    bench.mark(1, 22)
    bench.store.commit()
    bench.learning.reconfigure(config(TASK), bench.tasks)
    assert bench.accuracy["mean_error"] == 2


def test_bare_outputs_and_inputs_unlike_training_are_no_audits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert not bench.answer(1, error_topic="e")
    assert not bench.answer(2, unlike=1.0)
    bench.mark(1, 22)
    assert (bench.accuracy["audits"], bench.accuracy["feedback"]) == (0, 1)
    assert bench.mark(2, 22)["error"]["code"] == "not_found"


@pytest.mark.parametrize("answer", [-1, "soon", True])
def test_what_is_no_number_of_the_task_is_refused(tmp_path: Path, answer: Any) -> None:
    bench = Bench(tmp_path)
    bench.answer(1)
    assert bench.mark(1, answer)["error"]["code"] == "bad_field"


def test_true_numbers_become_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.answer(1)
    bench.answer(2)
    bench.mark(1, 22)
    bench.store.commit()
    rows, left_out = rows_of("t", read_answers(bench.store.select, "t"), None)
    assert [(row["input"], row["answer"]) for row in rows] == [({"n": 1}, "22.0")]
    assert left_out == {"no_feedback": 1}
