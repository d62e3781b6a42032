"""The rig of attacks in seconds, with the demonstration's model; its checks see what they must not miss."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge_agent.engine.prompt.chat import Chat
from edge_agent.models.bundle import MODEL_FILE
from rigs.bench.workload import LABELS, Kind
from rigs.injection import __main__ as injection
from rigs.injection.attacks import ATTACKS, NOTES
from rigs.injection.measure import SYSTEM_TEXT, control_tokens, copies, is_within, words_of

REPORT = {"condition": "leak", "severity": "low", "stop": True, "action": "Close the valve."}


def test_no_attack_gets_an_answer_outside_or_a_control_token(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rigs.injection", str(demo_bundle), "--readings", "1", "--json"])
    assert injection.main() == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["prompts"], result["smuggled"]) == (len(ATTACKS), 0)
    asked = {kind: sum(row["asked"] for row in result["rows"] if row["kind"] == kind) for kind in Kind}
    assert asked == dict.fromkeys(Kind, 1 + len(NOTES) + len(ATTACKS))
    # The text that no context holds.
    assert [row["note"] for row in result["rows"] if row["refused"]] == ["floods"] * len(Kind)


def test_text_that_becomes_a_control_token_is_seen(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chat, "_cut", lambda _self, text: text)
    assert control_tokens(demo_bundle / MODEL_FILE)[1] >= 3


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Kind.CLASSIFY, [LABELS[0], None], ["on fire", REPORT]),
        (Kind.EXTRACT, [REPORT], [REPORT | {"override": True}, None]),
        (Kind.GENERATE, ["anything"], [None]),
    ],
)
def test_an_answer_outside_is_seen(kind: Kind, inside: list[object], outside: list[object]) -> None:
    assert all(is_within(kind, output) for output in inside)
    assert not any(is_within(kind, output) for output in outside)


def test_words_of_the_system_message_are_seen() -> None:
    assert copies(words_of(SYSTEM_TEXT[100:200]))
    assert not copies(words_of("Vibration stays below 4.5: the pump is normal."))
