from typing import Any

from edge_agent.core.pipe import Progress
from edge_agent.worker.throughput import Throughput


def progress(**fields: Any) -> Progress:
    known: dict[str, Any] = {
        "active": 1, "steps_total": 10, "rows_total": 25, "prompt_tokens_total": 100, "cached_tokens_total": 60,
        "completion_tokens_total": 20, "prefill_s": 0.5, "decode_s": 2.0, "decoded_tokens_total": 20,
    }  # fmt: skip
    return Progress(**{**known, **fields})


def test_rates_are_those_of_the_latest_interval() -> None:
    throughput = Throughput()
    throughput.count(progress())
    assert (throughput.decode_tok_s, throughput.prefill_tok_s, throughput.batch_avg) == (10.0, 80.0, 2.5)
    throughput.count(progress(decoded_tokens_total=30, decode_s=2.5, steps_total=20, rows_total=45))
    assert (throughput.decode_tok_s, throughput.prefill_tok_s, throughput.batch_avg) == (20.0, 80.0, 2.0)


def test_forced_text_does_not_count_as_decoded() -> None:
    throughput = Throughput()
    throughput.count(progress(completion_tokens_total=5000))
    assert throughput.decode_tok_s == 10.0
    throughput.count(progress(completion_tokens_total=6000))
    assert throughput.decode_tok_s == 10.0


def test_an_idle_interval_leaves_the_rates_as_they_were() -> None:
    throughput = Throughput()
    throughput.count(progress())
    throughput.count(progress(active=0))
    assert (throughput.decode_tok_s, throughput.batch_avg) == (10.0, 2.5)


def test_totals_continue_over_a_new_worker() -> None:
    throughput = Throughput()
    throughput.count(progress())
    throughput.on_worker_ready()
    throughput.count(progress(prompt_tokens_total=10, cached_tokens_total=0, completion_tokens_total=5))
    assert (throughput.prompt_tokens_total, throughput.cached_tokens_total) == (110, 60)
    assert throughput.completion_tokens_total == 25
