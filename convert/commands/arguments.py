"""Values on the command line: argparse's `type` functions, whose complaint names what is allowed."""

import argparse
import re
from pathlib import Path

from ..read.config import MAX_NAME_LENGTH


def name(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME_LENGTH or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_NAME_LENGTH} printable characters")
    return text


def size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*(MB|MiB|GB|GiB|)", text)
    units = {"": 1, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
    if match is None or (nbytes := int(float(match[1]) * units[match[2]])) < 1:
        raise argparse.ArgumentTypeError("must be a number of bytes, or a number with MB, MiB, GB or GiB")
    return nbytes


def version(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= 1 << 31 or len(text) > 10:
        raise argparse.ArgumentTypeError(
            "must be an integer from 1 to 2147483648; it rises with every release of a model"
        )
    return int(text)


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """--tasks."""
    parser.add_argument(
        "--tasks", metavar="CONFIG", type=Path, help="an agent's configuration, of which the [tasks.NAME] tables count"
    )


def add_labelled(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """--labelled: the share of right answers."""
    parser.add_argument(
        "--labelled",
        metavar="FILE",
        type=Path,
        help='examples of --tasks, to tell the share of right answers; per line {"task", "input", "answer"}',
    )
