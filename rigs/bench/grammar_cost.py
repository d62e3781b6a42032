"""What holding a free token to its schema costs, beside the model's pass and the plain choice of a token.

Two ways: a plan's slots, and the grammar of llama.cpp, which schemas without a plan fall back to.
usage: python -m rigs.bench.grammar_cost MODEL.gguf [--requests 24] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from edge_agent.core.protocol import ChatMessage, EngineSettings, Load, Run, Sampling, SchemaPlan
from edge_agent.engine.answer.sampling import Constraint, TokenPicker
from edge_agent.engine.llama import Logits
from edge_agent.engine.llama_engine import LlamaEngine
from rigs.bench import workload
from tests.engine.runs import answer_all

TARGET_MS = 0.2
# A recursive schema has no plan.
_TREE: dict[str, Any] = {
    "$defs": {
        "part": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 20},
                "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 2},
            },
            "required": ["name", "parts"],
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/part"}},
    "required": ["root"],
    "additionalProperties": False,
}
_READINGS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "tag": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "level": {"type": "number", "minimum": -10, "maximum": 250},
        "note": {"type": "string", "minLength": 10, "maxLength": 60},
    },
    "required": ["tag", "level", "note"],
    "additionalProperties": False,
}
CASES = {
    "the workload's extract": workload.SCHEMA,
    "pattern, number, text": _READINGS,
    "recursive, by grammar": _TREE,
}


@dataclass
class Stopwatch:
    """Milliseconds of each choice among what is allowed, less those of the plain choice within it."""

    held_ms: list[float] = field(default_factory=list)
    _plain_ms: float = 0.0

    def watch(self) -> None:
        """From here on, all pickers of this process."""
        pick_any, pick_allowed, pick = TokenPicker._pick_any, TokenPicker.pick_allowed, TokenPicker.pick

        def timed_any(picker: TokenPicker, row: int, logits: Logits) -> int:
            began = perf_counter()
            token = pick_any(picker, row, logits)
            self._plain_ms = (perf_counter() - began) * 1000
            return token

        def timed_allowed(picker: TokenPicker, row: int, constraint: Constraint) -> int:
            began = perf_counter()
            token = pick_allowed(picker, row, constraint)
            self.held_ms.append((perf_counter() - began) * 1000 - self._plain_ms)
            return token

        def timed(picker: TokenPicker, row: int) -> int:
            began, known = perf_counter(), len(self.held_ms)
            token = pick(picker, row)
            if len(self.held_ms) > known:  # by grammar: what accepting the token takes comes to it
                self.held_ms[-1] = (perf_counter() - began) * 1000 - self._plain_ms
            return token

        for function, name in ((timed_any, "_pick_any"), (timed_allowed, "pick_allowed"), (timed, "pick")):
            setattr(TokenPicker, name, function)


def run(number: int, schema: dict[str, Any], reading: workload.Reading, sampling: Sampling) -> Run:
    text = f"Write the report on pump {reading['pump']}: {json.dumps(reading['reading'])}"
    return Run(
        id=number,
        task="report",
        messages=(ChatMessage(role="user", content=text),),
        plan=SchemaPlan(schema=schema),
        sampling=sampling,
        max_tokens=96,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    engine = LlamaEngine(Load(model_path=str(options.model), settings=EngineSettings(max_active=8)))
    stopwatch = Stopwatch()
    stopwatch.watch()
    results: dict[str, dict[str, float]] = {}
    for name, schema in CASES.items():
        for way, sampling in {"greedy": Sampling(), "temperature 0.8": Sampling(temperature=0.8, seed=1)}.items():
            stopwatch.held_ms.clear()
            readings = workload.readings(options.requests, seed=f"{name} {way}")
            # Some recursive ones do not end in time, which their cost does not depend on.
            answer_all(engine, *(run(number, schema, reading, sampling) for number, reading in enumerate(readings)))
            times = sorted(stopwatch.held_ms)
            results[f"{name}, {way}"] = {
                "free_tokens": len(times),
                "mean_ms": round(statistics.fmean(times), 4),
                "median_ms": round(statistics.median(times), 4),
                "p99_ms": round(times[int(0.99 * (len(times) - 1))], 4),
            }
    engine.close()
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        print(f"per free token, beside the plain choice; asked for: mean ≤ {TARGET_MS} ms")
        print(f"{'':40} {'free tokens':>12} {'mean':>9} {'median':>9} {'p99':>9}")
        for name, result in results.items():
            times_ms = " ".join(f"{result[key]:>9.3f}" for key in ("mean_ms", "median_ms", "p99_ms"))
            print(f"{name:40} {result['free_tokens']:>12.0f} {times_ms}")
    return 0 if all(result["mean_ms"] <= TARGET_MS for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
