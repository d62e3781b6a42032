from __future__ import annotations

import pytest

from edge_agent.core.pipe import Finish, Finished
from edge_agent.core.score_map import ScoreMap
from edge_agent.requests.scoring import Scoring
from edge_agent.requests.tasks import Task, with_built_in
from tests.helpers.support import config, finished

TEXT = '[tasks.t]\nkind = "classify"\nlabels = ["a", "b"]\n'


def task(text: str = TEXT) -> Task:
    return with_built_in(config(text).tasks)["t"]


def answer(**scores: float) -> Finished:
    return finished(1, finish=Finish.LABELS, scores=scores)


def test_scores_are_the_model_s_own_until_its_prior_is_known() -> None:
    scoring = Scoring("w")
    assert scoring.scored(task(), answer(a=0.6, b=0.4))[0].scores == {"a": 0.6, "b": 0.4}
    assert scoring.describe(task()) == {"scores_from": "model"}

    scoring.set_priors({task().definition: {"a": 0.8, "b": 0.2}})
    assert scoring.scored(task(), answer(a=0.6, b=0.4))[1] == "b"
    assert scoring.describe(task()) == {"scores_from": "prior"}


def test_a_prior_is_of_one_definition_and_one_model() -> None:
    scoring = Scoring("w")
    scoring.set_priors({task().definition: {"a": 0.8, "b": 0.2}})
    other = task(TEXT + 'system = "Sort."\n')
    assert scoring.scored(other, answer(a=0.6, b=0.4))[0].scores == {"a": 0.6, "b": 0.4}
    scoring.set_model("v")
    assert scoring.scored(task(), answer(a=0.6, b=0.4))[0].scores == pytest.approx({"a": 0.6, "b": 0.4})


def test_text_has_no_scores_to_correct() -> None:
    text = with_built_in(config().tasks)["generate"]
    assert Scoring("w").describe(text) == {}


MAP = "[tasks.t.score_map]\nscale = { a = 1.0, b = 1.0 }\nbias = { b = 2.0, a = 0.0 }\n"


def test_a_map_is_in_force_only_for_its_task_and_model() -> None:
    plain = task()
    mapped = task(f'{TEXT}{MAP}made_for = "{plain.basis_for("w")}"\n')
    assert mapped.definition == plain.definition

    scoring = Scoring("w")
    scoring.set_priors({plain.definition: {"a": 0.2, "b": 0.8}})
    assert scoring.scored(mapped, answer(a=0.6, b=0.4))[1] == "b"
    assert scoring.describe(mapped) == {"scores_from": "configuration"}

    other = task(f'{TEXT}system = "Sort."\n{MAP}made_for = "{plain.basis_for("w")}"\n')
    assert scoring.describe(other) == {"scores_from": "model"}
    scoring.set_model("v")
    assert scoring.scored(mapped, answer(a=0.6, b=0.4))[0].scores == {"a": 0.6, "b": 0.4}
    scoring.set_priors({plain.definition: {"a": 0.2, "b": 0.8}})
    assert scoring.describe(mapped) == {"scores_from": "prior"}


def test_min_score_is_of_mapped_scores() -> None:
    text = TEXT + "min_score = 0.7\n"
    mapped = task(f'{text}{MAP}made_for = "{task(text).basis_for("w")}"\n')
    assert mapped.output_of(answer(a=0.4, b=0.6)) is None
    assert Scoring("w").scored(mapped, answer(a=0.4, b=0.6))[1] == "b"


def bundled(labels: tuple[str, ...] = ("a", "b")) -> dict[str, dict[str, object]]:
    """A map that says "b", and on one board "a"."""
    shared = dict(zip(labels, ([1.0, 0.0], [1.0, 5.0]), strict=True))
    entry = {"map": shared, "boards": {"s/d": dict(zip(labels, ([1.0, 5.0], [1.0, 0.0]), strict=True))}}
    return {task().definition: entry}


def best(scoring: Scoring) -> object:
    return scoring.scored(task(), answer(a=0.6, b=0.4))[1]


def test_a_map_of_the_bundle_is_used_in_place_of_the_prior_and_below_one_fitted_here() -> None:
    scoring = Scoring("w", "s/other")
    scoring.set_priors({task().definition: {"a": 0.1, "b": 0.9}})
    scoring.set_bundled(bundled())
    assert (best(scoring), scoring.describe(task())) == ("b", {"scores_from": "bundle"})
    mapped = task(f'{TEXT}{MAP}made_for = "{task().basis_for("w")}"\n')
    assert scoring.describe(mapped) == {"scores_from": "configuration"}
    assert scoring.start_map(mapped) == mapped.score_map
    named = Scoring("w", "s/d")
    named.set_bundled(bundled())
    assert best(named) == "a"
    scoring.set_fitted(task(), ScoreMap(("a", "b"), (1.0, 1.0), (0.0, 9.0)))
    assert (best(scoring), scoring.describe(task())) == ("b", {"scores_from": "feedback"})
    scoring.set_fitted(task(), None)
    scoring.set_bundled({})
    assert scoring.describe(task()) == {"scores_from": "prior"}


def test_a_map_of_other_labels_or_of_another_model_is_not_used() -> None:
    scoring = Scoring()
    scoring.set_bundled(bundled(("a", "c")))
    assert (best(scoring), scoring.describe(task())) == ("a", {"scores_from": "model"})
    scoring.set_bundled(bundled())
    scoring.set_model("v")
    assert best(scoring) == "a"
