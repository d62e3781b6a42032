"""The wording of faults: `field: should be … (got …)`, the same for configuration, bus and command line."""

from __future__ import annotations

import difflib
import json
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

# pydantic takes 3 MB, and some processes do without it.
if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

MAX_SHOWN_VALUE = 80
_IDLE_LEVELS = ("DEBUG ", "INFO ")
_LAST_WORDS = 4
_NO_NAME = '""'
_MAX_LOG_LINE = 300
# pydantic's types of faults in numbers, and its names of bounds with our words.
_OF_NUMBERS = {
    "int_type", "int_from_float", "float_type", "greater_than", "greater_than_equal", "less_than", "less_than_equal",
}  # fmt: skip
_WORDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "at most"}


def printable(text: str) -> str:
    """The text with control characters escaped: safe for a terminal and a log line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_json(value: object) -> str:
    """Indented JSON that is safe for a terminal: control characters are escaped as JSON escapes them."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def cut(text: str) -> str:
    """The text, cut to MAX_SHOWN_VALUE characters."""
    return text if len(text) <= MAX_SHOWN_VALUE else text[: MAX_SHOWN_VALUE - 1] + "…"


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
    if not _is_readable(file):
        fault: str | None = "should be a file that can be read"
    else:
        fault = content_fault(file) if content_fault else None
    return f"{key}: {fault} (got {shown_path(file)})" if fault else None


def _is_readable(file: Path) -> bool:
    try:
        return file.is_file() and os.access(file, os.R_OK)
    except OSError:  # a folder above it may not be entered
        return False


def how_ended(returncode: int) -> str:
    """How a process ended: `killed by SIGKILL`, `exit code 1`. returncode: as subprocess gives it."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has no name of its own
        return f"killed by signal {-returncode}"
    # See core/bounded.py.
    return f"killed by {name}" + (", its chat template did not end" if name == "SIGVTALRM" else "")


def end_of_log(log: Iterable[str]) -> str:
    """The last lines of a log that may explain why a process ended, on one line: warnings, and lines without a level.

    Lines without a level are a traceback, or what llama.cpp prints when it aborts.
    """
    lines = [line for line in log if line.strip() and not line.startswith(_IDLE_LEVELS)][-_LAST_WORDS:]
    return " | ".join(printable(line.strip())[:_MAX_LOG_LINE] for line in lines)


def field_name(location: Iterable[int | str]) -> str:
    """`tasks.pump.labels[2]`."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            # TOML allows an empty key, and writes it so.
            name += f".{part or _NO_NAME}" if name else part or _NO_NAME
    return printable(name)


def closest(word: str, names: Iterable[str]) -> str | None:
    """The name that was most likely meant, first one with the same letters; None if none is close."""
    close = difflib.get_close_matches(word, names, n=5, cutoff=0.75)
    return next((name for name in close if sorted(name) == sorted(word)), next(iter(close), None))


def fault_text(error: ErrorDetails, name: str) -> str:
    """`<name>: <what is wrong or allowed> (got <value>)`."""
    if error["type"] == "missing":
        return f"{name}: required, but missing"
    if error["type"] == "value_error":
        reason = str(error.get("ctx", {}).get("error", error["msg"]))
    else:
        reason = error["msg"].replace("Input should", "should", 1).replace("String should", "should", 1)
    if error["type"] in ("tuple_type", "list_type"):
        reason = "should be a list"
    if error["type"] in ("too_short", "too_long"):
        reason = reason[reason.index("should") :].split(" after validation")[0]  # without Python's name of a list
    if error["type"] == "path_type":
        reason = "should be a path"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        reason = "should be a table of named values"
    value: Any = error["input"]
    return f"{name}: {reason} (got {shown(value)})"


def first_fault(
    error: ValidationError, prefix: str = "", known: Iterable[str] = (), model: type[BaseModel] | None = None
) -> str:
    """The first fault of a message from the bus, as one sentence.

    known: the allowed keys, where unknown ones are refused. model: names both bounds of its numbers.
    """
    details = error.errors(include_url=False)[0]
    name = field_name((prefix, *details["loc"]) if prefix else details["loc"])
    if details["type"] == "extra_forbidden":
        return f"{name}: unknown key, should be one of {', '.join(known)} (got {shown(details['input'])})"
    allowed = None if model is None or details["type"] not in _OF_NUMBERS else _range(model, details["loc"])
    return f"{name}: {allowed} (got {shown(details['input'])})" if allowed else fault_text(details, name)


def _range(model: type[BaseModel], location: Iterable[int | str]) -> str | None:
    """The allowed range of a number at this place of the model; None without bounds."""
    annotation: Any = model
    constraints: list[Any] = []
    for part in location:
        field = getattr(annotation, "model_fields", {}).get(part)
        if field is None:
            return None
        annotation, constraints = field.annotation, list(field.metadata)
    types = [annotation]
    for one in types:  # grows: `Annotated[int, Field(ge=1)] | None` holds inner types
        types += get_args(one)
        constraints += getattr(one, "metadata", ())
    bounds = {name: getattr(one, name) for one in (*types, *constraints) for name in _WORDS if hasattr(one, name)}
    if bounds.keys() == {"ge", "le"}:
        words = f"from {bounds['ge']} to {bounds['le']}"
    else:
        words = " and ".join(f"{word} {bounds[name]}" for name, word in _WORDS.items() if name in bounds)
    return f"should be {'an integer' if int in types else 'a number'} {words}" if words else None
