"""Which answers to readings reach the bus with `publish_on = "change"`, and with which flags."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edge_agent.core.codes import Code
from edge_agent.core.kinds.unusual import UnusualTask
from edge_agent.core.pipe import Failed, WorkerAnswer
from edge_agent.requests import changes
from tests.helpers.support import BASE, Desk, inbound, labelled

PUMP = """
[tasks.pump]
kind = "classify"
labels = ["good", "bad"]
min_score = 0.8
subscribe = ["plant/+/hz"]
publish = "plant/{1}/is"
publish_on = "change"
"""
Answer = dict[str, float] | Callable[[int], WorkerAnswer]
GOOD, BAD, UNSURE = {"good": 0.9, "bad": 0.1}, {"good": 0.1, "bad": 0.9}, {"good": 0.5, "bad": 0.5}


class Plant:
    """A desk to which readings come one after the other."""

    def __init__(self, more: str = "", tasks: str = PUMP) -> None:
        self.desk = Desk(tasks=tasks + more)
        self._count = 0

    def read(self, *answers: Answer, at: float = 0.0, pump: str = "1") -> None:
        """A reading for each answer, which the worker gives."""
        for answer in answers:
            self._count += 1
            self.desk.receive(inbound(f"plant/{pump}/hz", f"{self._count}", at=at, packet_id=self._count), at)
            event = answer(self._count) if callable(answer) else labelled(self._count, **answer)
            self.desk.dispatcher.on_worker_answer(event, at)

    @property
    def told(self) -> list[Any]:
        """The outputs that were published, or the codes where there was none."""
        return [reply["output"] if reply["error"] is None else reply["error"]["code"] for reply in self.desk.replies]


def failed(number: int) -> WorkerAnswer:
    return Failed(id=number, code=Code.INTERNAL, message="a fault")


def test_an_answer_is_published_if_it_differs_from_the_last_one() -> None:
    plant = Plant()
    plant.read(GOOD, GOOD, BAD, BAD, BAD, GOOD)
    assert plant.told == ["good", "bad", "good"]
    assert plant.desk.dispatcher.as_health(0.0)["inference"]["requests_total"] == 6


def test_no_output_and_each_error_code_are_answers_of_their_own() -> None:
    plant = Plant()
    plant.read(GOOD, UNSURE, UNSURE, failed, failed, GOOD)
    plant.desk.dispatcher.admission.is_draining = True
    for _ in range(3):
        plant.desk.receive(inbound("plant/1/hz", "x"))
    plant.desk.receive(inbound("plant/1/hz", "{"))
    assert plant.told == ["good", None, "internal", "good", "draining", "bad_json"]


def test_each_topic_has_its_own_last_answer() -> None:
    plant = Plant()
    for _ in range(2):
        plant.read(GOOD, pump="1")
        plant.read(BAD, pump="2")
    assert [
        (one.topic, reply["output"]) for one, reply in zip(plant.desk.publications, plant.desk.replies, strict=True)
    ] == [
        ("plant/1/is", "good"),
        ("plant/2/is", "bad"),
    ]


def test_each_machine_of_signals_has_its_own_last_answer_on_a_topic_that_they_share() -> None:
    desk = Desk(tasks=PUMP.replace('publish = "plant/{1}/is"\n', ""))
    for number, machine in enumerate("abab", 1):
        desk.receive(replace(inbound("plant/x/hz", f"{number}"), machine=machine))
        desk.dispatcher.on_worker_answer(labelled(number, **(GOOD if machine == "a" else BAD)), 0.0)
    assert [(reply["machine"], reply["output"]) for reply in desk.replies] == [("a", "good"), ("b", "bad")]


def test_a_changed_answer_has_to_come_several_times_in_a_row() -> None:
    plant = Plant("after = 2\n")
    plant.read(GOOD)
    assert plant.told == []
    plant.read(GOOD, BAD, GOOD, BAD, UNSURE, BAD)
    assert plant.told == ["good"]
    plant.read(BAD)
    assert plant.told == ["good", "bad"]


def test_an_unchanged_answer_is_published_again_after_a_time() -> None:
    plant = Plant("publish_every_s = 60\n")
    for at in (0.0, 59.0, 60.0, 61.0, 119.0, 121.0):
        plant.read(GOOD, at=at)
    assert plant.told == 3 * ["good"]


def test_replies_to_requests_are_always_published() -> None:
    plant = Plant()
    plant.read(GOOD)
    payloads: tuple[str | dict[str, Any], ...] = ("x", {"input": "x", "id": 1})
    for number, payload in enumerate(payloads, 2):
        plant.desk.ask(payload, task="pump")
        plant.desk.dispatcher.on_worker_answer(labelled(number, **GOOD), 0.0)
    assert [one.topic for one in plant.desk.publications] == ["plant/1/is", *2 * [f"{BASE}/infer/pump/response"]]


def test_a_reading_that_a_newer_one_replaces_does_not_count_as_an_answer() -> None:
    plant = Plant('keep = "latest"\n')
    plant.read(GOOD)
    for number in range(2, 6):  # the first of them runs, the last waits
        plant.desk.receive(inbound("plant/1/hz", "x", packet_id=number))
    for number in (2, 5):
        plant.desk.dispatcher.on_worker_answer(labelled(number, **GOOD), 0.0)
    assert plant.told == ["good"]
    assert plant.desk.dispatcher.replies.ended.total() == 5


def test_a_repeated_reading_is_not_answered_again() -> None:
    plant = Plant()
    for _ in range(2):
        plant.desk.receive(inbound("plant/1/hz", "x", correlation=b"a"))
    plant.desk.dispatcher.on_worker_answer(labelled(1, **GOOD), 0.0)
    plant.desk.receive(inbound("plant/1/hz", "x", correlation=b"a"))
    assert plant.told == ["good"]
    assert plant.desk.dispatcher.replies.duplicates_total == 2


def test_the_topic_answered_least_recently_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAX_TOPICS", 2)
    plant = Plant()
    for pump in "1213121":  # 2 goes for 3, 3 for 2
        plant.read(GOOD, pump=pump)
    assert [one.topic[6] for one in plant.desk.publications] == ["1", "2", "3", "2"]


def test_the_rarity_of_an_unusual_reading_does_not_count() -> None:
    task = UnusualTask(kind="unusual")
    rare, rarer, usual = (
        {"unusual": is_unusual, "rarity": rarity, "because": []}
        for is_unusual, rarity in ((True, 0.001), (True, 0.0001), (False, 0.5))
    )
    assert task.change_key(rare) == task.change_key(rarer)
    assert task.change_key(rare) != task.change_key(usual)


def test_after_a_reload_each_answer_is_published_again() -> None:
    plant = Plant()
    plant.read(GOOD)
    plant.desk.reconfigure(PUMP)
    plant.read(GOOD, GOOD)
    assert plant.told == 2 * ["good"]


def test_the_refusal_of_a_machine_that_lacks_values_does_not_wait_for_others_and_is_repeated_but_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    more = 'after = 2\npublish_every_s = 60\nretain = true\nreply = "output"\nno_output = "unknown"\n'
    desk = Desk(tasks=PUMP + more)
    for number in (1, 2):
        desk.receive(replace(inbound("plant/x/hz", f"{number}"), machine="a"))
        desk.dispatcher.on_worker_answer(labelled(number, **GOOD), 0.0)
    lacking = replace(inbound("plant/x/hz", "{}"), machine="a", fault="hz: silent for 31 s")
    desk.receive(lacking)
    told = [(one.topic, one.retain) for one in desk.publications]
    assert told == [("plant/x/is", True), (f"{BASE}/infer/pump/error", False), ("plant/x/is", True)]
    assert [desk.publications[n].payload for n in (0, 2)] == [b"good", b"unknown"]
    for now in (30.0, 60.0, 61.0):
        desk.receive(replace(lacking, is_fault_repeated=True), now)
    assert [one.payload for one in desk.publications[4:]] == [b"unknown"]
    (line,) = (message for message in caplog.messages if message.startswith("request ended"))
    assert line.endswith(' machine="a" status=invalid code=bad_field: its reply says why')


class TestRetained:
    @pytest.mark.parametrize("reply", ["full", "output"])
    def test_answers_to_readings_are_retained_on_their_own_topic(self, reply: str) -> None:
        plant = Plant(f'retain = true\nreply = "{reply}"\n')
        plant.read(GOOD, UNSURE)
        plant.desk.ask("x", task="pump")
        plant.desk.dispatcher.on_worker_answer(labelled(3, **GOOD), 0.0)
        of_unsure = ("plant/1/is", True) if reply == "full" else (f"{BASE}/infer/pump/error", False)
        found = [(one.topic, one.retain) for one in plant.desk.publications]
        assert found == [("plant/1/is", True), of_unsure, (f"{BASE}/infer/pump/response", False)]

    def test_an_older_answer_does_not_replace_the_one_that_the_broker_keeps(self) -> None:
        plant = Plant("retain = true\n", tasks=PUMP.replace("change", "all"))
        for _ in range(2):
            plant.desk.receive(inbound("plant/1/hz", "x", correlation=b"a"))
        plant.desk.dispatcher.on_worker_answer(labelled(1, **GOOD), 0.0)
        assert [reply["repeat"] for reply in plant.desk.replies] == [False, True]
        assert [one.retain for one in plant.desk.publications] == [True, False]

    def test_a_reading_that_a_newer_one_replaces_is_not_retained(self) -> None:
        plant = Plant('retain = true\nkeep = "latest"\n', tasks=PUMP.replace("change", "all"))
        for number in range(3):
            plant.desk.receive(inbound("plant/1/hz", "x", packet_id=number))
        assert plant.told == ["superseded"]
        assert not plant.desk.publication.retain
