"""The benchmarks in seconds: a real agent with the demonstration model beside a stand-in for llama-server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from edge_agent.models.bundle import MODEL_FILE
from rigs.bench import __main__ as widths
from rigs.bench import compare, overload
from rigs.bench.agent import in_parallel, running_agent, workload_tasks
from rigs.bench.rounds import Limits, Measured, Rounds, Run, Sides, document
from rigs.bench.verdict import at_equal_text, ratios, row, rows, table
from rigs.bench.workload import (
    GENERATED_TOKENS,
    LABELS,
    SCHEMA,
    Answer,
    Kind,
    Reading,
    check_answer,
    constant_text,
    prompt,
    readings,
)


class StandIn:
    """Answers as llama-server would, without a model. Its own memory is that of this process."""

    name = "llama-server"
    pid = os.getpid()

    def count_tokens(self, text: str) -> int:
        return len(text) // 10

    def ask(self, kind: Kind, _reading: Reading) -> Answer:
        report = {"condition": "leak", "severity": "low", "stop": True, "action": "Close the valve."}
        text = json.dumps(report) if kind is Kind.EXTRACT else "normal"
        constant = self.count_tokens(constant_text(kind))
        return Answer(text, prompt_tokens=constant + 50, cached_tokens=constant, completion_tokens=GENERATED_TOKENS)


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> Path:
    return demo_bundle / MODEL_FILE


def test_all_parts_of_the_comparison_run(model: Path, tmp_path: Path) -> None:
    limits = Limits(prefill=lambda *_, **__: 1000.0, batched=lambda *_, **__: 100.0)
    with running_agent(model, tmp_path, workload_tasks(), compare.ENGINE) as agent:
        rounds = Rounds(Sides(agent, StandIn(), tmp_path, model, limits), Rounds.PARTS, requests=4)
        rounds.run(0, 1)
    names = [one.name for one in rows(rounds.measured)]
    assert all(any(name.startswith(part) for name in names) for part in ("classify", "extract", "generate"))
    assert {"  the same of llama-server", "  tokens of the prefix computed"} <= set(names)
    assert len(document(rounds.measured)) == 14


@pytest.mark.parametrize(
    ("rig", "words", "said"),
    [
        (widths, ["{model}", "--clients", "1,2", "--rounds", "1", "--requests", "4"], "classify"),
        (overload, ["echo:step_ms=20", "--seconds", "2"], "capacity"),
    ],
)
def test_a_benchmark_runs_and_shows_its_table(
    rig: object,
    words: list[str],
    said: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["rig", *(word.format(model=model) for word in words)])
    assert rig.main() == 0  # type: ignore[attr-defined]
    assert said in capsys.readouterr().out


LABEL = Answer(text="leak", prompt_tokens=235, cached_tokens=185, completion_tokens=0, scores={"leak": 1.0})


def test_a_row_is_the_median_of_its_rounds_with_their_spread() -> None:
    found = row("speed", [3.0, 1.0, 2.0], "1/s", at_least=1.5)

    assert (found.value, found.lowest, found.highest) == (2.0, 1.0, 3.0)
    assert found.is_met is True


def test_a_target_is_met_from_its_very_value_on() -> None:
    assert row("", [2.0], at_least=2.0).is_met is True
    assert row("", [2.0], at_least=2.1).is_met is False
    assert row("", [2.0], at_most=2.0).is_met is True
    assert row("", [2.0], at_most=1.9).is_met is False
    assert row("", [2.0]).is_met is None


def test_ratios_are_taken_within_a_round() -> None:
    # Both were three times as fast in the second round.
    assert ratios([2.0, 6.0], [1.0, 3.0]) == [2.0, 2.0]


def test_rounds_that_only_one_side_ran_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratios([2.0], [1.0, 3.0])


def test_a_shorter_text_of_ours_lowers_the_ratio_and_a_longer_one_does_not_raise_it() -> None:
    found = at_equal_text(
        [2.0, 2.0], my_rate=[5.0, 5.0], my_tokens=[3.0, 6.0], their_tokens=[6.0, 3.0], my_tokens_per_s=[30.0, 30.0]
    )

    # 0.2 s for an answer, 0.1 s more for three more tokens.
    assert found == pytest.approx([2.0 / 1.5, 2.0])


def test_the_table_says_which_targets_are_missed() -> None:
    lines = table([row("fast", [2.0], at_least=1.0), row("slow", [0.5], at_least=1.0), row("known", [1234.0], "MiB")])

    assert [line.split()[-1] for line in lines.splitlines()[1:]] == ["met", "MISSED", "MiB"]
    assert "1234" in lines


def test_only_the_parts_that_were_run_have_rows() -> None:
    measured = Measured(agent_mib=[150.0], server_mib=[400.0])

    assert [(one.value, one.is_met) for one in rows(measured)] == [(150.0, True), (400.0, None)]


def test_the_classify_rows_compare_with_the_server_at_its_best_width() -> None:
    measured = Measured(prefill_limit=[10.0])
    speeds = {("edge-agent", 8): 9.0, ("edge-agent", 1): 5.0}
    speeds |= {("llama-server", width): speed for width, speed in ((1, 2.0), (2, 4.0), (4, 6.0), (8, 3.0))}
    for (side, clients), speed in speeds.items():
        measured.runs[side, Kind.CLASSIFY, clients].append(Run([LABEL], 1 / speed))
        measured.runs[side, Kind.CLASSIFY_SHARED, clients].append(Run([LABEL], 1 / speed))

    found = {one.name: one.value for one in rows(measured)}

    assert found["classify: ratio at 8"] == pytest.approx(3.0)
    assert found["classify: ratio to its best, at 4"] == pytest.approx(1.5)
    assert found["classify: of what llama-bench's prefill allows"] == pytest.approx(0.9)


def test_replies_keep_the_order_of_their_questions() -> None:
    replies, seconds = in_parallel(lambda number: -number, range(20), 8)

    assert replies == [-number for number in range(20)]
    assert seconds > 0


def test_another_seed_gives_other_readings() -> None:
    assert readings(3, seed="a") == readings(3, seed="a")
    assert not [one for one in readings(50, seed="a") if one in readings(50, seed="b")]


@pytest.mark.parametrize("kind", Kind)
def test_every_prompt_begins_with_the_constant_text_and_then_differs(kind: Kind) -> None:
    one, other = (prompt(kind, reading) for reading in ({"pump": 1, "reading": {}}, {"pump": 2, "reading": {}}))
    length = len(constant_text(kind))

    assert one[:length] == other[:length] == constant_text(kind)
    assert one[length] != other[length]


@pytest.mark.parametrize(
    ("kind", "text", "completion_tokens"),
    [
        (Kind.CLASSIFY, "broken", 0),
        (Kind.EXTRACT, '{"condition":"leak"}', 9),
        (Kind.EXTRACT, '{"condition":"leak","severity":"low","stop":true,"action":"' + "x" * 61 + '"}', 40),
        (Kind.GENERATE, "", 0),
        (Kind.GENERATE, "too long", 33),
    ],
)
def test_an_answer_of_another_form_is_refused(kind: Kind, text: str, completion_tokens: int) -> None:
    answer = Answer(text=text, prompt_tokens=235, cached_tokens=185, completion_tokens=completion_tokens)

    with pytest.raises(ValueError, match=r"label|schema|tokens"):
        check_answer(kind, answer, constant_tokens=185)


def test_an_answer_whose_constant_text_was_computed_again_is_refused() -> None:
    with pytest.raises(ValueError, match="only 185 of 300"):
        check_answer(Kind.CLASSIFY, LABEL, constant_tokens=300)


def test_the_schema_asks_for_the_labels_of_classify() -> None:
    assert SCHEMA["properties"]["condition"]["enum"] == list(LABELS)
