from __future__ import annotations

import pytest

from rigs.bench.asking import Run, in_parallel
from rigs.bench.figures import at_equal_text, ratios, row, table
from rigs.bench.rounds import Measured
from rigs.bench.verdict import rows
from rigs.bench.workload import LABELS, SCHEMA, Answer, Kind, check_answer, constant_text, prompt, readings

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
    measured = Measured(agent_mb=[150.0], server_mb=[400.0])

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
