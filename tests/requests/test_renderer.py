"""Templates and inputs that need too much time or memory are refused, and the agent lives."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_agent.core.kinds.task import DEFAULT_TEMPLATE, MAX_TEMPLATE
from edge_agent.core.strict_json import compact_json
from edge_agent.requests import renderer as module
from edge_agent.requests.renderer import Rendered, Renderer, RendererError
from edge_agent.requests.templates import TemplateInputError, render
from tests.helpers.support import request

BYTES = 65_536
HALF = "x" * (BYTES // 2 - 20)
TIME, MEMORY = "it takes more than 0.1 s of CPU time", "it takes more than 64 MB of memory"

# Each with an input that a payload of 64 KiB has room for. `python -m rigs.fuzz templates` tries many more.
GREEDY: dict[str, tuple[str, Any, str]] = {
    "a join by a long separator": ("{{ input.a | join(input.b) }}", {"a": [1] * 9999, "b": HALF}, MEMORY),
    "a format with a width": ("{{ input.format(1) }}", "{0:999999999d}", MEMORY),
    "two lists that are joined": (
        "{% for a in input %}{% for b in input %}{% if a + b == 3 %}{{ a }}{% endif %}{% endfor %}{% endfor %}",
        [1] * (BYTES // 2 - 1), TIME,
    ),
    "words": ("{{ lipsum(input.n) | length }}", {"n": 10**9}, TIME),
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(input | length) }}",
        [0] * 60, TIME,
    ),
}  # fmt: skip
# It ends in a single call of C code, which hears no signal.
DEAF = (
    "{% set ns = namespace(a=[1], b=[1.0]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
    "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}{{ input.x }}"
)


REQUEST = request()


def pid_of(renderer: Renderer) -> int | None:
    """The renderer's process; None while there is none."""
    return None if renderer._running is None else renderer._running[0].pid


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(lambda _: None)
    yield renderer
    renderer.end_process()


@pytest.mark.parametrize("name", GREEDY)
def test_what_a_template_makes_of_an_input_is_bounded(name: str) -> None:
    template, value, why = GREEDY[name]
    assert len(compact_json(value).encode()) <= BYTES
    # In a process like the agent's, because this one's heap may have room enough from before, which no bound sees.
    serve = "import sys, edge_agent.requests.renderer as module; module._CPU_S = float(sys.argv[1]); module._serve()"
    answer = subprocess.run(
        [sys.executable, "-c", serve, "0.1" if why == TIME else "5"],
        input=compact_json([template, value, None]).encode(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert json.loads(answer) == {"fault": f"input: does not fit the task's template: {why}"}


def test_a_template_gets_the_input_as_it_was_sent(renderer: Renderer) -> None:
    value = {"z": [1, -0.0, 1e308, 7**300, True, None], "a": {"": "ü轴\u2028\x00😀"}, "1": "{{ 7 * 7 }}\n"}
    for template in (DEFAULT_TEMPLATE, "{{ input }}.", "{% for key in input %}{{ key }}={{ input[key] }};{% endfor %}"):
        assert renderer.render(template, value) == render(template, value)
    assert renderer.render("{{ topic }}", value, "plant/ü") == "plant/ü"
    with pytest.raises(TemplateInputError, match='input: has no "rpm"'):
        renderer.render("{{ input.rpm }}", {"hz": 1})


def test_the_process_runs_before_the_first_request_is_rendered() -> None:
    done: queue.Queue[Rendered] = queue.Queue()
    renderer = Renderer(done.put)
    renderer.render = lambda *_: f"{pid_of(renderer) is not None}"  # type: ignore[method-assign]
    renderer.start_process()
    renderer.ask(REQUEST, "x", "y")
    assert done.get(timeout=10).outcome == "True"
    renderer.stop()
    assert pid_of(renderer) is None


def test_the_process_does_without_pydantic() -> None:
    code = "import sys, edge_agent.requests.renderer; print('pydantic' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert loaded.strip() == "False"


def test_a_template_that_takes_long_stops_nobody_who_asks_and_one_that_nobody_waits_for_is_skipped() -> None:
    done: queue.Queue[Rendered] = queue.Queue()
    renderer = Renderer(done.put)
    template, value, _ = GREEDY["words"]
    asked_at = time.monotonic()
    renderer.ask(REQUEST, template, value)
    ended = request()
    renderer.ask(ended, "{{ input }}.", "expired")
    ended.is_answered = True
    renderer.ask(REQUEST, "{{ input }}.", "next")
    assert time.monotonic() - asked_at < 0.4  # of the 0.5 s of CPU time that the first one takes
    greedy, after = (done.get(timeout=30) for _ in range(2))
    with pytest.raises(TemplateInputError, match="CPU time"):
        greedy.text("", "")
    assert after.text("", "") == "next."
    renderer.stop()


def test_a_template_that_cannot_be_interrupted_ends_its_process_only(renderer: Renderer) -> None:
    heard: list[int] = []
    renderer.connection()
    pid = pid_of(renderer)
    words = r"template: it takes more than 0\.5 s of CPU time$"
    with alarm(lambda: heard.append(1)), pytest.raises(TemplateInputError, match=words):
        renderer.render(DEAF, {})
    assert heard == [1]
    assert renderer.render("{{ input.n }}", {"n": 1}) == "1"
    assert pid_of(renderer) != pid


@pytest.mark.parametrize(
    ("harm", "told"),
    [(signal.SIGKILL, r"ended \(killed by SIGKILL\)"), (signal.SIGSTOP, r"not rendered within 0\.2 s")],
)
def test_a_process_that_does_not_answer_is_replaced(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch, harm: signal.Signals, told: str
) -> None:
    renderer.end_process()
    monkeypatch.setattr(module, "_ANSWER_S", 0.2 if harm == signal.SIGSTOP else 15.0)
    renderer.connection()
    pid = pid_of(renderer)
    assert pid is not None
    with alarm(lambda: os.kill(pid, harm)), pytest.raises(RendererError, match=told):
        renderer.render(GREEDY["words"][0], {"n": 10**9})
    monkeypatch.undo()
    renderer.end_process()
    assert renderer.render("{{ input.n }}", {"n": 1}) == "1"


def test_a_process_that_died_unused_costs_no_answer(renderer: Renderer) -> None:
    renderer.render("{{ input.n }}", {"n": 1})
    pid = pid_of(renderer)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert renderer.render("{{ input.n }}", {"n": 1}) == "1"


def test_the_limits_are_not_for_compiling_the_largest_template(renderer: Renderer) -> None:
    part = "{{ input.n | e }}"  # each takes many times its memory
    assert renderer.render(part * (MAX_TEMPLATE // len(part)), {"n": 1}) == "1" * (MAX_TEMPLATE // len(part))


@contextmanager
def alarm(act: Callable[[], object]) -> Iterator[None]:
    """Calls `act` on a signal that comes a moment later."""
    handler = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
