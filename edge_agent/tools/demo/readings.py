"""The bundled tasks and held-out readings of the demonstration model."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class HeldOutReading:
    """A reading that the model was not trained on, as a sensor prints it, and the right answer."""

    payload: str
    variant: str  # The form in which it is printed.
    borderline: bool  # It is close to two conditions.
    fault: str
    diagnosis: dict[str, Any]


def _folder() -> Path:
    return Path(str(resources.files("edge_agent.tools.demo")))


def checkpoint_folder() -> Path:
    """The Hugging Face style checkpoint of the demonstration model."""
    return _folder() / "checkpoint"


def tasks() -> dict[str, dict[str, Any]]:
    """The tasks that the model was trained for, by name, with kind, system, and labels or schema."""
    loaded: dict[str, dict[str, Any]] = json.loads((_folder() / "tasks.json").read_text(encoding="utf-8"))
    return loaded


def held_out() -> list[HeldOutReading]:
    lines = (_folder() / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        HeldOutReading(row["input"], row["variant"], row["borderline"], row["fault"], row["diagnosis"])
        for row in map(json.loads, lines)
    ]
