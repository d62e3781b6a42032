import signal
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.codes import Code
from edge_agent.core.pipe import Failed, LabelsPlan, SchemaPlan, TextPlan
from edge_agent.core.schemas import check_schema
from edge_agent.models.record import Record, write_record
from edge_agent.tools.bench.bench import COLUMNS, bench, summary, table
from edge_agent.tools.bench.tasks import TASKS, Round, client_counts, reading_request, task_figures
from tests.helpers.support import finished


def one_round(elapsed_s: float, *latencies_s: float, failures: int = 0, **fields: Any) -> Round:
    failed = Failed(id=2, code=Code.NO_VALID_OUTPUT, message="cut off")
    answers = [(latency_s, finished(1, **fields)) for latency_s in latencies_s]
    return Round(elapsed_s, [*answers, *[(9.0, failed)] * failures])


def test_rates_are_medians_of_rounds_and_latencies_are_of_all_answers() -> None:
    good = one_round(1.0, *[0.1] * 10, prompt_tokens=100, cached_tokens=60, completion_tokens=10)
    disturbed = one_round(10.0, *[0.1] * 9, 5.0, failures=1, prompt_tokens=100, cached_tokens=60, completion_tokens=10)
    figures = task_figures("extract", 2, [good, good, disturbed])
    assert (figures["requests_per_s"], figures["completion_tokens_per_s"]) == (10.0, 100.0)
    assert (figures["rounds"], figures["requests"], figures["failed"], figures["failure"]) == (3, 31, 1, "cut off")
    assert (figures["p50_ms"], figures["p95_ms"], figures["p99_ms"]) == (100.0, 100.0, None)
    assert (figures["prompt_tokens"], figures["completion_tokens"], figures["cached_share"]) == (100.0, 10.0, 0.6)


def test_a_percentile_is_neither_the_fastest_nor_the_slowest_answer() -> None:
    known = {2: (None, None, None), 3: (2.0, None, None), 20: (10.0, 19.0, None), 100: (50.0, 95.0, 99.0)}
    for answers, expected in known.items():
        figures = task_figures("classify", 1, [one_round(1.0, *(n / 1000 for n in range(1, answers + 1)))])
        assert (figures["p50_ms"], figures["p95_ms"], figures["p99_ms"]) == expected


def test_of_no_answer_there_is_no_latency() -> None:
    figures = task_figures("extract", 1, [one_round(1.0, failures=1)])
    assert figures["requests_per_s"] == 0.0
    assert (figures["p50_ms"], figures["cached_share"], figures["prompt_tokens"]) == (None, None, None)


def test_clients_are_one_four_and_as_many_as_the_engine_answers_at_once() -> None:
    assert list(map(client_counts, (1, 3, 16))) == [[1], [1, 3], [1, 4, 16]]


def test_workload_asks_each_kind_of_answer_with_a_constant_head_and_readings_that_differ() -> None:
    plans = {kind: type(reading_request(task, 1).plan) for kind, task in TASKS.items()}
    assert plans == {"classify": LabelsPlan, "extract": SchemaPlan, "generate": TextPlan}
    for task in TASKS.values():
        runs = [reading_request(task, number) for number in range(1, 500)]
        assert {one.messages[0] for one in runs} == set(task.prefix().messages)
        assert len({one.messages[1].content for one in runs}) == len(runs)
    plan = reading_request(TASKS["extract"], 1).plan
    assert isinstance(plan, SchemaPlan)
    assert check_schema(plan.schema) is None


def document(**fields: Any) -> dict[str, Any]:
    """A document like those in which bench describes a board."""
    tasks = [
        task_figures("classify", 1, [one_round(1.0, 0.25, 0.25, completion_tokens=0)]),
        task_figures("generate", 1, [one_round(1.0, 0.5, prefill_ms=250.0, decode_ms=800.0, completion_tokens=17)]),
        task_figures("classify", 4, [one_round(1.0, *[0.5] * 4, completion_tokens=0)]),
        task_figures("generate", 4, [one_round(1.0, *[2.0] * 2)]),
    ]
    known: dict[str, Any] = {
        "board": {"name": "Raspberry Pi 5", "cores": 4, "load1": 0.1, "soc_before_c": 50.0, "soc_after_c": 71.0},
        "model": {"bundle": "qwen2.5-0.5b", "quantization": "Q4_0", "size": 352_000_000},
        "engine": {"threads": 2, "prefill_threads": 4, "batch_tokens": 64},
        "tasks": tasks,
        "worker": dict.fromkeys(("anonymous_mib", "file_mib", "first_start_s", "later_start_s"), 201.2)
        | {"repacked_mib": None},
    }
    whole = {**known, **fields}
    return {**whole, "summary": summary(whole)}


def test_the_answer_comes_first() -> None:
    first = " ".join(table(document()).split("\n\n")[0].split())
    assert first == (
        "This board answers 4.00 classify requests/s with 4 clients (2.00 generate); alone, one request is read "
        "at 20.0 tokens/s and answered at 20.0."
    )


def test_the_table_says_how_many_answers_a_percentile_needs() -> None:
    assert "p50 needs 3, p95 needs 20, p99 needs 100." in table(document())
    assert "needs" not in table(document(tasks=[task_figures("classify", 1, [one_round(1.0, *[0.5] * 100)])]))


def test_a_busy_board_is_named() -> None:
    busy = document(board={**document()["board"], "load1": 3.2})
    assert "the board was busy before (load 3.2)" in table(busy)
    assert "busy" not in table(document())


def test_the_largest_figures_fit_a_terminal_of_80_columns() -> None:
    extreme = {**document()["tasks"][0], "clients": 32, "requests": 12_800, "failed": 3, "completion_tokens": 32.0}
    extreme |= {"failure": "no valid output: " + "x" * 90 + "\x1b[2J", "requests_per_s": 12345.678}
    extreme |= {**dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), 123456.7), "completion_tokens_per_s": 12345.6}
    tasks = [{**extreme, "task": task, "clients": clients} for task in TASKS for clients in (1, 32)]
    text = table(document(tasks=tasks, engine=dict.fromkeys(("threads", "prefill_threads", "batch_tokens"), 2048)))
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert "3 of 12800 failed" in text
    assert "\x1b" not in text


def test_the_model_that_was_switched_to_is_measured_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "config.toml").write_text(
        f'state_dir = "{tmp_path}/state"\n[device]\nsite = "hall1"\nid = "board1"\n[models.default]\npath = "one"\n',
        "utf-8",
    )
    write_record(tmp_path / "state", Record(configured=tmp_path / "one", current=tmp_path / "two", previous=None))
    assert bench(tmp_path / "config.toml", None, is_quick=True, as_json=False) == 1
    printed = capsys.readouterr().err
    assert f"{tmp_path}/two is measured, because since a model-switch it runs" in printed
    assert f'{tmp_path}/two" does not exist' in printed
