"""Chat templates from anywhere are rendered, or refused within bounds of time and memory."""

import resource
import signal
import time
from collections.abc import Iterator

import pytest

from edge_agent.engine.prompt.chat_template import ChatError, ChatTemplate, UnusableTemplateError, chat_template_fault

LONG = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "powers of large numbers": "{% for a in range(9) %}{{ (9 ** 9999999) % 7 }}{% endfor %}",
}
LARGE = {
    "a text many times": "{{ 'x' * 10 ** 10 }}",
    "a text that is padded": "{{ messages[0].content.ljust(10 ** 9) | length }}",
    "a list that grows": "{% set n = namespace(l=[1]) %}{% for a in range(99) %}{% set n.l = n.l + n.l %}{% endfor %}",
}
# Nothing hears a signal while it runs, so the signal ends the process.
DEAF = "{% set s = 'a' * 9999999 %}{{ s.rfind('ab' ~ 'a' * 999999) }}"


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


def test_a_template_that_writes_too_much_is_refused() -> None:
    with pytest.raises(UnusableTemplateError, match=r"writes 1000000 characters, at most 65538 are allowed"):
        ChatTemplate("{{ messages[0].content.ljust(10 ** 6) }}")


def test_a_template_that_cannot_be_interrupted_harms_another_process_only() -> None:
    assert (
        chat_template_fault(DEAF)
        == "ended the process that tried it (killed by SIGVTALRM, its chat template did not end)"
    )


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{{ raise_exception('only for tools') }}", None),
        ("{{ 'x' * 10 ** 10 }}", "takes more than 64 MB of memory"),
        ("{{ '\\u00e9' | no_such }}", "line 1: No filter named 'no_such'."),
    ],
)  # fmt: skip
def test_a_template_is_tried_in_another_process(source: str, fault: str | None) -> None:
    assert chat_template_fault(source) == fault


def test_a_template_that_only_some_messages_make_endless_is_refused_for_those() -> None:
    template = ChatTemplate(
        "{% if 'bomb' in messages[0].content %}{{ 'x'.ljust(10 ** 9) }}{% endif %}{{ messages[0].content }}"
    )
    for _ in range(3):
        with pytest.raises(ChatError, match="memory"):
            template.render([("user", "a bomb")])
        assert template.render([("user", "a pump")]) == "a pump"


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% include 'x' %}"]
)
def test_whatever_a_template_raises_is_its_own_fault(source: str) -> None:
    with pytest.raises(ChatError):
        ChatTemplate(source).render([("user", "x")])
