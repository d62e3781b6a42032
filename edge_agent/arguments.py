"""How the commands' options are declared, and how their values are read."""

import argparse
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

from edge_agent.commands.fields import MAX_BY_CHARS
from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.wording import shown
from edge_agent.loader import DEFAULT_PATH
from edge_agent.tools.bus import add_bus_options

# Adds itself to a parser or a group.
Option = Callable[[argparse._ActionsContainer], object]  # noqa: SLF001 - parsers and groups have no other common class


def option(name: str, text: str, kind: Callable[[str], Any] = str, **more: Any) -> Option:
    """An option or argument with a value; a word after its name is the placeholder for the value in the help."""
    flag, _, metavar = name.partition(" ")
    return lambda to: to.add_argument(flag, metavar=metavar or None, type=kind, help=text, **more)


def flag(name: str, text: str) -> Option:
    return lambda to: to.add_argument(name, action="store_true", help=text)


def bus_options(default_config: Path | None = DEFAULT_PATH, *, has_device: bool = True) -> Option:
    return lambda to: add_bus_options(to, default_config, has_device=has_device)


def expect_option() -> Option:
    return option("--expect FILE", "the boards to expect: an Ansible inventory, or a name per line", Path)


def titled(title: str, *options: Option) -> Option:
    """Options under a title in the help."""
    return lambda to: _add_all(options, to.add_argument_group(title))


def exclusive(*options: Option) -> Option:
    """Options of which only one may be given."""
    return lambda to: _add_all(options, to.add_mutually_exclusive_group())


def _add_all(options: Iterable[Option], to: argparse._ActionsContainer) -> None:
    for add_to in options:
        add_to(to)


def number_in(kind: type[int | float], min_value: float, max_value: float, rule: str) -> Callable[[str], float]:
    """Reads a number; `rule` says which ones are allowed."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if min_value <= (value := kind(text)) <= max_value:
                return value
        raise argparse.ArgumentTypeError(f"should be {rule} (got {shown(text)})")

    return parse


def parse_name(text: str) -> str:
    if not 1 <= len(text) <= MAX_BY_CHARS:
        raise argparse.ArgumentTypeError(f"should be 1 to {MAX_BY_CHARS} characters (got {len(text)})")
    return text


def parse_time(text: str) -> float:
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    now = datetime.now(UTC).astimezone()
    with suppress(ValueError):
        today = datetime.combine(now.date(), time.fromisoformat(text))
        return (today if today.timestamp() <= now.timestamp() else today - timedelta(days=1)).timestamp()
    rule = "should be a date, a date with a time such as 2026-11-30T22:00, or a time such as 22:00"
    raise argparse.ArgumentTypeError(f"{rule} (got {shown(text)})")


def parse_object(text: str) -> dict[str, object]:
    try:
        value = parse_json(text)
    except NotJsonError as error:
        raise argparse.ArgumentTypeError(f"should be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"should be a JSON object (got {shown(text)})")
    return value


SECONDS = number_in(float, 1e-9, 3600, "seconds, above 0 and up to 3600")
MINUTES = number_in(float, 0.01, 1440, "minutes, 0.01 to 1440")
PERCENT = number_in(float, 0, 1000, "percent, 0 to 1000")
COUNT = number_in(int, 1, 10_000_000, "a whole number, 1 to 10000000")
PORT = number_in(int, 1, 65535, "a port, 1 to 65535")
CONFIG = option("--config FILE", "the configuration (default: %(default)s)", Path, default=DEFAULT_PATH)
JSON = flag("--json", "prints one JSON object instead")
FORCE = flag("--force", "replaces an existing file")
CLASSIFY = "a task of the kind classify"
# What parse_time makes of a date without a time, and of a time without a date.
WHICH_DAY = "a date alone means 00:00 of that day; a time alone means today, or yesterday if it is yet to come today"
SIGNING_KEY = option(
    "--command-key FILE",
    "the file of the key that signs the command (default: the configuration's commands.key_file)",
    Path,
)
