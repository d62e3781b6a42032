"""Damaged configurations: `check-config` accepts them, or names each fault with its key.

`python -m rigs.fuzz.configurations --count 1000`: exit code 1 if it does anything else.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from edge_agent.cli import main as edge_agent
from rigs.fuzz.children import FAILED, Outcome, drive, tried
from rigs.fuzz.damage import damage_bytes, damage_json
from tests.helpers.support import CONFIG, TASKS
from tests.test_loader import EVERYTHING

CPU_S, MEMORY_BYTES = 10, 1 << 29
_BASES = (EVERYTHING, EVERYTHING, CONFIG + TASKS)
_MAX_LINE = 20_000
_PATHS = (
    "/dev/zero",
    "/proc/self/mem",
    "/",
    "..",
    "~nobody/x",
    "\0",
    "x" * 5000,
    "pipe",
    "part.json",
    "echo:",
    "echo:x",
)
_TEMPLATES = (
    "{{ 10 | round(-1000000000) }}",
    "{{ ('x' | center(1000)) | replace(' ', 'y' | center(1000)) | replace(' ', 'y' | center(1000)) }}",
    "{% autoescape 10 | round(-1000000000) %}{% endautoescape %}",
    "{% for a in input %}" * 30 + "{% endfor %}" * 30,
    "{{ " + "[" * 500,
    "{{ " + "9" * 5000 + " }}",
    "{{ input | nothing }}",
)


def outcomes(count: int, first: int = 0) -> Iterator[tuple[int, Outcome]]:
    """The number of each damaged file, the outcome, and why."""
    for number in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.toml"
            path.write_bytes(damaged(number))
            (Path(folder) / "part.json").write_text('{"type": "object"}', "utf-8")
            outcome, why = tried(partial(_checked, path), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
            yield number, (outcome, why.replace(folder, "…"))


def damaged(number: int) -> bytes:
    """The same content for the same number."""
    dice = random.Random(number)
    text = dice.choice(_BASES)
    if dice.random() < 0.25:
        data = text.encode()
        for _ in range(dice.choice((1, 1, 3))):
            data = damage_bytes(data, dice)
        return data
    if dice.random() < 0.15:
        lines = text.splitlines()
        for _ in range(dice.choice((1, 3))):
            lines.insert(dice.randrange(len(lines)), dice.choice(lines))
        return "\n".join(lines).encode()
    document: Any = tomllib.loads(text)
    for _ in range(dice.choice((1, 1, 2, 4))):
        document = damage_json(document, dice)
        if dice.random() < 0.2:
            _place_path(document, dice)
        if dice.random() < 0.1:
            _place_template(document, dice)
    if not isinstance(document, dict):
        return b"= 1"
    return "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in document.items()).encode(errors="surrogatepass")


def _place_path(document: Any, dice: random.Random) -> None:
    """Puts an odd path where a configuration names a file."""
    path = dice.choice(_PATHS)
    for keys in (("models", "default", "path"), ("tasks", "from-file", "schema"), ("mqtt", "password_file")):
        place = document
        for key in keys[:-1]:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict) and dice.random() < 0.5:
            place[keys[-1]] = path


def _place_template(document: Any, dice: random.Random) -> None:
    tasks = document.get("tasks") if isinstance(document, dict) else None
    for task in tasks.values() if isinstance(tasks, dict) else ():
        if isinstance(task, dict) and dice.random() < 0.5:
            task["template"] = dice.choice(_TEMPLATES)


def _toml(value: Any) -> str:
    """Any value inline; null, which TOML does not have, as a bare word."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def _checked(path: Path) -> Outcome:
    errors, output = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        code = edge_agent(["check-config", str(path)])
    lines = errors.getvalue().splitlines()
    if code not in (0, 78) or (code == 78 and not lines):
        return FAILED, f"exit code {code}: {errors.getvalue()}"
    for line in lines:
        what, _, fault = line.removeprefix(f"{path}: ").removeprefix("hint: ").partition(": ")
        if not line.startswith(f"{path}: ") or not line.isprintable() or len(line) > _MAX_LINE or not what or not fault:
            return FAILED, f"no line that names a key: {line[:300]!r}"
    return ("refused", lines[0]) if code else ("good", output.getvalue())


if __name__ == "__main__":
    sys.exit(drive("configurations", __doc__, outcomes))
