"""The ledger of requests and replies that chaos and soak share."""

from __future__ import annotations

import json
from typing import Any

from rigs.chaos.ledger import NO_FAULT, ByFault, Ledger


def reply(name: str, output: str, **fields: Any) -> bytes:
    return json.dumps({"id": name, "status": "ok", "output": output, "error": None, "repeat": False, **fields}).encode()


def test_the_ledger_tells_a_repetition_that_was_asked_for_from_one_that_was_not() -> None:
    ledger = Ledger()
    for name, times in (("asked twice", 2), ("once", 1)):
        ledger.ask(name, "a", times=times)
        ledger.taken(name)
        ledger.hear(reply(name, "a"))
        ledger.hear(reply(name, "a", repeat=True))
    told = ledger.verdict()
    assert (told.answered, told.duplicates, told.inferred_again, told.wrong) == (2, 1, 0, 0)


def test_the_ledger_tells_faults_apart() -> None:
    ledger = Ledger()
    for name in "abcd":
        ledger.ask(name, "x")
        ledger.taken(name)
    ledger.hear(reply("a", "x"))
    ledger.struck("cut")
    ledger.hear(reply("b", "x"))
    ledger.hear(reply("b", "x", repeat=True))
    ledger.struck("kill")
    ledger.hear(reply("c", "y"))
    ledger.hear(reply("a", "x"))
    ledger.hear(reply("b", "x", ts="later"))
    told = ledger.verdict()
    assert told.by_fault == {
        NO_FAULT: ByFault(answered=1),
        "cut": ByFault(times=1, in_flight=3, answered=1, duplicates=1),
        "kill": ByFault(times=1, in_flight=2, answered=1, lost=1, wrong=1, duplicates=1, inferred_again=1),
    }
    assert (told.lost, told.wrong, told.duplicates, told.inferred_again) == (1, 1, 2, 1)
    assert not told.is_good


def test_no_fault_makes_up_for_the_duplicates_of_another() -> None:
    ledger = Ledger()
    for name in "ab":
        ledger.ask(name, "x")
    ledger.struck("cut")
    for name in "ab":
        ledger.hear(reply(name, "x"))
    ledger.struck("kill")
    assert ledger.verdict().is_good
    ledger.hear(reply("a", "x"))
    assert ledger.verdict().duplicates == 1
    assert not ledger.verdict().is_good


def test_the_ledger_sees_other_answers_other_ends_and_none() -> None:
    ledger = Ledger()
    for name in ("other answer", "other end", "anew", "none"):
        ledger.ask(name, "a", frozenset({"ok"}))
        ledger.taken(name)
    ledger.hear(reply("other answer", "b"))
    ledger.hear(reply("other end", "", status="busy", error={"code": "queue_full"}))
    ledger.hear(reply("anew", "a"))
    ledger.hear(reply("anew", "a", ts="later"))
    told = ledger.verdict()
    assert (told.wrong, told.inferred_again, told.lost) == (2, 1, 1)
