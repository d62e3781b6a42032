from random import Random

import pytest

from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.facts import INPUT_DRIFT
from edge_agent.learning.maths.assessment import Answer, Shift, assess
from edge_agent.learning.maths.drift import MAX_AUDITS, Drop, distribution_shift, find_drop


def audits(*parts: tuple[int, float], seed: int = 0) -> list[bool]:
    """Whether each audit is right. `parts` are numbers of audits and their accuracy."""
    random = Random(seed)
    return [random.random() < accuracy for count, accuracy in parts for _ in range(count)]


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.6, 0.9, 0.99, 1.0])
def test_a_constant_accuracy_is_no_drop(accuracy: float) -> None:
    outcomes = audits((MAX_AUDITS + 200, accuracy))
    assert all(find_drop(outcomes[:end]) is None for end in range(0, len(outcomes) + 1, 100))


def test_a_rise_is_no_drop() -> None:
    assert find_drop(audits((200, 0.5), (300, 0.95))) is None


@pytest.mark.parametrize(("before", "delay"), [(0.99, 20), (0.95, 35), (0.9, 60)])
def test_labels_swapped_for_a_third_of_the_inputs_are_seen(before: float, delay: int) -> None:
    drops = [find_drop(audits((200, before), (delay, before * 2 / 3), seed=seed)) for seed in range(9)]
    assert sum(drop is not None for drop in drops) >= 5


def test_the_accuracy_before_is_that_of_the_likeliest_course() -> None:
    assert find_drop([True] * 200 + [False, True] * 20) == Drop(1.0, 20, 40)


def test_only_the_newest_audits_count() -> None:
    outcomes = audits((200, 0.95), (MAX_AUDITS, 0.6))
    assert find_drop(outcomes) is None
    assert find_drop(outcomes[:400]) is not None


def test_wrong_audits_of_refused_inputs_are_no_drop() -> None:
    """The model refuses a new fault, as it should, and people call that wrong."""

    def drop(*, is_refused: bool) -> Drop | None:
        scores = {"a": 0.9, "b": 0.1}
        right = [Answer(scores=scores, output="a", label="a", is_audit=True, is_marked=True)] * 80
        wrong = [Answer(scores=scores, output=None, is_refused=is_refused, is_audit=True, is_marked=True)] * 40
        same = ScoreMap.identity(("a", "b"))
        return assess([*right, *wrong], current=same, min_accuracy=None, confidence=0.95).drop

    assert drop(is_refused=False) is not None
    assert drop(is_refused=True) is None


def test_too_few_audits_show_no_drop() -> None:
    assert find_drop([]) is None
    assert find_drop([True] * 10 + [False] * 40) is None


def test_another_mix_is_a_shift_by_the_population_stability_index() -> None:
    shift = distribution_shift({"ok": 500, "hot": 500}, {"ok": 800, "hot": 200})
    # (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5)
    assert shift == pytest.approx(0.416, abs=0.003)


def test_a_label_that_was_never_seen_is_a_shift() -> None:
    shift = distribution_shift({"ok": 1000}, {"ok": 50, "hot": 50})
    assert shift is not None
    assert shift > 0.25


@pytest.mark.parametrize(
    ("reference", "recent"),
    [
        ({"ok": 5, "hot": 5}, {"ok": 2, "hot": 8}),
        ({"ok": 500, "hot": 500}, {"ok": 510, "hot": 490}),
        ({"ok": 500}, {"ok": 20}),
        ({f"bin {number}": 1 for number in range(300)}, {f"bin {number}": 1 for number in range(300, 600)}),
        ({}, {"ok": 20}),
        ({"ok": 20}, {}),
    ],
)
def test_what_chance_explains_is_no_shift(reference: dict[str, int], recent: dict[str, int]) -> None:
    assert distribution_shift(reference, recent) is None


def test_fields_that_leave_their_usual_values_are_a_shift() -> None:
    def shift(
        *sides: list[dict[str, str] | None], scores: tuple[float, float] = (0.99, 0.01), drift_answers: int = 200
    ) -> Shift | None:
        kept = [
            Answer(
                scores=dict(zip(("ok", "hot"), scores if at else (0.99, 0.01), strict=True)),
                output="ok",
                rare_fields=fields,
            )
            for at, side in enumerate(sides)
            for fields in side
        ]
        same = ScoreMap.identity(("ok", "hot"))
        return assess(kept, current=same, min_accuracy=None, confidence=0.95, drift_answers=drift_answers).shift

    usual: list[dict[str, str] | None] = [{"amps": "low"} if at % 50 == 0 else {} for at in range(200)]
    psi: list[dict[str, str] | None] = [{"outlet_bar": "odd"} if at % 3 else {} for at in range(200)]
    assert shift(usual, usual, usual) is None
    found = shift(usual, psi, psi)
    assert found is not None
    assert (found.index > INPUT_DRIFT, found.what) == (True, "the field outlet_bar")
    # This regime does not last.
    assert shift(usual, psi, usual) is None
    assert shift(usual, usual, psi) is None
    # Whether it lasts depends on how many answers are compared.
    assert shift(usual, usual, usual, usual, psi, psi) is not None
    assert shift(usual, usual, usual, usual, psi, psi, drift_answers=400) is None
    found = shift(usual, usual, psi, psi, psi, psi, drift_answers=400)
    assert found is not None
    assert found.what == "the field outlet_bar"
    found = shift(usual, usual, usual, scores=(0.2, 0.8))
    assert found is not None
    assert found.what.startswith("the label ")
    # Answers that an earlier version kept say nothing of fields.
    assert shift([None] * 200, psi, psi) is None
    # What is not chance in one test may be chance in many.
    assert distribution_shift({"ok": 200}, {"ok": 187, "odd": 13}) is not None
    assert distribution_shift({"ok": 200}, {"ok": 187, "odd": 13}, tests=1000) is None


def test_samples_of_one_mix_hardly_ever_shift() -> None:
    random = Random(0)
    mix = ["ok"] * 6 + ["warm"] * 3 + ["hot"]

    def sample(count: int) -> dict[str, int]:
        drawn = random.choices(mix, k=count)
        return {name: drawn.count(name) for name in set(mix)}

    assert sum(distribution_shift(sample(300), sample(60)) is not None for _ in range(500)) <= 2
