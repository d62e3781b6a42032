"""How long steps take on this machine with this model: measured at the first start, kept for the next ones.

It takes some seconds, at most about MEASURE_S; what a slow board does not get to is judged by its smaller steps. What
was measured while the board was busy is measured again at the next start, but not when a worker died.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic

from pydantic import TypeAdapter, ValidationError

from edge_agent.core.protocol import EngineSettings, Load
from edge_agent.engine.llama import Llama, Piece
from edge_agent.engine.step.step_policy import WIDE_ROWS, HeadCost, StepCost, StepPolicy

_logger = logging.getLogger(__name__)

MEASURE_S = 20.0
# Seen are 6 to 30 on a quiet machine and 400 to 1000 beside one busy process.
QUIET_PREEMPTIONS_PER_S = 150.0
# Around the groups of four rows of repacked kernels, and the 64 rows of flash attention's wide kernel.
_WIDTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
_SWEPT_WIDE_ROWS = 16
# Around the groups of rows of the output matrix's kernels.
_OUTPUTS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
_ROUNDS = 2
_REPEATS = 2
# The usual length of what a prompt shares: attention costs by what is cached too.
_BASE_TOKENS = 192
# Of each request's own: a wide step is of several, whose rows look at each other's cells where tiles hold both.
_PROMPT_TOKENS = 48
# Fewer threads are preferred if they lose no more than this: the others rest, and the board stays cooler.
_SAME = 1.03

# Where the buffers of a step lie to each other follows from the room for logits, and on some machines a wide step then
# takes a fifth longer or less (Q4_0 with AMX: slow with room for 23, 35 or 39 rows, fast for 27, 31 or 43).
_MORE_OUTPUTS = 8
_LAYOUT_ROWS = 128
_LAYOUT_GAIN = 1.05
# Whose steps take longer has no time to try, and is bound by its arithmetic anyway.
_LAYOUT_S = 1.0

# Runs one step of this many rows, with logits after so many of them, with this many threads.
Step = Callable[[int, int, int], object]


@dataclass(frozen=True, slots=True)
class Calibration:
    """outputs: rows of logits to make room for; costs, heads: in ascending order.

    is_quiet: nothing else kept the board busy meanwhile.
    """

    is_quiet: bool
    outputs: int
    costs: list[StepCost]
    heads: list[HeadCost]

    @property
    def is_sound(self) -> bool:
        """Whether it can have been measured."""
        rows, outputs = [cost.rows for cost in self.costs], [head.outputs for head in self.heads]
        is_ascending = all(sizes == sorted(set(sizes)) and min(sizes, default=1) > 0 for sizes in (rows, outputs))
        is_timed = all(0 < cost.seconds < math.inf and cost.threads > 0 for cost in self.costs)
        return bool(self.outputs > 0 and rows and is_ascending and is_timed) and all(
            0 <= head.seconds < math.inf for head in self.heads
        )


_CALIBRATION = TypeAdapter(Calibration)


def step_policy(load: Load, llama: Llama, seq_ids: Sequence[int], base_id: int) -> StepPolicy:
    """As measured at the first start on this machine with this model, with what the configuration says instead.

    seq_ids, base_id: as `steps_of` takes them.
    """
    found = _calibration(load, llama, seq_ids, base_id)
    if llama.outputs != found.outputs:
        llama.resize(found.outputs)
    return _policy(load.settings, llama, found.costs, found.heads)


def unmeasured_policy(settings: EngineSettings, llama: Llama) -> StepPolicy:
    """The same steps on every machine: those of the configuration, none of them padded or narrowed."""
    return _policy(settings, llama, [], [])


def _policy(settings: EngineSettings, llama: Llama, costs: Sequence[StepCost], heads: Sequence[HeadCost]) -> StepPolicy:
    return StepPolicy(
        costs,
        heads,
        # Decoding is bound by memory, which two cores of a Pi 5 saturate; prefill is bound by arithmetic.
        threads=settings.threads or max(min(cpus(), 2), cpus() // 2),
        prefill_threads=settings.prefill_threads or cpus(),
        batch_tokens=settings.batch_tokens,
        most_rows=llama.batch_tokens,
    )


def _calibration(load: Load, llama: Llama, seq_ids: Sequence[int], base_id: int) -> Calibration:
    settings = load.settings
    key = f"{load.weights_sha256}, {llama.build}, {cpus()} cpus, {settings}"
    path = Path(load.state_dir) / "calibration.json" if load.state_dir and load.model_sha256 else None
    kept = load_calibration(path, key) if path is not None else None
    # Whoever waits for a worker that died waits long enough.
    if kept is not None and (kept.is_quiet or load.is_restart):
        return kept
    counts = thread_counts(cpus())
    began, preempted = monotonic(), preemptions()
    _choose_layout(llama, seq_ids, base_id, threads=settings.prefill_threads or cpus())
    costs, heads = measure(
        steps_of(llama, seq_ids, base_id),
        threads=[settings.threads] if settings.threads else counts,
        prefill_threads=[settings.prefill_threads] if settings.prefill_threads else counts,
        most_rows=widest_step(llama),
        most_outputs=llama.outputs,
    )
    llama.forget(base_id)
    preempted_per_s = (preemptions() - preempted) / (monotonic() - began)
    found = Calibration(preempted_per_s <= QUIET_PREEMPTIONS_PER_S, llama.outputs, costs, heads)
    if not found.is_quiet:
        _logger.info("the board was busy (%.0f preemptions/s): steps are measured again next time", preempted_per_s)
    if path is not None:
        save_calibration(path, key, found)
    return found


def _choose_layout(llama: Llama, seq_ids: Sequence[int], base_id: int, *, threads: int) -> None:
    """Leaves the context with the room for logits with which a wide step is faster, and empty."""
    rows = min(_LAYOUT_ROWS, widest_step(llama))
    fewest = llama.outputs
    if fewest + _MORE_OUTPUTS > llama.batch_tokens:
        return
    taken_s = dict.fromkeys((fewest, fewest + _MORE_OUTPUTS), math.inf)
    for _ in range(_ROUNDS):
        for outputs in taken_s:
            llama.resize(outputs)
            step = steps_of(llama, seq_ids, base_id)
            seconds = fastest(partial(step, rows, 1, threads), _REPEATS, end_at=monotonic() + _LAYOUT_S)
            taken_s[outputs] = min(seconds, taken_s[outputs])
            if seconds > _LAYOUT_S:
                llama.resize(fewest)
                return
    is_worth_it = taken_s[fewest + _MORE_OUTPUTS] * _LAYOUT_GAIN < taken_s[fewest]
    llama.resize(fewest + _MORE_OUTPUTS if is_worth_it else fewest)


def preemptions() -> int:
    """How often something else took a core away from this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def thread_counts(cpus: int) -> list[int]:
    """The numbers of threads worth trying on so many CPUs."""
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
    most_outputs: int,
    clock: Callable[[], float] = monotonic,
) -> tuple[list[StepCost], list[HeadCost]]:
    """Costs in ascending order, those of rows with the best of the numbers of threads for narrow or for wide steps.

    Where only one number is given it is a wish, and the other kind's is not tried instead.
    """
    end_at = clock() + MEASURE_S
    swept = min(_SWEPT_WIDE_ROWS, most_rows)
    times = _Times()

    def sizes() -> Iterator[tuple[int, int, Iterable[int]]]:
        """Rows, outputs and the numbers of threads to try, by what is known so far."""
        yield 1, 0, threads
        yield swept, 0, prefill_threads
        narrow, wide = times.best(1).threads, times.best(swept).threads
        for rows in _WIDTHS:
            if rows <= most_rows and rows not in {1, swept}:
                own, is_wish = (narrow, len(threads) == 1) if rows < WIDE_ROWS else (wide, len(prefill_threads) == 1)
                yield rows, 0, {own} if is_wish or rows > WIDE_ROWS else {narrow, wide}
            if rows == swept:
                # Of narrow steps, which are quick, and before the wide ones, for which there may be no time.
                yield from ((swept, outputs, {wide}) for outputs in _OUTPUTS if outputs <= min(most_outputs, swept))

    # In turns: what else the machine does for a while falls on all of them.
    for _ in range(_ROUNDS):
        for rows, outputs, counts in sizes():
            for count in counts:
                is_needed = rows in {1, swept} and not times.has(rows)
                if is_needed or clock() <= end_at:
                    taken_s = fastest(partial(step, rows, outputs, count), _REPEATS, clock=clock, end_at=end_at)
                    times.add(rows, outputs, count, taken_s)
    return times.costs(), times.heads(swept)


class _Times:
    """The shortest seconds of steps of so many rows, with so many outputs and threads."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], dict[int, float]] = {}

    def add(self, rows: int, outputs: int, threads: int, seconds: float) -> None:
        by_threads = self._seconds.setdefault((rows, outputs), {})
        by_threads[threads] = min(seconds, by_threads.get(threads, math.inf))

    def has(self, rows: int) -> bool:
        return (rows, 0) in self._seconds

    def best(self, rows: int) -> StepCost:
        """Without outputs; of more threads than others only if they gain enough."""
        found: StepCost | None = None
        for threads, seconds in sorted(self._seconds[rows, 0].items()):
            if found is None or seconds * _SAME < found.seconds:
                found = StepCost(rows, threads, seconds)
        assert found is not None
        return found

    def costs(self) -> list[StepCost]:
        return [self.best(rows) for rows, outputs in sorted(self._seconds) if not outputs]

    def heads(self, rows: int) -> list[HeadCost]:
        """Of steps of so many rows."""
        plain = self.best(rows)
        found = [
            (outputs, seconds.get(plain.threads)) for (_, outputs), seconds in sorted(self._seconds.items()) if outputs
        ]
        return [HeadCost(outputs, max(0.0, more - plain.seconds)) for outputs, more in found if more is not None]


def steps_of(llama: Llama, seq_ids: Sequence[int], base_id: int) -> Step:
    """Steps as requests make them: up to `seq_ids` rows are of as many sequences, more are prompts of _PROMPT_TOKENS.

    All of them begin with the same cached tokens, which `base_id` holds; both are empty before and must be after.
    """
    token = max(llama.eos, 0)
    base = _base_tokens(llama)
    llama.decode_all(base_id, [token] * base, threads=cpus())

    def step(rows: int, outputs: int, threads: int) -> None:
        count = rows if rows <= len(seq_ids) else min(-(-rows // _PROMPT_TOKENS), len(seq_ids))
        pieces = [
            Piece(seq_id, base, [token] * size, range(size - logits, size))
            for seq_id, size, logits in zip(seq_ids, _shares(rows, count), _shares(outputs, count), strict=False)
        ]
        for piece in pieces:
            llama.share(base_id, piece.seq_id, base)
        llama.decode(pieces, threads=threads)
        for piece in pieces:
            llama.forget(piece.seq_id)

    return step


def _shares(number: int, count: int) -> list[int]:
    """It in so many parts that are as good as equal."""
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
    """Seconds of one step. Whatever else runs can only make it longer: the shortest of several is the one to believe.

    After `end_at` of the clock it is not tried again.
    """
    times: list[float] = []
    while len(times) < repeats and (not times or clock() < end_at):
        began = clock()
        step()
        times.append(clock() - began)
    return min(times)


def load_calibration(path: Path, key: str) -> Calibration | None:
    """What was kept under this key; None if there is nothing, or nothing readable."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = _CALIBRATION.validate_python(kept["calibration"]) if kept["key"] == key else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        _logger.info("calibration %s cannot be used and is made anew: %s", path, error)
        return None
    if found is not None and not found.is_sound:
        _logger.info("calibration %s holds what no measurement gives and is made anew", path)
        return None
    return found


def save_calibration(path: Path, key: str, found: Calibration) -> None:
    """Keep it; a disk that does not take it costs the next start the measurement."""
    document = {"key": key, "calibration": asdict(found)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        _logger.info("calibration is not kept: %s", error)
