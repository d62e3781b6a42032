"""Damaged configurations: `check-config` accepts them, or names each fault with its key."""

import contextlib
import io
import json
import math
import random
import tempfile
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from edge_agent.cli import main as edge_agent
from rigs.fuzz.children import FAILED, Outcome, try_in_child
from rigs.fuzz.damage import damage_bytes, damage_json
from tests.docs.pages import samples
from tests.helpers.support import CONFIG, TASKS

CPU_S, MEMORY_BYTES = 10, 1 << 29
_BASES = (*samples("quickstart", "toml")[:1], *samples("configuration", "toml")[-1:], CONFIG + TASKS)
_MAX_LINE = 20_000
# Where a configuration names a file or has a template, and odd ones.
_PLACES = (("models", "default", "path"), ("tasks", "pump-diagnosis", "schema"), ("mqtt", "password_file"))
_PATHS = ("/dev/zero", "/proc/self/mem", "/", "..", "~nobody/x", "\0", "x" * 5000, "part.json", "echo:", "echo:x")
_TEMPLATES = (
    "{% for a in input %}" * 30 + "{% endfor %}" * 30,
    "{{ " + "[" * 500,
    "{{ " + "9" * 5000 + " }}",
    "{{ input | nothing }}",
)


def outcomes(numbers: range, _model: Path) -> Iterator[tuple[int, Outcome]]:
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.toml"
            path.write_bytes(damaged(random.Random(number)))
            (Path(folder) / "part.json").write_text('{"type": "object"}', "utf-8")
            outcome, why = try_in_child(partial(_checked, path), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
            yield number, (outcome, why.replace(folder, "…"))


def damaged(dice: random.Random) -> bytes:
    text = dice.choice(_BASES)
    if dice.random() < 0.3:
        return damage_bytes(text.encode(), dice)
    document: Any = damage_json(tomllib.loads(text), dice)
    if not isinstance(document, dict):
        return b"= 1"
    tasks = document.get("tasks")
    for task in tasks.values() if isinstance(tasks, dict) else ():
        if isinstance(task, dict) and dice.random() < 0.1:
            task["template"] = dice.choice(_TEMPLATES)
    for *keys, last in _PLACES:
        place: Any = document
        for key in keys:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict) and dice.random() < 0.1:
            place[last] = dice.choice(_PATHS)
    return "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in document.items()).encode(errors="surrogatepass")


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
