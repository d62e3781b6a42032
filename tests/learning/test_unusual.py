"""The board asks what unusual readings were, and takes any text for it."""

import json
import time
from pathlib import Path

import pytest

from edge_agent.core.codes import CommandError
from edge_agent.core.kinds.unusual import UnusualTask
from edge_agent.core.pipe import Finish
from edge_agent.learning.answers import KeptAnswer, read_answers
from edge_agent.learning.commands.rows import rows_of
from edge_agent.requests.parse import RequestParser
from edge_agent.requests.request import Request
from tests.helpers.learning import LearningBench
from tests.helpers.support import BASE, config, finished, inbound

TASK = '[feedback]\nenabled = true\nkeep_inputs = true\n[tasks.t]\nkind = "unusual"\n'


class Bench(LearningBench):
    def __init__(self, folder: Path, text: str = TASK) -> None:
        super().__init__(folder, text)

    def answer(self, number: int, rarity: float, *, audit: bool = True) -> bool:
        """Gives an answer; returns whether the caller is asked to check it."""
        return self.answer_request(self.request(number, audit=audit), rarity)

    def answer_request(self, request: Request, rarity: float) -> bool:
        with pytest.raises(Exception, match="has no model for task t"):
            self.learning.first(request, is_large_refused=False)
        request.answerer = "student-watch"
        text = json.dumps({"score": 1.0, "rarity": rarity, "because": []})
        event = finished(1, finish=Finish.MODEL, text=text, scores=None)
        return self.learning.final_answer(request, event, time.monotonic()).please_check

    def kept(self) -> list[KeptAnswer]:
        self.store.commit()
        return read_answers(self.store.select, "t")


def test_an_unusual_reading_is_asked_about(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert [bench.answer(1, 0.0005), bench.answer(2, 0.4)] == [True, False]
    assert not bench.answer(3, 0.0005, audit=False)
    off = Bench(tmp_path / "off", TASK.replace("enabled = true\nkeep_inputs = true", "enabled = false"))
    assert not off.answer(1, 0.0005)
    assert off.kept() == []


def test_any_text_names_it_and_becomes_a_row(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number, rarity in ((1, 0.0005), (2, 0.4), (3, 0.0002), (4, 0.0001)):
        bench.answer(number, rarity)
    assert bench.mark(1, answer=" bearing ", by="Ana")["data"] == {
        "task": "t", "output": "unusual", "answer": "bearing", "is_right": True, "by": "Ana",
    }  # fmt: skip
    assert bench.mark(2, answer="bearing")["data"]["is_right"] is False
    assert bench.mark(3, answer="Normal")["data"] == {
        "task": "t", "output": "unusual", "answer": "usual", "is_right": False, "by": None,
    }  # fmt: skip
    rows, left_out = rows_of("t", bench.kept(), UnusualTask(kind="unusual"))
    assert [(row["input"], row["answer"]) for row in rows] == [
        ({"n": 1}, "bearing"), ({"n": 2}, "bearing"), ({"n": 3}, "usual"),
    ]  # fmt: skip
    assert left_out == {"no_feedback": 1}
    with pytest.raises(CommandError, match="`edge-agent audits t` on the board counts"):
        bench.learning.export("t", after=0, limit=1)
    assert [answer.marked_by for answer in bench.kept()] == ["Ana", None, None, None]


def test_what_a_wildcard_matched_in_the_topic_of_a_reading_is_its_machine(tmp_path: Path) -> None:
    text = f'{TASK}subscribe = ["plant/+/reading", "hall/#"]\n'
    bench = Bench(tmp_path, text)
    parser = RequestParser(config(text), bench.tasks, "")
    topics = ["plant/K1/reading", "hall/2/K2", f"{BASE}/infer/t/request"]
    for topic in topics:
        [request] = parser.parse(inbound(topic, {"input": {"n": 1}}))
        bench.answer_request(request, 0.0005)
    assert [answer.machine for answer in bench.kept()] == ["K1", "2/K2", None]


def test_whether_it_was_right_says_what_it_was_only_if_it_was_usual(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.answer(1, 0.0005)
    bench.answer(2, 0.4)
    assert bench.mark(1, correct=False)["data"]["answer"] == "usual"
    assert bench.mark(2, correct=True)["data"]["answer"] == "usual"
    for number, correct in ((1, True), (2, False)):
        assert bench.mark(number, correct=correct)["error"]["message"].startswith("answer: required")


def test_feedback_that_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.mark(9, answer="bearing")["error"]["code"] == "not_found"
    bench.answer(1, 0.0005)
    assert bench.mark(1, answer=" ")["error"]["code"] == "bad_field"
