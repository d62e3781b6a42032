import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.pipe import Finish
from edge_agent.engine.answer.labels import LabelAnswer, LabelTree, TokenPath
from edge_agent.engine.step.cache_sequence import CacheSequence

END = 0
VOCABULARY = 130


def letters(label: str) -> list[int]:
    """A tokenizer of one token per character."""
    return [ord(char) for char in label]


def scores(tree: LabelTree, rows: dict[TokenPath, np.ndarray]) -> dict[str, float]:
    return tree.scores({path: tree.choice_logits(path, row) for path, row in rows.items()})


def row(**logits: float) -> np.ndarray:
    """Logits that are high everywhere but for the named letters."""
    values = np.full(VOCABULARY, 50.0, dtype=np.float32)
    for letter, logit in logits.items():
        values[END if letter == "end" else ord(letter)] = logit
    return values


def test_labels_that_differ_in_their_first_token_need_the_prompt_alone() -> None:
    tree = LabelTree(["normal", "fault"], letters, END)
    assert tree.has_choice(())
    assert tree.branches == ()
    found = scores(tree, {(): row(n=1.0, f=1.0 + math.log(3))})
    assert found == pytest.approx({"normal": 0.25, "fault": 0.75})


def test_labels_that_collide_are_told_apart_where_they_part() -> None:
    tree = LabelTree(["ab", "ac", "d"], letters, END)
    assert [(branch.tokens, branch.outputs) for branch in tree.branches] == [((97,), (0,))]
    found = scores(tree, {(): row(a=0.0, d=0.0), (97,): row(b=math.log(4), c=0.0)})
    assert found == pytest.approx({"ab": 0.4, "ac": 0.1, "d": 0.5})


def test_a_label_that_begins_another_ends_there_with_the_end_of_turn() -> None:
    tree = LabelTree(["fault", "fault high"], letters, END)
    assert not tree.has_choice(())
    path = tuple(letters("fault"))
    assert [(branch.tokens, branch.outputs) for branch in tree.branches] == [(path, (4,))]
    found = scores(tree, {path: row(end=math.log(9), **{" ": 0.0})})
    assert found == pytest.approx({"fault": 0.9, "fault high": 0.1})


def test_choices_on_one_path_share_a_branch() -> None:
    tree = LabelTree(["a", "ab", "abc", "abd"], letters, END)
    assert [(branch.tokens, branch.outputs) for branch in tree.branches] == [((97, 98), (0, 1))]


def test_labels_with_the_same_tokens_share_their_probability() -> None:
    tree = LabelTree(["é", "e\u0301", "x"], lambda label: [120] if label == "x" else [101], END)
    assert scores(tree, {(): row(e=0.0, x=0.0)}) == pytest.approx({"é": 0.25, "e\u0301": 0.25, "x": 0.5})


def test_a_label_without_tokens_is_named() -> None:
    with pytest.raises(ValueError, match="label '' has no tokens"):
        LabelTree(["a", ""], letters, END)


def test_only_the_logits_where_labels_part_are_read() -> None:
    answer = LabelAnswer({1: row(b=0.0, c=0.0)}.__getitem__, LabelTree(["ab", "ac"], letters, END))
    answer.read(CacheSequence(0, [1], (0,), prompt_length=1), [0])
    assert answer.finish is None
    answer.read(CacheSequence(1, [1, 97], (1,), prompt_length=1), [1])
    assert answer.finish is Finish.LABELS
    assert answer.result() == {"scores": pytest.approx({"ab": 0.5, "ac": 0.5})}


@settings(deadline=None)
@given(
    labels=st.lists(st.text(alphabet="abc", min_size=1, max_size=6), min_size=2, max_size=60, unique=True),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1.0, 100.0, 10000.0]),
)
def test_scores_of_any_labels_sum_to_one_and_choices_decode_once(labels: list[str], seed: int, scale: float) -> None:
    tree = LabelTree(labels, letters, END)
    random = np.random.default_rng(seed)
    asked = [branch.tokens[: index + 1] for branch in tree.branches for index in branch.outputs]

    paths = [*asked, ()] if tree.has_choice(()) else asked
    found = scores(tree, {path: (random.standard_normal(VOCABULARY) * scale).astype(np.float32) for path in paths})

    assert len(asked) == len(set(asked))
    assert list(found) == labels
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-9)
    assert all(0.0 <= score <= 1.0 for score in found.values())
