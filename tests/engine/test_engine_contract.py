"""What every engine promises, tried on the echo and on the model alike."""

import json
import re

import pytest

from edge_agent.core.codes import Code
from edge_agent.core.pipe import Cancelled, Finish, Finished, Partial, SchemaPlan, SetLimits
from edge_agent.core.schemas import validator
from edge_agent.engine.engine import Engine
from tests.engine.runs import END, LABELS, PLANS, SCHEMA, answer_all, ends, failed, finished, run


def test_labels_are_scored_and_nothing_is_written(engine: Engine) -> None:
    answer = finished(engine, run(1, "cavitation at P-3", LABELS))[1]
    assert answer.finish is Finish.LABELS
    assert answer.scores is not None
    assert list(answer.scores) == list(LABELS.labels)
    assert sum(answer.scores.values()) == pytest.approx(1.0, abs=0.001)
    assert (answer.text, answer.reasoning, answer.completion_tokens) == (None, None, 0)
    assert answer.prompt_tokens > answer.cached_tokens > 0


def test_an_extract_validates_against_its_schema(engine: Engine) -> None:
    answer = finished(engine, run(1, "P-3 vibrates", SchemaPlan(schema=SCHEMA), max_tokens=100))[1]
    assert answer.finish is Finish.SCHEMA
    assert answer.text is not None
    validator(SCHEMA).validate(json.loads(answer.text))


def test_text_ends_at_max_tokens(engine: Engine) -> None:
    answer = finished(engine, run(1, "a b c d e f", max_tokens=2))[1]
    assert answer.finish is Finish.LENGTH
    assert answer.completion_tokens == 2


def test_partials_add_up_to_the_text(engine: Engine) -> None:
    events = answer_all(engine, run(1, "one two three", stream=True), run(2, "four five six"))
    deltas = [event.delta for event in events if isinstance(event, Partial)]
    assert {event.id for event in events if isinstance(event, Partial)} <= {1}
    end = ends(events)[1]
    assert isinstance(end, Finished)
    assert end.text
    assert "".join(deltas) == end.text
    assert isinstance(events[-1], END)


def test_more_requests_than_places_are_all_answered_in_shared_steps(engine: Engine) -> None:
    runs = [run(number, f"pump {number}", PLANS[number % 3], max_tokens=60) for number in range(20)]
    answers = finished(engine, *runs)
    assert max(answer.batch for answer in answers.values()) == engine.ready(0.0).max_active
    progress = engine.progress()
    assert progress.active == 0
    assert progress.rows_total / progress.steps_total > 1.5
    assert progress.completion_tokens_total == sum(answer.completion_tokens for answer in answers.values())
    assert progress.cached_tokens_total == sum(answer.cached_tokens for answer in answers.values())


def test_what_never_fits_the_context_is_refused_with_the_figures(engine: Engine) -> None:
    end = failed(engine, run(1, "x " * 1100))
    assert end.code is Code.TOO_LONG
    assert re.fullmatch(r"input: a prompt of \d+ tokens and max_tokens 12; the context has 1024", end.message)


def test_cancel_ends_a_request_that_waits_and_one_that_runs(engine: Engine) -> None:
    runs = [run(number, "one two three four five six seven", max_tokens=200) for number in range(6)]
    for one in runs:
        assert engine.add(one) is None
    early = engine.step()

    assert engine.cancel(0) == Cancelled(id=0)
    assert engine.cancel(5) == Cancelled(id=5)
    assert engine.cancel(0) is None
    assert engine.cancel(99) is None
    events = early
    while engine.has_work:
        events += engine.step()
    assert sorted(ends(events)) == [1, 2, 3, 4]


def test_a_limit_holds_from_the_next_step_on_and_those_that_run_go_on(engine: Engine) -> None:
    def widest(first_id: int) -> int:
        runs = [run(number, f"a b c d {number}", max_tokens=4) for number in range(first_id, first_id + 3)]
        answers = [event for event in answer_all(engine, *runs) if isinstance(event, Finished)]
        assert len(answers) == 3
        return max(answer.batch for answer in answers)

    for number in range(1, 4):
        engine.add(run(number, f"a b c d {number}", max_tokens=4))
    engine.step()
    engine.set_limits(SetLimits(max_active=1))
    assert len(ends(answer_all(engine))) == 3
    assert widest(4) == 1
    engine.set_limits(SetLimits())
    assert widest(7) == 3
