"""How fast steps are by width and number of threads: llama.cpp alone, in this process, without the engine.

Importing this module loads llama.cpp, so `library_environment` must be set before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from time import monotonic
from typing import Any

from edge_agent.core.environment import cores
from edge_agent.core.pipe import Load
from edge_agent.engine.llama_engine import open_context
from edge_agent.engine.step import step_costs
from edge_agent.engine.step.scheduler import StepPolicy
from edge_agent.tools.bench.tasks import Say

_POWERS = [2**exponent for exponent in range(12)]
# 16, and powers of two from 64 on.
_PREFILL = (16, *_POWERS[6:])
_ROUNDS = 15


def measure_steps(load: Load, *, budget_s: float, say: Say) -> tuple[dict[str, Any], int]:
    """Decode, where each row is of another request, and prefill, where all are of one prompt, for `budget_s` each.

    Also returns how wide the agent's steps of a prompt are. The worker's costs of steps, which decide how a step runs,
    are those in `load.state_dir`. Raises ModelError.
    """
    settings = load.settings
    llama = open_context(load)
    try:
        max_active, ids, base_id = settings.max_active, range(settings.max_active), llama.sequences - 1
        policy = step_costs.load_or_measure_policy(load, llama, ids, base_id)

        def measured(kind: str, widths: Sequence[int], seq_ids: Sequence[int]) -> list[dict[str, Any]]:
            step = step_costs.steps_of(llama, seq_ids, base_id)

            def run(rows: int, threads: int) -> None:
                step(rows, rows if kind == "decode" else 1, threads)

            chosen = {_chosen(policy, rows, kind)[0] for rows in widths}
            counts = sorted({*step_costs.thread_counts(cores()), *chosen})
            rates = sweep(run, widths, counts, rounds=_ROUNDS, budget_s=budget_s, say=lambda at: say(f"{kind}: {at}"))
            llama.forget(base_id)
            return [_figures(policy, rows, kind, rates[rows]) for rows in widths]

        decode = measured("decode", sorted({*takewhile(lambda rows: rows < max_active, _POWERS), max_active}), ids)
        # One sequence: all rows belong to one prompt.
        widest = step_costs.widest_step(llama)
        wide = sorted(rows for rows in {*_PREFILL, policy.batch_tokens, widest} if rows <= widest)
        return {"decode": decode, "prefill": measured("prefill", wide, ids[:1])}, policy.batch_tokens
    finally:
        llama.close()


def sweep(
    step: Callable[[int, int], object],
    widths: Sequence[int],
    counts: Sequence[int],
    *,
    rounds: int,
    budget_s: float,
    say: Say,
    clock: Callable[[], float] = monotonic,
) -> dict[int, dict[int, float]]:
    """Tokens per second by rows, then by threads: the best of all rounds until the time is over.

    `step` runs a step of some rows and threads. The first one is always measured. Narrow steps come first, because they
    are quick.
    """
    rates: dict[int, dict[int, float]] = {rows: {} for rows in widths}
    end_at = clock() + budget_s
    for number in range(rounds):
        for rows in widths:
            for threads in counts:
                if clock() > end_at and any(rates.values()):
                    return rates
                say(f"round {number + 1}, rows: {rows}, threads: {threads}")
                began = clock()
                step(rows, threads)
                rate = rows / (clock() - began)
                rates[rows][threads] = max(rate, rates[rows].get(threads, 0.0))
    return rates


def _chosen(policy: StepPolicy, rows: int, kind: str) -> tuple[int, int]:
    """With how many threads and rows the agent runs a step."""
    width = policy.padded(rows) if kind == "decode" else rows
    return policy.threads(width), width


def _figures(policy: StepPolicy, rows: int, kind: str, rates: dict[int, float]) -> dict[str, Any]:
    """Steps with this number of rows, by number of threads as far as there was time to measure.

    The chosen threads and rows are how the agent runs a step of this width: it pads a step, or delays rows, where a
    kernel is faster with another width.
    """
    threads, width = _chosen(policy, rows, kind)
    return {
        "rows": rows,
        "tokens_per_s": {count: round(rate, 1) for count, rate in sorted(rates.items())},
        "chosen_threads": threads,
        "chosen_rows": width,
        "fastest_threads": max(rates, key=rates.__getitem__, default=None),
    }
