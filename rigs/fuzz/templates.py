"""Random templates over hostile inputs: each gives a text or a refusal, in bounded time and memory."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_agent.requests.renderer import Renderer
from edge_agent.requests.templates import TemplateInputError, template_fault
from rigs.fuzz.children import FAILED, Outcome

MAX_PAYLOAD_BYTES = 65_536
# C code that no signal interrupts may take three times the 0.5 s; the machine may be busy.
MAX_S, MAX_MB = 6.0, 60
_MAX_MESSAGE = 400
_NAMES = ("input.a", "input.b", "input.a", "input.b", "input.n", "x", "y", "ns.s", "ns.l", "input")
_CONSTANTS = ("0", "1", "-1", "300", "1000000000", "-1000000000", "1.5", "'x'", "''", "'%s'", "'{0}'", "[]", "'x y,z'")
# § is another expression, ¤ the one that a form is applied to.
_FORMS = """
¤ + §; ¤ * §; ¤ / §; ¤ // §; ¤ % §; ¤ ** §; ¤ ~ §; ¤ ~ ¤ ~ §; ¤ == §; ¤ < §; ¤ in §; ¤ and §; ¤ or §; [¤, §]; range(§)
lipsum(§); dict(§); cycler(§, §).next(); range(99999); ¤ | join(§); ¤ | replace(§, §); ¤ | replace('', §); ¤ | round(§)
¤ | round(§, 'ceil'); ¤ | batch(§, §); ¤ | slice(§); ¤ | list; ¤ | center(§); ¤ | indent(§); ¤ | indent(300, true)
¤ | string; ¤ | title; ¤ | sort; ¤ | unique | list; ¤ | groupby('a'); ¤ | groupby(§); ¤ | map('string'); ¤ | wordcount
¤ | map('upper') | join(§); ¤ | select('in', §); ¤ | sum; ¤ | sum(start=[]); ¤ | tojson; ¤ | pprint; ¤ | wordwrap(1)
¤ | wordwrap(9, true, §); ¤ | urlize; ¤ | striptags; ¤ | int; ¤ | float; ¤ | string | int; ¤ | reverse; ¤ | trim(§)
¤ | format(§, §); ¤ | dictsort; ¤ | xmlattr; ¤ | urlencode; ¤ | escape; ¤ | truncate(9); ¤ | filesizeformat; ¤ | random
¤.split(§); ¤.rsplit(§); ¤.replace(§, §); ¤.join(§); ¤.format(§, §); ¤.count(§); ¤.rfind(§); ¤.strip(§); ¤.ljust(§)
¤.encode('punycode'); ¤.encode('utf-16'); ¤.expandtabs(1000); ¤.splitlines(); ¤.rpartition(§); ¤.to_bytes(§); ¤.items()
"""
_EXPRESSIONS = _FORMS.replace("\n", ";").strip("; ").split(";")
_STATEMENTS = (
    "{% for x in § %}¤{% endfor %}",
    "{% for y in § %}¤{% endfor %}",
    "{% if § %}¤{% endif %}",
    "{% set ns.s = § %}¤",
    "{% set ns.l = § %}¤",
    "{% macro f(x) %}¤{% endmacro %}{{ f(§) }}",
    "{{ § }}¤",
)
_HALF = MAX_PAYLOAD_BYTES // 2 - 50
_LARGE: tuple[Any, ...] = (
    *("x" * _HALF, "a b\n" * (_HALF // 5), "%s{0}" * (_HALF // 5), "轴" * (_HALF // 3), "<!--" * (_HALF // 4)),
    *([1] * (_HALF // 2), [[]] * (_HALF // 3), [{"a": 1}] * (_HALF // 8), [f"{n}" for n in range(_HALF // 8)]),
)
_VALUES = (*_LARGE, "7" * 300, 10**9, -(10**9), 7**300, 1e308, None, {str(n): n for n in range(_HALF // 16)})


def outcomes(numbers: range, _model: Path) -> Iterator[tuple[int, Outcome]]:
    renderer = Renderer()
    try:
        for number in numbers:
            yield number, _rendered(renderer, *case(number))
    finally:
        renderer.stop()


def case(number: int) -> tuple[str, Any]:
    """A template and an input."""
    dice = random.Random(number)
    body = "".join(_statement(dice, 3) for _ in range(dice.choice((1, 1, 2))))
    value = {"a": dice.choice(_VALUES), "b": dice.choice(_VALUES), "n": dice.choice((0, 3, 10**9, -(10**9)))}
    template = "{% set ns = namespace(s='x', l=[1]) %}{% set x = input.a %}{% set y = 1 %}" + body
    return template, dice.choice(_LARGE) if dice.random() < 0.1 else value


def _statement(dice: random.Random, depth: int) -> str:
    inner = _statement(dice, depth - 1) if depth and dice.random() < 0.8 else f"{{{{ {_expression(dice, 1)} }}}}"
    return dice.choice(_STATEMENTS).replace("§", _expression(dice, dice.choice((0, 0, 1, 2)))).replace("¤", inner)


def _expression(dice: random.Random, depth: int) -> str:
    if not depth:
        return dice.choice(_NAMES if dice.random() < 0.8 else _CONSTANTS)
    made = f"({dice.choice(_EXPRESSIONS).strip().replace('¤', _expression(dice, depth - 1))})"
    while "§" in made:
        made = made.replace("§", _expression(dice, dice.choice((0, 0, depth - 1))), 1)
    return made


def _rendered(renderer: Renderer, template: str, value: Any) -> Outcome:
    if (fault := template_fault(template)) is not None:
        return "no template", fault
    began = time.monotonic()
    try:
        outcome = "rendered", f"{len(renderer.render(template, value))} characters"
    except TemplateInputError as error:
        outcome = "refused", str(error)
        if not outcome[1].startswith("input: ") or not outcome[1].isprintable() or len(outcome[1]) > _MAX_MESSAGE:
            return FAILED, f"refused in these words: {outcome[1]!r}: {template}"
    if (lasted_s := time.monotonic() - began) > MAX_S:
        return FAILED, f"after {lasted_s:.1f} s: {template}"
    renderer.prepare([template])
    with suppress(TemplateInputError):
        renderer.render("{{ input.n }}", {})  # what the last one made is gone by now
    pages = int(Path(f"/proc/{renderer.pid}/statm").read_text("ascii").split()[1])
    if (resident_mb := pages * os.sysconf("SC_PAGE_SIZE") / 1e6) > MAX_MB:
        return FAILED, f"keeps {resident_mb:.0f} MB: {template}"
    return outcome
