"""Random templates over hostile inputs: each gives a text or a refusal, in bounded time and memory.

usage: python -m rigs.fuzz.templates --count 1000
Exit code 1 if one took too long, was refused in other words, or kept memory.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_agent.core.strict_json import compact_json
from edge_agent.requests.renderer import Renderer
from edge_agent.requests.templates import TemplateInputError, template_fault
from rigs.fuzz.children import FAILED, Outcome, drive

MAX_PAYLOAD_BYTES = 65_536
# C code that no signal interrupts may take three times the 0.5 s; the machine may be busy.
MOST_S, MOST_MB = 6.0, 60
_NAMES = ("input.a", "input.b", "input.a", "input.b", "input.n", "x", "y", "ns.s", "ns.l", "input")
_CONSTANTS = ("0", "1", "-1", "300", "1000000000", "-1000000000", "1.5", "'x'", "''", "'%s'", "'{0}'", "[]", "'x y,z'")
# Of any other filter or method whatever it is given is hardly ever right.
_FILTERS = """
join(§); replace(§, §); replace('', §); round(§); round(§, 'ceil'); batch(§, §); slice(§); list; center(§); length
upper; indent(§); indent(300, true); string; title; sort; unique; unique | list; groupby('a'); groupby(§); min
map('string'); wordcount; abs
map('upper') | join(§); map('length'); select; reject; select('in', §); sum; sum(start=[]); tojson; pprint; wordwrap(1)
wordwrap(9, true, §); urlize; striptags; int; float; string | int; first; last; reverse; trim(§); format(§); items
format(§, §); dictsort; xmlattr; urlencode; escape; truncate(9); filesizeformat; default(§); random
"""
_METHODS = """
upper(); split(); split(§); rsplit(§); replace(§, §); join(§); format(§); format(§, §); count(§); rfind(§); find(§)
strip(§); encode('punycode'); encode('utf-16'); expandtabs(1000); ljust(§); splitlines(); title(); rpartition(§)
to_bytes(§); items(); values(); get(§); copy(); index(§)
"""
_OPERATORS = ("+", "+", "*", "/", "//", "%", "**", "~", "~", "~", "==", "<", "in", "and", "or", "not in")
_CALLS = ("range(§)", "lipsum(§)", "dict(§)", "cycler(§, §).next()", "range(99999)", "range(300)")


def outcomes(count: int, first: int = 0) -> Iterator[tuple[int, Outcome]]:
    """The number of each case and its outcome."""
    renderer = Renderer()
    try:
        for number in range(first, first + count):
            yield number, _rendered(renderer, *case(number))
    finally:
        renderer.stop()


def case(number: int) -> tuple[str, Any]:
    """A template and an input. Always the same for the same number."""
    dice = random.Random(number)
    body = "".join(_statement(dice, 3) for _ in range(dice.choice((1, 1, 2))))
    return "{% set ns = namespace(s='x', l=[1]) %}{% set x = input.a %}{% set y = 1 %}" + body, _input(dice)


def _statement(dice: random.Random, depth: int) -> str:
    inner = _statement(dice, depth - 1) if depth and dice.random() < 0.8 else f"{{{{ {_expression(dice, 1)} }}}}"
    something = _expression(dice, dice.choice((0, 0, 1, 2)))
    match dice.randrange(8):
        case 0 | 1 | 2:
            return f"{{% for {dice.choice('xy')} in {something} %}}{inner}{{% endfor %}}"
        case 3:
            return f"{{% if {something} %}}{inner}{{% endif %}}"
        case 4 | 5:
            return f"{{% set ns.{dice.choice('sl')} = {something} %}}{inner}"
        case 6:
            return f"{{% macro f(x) %}}{inner}{{% endmacro %}}{{{{ f({something}) }}}}"
        case _:
            return f"{{{{ {something} }}}}{inner}"


def _expression(dice: random.Random, depth: int) -> str:
    if not depth:
        return dice.choice(_NAMES if dice.random() < 0.8 else _CONSTANTS)
    one = _expression(dice, depth - 1)
    match dice.randrange(7):
        case 0 | 1:
            made = f"({one} {dice.choice(_OPERATORS)} §)"
        case 2 | 3 | 4:
            made = f"({one} | {_one_of(_FILTERS, dice)})"
        case 5:
            made = f"({one}).{_one_of(_METHODS, dice)}"
        case _:
            made = dice.choice((f"[{one}, {one}]", f"[{one}, §]", *_CALLS))
    while "§" in made:
        made = made.replace("§", _expression(dice, dice.choice((0, 0, depth - 1))), 1)
    return made


def _one_of(texts: str, dice: random.Random) -> str:
    return dice.choice(re.split(r"; |\n", texts.strip()))


def _input(dice: random.Random) -> Any:
    half = MAX_PAYLOAD_BYTES // 2 - 50
    texts = (
        "x" * half,
        "a b\n" * (half // 5),
        "%s{0}" * (half // 5),
        "轴" * (half // 3),
        "<!--" * (half // 4),
        "7" * 300,
    )
    lists: tuple[list[Any], ...] = (
        [1] * (half // 2),
        [[]] * (half // 3),
        [{"a": 1}] * (half // 8),
        [f"{n}" for n in range(half // 8)],
    )
    values = (*texts, *lists, 10**9, -(10**9), 7**300, 1e308, None, {str(n): n for n in range(half // 16)})
    if dice.random() < 0.1:
        return dice.choice((*texts, *lists))
    return {"a": dice.choice(values), "b": dice.choice(values), "n": dice.choice((0, 3, 10**9, -(10**9)))}


def _rendered(renderer: Renderer, template: str, value: Any) -> Outcome:
    assert len(compact_json(value).encode()) <= MAX_PAYLOAD_BYTES
    if (fault := template_fault(template)) is not None:
        return "no template", fault
    began = time.monotonic()
    try:
        outcome = "rendered", f"{len(renderer.render(template, value))} characters"
    except TemplateInputError as error:
        outcome = "refused", str(error)
        if not outcome[1].startswith("input: ") or not outcome[1].isprintable() or len(outcome[1]) > 400:
            return FAILED, f"refused in these words: {outcome[1]!r}: {template}"
    if (lasted_s := time.monotonic() - began) > MOST_S:
        return FAILED, f"after {lasted_s:.1f} s: {template}"
    renderer.prepare([template])
    with suppress(TemplateInputError):
        renderer.render("{{ input.n }}", {})  # what the last one made is gone by now
    pages = int(Path(f"/proc/{renderer.pid}/statm").read_text("ascii").split()[1])
    if (resident_mb := pages * os.sysconf("SC_PAGE_SIZE") / 1e6) > MOST_MB:
        return FAILED, f"keeps {resident_mb:.0f} MB: {template}"
    return outcome


if __name__ == "__main__":
    sys.exit(drive("templates", __doc__, outcomes))
