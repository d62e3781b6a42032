"""What all sub-commands' arguments share: how a usage error is told, and `type` functions that name what is allowed."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from ..errors import printable
from ..read.config import MAX_NAME_LENGTH
from .terminal import EXIT_USAGE, PROGRAM, complain


class Parser(argparse.ArgumentParser):
    """Of one sub-command; None = of the conversion. hint: what may have been meant, told with a usage error."""

    def __init__(self, command: str | None = None, *, hint: str | None = None, **about: Any) -> None:
        prog = PROGRAM if command is None else f"{PROGRAM} {command}"
        super().__init__(prog=prog, allow_abbrev=False, **about)
        self._hint = hint

    def error(self, message: str) -> NoReturn:
        """One line, and where to look; the usage of all options would hide it."""
        hint = "" if self._hint is None else f"; {self._hint}"
        complain(f"error: {printable(message, limit=500)}{hint}")
        print(f"see {self.prog} --help", file=sys.stderr)
        sys.exit(EXIT_USAGE)


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
