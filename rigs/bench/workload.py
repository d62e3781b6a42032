"""What all sides are asked: one constant text, readings that all differ, and three kinds of answer.

In Qwen2.5's vocabulary the constant text has 185 tokens, a reading about 50.
"""

import json
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jsonschema

from edge_agent.requests.templates import constant_prefix, render

Reading = dict[str, Any]

LABELS = ("normal", "bearing fault", "cavitation", "overload", "leak", "dry run")
SEVERITIES = ("low", "medium", "high")
TEXT_FIELD = "action"
TEXT_CHARACTERS = 60
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "condition": {"enum": list(LABELS)},
        "severity": {"enum": list(SEVERITIES)},
        "stop": {"type": "boolean"},
        TEXT_FIELD: {"type": "string", "maxLength": TEXT_CHARACTERS},
    },
    "required": ["condition", "severity", "stop", TEXT_FIELD],
    "additionalProperties": False,
}
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
# All sides get the same threads, context and number of clients.
THREADS = 2
CONTEXT_TOKENS = 4096
CLIENTS = 8
# Prompt tokens that llama.cpp's programs put into one step; the agent measures what suits it.
BATCH_TOKENS = 256
GENERATED_TOKENS = 32
EXTRACT_TOKENS = 128
# Where the constant text meets the reading, a token may differ.
_CACHE_SLACK_TOKENS = 3

SYSTEM = (
    "You watch over the pumps of a large city's waterworks. Every message is one reading of one pump as JSON: "
    "vibration in mm/s, temperature in °C, current in A, pressure in bar, speed in rpm. Judge the pump's condition. A"
    " pump is normal while vibration stays below 4.5 and temperature below 70. Strong vibration with heat means a "
    "bearing fault. Low pressure with rough vibration means cavitation. High current at low speed means overload. "
    "Falling pressure at normal current means a leak. Hardly any current at full speed means a dry run. If the "
    "condition is asked for, answer with its name only. If a report is asked for, answer with JSON: condition, "
    "severity, whether to stop the pump, and one short action. If an explanation is asked for, explain every value in"
    " long sentences."
)


class Kind(StrEnum):
    CLASSIFY = "classify"
    EXTRACT = "extract"
    GENERATE = "generate"

    @property
    def template(self) -> str:
        """The user's message as a task's template; the text before the first value is constant."""
        return _TEMPLATES[self]


_TEMPLATES = {
    Kind.CLASSIFY: "Name the condition of pump {{ input.pump }}: {{ input.reading }}",
    Kind.EXTRACT: "Write the report on pump {{ input.pump }}: {{ input.reading }}",
    # The model writes more than GENERATED_TOKENS of it, so that it is the limit that ends all answers.
    Kind.GENERATE: "Explain the state of pump {{ input.pump }}: {{ input.reading }}",
}


@dataclass(frozen=True)
class Answer:
    """One answer as its client sees it. `scores` and `latency_ms` are None where a side does not report them."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    scores: dict[str, float] | None = None
    latency_ms: float | None = None


def readings(count: int, *, seed: str) -> list[Reading]:
    """The same readings for the same seed. With another seed all differ, so no side has a whole prompt in its cache."""
    random_ = random.Random(seed)
    return [
        {
            "pump": random_.randrange(1000, 10000),
            "reading": {
                "vibration_mm_s": round(random_.uniform(0.5, 12), 2),
                "temperature_c": round(random_.uniform(35, 99), 1),
                "current_a": round(random_.uniform(1, 20), 1),
                "pressure_bar": round(random_.uniform(1, 9), 1),
                "speed_rpm": random_.randrange(1400, 3000),
            },
        }
        for _ in range(count)
    ]


def user_text(kind: Kind, reading: Reading) -> str:
    """The user's message, rendered by the agent's template."""
    return render(kind.template, reading)


def constant_text(kind: Kind) -> str:
    """The beginning that all prompts of a kind share, in ChatML."""
    return chatml(SYSTEM, constant_prefix(kind.template))


def prompt(kind: Kind, reading: Reading) -> str:
    """The prompt that the agent makes of this reading, in ChatML."""
    return f"{chatml(SYSTEM, user_text(kind, reading))}<|im_end|>\n<|im_start|>assistant\n"


def chatml(system: str, user: str) -> str:
    """The prompt in ChatML, up to the end of the user's text."""
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}"


def check_answer(kind: Kind, answer: Answer, *, constant_tokens: int) -> None:
    """Raises ValueError for an answer of the wrong form, or with fewer than `constant_tokens` from the cache."""
    if answer.cached_tokens < constant_tokens - _CACHE_SLACK_TOKENS:
        raise ValueError(f"only {answer.cached_tokens} of {constant_tokens} constant tokens were cached")
    match kind:
        case Kind.CLASSIFY:
            if answer.text not in LABELS:
                raise ValueError(f"no label: {answer.text!r}")
        case Kind.EXTRACT:
            if not _VALIDATOR.is_valid(json.loads(answer.text)):
                raise ValueError(f"not of the schema: {answer.text!r}")
        case Kind.GENERATE:
            if not 0 < answer.completion_tokens <= GENERATED_TOKENS:
                raise ValueError(f"{answer.completion_tokens} tokens, not at most {GENERATED_TOKENS}")


def free_text(answer: Answer) -> str:
    """The string in an `extract` answer that the model words freely."""
    return str(json.loads(answer.text)[TEXT_FIELD])
