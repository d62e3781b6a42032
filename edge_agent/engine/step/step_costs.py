"""How long steps take on this machine with this model: measured at the first start, kept for later ones.

It takes at most about MEASURE_S. Sizes that a slow board does not reach are judged by the smaller ones.
"""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from edge_agent.core.environment import cores
from edge_agent.core.files import read_if_exists, write_atomically
from edge_agent.core.pipe import Load
from edge_agent.engine.llama import Llama, Piece
from edge_agent.engine.step.scheduler import WIDE_ROWS, WRITING_ROWS, StepCost, StepPolicy
from edge_agent.gguf.model import FIELDS_KEY

log = logging.getLogger(__name__)

MEASURE_S = 20.0
# They lie around the groups of four rows of repacked kernels, and the 64 rows of flash attention's wide kernel.
_WIDTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
_ROUNDS = 4
# The length of a usual prefix. The cost of attention also depends on what is cached.
_BASE_TOKENS = 192
# A wide step holds several prompts of this length.
_PROMPT_TOKENS = 48
# Fewer threads are preferred up to this loss, because the board stays cooler.
_SAME = 1.03

# Runs a step with this many rows, rows with logits, and threads.
Step = Callable[[int, int, int], object]


def load_or_measure_policy(load: Load, llama: Llama, seq_ids: Sequence[int], base_id: int) -> StepPolicy:
    """The policy by measured costs, which are kept in load.state_dir or measured now, which takes up to MEASURE_S.

    Without a state_dir nothing is measured. The configuration's numbers come first. `steps_of` explains `seq_ids` and
    `base_id`.
    """
    settings = load.settings
    return StepPolicy(
        _costs(load, llama, seq_ids, base_id),
        # Decoding is bound by memory, which two cores of a Pi 5 saturate; prefill is bound by arithmetic.
        threads=settings.threads or max(min(cores(), 2), cores() // 2),
        prefill_threads=settings.prefill_threads or cores(),
        batch_tokens=settings.batch_tokens,
        max_rows=llama.batch_tokens,
    )


def _costs(load: Load, llama: Llama, seq_ids: Sequence[int], base_id: int) -> list[StepCost]:
    if load.state_dir is None:
        return []
    settings = load.settings
    key = f"version 4, {load.weights_sha256}, {llama.build}, {cores()} cpus, {settings!r}"
    path = Path(load.state_dir) / "calibration.json"
    kept = load_costs(path, key)
    if kept is not None:
        return kept
    # Steps of a trained model are so short that several threads would mostly wait for each other.
    counts = [1] if _is_trained(llama) else thread_counts(cores())
    costs = measure(
        steps_of(llama, seq_ids, base_id),
        threads=[settings.threads] if settings.threads else counts,
        prefill_threads=[settings.prefill_threads] if settings.prefill_threads else counts,
        max_rows=widest_step(llama),
    )
    llama.forget(base_id)
    save_costs(path, key, costs)
    return costs


def thread_counts(max_threads: int) -> list[int]:
    return [count for count in range(1, max_threads + 1) if count <= 4 or count % 2 == 0 or count == max_threads]


def widest_step(llama: Llama) -> int:
    """The most rows that a step of `steps_of` can have."""
    return min(llama.batch_tokens, llama.context_tokens - _base_tokens(llama))


def measure(
    step: Step,
    *,
    threads: Sequence[int],
    prefill_threads: Sequence[int],
    max_rows: int,
    clock: Callable[[], float] = monotonic,
) -> list[StepCost]:
    """Costs in ascending order. Steps of 1 and of WRITING_ROWS rows decide the threads of narrow and of wide steps."""
    end_at = clock() + MEASURE_S
    wide_rows = min(WRITING_ROWS, max_rows)
    thread_counts_by_rows = {wide_rows: prefill_threads, 1: threads}
    seconds: defaultdict[int, dict[int, float]] = defaultdict(dict)
    # In rounds, so that a disturbance of the machine does not fall on one size alone.
    for _ in range(_ROUNDS):
        for rows in dict.fromkeys((1, wide_rows, *(width for width in _WIDTHS if width <= max_rows))):
            reference_rows = 1 if rows < WIDE_ROWS else wide_rows
            for count in thread_counts_by_rows.get(rows) or [_best(reference_rows, seconds[reference_rows]).threads]:
                if clock() <= end_at or (rows in thread_counts_by_rows and not seconds[rows]):
                    began = clock()
                    step(rows, rows if rows <= WRITING_ROWS else 1, count)
                    # The fastest of several runs: other work on the machine only makes them longer.
                    seconds[rows][count] = min(clock() - began, seconds[rows].get(count, math.inf))
    return [_best(rows, taken) for rows, taken in sorted(seconds.items()) if taken]


def _best(rows: int, seconds: dict[int, float]) -> StepCost:
    """The cost with the best number of threads; more threads count as better only where they gain enough."""
    ordered = sorted(seconds.items())
    best_threads, best_s = ordered[0]
    for threads, taken_s in ordered[1:]:
        if taken_s * _SAME < best_s:
            best_threads, best_s = threads, taken_s
    return StepCost(rows, best_threads, best_s)


def steps_of(llama: Llama, seq_ids: Sequence[int], base_id: int) -> Step:
    """Steps as requests make them: a row of each of `seq_ids`, or prompts of _PROMPT_TOKENS where there are more rows.

    All of them share a prefix that `base_id` holds, except with a trained model, whose requests have none. The
    sequences must be empty before; the caller forgets `base_id` afterwards.
    """
    token = max(llama.eos, 0)
    base = _base_tokens(llama)
    llama.extend(base_id, [token] * base, threads=cores())

    def step(rows: int, outputs: int, threads: int) -> None:
        count = rows if rows <= len(seq_ids) else min(-(-rows // _PROMPT_TOKENS), len(seq_ids))
        pieces = [
            Piece(seq_id, base, [token] * size, range(size - logits, size))
            for seq_id, size, logits in zip(seq_ids, _parts(rows, count), _parts(outputs, count), strict=False)
        ]
        for piece in pieces:
            llama.share(base_id, piece.seq_id, base)
        llama.decode(pieces, threads=threads)
        for piece in pieces:
            llama.forget(piece.seq_id)

    return step


def _parts(number: int, count: int) -> list[int]:
    """The number as a sum of almost equal parts."""
    return [number // count + (at < number % count) for at in range(count)]


def _base_tokens(llama: Llama) -> int:
    return 0 if _is_trained(llama) else min(_BASE_TOKENS, llama.context_tokens // 4)


def _is_trained(llama: Llama) -> bool:
    """Whether it is a trained model: small, with prompts that share no prefix."""
    return llama.metadata(FIELDS_KEY) is not None


def load_costs(path: Path, key: str) -> list[StepCost] | None:
    """What was kept under this key, if it can be used."""
    try:
        kept = json.loads(read_if_exists(path) or b"{}")
        return [StepCost(**cost) for cost in kept["costs"]] if kept.get("key", "") == key else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.info("%s cannot be used, steps are measured again: %s", path, error)
        return None


def save_costs(path: Path, key: str, costs: Sequence[StepCost]) -> None:
    """Keeps them; where the disk refuses, the next start measures again."""
    try:
        write_atomically(path, json.dumps({"key": key, "costs": [asdict(cost) for cost in costs]}).encode())
    except OSError as error:
        log.info("the costs of steps are not kept: %s", error)
