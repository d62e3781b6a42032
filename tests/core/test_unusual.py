"""The kind `unusual`: how often it may be wrong, and what a caller gets of a model's answer."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.core.kinds.unusual import UnusualTask
from edge_agent.core.pipe import Finish, Finished
from tests.helpers.support import finished

BECAUSE = [{"field": "oil_temp_c", "value": 91.2, "usual": [61.0, 78.5]}]


def task(**keys: object) -> UnusualTask:
    return UnusualTask.model_validate({"kind": "unusual", **keys})


def answer(rarity: float) -> Finished:
    text = json.dumps({"score": 1.0, "rarity": rarity, "because": BECAUSE})
    return finished(1, finish=Finish.MODEL, text=text, scores=None)


@pytest.mark.parametrize(
    ("keys", "share"),
    [
        ({}, 0.001),
        ({"false_alarms": "3 per 100 readings"}, 0.03),
        ({"false_alarms": "1 per week", "reading_interval_s": 600}, 1 / 1008),
        ({"false_alarms": "2 per day", "reading_interval_s": 60}, 2 / 1440),
    ],
)
def test_false_alarms_are_a_share_of_the_readings(keys: dict[str, Any], share: float) -> None:
    assert task(**keys).max_rarity == pytest.approx(share)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"false_alarms": "seldom"}, "should be a rate such as"),
        ({"false_alarms": "0 per week", "reading_interval_s": 600}, "should be a rate such as"),
        ({"false_alarms": "1 per 0 readings"}, "should be a rate such as"),
        ({"false_alarms": "1 per week"}, "requires `reading_interval_s`"),
        ({"false_alarms": "2 per 10 readings"}, "0.1 of the readings"),
        ({"false_alarms": "1 per month", "reading_interval_s": 1}, "1e-05 to"),
    ],
)
def test_a_rate_that_no_model_can_keep_is_refused(keys: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        task(**keys)


def test_only_an_unusual_reading_says_why() -> None:
    rare, usual = (task().output_of(answer(rarity)) for rarity in (0.001, 0.0011))
    assert rare == {"unusual": True, "rarity": 0.001, "because": BECAUSE}
    assert usual == {"unusual": False, "rarity": 0.0011, "because": []}
    assert [task().bare_output(output) for output in (rare, usual)] == ["unusual", "usual"]


def test_any_text_may_name_what_it_was_and_some_say_that_it_was_usual() -> None:
    assert task().answer_fault("bearing") is None
    assert "any text" in str(task().answer_fault(" "))
    assert [task().is_usual(text) for text in ("usual", "Normal", "bearing")] == [True, True, False]
    assert task(usual=["ok"]).is_usual("OK")
    assert task().is_right({"unusual": True}, "bearing")
    assert not task().is_right({"unusual": True}, "usual")
    # Feedback and its rows have this word for whatever the task takes for usual.
    assert not task(usual=("gut",)).is_right({"unusual": True}, "usual")
