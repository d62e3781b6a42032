"""Chat templates from anywhere: each is rendered, or refused within bounds of time and memory."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.core.bounded import OutOfBoundsError, bounded
from edge_agent.engine.prompt.chat_template import ChatError, ChatTemplate, UnusableTemplateError, fault_of

LONG = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop without output": "{% set n = namespace(i=0) %}" + "{% for a in range(999) %}" * 5
    + "{% set n.i = n.i + 1 %}" + "{% endfor %}" * 5,
    "recursion without end": "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "lists of words": "{{ lipsum(n=99999) | length }}",
    "powers of large numbers": "{% for a in range(9) %}{{ (9 ** 9999999) % 7 }}{% endfor %}",
}  # fmt: skip
LARGE = {
    "a text many times": "{{ 'x' * 10 ** 10 }}",
    "a text that is only measured": "{{ ('x' * 10 ** 9) | length }}",
    "a text that is padded": "{{ messages[0].content.ljust(10 ** 9) | length }}",
    "a centred text": "{{ messages[0].content | center(10 ** 9) | length }}",
    "a wide number": "{{ ('%1000000000d' % 1) | length }}",
    "a format": "{{ '{:1000000000d}'.format(1) | length }}",
    "a text that doubles": "{% set n = namespace(s='x' * 99) %}{% for a in range(99) %}{% set n.s = n.s ~ n.s %}"
    "{% endfor %}",
    "a list that grows": "{% set n = namespace(l=[1]) %}{% for a in range(99) %}{% set n.l = n.l + n.l %}{% endfor %}",
}
LENGTHY = {
    "blanks": "{{ messages[0].content.ljust(10 ** 6) }}",
    "a short loop": "{% for a in range(9999) %}0123456789{% endfor %}",
}
# Nothing hears a signal while these run: they end the process.
DEAF = {
    "a search that begins anew at each place": "{% set s = 'a' * 9999999 %}{{ s.rfind('ab' ~ 'a' * 999999) }}",
    "lists of the same lists": "{% set n = namespace(a=[1], b=[1.0]) %}{% for i in range(60) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    limits, handler = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGPROF)
    yield
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert signal.getsignal(signal.SIGPROF) == handler
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


@pytest.mark.parametrize("name", LONG)
def test_a_template_that_takes_too_long_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.engine.prompt.chat_template._CPU_S", 0.2)
    began = time.process_time()
    with pytest.raises(UnusableTemplateError, match=r"takes more than 0\.2 s of CPU time"):
        ChatTemplate(LONG[name])
    assert time.process_time() - began < 0.6


@pytest.mark.parametrize("name", LARGE)
def test_a_template_that_takes_too_much_memory_is_refused(name: str) -> None:
    with pytest.raises(UnusableTemplateError, match="64 MB of memory"):
        ChatTemplate(LARGE[name])


@pytest.mark.parametrize("name", LENGTHY)
def test_a_template_that_writes_too_much_is_refused(name: str) -> None:
    with pytest.raises(UnusableTemplateError, match=r"writes [0-9]+ characters, at most 65538 are allowed"):
        ChatTemplate(LENGTHY[name])


@pytest.mark.parametrize("name", DEAF)
def test_a_template_that_cannot_be_interrupted_harms_another_process_only(name: str) -> None:
    began = time.monotonic()
    assert fault_of(DEAF[name]) == (
        "ended the process that tried it (killed by SIGVTALRM, its chat template did not end)"
    )
    assert time.monotonic() - began < 90


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{{ messages[0].content }}", None),
        ("{{ raise_exception('only for tools') }}", None),
        ("{{ nothing.at.all }}", None),
        ("{% if %}", "line 1: Expected an expression, got 'end of statement block'"),
        ("{{ 'x' * 10 ** 10 }}", "takes more than 64 MB of memory"),
        (LONG["nested loops"], "takes more than 1 s of CPU time"),
        ("{{ '\\u00e9' | no_such }}", "line 1: No filter named 'no_such'."),
    ],
)  # fmt: skip
def test_a_template_is_tried_in_another_process(source: str, fault: str | None) -> None:
    assert fault_of(source) == fault


def test_a_template_that_only_some_messages_make_endless_is_refused_for_those() -> None:
    template = ChatTemplate(
        "{% if 'bomb' in messages[0].content %}{{ 'x'.ljust(10 ** 9) }}{% endif %}{{ messages[0].content }}"
    )
    for _ in range(3):
        with pytest.raises(ChatError, match="memory"):
            template.render([("user", "a bomb")])
        assert template.render([("user", "a pump")]) == "a pump"


def test_a_long_conversation_may_make_a_long_text() -> None:
    template = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    assert len(template.render([("user", "x" * 1000)] * 1000)) == 1_006_000


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% include 'x' %}"]
)
def test_whatever_a_template_raises_is_its_own_fault(source: str) -> None:
    with pytest.raises(ChatError):
        ChatTemplate(source).render([("user", "x")])


def test_memory_that_a_template_took_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.engine.prompt.chat_template._CPU_S", 10.0)

    def used() -> int:
        return int(Path("/proc/self/statm").read_text("ascii").split()[5]) * resource.getpagesize()

    template = ChatTemplate(
        "{% if messages[0].content == 'b' %}{% set n = namespace(l=[]) %}{% for a in range(99999) %}"
        "{% set n.l = [n.l, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' ~ a * a] %}{% endfor %}{{ 'x' * 10 ** 9 }}{% endif %}"
    )
    before = used()
    for _ in range(5):
        with pytest.raises(ChatError, match="memory"):
            template.render([("user", "b")])
    assert used() - before < 40_000_000


def test_a_body_within_its_bounds_is_left_alone() -> None:
    with bounded(cpu_s=5, memory_bytes=50_000_000):
        text = "x" * 20_000_000
    assert len(text) == 20_000_000


def test_an_exception_that_is_dropped_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finalized:
        def __del__(self) -> None:
            while not dropped:
                pass

    def endless() -> None:
        Finalized()
        while True:
            pass

    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))
    with pytest.raises(OutOfBoundsError), bounded(cpu_s=0.2, memory_bytes=50_000_000):
        endless()
    assert len(dropped) == 1
