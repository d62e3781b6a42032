from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.model import Model
from edge_agent.core.pipe import Finish, Finished
from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.learned_maps import LearnedMaps
from edge_agent.requests.answerers import Answer, Answerers
from edge_agent.requests.collapse import MIN_ANSWERS
from edge_agent.requests.score_maps import ScoreMaps
from edge_agent.requests.tasks import Task, with_built_in
from edge_agent.store.store import Store
from tests.helpers.support import MODEL, config, finished, request

AUTO = '[tasks.t]\nkind = "classify"\nlabels = ["a", "b"]\n'
TEXT = f'{AUTO}prior = "corrected"\n'


def task(text: str = TEXT) -> Task:
    return with_built_in(config(text).tasks)["t"]


def answerers(sha256: str = "w", board: str = "", score_maps: dict[str, Any] | None = None) -> Answerers:
    found = model(sha256, score_maps)
    return Answerers(ScoreMaps(found, board), found)


def model(sha256: str, score_maps: dict[str, Any] | None = None) -> Model:
    return replace(MODEL, sha256=sha256, score_maps=score_maps or {})


def scored(scoring: Answerers, of: Task, event: Finished) -> Answer:
    return scoring.final_answer(request(task_name="t", task=of), event, 0.0)


def source(scoring: Answerers, of: Task) -> str:
    """Where the task's scores come from, as `info` says."""
    return scoring.describe(of)["scores_from"]


def answer(**scores: float) -> Finished:
    return finished(1, finish=Finish.LABELS, scores=scores)


def test_scores_are_the_model_s_own_until_its_prior_is_known() -> None:
    scoring = answerers()
    assert scored(scoring, task(), answer(a=0.6, b=0.4)).event.scores == {"a": 0.6, "b": 0.4}
    assert source(scoring, task()) == "model"
    scoring.set_priors({task().definition: {"a": 0.8, "b": 0.2}})
    assert scored(scoring, task(), answer(a=0.6, b=0.4)).output == "b"
    assert source(scoring, task()) == "prior"


PREFERS_A = {"a": 0.8, "b": 0.2}


def after(scoring: Answerers, of: Task, *answers: Finished) -> list[dict[str, Any]]:
    """The events of the changes that these answers make."""
    for event in answers:
        scored(scoring, of, event)
    events = scoring.tick(0.0)
    assert all(name == "recalibration" for name, _ in events)
    return [document for _, document in events]


def test_the_prior_is_corrected_once_the_answers_collapse_to_the_preferred_label() -> None:
    scoring, auto = answerers(), task(AUTO)
    scoring.set_priors({auto.definition: PREFERS_A})
    collapsed = [answer(a=0.95, b=0.05), answer(a=0.6, b=0.4)]
    assert not after(scoring, auto, *collapsed * (MIN_ANSWERS // 2 - 1))
    assert source(scoring, auto) == "model"
    (event,) = after(scoring, auto, *collapsed)
    assert (event["task"], event["new_map"]) == ("t", True)
    assert scored(scoring, auto, answer(a=0.6, b=0.4)).output == "b"
    assert scoring.describe(auto) == {
        "scores_from": "prior",
        "scores_reason": "100% of 100 answers were a, which the model prefers for any input",
    }
    assert len(after(scoring, auto, *[answer(a=0.1, b=0.9)] * 200)) == 1
    assert source(scoring, auto) == "model"
    scoring.set_model(model("v"))
    assert "not measured" in scoring.describe(auto)["scores_reason"]


def test_the_next_process_knows_which_answers_collapse(tmp_path: Path) -> None:
    auto = task(AUTO)
    for collapsed in (True, False):
        for is_next in (False, True):
            store = Store(tmp_path / "state.db", lambda _: None)
            store.start()
            found = model("w")
            scoring = Answerers(ScoreMaps(found, "", store), found)
            scoring.set_priors({auto.definition: PREFERS_A})
            if not is_next:
                after(scoring, auto, *[answer(a=0.6, b=0.4) if collapsed else answer(a=0.1, b=0.9)] * 200)
            assert source(scoring, auto) == ("prior" if collapsed else "model")
            store.commit()
            store.close()


def test_a_collapse_that_changes_no_scores_is_no_event() -> None:
    mapped = task(f'{AUTO}{MAP}made_for = "{task(AUTO).basis_for("w")}"\n')
    for of in (task(TEXT), mapped):
        scoring = answerers()
        scoring.set_priors({of.definition: PREFERS_A})
        assert not after(scoring, of, *[answer(a=0.95, b=0.05), answer(a=0.6, b=0.4)] * 200)


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (AUTO, [answer(a=0.95, b=0.05)]),
        (AUTO, [answer(a=0.6, b=0.4), answer(a=0.4, b=0.6)]),
        (AUTO, [answer(a=0.05, b=0.95), answer(a=0.05, b=0.95)]),
        (f'{AUTO}prior = "as-is"\n', [answer(a=0.95, b=0.05), answer(a=0.6, b=0.4)]),
        (f"{AUTO}min_score = 0.1\n", [answer(a=0.95, b=0.05), answer(a=0.6, b=0.4)]),
    ],
    ids=(
        "it is most frequent when corrected, too",
        "no collapse",
        "the label that is not preferred",
        "as-is",
        "min_score",
    ),
)
def test_otherwise_scores_stay_as_they_are(text: str, answers: list[Finished]) -> None:
    scoring, of = answerers(), task(text)
    scoring.set_priors({of.definition: PREFERS_A})
    assert not after(scoring, of, *answers * 200)
    assert source(scoring, of) == "model"
    is_by_choice = "as-is" in scoring.describe(of)["scores_reason"]
    assert is_by_choice == (text != AUTO)


def test_a_prior_is_of_one_definition_and_one_model() -> None:
    scoring = answerers()
    scoring.set_priors({task().definition: {"a": 0.8, "b": 0.2}})
    other = task(TEXT + 'system = "Sort."\n')
    assert scored(scoring, other, answer(a=0.6, b=0.4)).event.scores == {"a": 0.6, "b": 0.4}
    scoring.set_model(model("v"))
    assert scored(scoring, task(), answer(a=0.6, b=0.4)).event.scores == pytest.approx({"a": 0.6, "b": 0.4})


def test_text_has_no_scores_to_correct() -> None:
    text = with_built_in(config().tasks)["generate"]
    assert answerers().describe(text) == {}


MAP = "[tasks.t.score_map]\nscale = { a = 1.0, b = 1.0 }\nbias = { b = 2.0, a = 0.0 }\n"


def test_a_map_is_in_force_only_for_its_task_and_model() -> None:
    plain = task()
    mapped = task(f'{TEXT}{MAP}made_for = "{plain.basis_for("w")}"\n')
    assert mapped.definition == plain.definition

    scoring = answerers()
    scoring.set_priors({plain.definition: {"a": 0.2, "b": 0.8}})
    assert scored(scoring, mapped, answer(a=0.6, b=0.4)).output == "b"
    assert source(scoring, mapped) == "configuration"

    other = task(f'{TEXT}system = "Sort."\n{MAP}made_for = "{plain.basis_for("w")}"\n')
    assert source(scoring, other) == "model"
    scoring.set_model(model("v"))
    assert scored(scoring, mapped, answer(a=0.6, b=0.4)).event.scores == {"a": 0.6, "b": 0.4}
    scoring.set_priors({plain.definition: {"a": 0.2, "b": 0.8}})
    assert source(scoring, mapped) == "prior"


def test_min_score_is_of_mapped_scores() -> None:
    text = TEXT + "min_score = 0.7\n"
    mapped = task(f'{text}{MAP}made_for = "{task(text).basis_for("w")}"\n')
    assert mapped.output_of(answer(a=0.4, b=0.6)) is None
    assert scored(answerers(), mapped, answer(a=0.4, b=0.6)).output == "b"


def bundled(labels: tuple[str, ...] = ("a", "b")) -> dict[str, dict[str, object]]:
    """A map that says "b", and on one board "a"."""
    shared = dict(zip(labels, ([1.0, 0.0], [1.0, 5.0]), strict=True))
    entry = {"map": shared, "boards": {"s/d": dict(zip(labels, ([1.0, 5.0], [1.0, 0.0]), strict=True))}}
    return {task().definition: entry}


def best(scoring: Answerers) -> object:
    return scored(scoring, task(), answer(a=0.6, b=0.4)).output


def test_a_map_of_the_bundle_comes_before_the_prior_and_after_a_configured_one() -> None:
    scoring = answerers(board="s/other", score_maps=bundled())
    scoring.set_priors({task().definition: {"a": 0.1, "b": 0.9}})
    assert (best(scoring), source(scoring, task())) == ("b", "bundle")
    mapped = task(f'{TEXT}{MAP}made_for = "{task().basis_for("w")}"\n')
    assert source(scoring, mapped) == "configuration"
    assert scoring.score_maps.in_force(mapped) == mapped.score_map
    assert best(answerers(board="s/d", score_maps=bundled())) == "a"


def test_a_fitted_map_comes_before_all_others() -> None:
    maps = LearnedMaps(ScoreMaps(model("w", bundled()), "s/d"))
    maps.set_fitted(task(), ScoreMap(("a", "b"), (1.0, 1.0), (0.0, 9.0)))
    assert maps.scored(task(), answer(a=0.6, b=0.4))[1] == "b"
    maps.set_fitted(task(), None)
    assert maps.scored(task(), answer(a=0.6, b=0.4))[1] == "a"


def test_a_map_of_other_labels_or_of_another_model_is_not_used() -> None:
    scoring = answerers(score_maps=bundled(("a", "c")))
    assert (best(scoring), source(scoring, task())) == ("a", "model")
    scoring.set_model(model("w", bundled()))
    assert best(scoring) == "b"
    scoring.set_model(model("v"))
    assert best(scoring) == "a"
