from typing import Any

import pytest

from edge_agent.requests.templates import TemplateInputError, constant_prefix, render, template_fault


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ input.n }}", "7"),
        ("{{ input.on }}", "true"),
        ("{{ input.nothing }}", "null"),
        ("{{ input.inner.list }}", "[1,2]"),
        ("{{ input.inner }}", '{"list":[1,2]}'),
        ("{{ input.missing | default('none') }}", "none"),
        ("{% if input.missing is defined %}yes{% else %}no{% endif %}", "no"),
        ("{% for n in input.inner.list %}{{ n }};{% endfor %}", "1;2;"),
        ("line\n", "line\n"),
        ("{{ input.items }}", '"mine"'),
        ("{{ input.template }}", "{{ 7 * 7 }}"),
        (
            "{{ input }}",
            '{"n":7,"on":true,"nothing":null,"inner":{"list":[1,2]},"items":"\\"mine\\"","template":"{{ 7 * 7 }}"}',
        ),
        ("{% for key, value in input.inner.items() %}{{ key }}={{ value }};{% endfor %}", "list=[1,2];"),
        ("{{ input.n * 2 }} {{ input.n ** 2 }} {{ input.n % 4 }}", "14 49 3"),
        ("{{ 'load %d%%: 1000' | format(input.n) }}", "load 7%: 1000"),
    ],
)
def test_templates_read_the_input(template: str, text: str) -> None:
    value = {"n": 7, "on": True, "nothing": None, "inner": {"list": [1, 2]}, "items": '"mine"'}
    value["template"] = "{{ 7 * 7 }}"
    assert render(template, value) == text


@pytest.mark.parametrize(
    ("template", "value", "name"),
    [
        ("{{ input.rpm }}", {"hz": 1}, '"rpm"'),
        ("{{ input.a.rpm }}", {"a": {}}, '"rpm"'),
        ("{{ input.rpm }}", "text", '"rpm"'),
        ("{{ input.rpm + 1 }}", {}, '"rpm"'),
        ("{% for x in input.rpm %}{% endfor %}", {}, '"rpm"'),
        ("{{ input.values }}", {}, '"values"'),
        ("{{ input[3] }}", [1], "3"),
    ],
)
def test_a_variable_missing_from_the_input_is_named(template: str, value: Any, name: str) -> None:
    with pytest.raises(TemplateInputError, match=f"input: has no {name}"):
        render(template, value)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ 1 / input.n }}", {"n": 0}),
        ("{{ input.n | round }}", {"n": "x"}),
        ("{{ range(input.n) | length }}", {"n": 10**9}),
        ("{{ input.n.__class__.__mro__ }}", {"n": 1}),
        ("{{ '%c' % input.n }}", {"n": 0xD800}),
    ],
)
def test_an_input_that_the_template_cannot_work_on_is_the_callers_fault(template: str, value: Any) -> None:
    with pytest.raises(TemplateInputError):
        render(template, value)


def test_the_message_of_a_misfit_is_printable_and_does_not_grow_with_the_input() -> None:
    for template, value in (("{{ input['a\x1bb'] }}", {}), ("{{ input.format() }}", f"{{{'x' * 9999}}}")):
        with pytest.raises(TemplateInputError) as caught:
            render(template, value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


def test_a_template_may_name_the_topic_which_only_messages_have() -> None:
    assert render("{{ topic }}: {{ input.hz }}", {"hz": 7}, "plant/1/hz") == "plant/1/hz: 7"
    assert render("{{ topic | default('?') }}: {{ input }}", "7") == "?: 7"
    with pytest.raises(TemplateInputError, match=r"^topic: rows and examples have none, so the task's"):
        render("{{ topic }}", "7")


@pytest.mark.parametrize(
    "template",
    [
        "",
        "plain",
        "{{ topic }}",
        "{{ range(3) | list }}",
        "{{ input }}",
        "{{ input.a | default(1) }}",
        "{% set x = 1 %}{{ x }}",
    ],
)
def test_good_templates_have_no_fault(template: str) -> None:
    assert template_fault(template) is None


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ input ", "not a Jinja template"),
        ("{{ input | no_such_filter }}", "no_such_filter"),
        ("{{ b }}{{ a }}", "unknown: a, b"),
        ("{% for a in input %}" * 25 + "{% endfor %}" * 25, "not a Jinja template: too many statically nested blocks"),
        ("{% if input %}" * 150 + "{% endif %}" * 150, "not a Jinja template: too many levels of indentation"),
        (f"{{{{ {'9' * 5000} }}}}", "not a Jinja template: Exceeds the limit"),
    ],
)
def test_a_bad_template_has_a_fault_in_words(template: str, fault: str) -> None:
    assert fault in str(template_fault(template))


@pytest.mark.parametrize(
    ("template", "head"),
    [
        ("Vibration: {{ input.hz }} Hz", "Vibration: "),
        ("{{ input }}", ""),
        ("all of it", "all of it"),
        ("on {{ topic }}", "on "),
        ("a{# comment #}b{{ input }}", "ab"),
        ("a {% if input.x %}b{% endif %}", "a "),
        ("a {% raw %}{{ b }}{% endraw %} {{ input }}", "a {{ b }} "),
        ("", ""),
    ],
)
def test_the_constant_head_ends_where_the_input_begins(template: str, head: str) -> None:
    assert constant_prefix(template) == head


def test_a_text_that_is_larger_than_any_context_is_refused() -> None:
    text = "{% for a in input %}{% for b in input %}{{ a }}{{ b }}{% endfor %}{% endfor %}"
    assert len(render(text, ["x" * 100] * 100)) == 2_000_000
    with pytest.raises(TemplateInputError, match="it produces more than 4000000 characters"):
        render(text, ["x" * 100] * 150)
