"""PURE. Predictions: does a model fit a board, and how fast would it answer there. None was measured on a board.

Decoding is taken to wait for memory: a step reads every matrix once, at the bandwidth that published runs reached, and
each further row of it costs its multiplications, at the rate that published prompts reached. Nothing overlaps, and keys
and values of a short context cost nothing.
"""

from dataclasses import dataclass

from .board_cost import AGENT_BYTES, ModelCost
from .report.boards import BOARDS, Board
from .tune.candidates import Target

GB = 1_000_000_000
_GIB = 1 << 30
# What the unit lets the service have (MemoryMax=), and what the system needs besides (assumed: no desktop).
_SERVICE_SHARE, _SYSTEM_BYTES = 0.85, 500_000_000
# A classify request: a reading of 40 tokens after a prefix that is shared, 8 rows for labels, 4 of them scored anew by
# the output matrix; steps of 128 rows, full.
READING_ROWS, LABEL_ROWS, OUTPUT_ROWS, STEP_ROWS = 40, 8, 4, 128
WRITERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """needed_bytes: resident, of agent and worker. copied_bytes: of it copies for fast kernels; joules: at the wall,
    the board's idle power included; None = no published power.

    fits_gb: of the board's memory sizes, those that hold it.
    """

    board: str
    model: str
    types: str
    needed_bytes: int
    copied_bytes: int
    cache_bytes: int
    memory_gb: tuple[int, ...]
    fits_gb: tuple[int, ...]
    tokens_per_s: float
    tokens_per_s_of_8: float
    requests_per_s: float
    joules_per_token: float | None
    joules_per_request: float | None


def sized_boards() -> list[Board]:
    """Those of which enough is published, or assumed."""
    return [board for board in BOARDS if board.reached_gb_s is not None and board.gweights_s is not None]


def sizing(model: ModelCost, board: Board, context_tokens: int, max_active: int) -> Sizing:
    """context_tokens, max_active: as in [engine]; the model's own length is the most."""
    assert board.reached_gb_s is not None
    assert board.gweights_s is not None
    cache = model.cache_bytes(min(context_tokens, model.context_length))
    needed = model.bytes_per_token + cache + model.rest_bytes(max_active) + AGENT_BYTES
    read_s = model.bytes_per_token / (board.reached_gb_s.value * GB)
    row_s = model.weights() / (board.gweights_s.value * GB)
    body_s = model.weights(with_output=False) / (board.gweights_s.value * GB)
    rows = READING_ROWS + LABEL_ROWS
    request_s = rows * body_s + OUTPUT_ROWS * (row_s - body_s) + read_s * rows / STEP_ROWS
    watts = None if board.watts is None else board.watts.value
    return Sizing(
        board=board.name,
        model=model.name,
        types=model.types,
        needed_bytes=needed,
        copied_bytes=model.copied_bytes(Target.ARMV8_0 if board.is_plain else Target.DOTPROD),
        cache_bytes=cache,
        memory_gb=board.memory_gb,
        fits_gb=tuple(size for size in board.memory_gb if needed <= _available(size)),
        tokens_per_s=1 / read_s,
        tokens_per_s_of_8=WRITERS / (read_s + (WRITERS - 1) * row_s),
        requests_per_s=1 / request_s,
        joules_per_token=None if watts is None else watts * read_s,
        joules_per_request=None if watts is None else watts * request_s,
    )


def _available(memory_gb: int) -> float:
    return min(_SERVICE_SHARE * memory_gb * _GIB, memory_gb * _GIB - _SYSTEM_BYTES)
