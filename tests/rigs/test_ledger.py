"""The ledger of requests and replies that all rigs share."""

import json
from typing import Any

from rigs.load.ledger import NO_FAULT, FaultCounts, Ledger


def hear(ledger: Ledger, name: str, output: str, **fields: Any) -> None:
    reply = {"id": name, "status": "ok", "output": output, "error": None, "repeat": False, **fields}
    ledger.hear(name, reply, json.dumps(reply).encode())


def test_the_ledger_tells_a_repetition_that_was_asked_for_from_one_that_was_not() -> None:
    ledger = Ledger()
    for name, times in (("asked twice", 2), ("once", 1)):
        ledger.ask(name, "a", times=times)
        ledger.acknowledged(name)
        hear(ledger, name, "a")
        hear(ledger, name, "a", repeat=True)
    assert ledger.counts() == {
        "asked": 2, "answered": 2, "lost": 0, "wrong": 0, "duplicates": 1, "inferred_again": 0
    }  # fmt: skip


def test_the_ledger_tells_faults_apart() -> None:
    ledger = Ledger()
    for name in "abcd":
        ledger.ask(name, "x")
        ledger.acknowledged(name)
    hear(ledger, "a", "x")
    ledger.struck("cut")
    hear(ledger, "b", "x")
    hear(ledger, "b", "x", repeat=True)
    ledger.struck("kill")
    hear(ledger, "c", "y")
    hear(ledger, "a", "x")
    hear(ledger, "b", "x", ts="later")
    assert ledger.by_fault() == {
        NO_FAULT: FaultCounts(answered=1),
        "cut": FaultCounts(times=1, in_flight=3, answered=1, duplicates=1),
        "kill": FaultCounts(times=1, in_flight=2, answered=1, lost=1, wrong=1, duplicates=1, inferred_again=1),
    }
    assert ledger.counts() == {
        "asked": 4, "answered": 3, "lost": 1, "wrong": 1, "duplicates": 2, "inferred_again": 1
    }  # fmt: skip
    assert not ledger.is_good


def test_no_fault_makes_up_for_the_duplicates_of_another() -> None:
    ledger = Ledger()
    for name in "ab":
        ledger.ask(name, "x")
    ledger.struck("cut")
    for name in "ab":
        hear(ledger, name, "x")
    ledger.struck("kill")
    assert ledger.is_good
    hear(ledger, "a", "x")
    assert ledger.counts()["duplicates"] == 1
    assert not ledger.is_good


def test_the_ledger_sees_other_answers_other_ends_and_none() -> None:
    ledger = Ledger()
    for name in ("other answer", "other end", "again", "none"):
        ledger.ask(name, "a", frozenset({"ok"}))
        ledger.acknowledged(name)
    hear(ledger, "other answer", "b")
    hear(ledger, "other end", "", status="busy", error={"code": "queue_full"})
    hear(ledger, "again", "a")
    hear(ledger, "again", "a", ts="later")
    counts = ledger.counts()
    assert (counts["wrong"], counts["inferred_again"], counts["lost"]) == (2, 1, 1)
