"""`edge-convert boards`: which board for which model. Predictions; see sizing.py."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..board_cost import ModelCost, cost_of_shape
from ..errors import printable
from ..family import family
from ..read.model_cost import read_cost
from ..sizing import LABEL_ROWS, READING_ROWS, STEP_ROWS, Sizing, sized_boards, sizing
from ..weights.recipe import Quantization
from .arguments import Parser
from .terminal import EXIT_OK, print_json

_COLUMNS = ("board", "model", "GB", "fits GB", "tok/s", "by 8", "classify/s", "J/token", "J/request")
_UNKNOWN = "–"


def run(words: list[str]) -> int:
    """Print the table; see `--help`."""
    parser = Parser(
        "boards",
        description="Predicts memory, speed and energy of models on well-known boards, from bytes per token and "
        "published figures. Nothing of it was measured on a board: `edge-agent bench` does that.",
    )
    parser.add_argument(
        "models", metavar="BUNDLE_OR_GGUF", type=Path, nargs="*", help="default: the sizes of Qwen2.5 by their shapes"
    )
    parser.add_argument(
        "--type",
        choices=[kind.value for kind in Quantization.mixes()],
        default="iq4_nl",
        help="of the sizes of Qwen2.5 (default: %(default)s)",
    )
    parser.add_argument(
        "--context-tokens", type=_context, default=4096, metavar="N", help="as in [engine] (default: %(default)s)"
    )
    parser.add_argument(
        "--max-active", type=_active, default=4, metavar="N", help="as in [engine] (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    given = parser.parse_args(words)
    models = [read_cost(path) for path in given.models] or _family(Quantization(given.type))
    found = [
        sizing(model, board, given.context_tokens, given.max_active) for board in sized_boards() for model in models
    ]
    if given.json:
        print_json(
            {
                "are_predictions": True,
                "sizings": [asdict(one) for one in found],
                "figures": {board.name: asdict(board) for board in sized_boards()},
            }
        )
        return EXIT_OK
    for line in table(found):
        print(line)
    print()
    for line in notes():
        print(line)
    return EXIT_OK


def _family(quantization: Quantization) -> list[ModelCost]:
    return [cost_of_shape(name, config, quantization) for name, config in family().items()]


def table(found: Sequence[Sizing]) -> list[str]:
    """One line for each, under a line of names."""
    lines = [_COLUMNS, *(_cells(one) for one in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    ]


def _cells(one: Sizing) -> tuple[str, ...]:
    return (
        one.board,
        printable(f"{one.model} {one.types}"),
        f"{one.needed_bytes / 1e9:.2f}",
        " ".join(map(str, one.fits_gb)) or "none",
        *(_number(value) for value in (one.tokens_per_s, one.tokens_per_s_of_8, one.requests_per_s)),
        *(_number(value) for value in (one.joules_per_token, one.joules_per_request)),
    )


def _number(value: float | None) -> str:
    """Two digits: no prediction is better than that."""
    if value is None:
        return _UNKNOWN
    return f"{float(f'{value:.2g}'):g}"


def notes() -> list[str]:
    """What the table's figures are made of."""
    lines = [
        "Predictions, not measured on any board. GB: of agent and worker; tok/s: written by one request, and by 8",
        f"together; classify/s: readings of {READING_ROWS} tokens after a shared prefix, {LABEL_ROWS} rows of labels,",
        f"full steps of {STEP_ROWS} rows, types with fast kernels; J: at the wall, idle power included.",
    ]
    for board in sized_boards():
        for figure, unit in ((board.reached_gb_s, "GB/s"), (board.gweights_s, "G weights/s"), (board.watts, "W")):
            told = "not published" if figure is None else f"{figure.value:g} {unit} ({figure.source})"
            lines.append(f"{board.name}: {told}" if figure is not None else f"{board.name}: W {told}")
    return lines


def _context(text: str) -> int:
    return _whole(text, 256, 131072)


def _active(text: str) -> int:
    return _whole(text, 1, 32)


def _whole(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
    return int(text)
