from __future__ import annotations

from dataclasses import replace

from edge_agent.core.protocol import ChatMessage, Run, TextPlan
from edge_agent.requests.quarantine import MAX_QUARANTINED, Quarantine, fingerprint
from edge_agent.store.rows import Quarantined

RUN = Run(id=1, task="triage", messages=(ChatMessage(role="user", content="text"),), plan=TextPlan())


def held(name: str) -> Quarantined:
    return Quarantined(name, "triage", None)


def test_a_fingerprint_is_of_what_is_asked_not_of_who_asks_or_how() -> None:
    assert fingerprint(RUN) == fingerprint(replace(RUN, id=2, max_tokens=7, stream=True))
    others = (
        replace(RUN, task="other"),
        replace(RUN, messages=(ChatMessage(role="user", content="tex"),)),
        replace(RUN, messages=(ChatMessage(role="system", content="text"),)),
    )
    assert len({fingerprint(run) for run in (RUN, *others)}) == 4


def test_what_is_held_is_found_until_it_is_released() -> None:
    quarantine = Quarantine()
    one = held(fingerprint(RUN))
    assert quarantine.find(RUN) is None
    quarantine.hold(one)
    assert quarantine.find(RUN) is one
    assert quarantine.release(one.fingerprint)
    assert quarantine.find(RUN) is None
    assert not quarantine.release(one.fingerprint)


def test_the_oldest_are_let_go() -> None:
    quarantine = Quarantine()
    for number in range(MAX_QUARANTINED):
        assert quarantine.hold(held(str(number))) == []
    assert quarantine.hold(held("0")) == []  # held again: it is the newest now
    assert quarantine.hold(held("next")) == [held("1")]
    assert len(quarantine.held) == MAX_QUARANTINED
