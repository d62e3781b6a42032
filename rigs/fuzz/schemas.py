"""Damaged schemas and patterns. Each is soon refused with a message, or answers keep to it."""

import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

from edge_agent.core.codes import Code
from edge_agent.core.pipe import EngineSettings, Failed, Finish, Finished, Load, SchemaPlan
from edge_agent.core.schemas import check_schema, validator
from edge_agent.engine.llama_engine import LlamaEngine
from rigs.fuzz.children import FAILED, Outcome, try_in_child
from rigs.fuzz.damage import damage_json
from tests.engine.answer.test_json_answer import SCHEMAS
from tests.engine.runs import TASK, answer_all, run

CPU_S, MEMORY_BYTES = 20, 1 << 30
# How long checking a schema may take. Whoever configures it waits once, and so does a worker that first sees it.
_SOON_S = 5.0
_MAX_MESSAGE = 2000
_SETTINGS = EngineSettings(context_tokens=512, max_active=1, threads=1, prefill_threads=1, batch_tokens=64)
_INNER: tuple[Any, ...] = (
    *({"$ref": "#"}, {"$ref": "#/$defs/x"}, {"$ref": "#/properties/v"}, True, False, {}, {"const": 1}, {"not": {}}),
    *({"enum": ["a", 'q"', "\n", 1, None, [1], {}]}, {"type": "string", "minLength": 900, "maxLength": 2000}),
    *({"type": "integer", "minimum": 7, "maximum": 1e300}, {"type": "array", "maxItems": 200}),
    *({"type": "number", "multipleOf": 0.1}, {"multipleOf": 1e-300}, {"type": "array", "uniqueItems": True}),
)
_ATOMS = (*"ab1", ".", r"\d", r"\w", r"\s", r"\S", "[ab]", "[^a]", "(?:ab)", "x", "^", "$", r"\b", r"(?=a)", r"\1", "é")
_QUANTIFIERS = ("*", "+", "?", "{2}", "{1,3}", "{0,200}", "{3,}", "{9999}", "*?", "+*", "{,5}", "{2,1}")


def outcomes(numbers: range, model: Path) -> Iterator[tuple[int, Outcome]]:
    engine = LlamaEngine(Load(model_path=str(model), settings=_SETTINGS, tasks=(TASK,)))
    for number in numbers:
        schema = damaged(random.Random(number))
        yield number, try_in_child(partial(_tried, engine, schema), cpu_s=CPU_S, memory_bytes=MEMORY_BYTES)
    engine._llama.close()


def damaged(dice: random.Random) -> Any:
    schema: Any = dice.choice(SCHEMAS)
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        if dice.random() < 0.5 or not isinstance(schema, dict):
            schema = damage_json(schema, dice)
            continue
        inner = dice.choice((*_INNER, {"anyOf": [schema, {"type": "null"}]}, {"type": "array", "items": schema}))
        name, properties = dice.choice(("v", "x", "é", '"', "\\", "a b")), schema.get("properties")
        schema = {**schema, "properties": {**(properties if isinstance(properties, dict) else {}), name: inner}}
        if dice.random() < 0.5:
            schema["required"] = [name]
    if dice.random() < 0.35 and isinstance(schema, dict):
        schema = {"type": "object", "properties": {"v": {"type": "string", "pattern": _pattern(dice, 3)}, "w": schema}}
    return schema


def _pattern(dice: random.Random, depth: int) -> str:
    parts = []
    for _ in range(dice.randrange(1, 4)):
        atom = f"({_pattern(dice, depth - 1)})" if depth and dice.random() < 0.5 else dice.choice(_ATOMS)
        parts.append(atom + (dice.choice(_QUANTIFIERS) if dice.random() < 0.5 else ""))
    return dice.choice(("^", "")) + dice.choice(("", "", "|")).join(parts)


def _tried(engine: LlamaEngine, schema: Any) -> Outcome:
    began = process_time()
    fault = check_schema(schema)
    if (took := process_time() - began) > _SOON_S:
        return FAILED, f"checked in {took:.1f} s"
    if fault is not None:
        is_in_words = fault.startswith("schema") and len(fault) <= _MAX_MESSAGE
        return ("refused" if is_in_words else FAILED), fault
    end = answer_all(engine, run(1, "7 mm/s, hot", SchemaPlan(schema=schema), max_tokens=60))[-1]
    if isinstance(end, Finished) and end.finish is Finish.SCHEMA:
        validator(schema).validate(json.loads(end.text or ""))
        return "answered", ""
    if isinstance(end, Failed) and end.code is Code.NO_VALID_OUTPUT:
        return "no valid output", end.message
    return FAILED, repr(end)
