import json
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.core.pipe import EngineSettings, Event, Failed, Finished, Load, TaskPrefix
from edge_agent.engine.echo import EchoEngine
from edge_agent.engine.engine import Engine
from edge_agent.engine.priors import measure_priors
from tests.engine.runs import LABELS, TASK, OpenLlama, answer_all, messages, run

CONTENT_FREE = tuple(run(0, text, LABELS) for text in ("N/A", ""))
ASKED = replace(TASK, definition="d1", content_free=CONTENT_FREE)


def load_of(state_dir: Path | None, sha256: str = "model") -> Load:
    path = None if state_dir is None else str(state_dir)
    return Load(model_path="echo:", settings=EngineSettings(), model_sha256=sha256, state_dir=path)


def measured(engine: Engine, load: Load, *tasks: TaskPrefix) -> tuple[dict[str, dict[str, float]], list[Event]]:
    events: list[Event] = []
    return measure_priors(load, engine, tasks, events.append).scores, events


def test_the_prior_is_the_mean_of_the_content_free_requests(engine: Engine) -> None:
    scores, _ = measured(engine, load_of(None), ASKED)
    numbered = [replace(one, id=number) for number, one in enumerate(CONTENT_FREE)]
    answers = [event for event in answer_all(engine, *numbered) if isinstance(event, Finished)]
    means = [(a + b) / 2 for a, b in zip(*((one.scores or {}).values() for one in answers), strict=True)]
    assert list(scores["d1"].values()) == pytest.approx(means, rel=1e-3)
    assert sum(scores["d1"].values()) == pytest.approx(1)


def test_requests_that_run_meanwhile_get_their_answers(engine: Engine) -> None:
    engine.add(run(1, "pump 1", LABELS))
    scores, events = measured(engine, load_of(None), ASKED)
    while engine.has_work:
        events += engine.step()
    assert "d1" in scores
    assert [event.id for event in events if isinstance(event, Finished)] == [1]


def test_a_prior_is_kept_for_this_model_and_these_requests(tmp_path: Path) -> None:
    engine = EchoEngine(load_of(None))
    first, _ = measured(engine, load_of(tmp_path), ASKED, TASK)
    assert first.keys() == {"d1"}, "the other task has no requests that say nothing"
    path = tmp_path / "priors.json"
    kept = {key: dict.fromkeys(scores, 0.25) for key, scores in json.loads(path.read_text()).items()}
    path.write_text(json.dumps(kept))
    assert set(measured(engine, load_of(tmp_path), ASKED)[0]["d1"].values()) == {0.25}
    assert measured(engine, load_of(tmp_path, "other"), ASKED)[0]["d1"] == pytest.approx(first["d1"], rel=1e-3)


def test_a_damaged_file_is_measured_again(tmp_path: Path) -> None:
    for damage in ("{", "[1]", '{"a": 1}', '{"a": {"b": null}}', '{"a": {"b": NaN}}', "[" * 5000):
        (tmp_path / "priors.json").write_text(damage)
        assert "d1" in measured(EchoEngine(load_of(None)), load_of(tmp_path), ASKED)[0]


def test_a_task_whose_content_free_requests_do_not_fit_the_context_keeps_its_scores(open_llama: OpenLlama) -> None:
    engine = open_llama(context_tokens=256)
    long = replace(ASKED, content_free=(*CONTENT_FREE, run(0, "", LABELS, messages=messages("word " * 400))))
    scores, events = measured(engine, load_of(None), long)
    assert scores == {}
    assert not any(isinstance(event, Failed) for event in events)
    while engine.has_work:
        engine.step()
