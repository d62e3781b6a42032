"""Maps from the feedback of several boards, and the file that carries them."""

import json
import random
from typing import Any

import pytest

from edge_agent.core.score_map import ScoreMap, read_score_maps, score_map_for
from edge_agent.learning.maths.assessment import LabelledScores
from edge_agent.learning.maths.fit import board_map, shared_map
from tests.learning.maths.test_fit import accuracy

START = ScoreMap.identity(("a", "b", "c"))
ENTRY = {"task": "t", "map": {"a": [1.0, 0.0], "b": [2.0, 1.0]}, "boards": {"s/d": {"a": [1.0, 0.0], "b": [2.0, -1.0]}}}


def answers(number: int, *, prefers: str = "a", only: str = "abc", seed: int = 0) -> list[LabelledScores]:
    """Answers of a model that mostly knows the right label, but for a preference for one of them."""
    chance = random.Random(seed)
    rows = list[LabelledScores]()
    for _ in range(number):
        right = chance.choice(only)
        scores = {label: chance.random() + 0.8 * (label == right) + 1.5 * (label == prefers) for label in "abc"}
        rows.append(({label: score / sum(scores.values()) for label, score in scores.items()}, right))
    return rows


def test_a_shared_map_is_right_more_often_on_answers_of_no_board() -> None:
    found = shared_map(answers(100), START)
    assert found.map is not None
    fresh = answers(300, seed=1)
    assert accuracy(found.map, fresh) > accuracy(START, fresh) + 0.3
    assert found.after > found.before + 0.3
    assert found.before == accuracy(START, answers(100))


def test_where_scores_say_nothing_there_is_no_map() -> None:
    chance = random.Random(0)
    rows = [(dict.fromkeys("abc", 1 / 3), chance.choice("abc")) for _ in range(60)]
    found = shared_map(rows, START)
    assert found.map is None
    with pytest.raises(ValueError, match="at least 20 corrections are needed"):
        shared_map(rows[:19], START)


def test_a_board_gets_biases_of_its_own_where_they_pay() -> None:
    shared = shared_map(answers(100), START).map
    assert shared is not None
    other = board_map(answers(40, only="c", seed=2), shared)
    assert other is not None
    assert other.scales == shared.scales
    assert other.biases != shared.biases
    assert accuracy(other, answers(200, only="c", seed=3)) > accuracy(shared, answers(200, only="c", seed=3))
    assert board_map(answers(19, only="c", seed=2), shared) is None


def test_boards_like_all_others_get_none() -> None:
    shared = shared_map(answers(200), START).map
    assert shared is not None
    own = [board_map(answers(20, seed=seed), shared) for seed in range(10, 50)]
    assert sum(one is not None for one in own) <= 5


def document(**changes: Any) -> bytes:
    return json.dumps({"schema": 1, "maps": {"d": {**ENTRY, **changes}}}).encode()


def test_a_board_that_the_file_names_has_biases_of_its_own() -> None:
    (entry,) = read_score_maps(document()).values()
    assert score_map_for(entry, "s/d", "ab") == ScoreMap(("a", "b"), (1.0, 2.0), (0.0, -1.0))
    assert score_map_for(entry, "s/other", "ba") == ScoreMap(("b", "a"), (2.0, 1.0), (1.0, 0.0))
    with pytest.raises(ValueError, match="labels"):
        score_map_for(entry, "s/d", "abc")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"[]", "schema 1"),
        (b'{"schema": 2, "maps": {}}', "schema 1"),
        (b'{"schema": 1, "maps": []}', "schema 1"),
        (b'{"schema": 1, "maps": {"d": 1}}', "object with map and boards"),
        (document(boards=None), "object with map and boards"),
        (document(map=[1.0]), "object with map and boards"),
        (document(map={"a": [1.0]}), "list of two numbers"),
        (document(map={"a": [1.0, 1e9], "b": [1.0, 0.0]}), "finite"),
        (document(boards={"s/d": [0.0]}), "object with the task's labels"),
        (document(boards={"s/d": {"a": [1.0, True], "b": [1.0, 0.0]}}), "list of two numbers"),
        (document(boards={"s/d": {"a": [1.0, 0.0], "c": [1.0, 0.0]}}), "object with the task's labels"),
        (b'{"schema": 1, "maps": {"d": {"boards": {}, "map": {"a": [NaN, 0]}}}}', "NaN"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_score_maps(data)
