"""How long steps take on this machine with this model: measured at the first start, kept for later ones.

It takes at most about MEASURE_S. Sizes that a slow board does not reach are judged by the smaller ones. What was
measured while the board was busy is measured again at the next start, but not when a worker is restarted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic

from pydantic import TypeAdapter, ValidationError

from edge_agent.core import state_files
from edge_agent.core.protocol import EngineSettings, Load
from edge_agent.engine.llama import Llama, Piece
from edge_agent.engine.step.step_policy import WIDE_ROWS, WRITING_ROWS, StepCost, StepPolicy

log = logging.getLogger(__name__)

MEASURE_S = 20.0
# A quiet machine has 6 to 30, one with a busy process 400 to 1000.
QUIET_PREEMPTIONS_PER_S = 150.0
# Around the groups of four rows of repacked kernels, and the 64 rows of flash attention's wide kernel.
_WIDTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
_ROUNDS = 2
_REPEATS = 2
# A usual prefix: attention costs by what is cached, too.
_BASE_TOKENS = 192
# A wide step holds several prompts of this length.
_PROMPT_TOKENS = 48
# Fewer threads are preferred up to this loss: the board stays cooler.
_SAME = 1.03

# Runs a step: rows, rows with logits, threads.
Step = Callable[[int, int, int], object]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Costs in ascending order. is_quiet: nothing else kept the board busy meanwhile."""

    is_quiet: bool
    costs: list[StepCost]


_CALIBRATION = TypeAdapter(Calibration)


def step_policy(load: Load, llama: Llama, seq_ids: Sequence[int], base_id: int) -> StepPolicy:
    """The policy by what was measured at the first start; the configuration's numbers come first.

    seq_ids, base_id: as for `steps_of`.
    """
    return _policy(load.settings, llama, _costs(load, llama, seq_ids, base_id))


def unmeasured_policy(settings: EngineSettings, llama: Llama) -> StepPolicy:
    """The same steps on every machine, none of them padded or narrowed."""
    return _policy(settings, llama, [])


def _policy(settings: EngineSettings, llama: Llama, costs: Sequence[StepCost]) -> StepPolicy:
    return StepPolicy(
        costs,
        # Decoding is bound by memory, which two cores of a Pi 5 saturate; prefill is bound by arithmetic.
        threads=settings.threads or max(min(cpus(), 2), cpus() // 2),
        prefill_threads=settings.prefill_threads or cpus(),
        batch_tokens=settings.batch_tokens,
        most_rows=llama.batch_tokens,
    )


def _costs(load: Load, llama: Llama, seq_ids: Sequence[int], base_id: int) -> list[StepCost]:
    settings = load.settings
    key = f"version 2, {load.weights_sha256}, {llama.build}, {cpus()} cpus, {settings}"
    path = Path(load.state_dir) / "calibration.json" if load.state_dir and load.model_sha256 else None
    kept = load_calibration(path, key) if path is not None else None
    if kept is not None and (kept.is_quiet or load.is_restart):
        return kept.costs
    counts = thread_counts(cpus())
    began, preempted = monotonic(), preemptions()
    costs = measure(
        steps_of(llama, seq_ids, base_id),
        threads=[settings.threads] if settings.threads else counts,
        prefill_threads=[settings.prefill_threads] if settings.prefill_threads else counts,
        most_rows=widest_step(llama),
    )
    llama.forget(base_id)
    preempted_per_s = (preemptions() - preempted) / (monotonic() - began)
    found = Calibration(preempted_per_s <= QUIET_PREEMPTIONS_PER_S, costs)
    if not found.is_quiet:
        log.info("the board was busy (%.0f preemptions/s): the next start measures steps again", preempted_per_s)
    if path is not None:
        save_calibration(path, key, found)
    return costs


def preemptions() -> int:
    """How often another process took a core away from this one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def cpus() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def thread_counts(cpus: int) -> list[int]:
    """The numbers of threads worth trying."""
    return [count for count in range(1, cpus + 1) if count <= 4 or count % 2 == 0 or count == cpus]


def widest_step(llama: Llama) -> int:
    """The most rows that a step of `steps_of` can have."""
    return min(llama.batch_tokens, llama.context_tokens - _base_tokens(llama))


def measure(
    step: Step,
    *,
    threads: Sequence[int],
    prefill_threads: Sequence[int],
    most_rows: int,
    clock: Callable[[], float] = monotonic,
) -> list[StepCost]:
    """Costs in ascending order, each with the best of the numbers of threads for narrow or for wide steps.

    A single number is the configuration's: the other kind's is not tried in its place.
    """
    end_at = clock() + MEASURE_S
    swept = min(WRITING_ROWS, most_rows)
    seconds: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def sizes() -> Iterator[tuple[int, Iterable[int]]]:
        """Rows, and the numbers of threads to try."""
        yield 1, threads
        yield swept, prefill_threads
        narrow, wide = _best(1, seconds[1]).threads, _best(swept, seconds[swept]).threads
        for rows in _WIDTHS:
            if rows <= most_rows and rows not in {1, swept}:
                own, is_given = (narrow, len(threads) == 1) if rows < WIDE_ROWS else (wide, len(prefill_threads) == 1)
                yield rows, {own} if is_given or rows > WIDE_ROWS else {narrow, wide}

    # In rounds, so that a disturbance of the machine does not fall on one size alone.
    for _ in range(_ROUNDS):
        for rows, counts in sizes():
            outputs = rows if rows <= WRITING_ROWS else 1
            for count in counts:
                if clock() <= end_at or (rows in {1, swept} and not seconds[rows]):
                    taken_s = fastest(partial(step, rows, outputs, count), _REPEATS, clock=clock, end_at=end_at)
                    seconds[rows][count] = min(taken_s, seconds[rows].get(count, math.inf))
    return [_best(rows, taken) for rows, taken in sorted(seconds.items()) if taken]


def _best(rows: int, seconds: dict[int, float]) -> StepCost:
    """More threads than others only where they gain enough."""
    ordered = sorted(seconds.items())
    best_threads, best_s = ordered[0]
    for threads, taken_s in ordered[1:]:
        if taken_s * _SAME < best_s:
            best_threads, best_s = threads, taken_s
    return StepCost(rows, best_threads, best_s)


def steps_of(llama: Llama, seq_ids: Sequence[int], base_id: int) -> Step:
    """Steps as requests make them: a row of each of `seq_ids`, or prompts of _PROMPT_TOKENS where there are more rows.

    All of them share a prefix that `base_id` holds. The sequences are empty before, and `base_id` is to be forgotten.
    """
    token = max(llama.eos, 0)
    base = _base_tokens(llama)
    llama.decode_all(base_id, [token] * base, threads=cpus())

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
    return min(_BASE_TOKENS, llama.context_tokens // 4)


def fastest(
    step: Callable[[], object],
    repeats: int = 3,
    *,
    clock: Callable[[], float] = monotonic,
    end_at: float = math.inf,
) -> float:
    """Seconds of the fastest of several runs: other work on the machine only makes them longer.

    After `end_at` of the clock there are no more runs.
    """
    times: list[float] = []
    while len(times) < repeats and (not times or clock() < end_at):
        began = clock()
        step()
        times.append(clock() - began)
    return min(times)


def load_calibration(path: Path, key: str) -> Calibration | None:
    """What was kept under this key, None = nothing usable."""
    try:
        data = state_files.read(path)
        kept = json.loads(data) if data is not None else {"key": None}
        return _CALIBRATION.validate_python(kept["calibration"]) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        log.info("calibration %s cannot be used, steps are measured again: %s", path, error)
        return None


def save_calibration(path: Path, key: str, found: Calibration) -> None:
    """Keeps it; where the disk refuses, the next start measures again."""
    document = {"key": key, "calibration": asdict(found)}
    try:
        state_files.replace(path, json.dumps(document, indent=1).encode() + b"\n")
    except OSError as error:
        log.info("calibration is not kept: %s", error)
