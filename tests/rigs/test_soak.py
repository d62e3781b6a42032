"""That a run of rigs.soak sees what it watches for; `python -m rigs.soak` is the long one."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rigs.chaos.ledger import NO_FAULT, ByFault, Ledger, Verdict
from rigs.soak.load import Load
from rigs.soak.page import page
from rigs.soak.place import ECHO, running
from rigs.soak.samples import ProcessSample, Sample, sample
from rigs.soak.verdict import Facts, Line, verdict
from tests.helpers.processes import wait_until

PROCESS = ProcessSample(pid=7, resident_mib=50.0, anonymous_mib=30.0, threads=8, files=16)
LEDGER = Verdict(asked=2000, answered=2000, lost=0, wrong=0, duplicates=0, inferred_again=0, statuses={"ok": 2000})
FACTS = Facts(ledger=LEDGER, torn_streams=0, visits=3, visits_without_health=0, exit_code=0, errors=0)


def samples(
    *, count: int = 60, last: ProcessSample = PROCESS, state_bytes: int = 1000, late_ms: float = 10.0
) -> list[Sample]:
    """A run whose second half has the given values."""
    return [
        Sample(
            at_s=float(number), answered=100 * number, unanswered=2, agent=PROCESS if number < count / 2 else last,
            worker=PROCESS, state_bytes=state_bytes, journal_bytes=500, wal_bytes=100, log_bytes=10 * number,
            latency_ms={"triage": [10.0 if number < count / 2 else late_ms] * 5},
        )
        for number in range(count)
    ]  # fmt: skip


def failing(lines: list[Line]) -> list[str]:
    return [line.name for line in lines if not line.holds]


def test_a_run_without_faults_holds_every_limit() -> None:
    assert failing(verdict(samples(), FACTS)) == []


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (samples(last=replace(PROCESS, resident_mib=53.0)), "agent, resident"),
        (samples(last=replace(PROCESS, threads=9)), "agent, threads"),
        (samples(last=replace(PROCESS, files=17)), "agent, open files"),
        (samples(state_bytes=100_000_000), "state folder, most"),
        (samples(late_ms=20.0), "latency of triage, p25"),
        (samples(count=12), "agent, memory"),
    ],
)
def test_what_grows_is_named(run: list[Sample], name: str) -> None:
    assert name in failing(verdict(run, FACTS))


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (replace(FACTS, ledger=replace(LEDGER, lost=1)), "lost"),
        (replace(FACTS, ledger=replace(LEDGER, wrong=1)), "wrong"),
        (replace(FACTS, ledger=replace(LEDGER, duplicates=1)), "answered twice"),
        (replace(FACTS, torn_streams=1), "streams unlike their answers"),
        (replace(FACTS, errors=1), "errors in the log"),
        (replace(FACTS, exit_code=1), "exit code"),
    ],
)
def test_what_is_lost_or_wrong_is_named(facts: Facts, name: str) -> None:
    assert failing(verdict(samples(), facts)) == [name]


def test_a_worker_that_was_replaced_is_named() -> None:
    run = samples()
    run[-1] = replace(run[-1], worker=replace(PROCESS, pid=8))
    assert failing(verdict(run, FACTS)) == ["workers lost"]


def test_the_page_draws_every_curve_and_needs_nothing_else() -> None:
    drawn = page("a <title>", samples(), [Line("lost", "1", "0", holds=False)])
    assert drawn.count("<svg") == 7
    assert 'class="fails"' in drawn
    assert "a &lt;title&gt;" in drawn
    assert "http" not in drawn


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
        NO_FAULT: ByFault(times=1, answered=1),
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


@pytest.mark.usefixtures("require_mosquitto")
def test_a_factory_is_answered_and_watched(tmp_path: Path) -> None:
    with running(tmp_path, ECHO) as place:
        load = Load(place.port, "5")
        load.learn(readings=5)
        load.ask_some(60)
        wait_until(lambda: not load.unanswered, "all is answered")
        load.tick(time.monotonic(), has_bursts=True)
        seen = sample(place, at_s=1.0, answered=60, unanswered=0, latency_ms=load.take_latencies())
        load.close()
    told = load.ledger.verdict()
    assert (told.answered, told.lost, told.wrong) == (60, 0, 0), load.ledger.notes
    assert seen.worker is not None
    assert seen.agent.resident_mib > 10
    assert seen.latency_ms["triage"]
    assert seen.journal_bytes
