"""The wording of faults: `field: should be … (got …)`, the same for configuration, bus and command line."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

# pydantic takes 3 MB, and some processes do without it.
if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MAX_SHOWN_VALUE = 80
_ROUTINE_LEVELS = ("DEBUG ", "INFO ")
_LAST_WORDS = 4
_NO_NAME = '""'
_MAX_LOG_LINE = 300
# What pydantic says, in words of TOML and JSON.
_REASONS = {
    **dict.fromkeys(("tuple_type", "list_type"), "should be a list"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "should be a table of named values"),
    "path_type": "should be a path",
}
_PYTHONS_WORDS = re.compile(r"^(?:Value error, |\w+ (?=should ))| after validation.*")


def printable(text: str) -> str:
    """The text with control characters escaped: safe for a terminal and a log line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_json(value: object) -> str:
    """Indented JSON that is safe for a terminal: control characters are escaped as JSON escapes them."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def cut(text: str, max_chars: int = MAX_SHOWN_VALUE) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def shown(value: object) -> str:
    """A value from outside for a message: JSON where possible, one line, cut to MAX_SHOWN_VALUE characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    # Cut first: the value may be megabytes, and escapes make it longer.
    return cut(printable(text[: MAX_SHOWN_VALUE + 1]))


def shown_path(path: Path) -> str:
    """A path in quotes, in full: its end matters most."""
    return f'"{printable(str(path))}"'


def file_fault(key: str, file: Path | None, content_fault: Callable[[Path], str | None] | None = None) -> str | None:
    """What is wrong with the file that a configuration key names; None if it can be used, or no file is named."""
    if file is None:
        return None
    # os.access comes first, because Path raises an error where a folder above may not be entered.
    if not os.access(file, os.R_OK) or not file.is_file():
        fault: str | None = "should be a file that can be read"
    else:
        fault = content_fault(file) if content_fault else None
    return f"{key}: {fault} (got {shown_path(file)})" if fault else None


def how_ended(returncode: int) -> str:
    """How a process ended: `killed by SIGKILL`, `exit code 1`; by the return code that subprocess gives."""
    if returncode >= 0:
        return f"exit code {returncode}"
    # A real-time signal has no name of its own.
    name = next((known.name for known in signal.Signals if known == -returncode), f"signal {-returncode}")
    # See core/bounded.py.
    return f"killed by {name}" + (", its chat template did not end" if name == "SIGVTALRM" else "")


def end_of_log(log: Iterable[str]) -> str:
    """The last lines of a log that may explain why a process ended, on one line: warnings, and lines without a level.

    Lines without a level are a traceback, or what llama.cpp prints when it aborts.
    """
    lines = [line for line in log if line.strip() and not line.startswith(_ROUTINE_LEVELS)][-_LAST_WORDS:]
    return " | ".join(printable(line.strip())[:_MAX_LOG_LINE] for line in lines)


def field_name(location: Iterable[int | str]) -> str:
    """`tasks.pump.labels[2]`."""
    # TOML allows an empty key, and writes it as "".
    parts = (f"[{part}]" if isinstance(part, int) else f".{part or _NO_NAME}" for part in location)
    return printable("".join(parts).removeprefix("."))


def fault_text(error: ErrorDetails, name: str) -> str:
    """`<name>: <what is wrong or allowed> (got <value>)`; without a name if the fault is the whole document's."""
    if error["type"] == "missing":
        return f"{name}: required, but missing"
    reason = _REASONS.get(error["type"]) or _PYTHONS_WORDS.sub("", error["msg"])
    # The fault of a combination of keys shows the one value that is wrong instead of the whole table.
    got = "" if " (got " in reason else f" (got {shown(error['input'])})"
    return f"{name}{': ' if name else ''}{reason}{got}"


def first_fault(error: ValidationError, prefix: str = "", allowed_keys: Iterable[str] = ()) -> str:
    """The first fault of a message from the bus, as one sentence.

    `allowed_keys` are needed for a model that forbids other keys.
    """
    details = error.errors(include_url=False)[0]
    name = field_name((prefix, *details["loc"]) if prefix else details["loc"])
    if details["type"] == "extra_forbidden":
        return f"{name}: unknown key, should be one of {', '.join(allowed_keys)} (got {shown(details['input'])})"
    return fault_text(details, name)
