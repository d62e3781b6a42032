"""The same tasks for every board, so that boards can be compared, and readings that never repeat."""

from __future__ import annotations

from edge_agent.core.config import ClassifyTask, ExtractTask, GenerateTask
from edge_agent.core.envelope import Envelope
from edge_agent.core.protocol import Run
from edge_agent.requests.tasks import Task

_CONDITIONS = ["normal", "imbalance", "bearing fault", "cavitation", "overload", "leak"]
# About 185 tokens with Qwen's vocabulary.
_SYSTEM = (
    "You monitor the pumps of a waterworks. Each reading holds the vibration in mm/s, the temperature of the bearing "
    "in °C, the current of the motor in A, the pressure behind the pump in bar and the speed in rpm. A pump is normal "
    "below 2.8 mm/s and 70 °C at 5 to 7 bar. Strong vibration at the usual temperature is imbalance; vibration "
    "together with a bearing above 80 °C is a bearing fault. Pressure that is low and unsteady at full speed is "
    "cavitation; a current above 15 A at low speed is overload; pressure that falls at the usual current and speed is "
    "a leak. Judge the whole reading, not one value of it, and do not guess causes that it does not show. A "
    "value that is missing is unknown, not zero. "
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "condition": {"enum": _CONDITIONS},
        "severity": {"enum": ["low", "medium", "high"]},
        "stop": {"type": "boolean"},
        "action": {"type": "string", "maxLength": 60},
    },
    "required": ["condition", "severity", "stop", "action"],
    "additionalProperties": False,
}
WRITTEN_TOKENS = 32

TASKS = {
    task.kind: task
    # Not `generate`: that is the built-in task, which takes no readings.
    for task in (
        Task(
            "bench-classify",
            ClassifyTask(
                kind="classify", system=_SYSTEM + "Name the condition of the pump.", labels=tuple(_CONDITIONS)
            ),
        ),
        Task(
            "bench-extract",
            ExtractTask(kind="extract", system=_SYSTEM + "Diagnose the reading.", max_tokens=160, schema=_SCHEMA),
        ),
        Task(
            "bench-generate",
            GenerateTask(kind="generate", system=_SYSTEM + "Explain it in detail.", max_tokens=WRITTEN_TOKENS),
        ),
    )
}


def run(task: Task, number: int) -> Run:
    """The request for the reading of this number, as the agent sends it to the worker."""
    return task.run(number, Envelope(input=_reading(number)))


def _reading(number: int) -> dict[str, float | str]:
    """About 50 tokens; readings differ in all values."""
    return {
        "pump": f"P-{number}",
        "vibration_mm_s": round(1.2 + number * 0.37 % 9, 2),
        "temperature_c": round(48 + number * 1.7 % 45, 1),
        "current_a": round(8 + number * 0.53 % 11, 1),
        "pressure_bar": round(2.5 + number * 0.29 % 5, 2),
    }
