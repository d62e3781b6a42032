from __future__ import annotations

from typing import Any

import pytest

from edge_agent.requests.templates import TemplateInputError, constant_head, render, template_fault


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("hums loudly", "hums loudly"),
        ("  kept as sent\n", "  kept as sent\n"),
        ({"z": 1, "a": [True, None, "ü"]}, '{"z":1,"a":[true,null,"ü"]}'),
        ([1.5, {"b": False}], '[1.5,{"b":false}]'),
    ],
)
def test_the_default_template_prints_the_input(value: Any, text: str) -> None:
    assert render("{{ input }}", value) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ input.n }}", "7"),
        ("{{ input['n'] }}", "7"),
        ("{{ input.on }}", "true"),
        ("{{ input.nothing }}", "null"),
        ("{{ input.inner.list }}", "[1,2]"),
        ("{{ input.inner }}", '{"list":[1,2]}'),
        ("{{ input.n | float + 1 }}", "8.0"),
        ("{{ input.missing | default('none') }}", "none"),
        ("{% if input.missing is defined %}yes{% else %}no{% endif %}", "no"),
        ("{% for n in input.inner.list %}{{ n }};{% endfor %}", "1;2;"),
        ("line\n", "line\n"),
        ("{{ input.items }}", '"mine"'),
    ],
)
def test_templates_read_the_input(template: str, text: str) -> None:
    value = {"n": 7, "on": True, "nothing": None, "inner": {"list": [1, 2]}, "items": '"mine"'}
    assert render(template, value) == text


@pytest.mark.parametrize(
    ("template", "value", "name"),
    [
        ("{{ input.rpm }}", {"hz": 1}, '"rpm"'),
        ("{{ input['rpm'] }}", {"hz": 1}, '"rpm"'),
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
        ("{{ input.n + 1 }}", {"n": "x"}),
        ("{{ input.n | round }}", {"n": "x"}),
        ("{{ range(input.n) | length }}", {"n": 10**9}),
        ("{{ input.n.__class__.__mro__ }}", {"n": 1}),
        ("{{ '%c' % input.n }}", {"n": 0xD800}),
        ("{{ input.n | xmlattr }}", {"n": "x"}),
    ],
)
def test_an_input_that_the_template_cannot_work_on_is_the_callers_fault(template: str, value: Any) -> None:
    with pytest.raises(TemplateInputError):
        render(template, value)


def test_the_message_of_a_misfit_holds_no_control_characters() -> None:
    with pytest.raises(TemplateInputError) as caught:
        render("{{ input['a\x1bb'] }}", {})
    assert "\x1b" not in str(caught.value)


def test_the_message_of_a_misfit_does_not_grow_with_the_input() -> None:
    with pytest.raises(TemplateInputError) as caught:
        render("{{ input.format() }}", f"{{{'x' * 9999}}}")
    assert len(str(caught.value)) < 400


def test_input_text_is_never_a_template() -> None:
    assert render("{{ input }}", "{{ 7 * 7 }}") == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    "template",
    ["", "plain", "{{ range(3) | list }}", "{{ input }}", "{{ input.a | default(1) }}", "{% set x = 1 %}{{ x }}"],
)
def test_good_templates_have_no_fault(template: str) -> None:
    assert template_fault(template) is None


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ input ", "not a Jinja template"),
        ("{% if %}", "not a Jinja template"),
        ("{{ input | no_such_filter }}", "no_such_filter"),
        ("{{ inptu }}", "unknown: inptu"),
        ("{{ b }}{{ a }}", "unknown: a, b"),
        ("{% for a in input %}" * 25 + "{% endfor %}" * 25, "not a Jinja template: too many statically nested blocks"),
        ("{% if input %}" * 150 + "{% endif %}" * 150, "not a Jinja template: too many levels of indentation"),
        (f"{{{{ {'9' * 5000} }}}}", "not a Jinja template: Exceeds the limit"),
        ("{% autoescape 10 | round(-1000000000) %}{% endautoescape %}", "autoescape should be true or false"),
    ],
)
def test_a_bad_template_has_a_fault_in_words(template: str, fault: str) -> None:
    assert fault in str(template_fault(template))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 10 | round(-1000000000) }}",
        "{% if 10 | round(-1000000000) %}{% endif %}",
        "{% set x = [1, [2, 10 | round(-1000000000)]] %}",
    ],
)
def test_a_templates_constants_are_not_computed_before_it_is_rendered(template: str) -> None:
    assert template_fault(template) is None
    assert constant_head(template) == ""


@pytest.mark.parametrize(
    ("template", "head"),
    [
        ("Vibration: {{ input.hz }} Hz", "Vibration: "),
        ("{{ input }}", ""),
        ("all of it", "all of it"),
        ("a{# comment #}b{{ input }}", "ab"),
        ("a {% if input.x %}b{% endif %}", "a "),
        ("a {% raw %}{{ b }}{% endraw %} {{ input }}", "a {{ b }} "),
        ("", ""),
    ],
)
def test_the_constant_head_ends_where_the_input_begins(template: str, head: str) -> None:
    assert constant_head(template) == head


@pytest.mark.parametrize("template", ["Hz: {{ input.hz }}!", "a {% if input.hz %}b{% endif %}", "x\n  {{- input.hz }}"])
def test_every_rendering_begins_with_the_constant_head(template: str) -> None:
    assert render(template, {"hz": 5}).startswith(constant_head(template))


def test_pairs_of_a_reading_can_be_walked_through() -> None:
    template = "{% for key, value in input.items() %}{{ key }}={{ value }};{% endfor %}"
    assert render(template, {"a": 1, "b": True}) == "a=1;b=true;"


def test_a_method_of_an_object_is_no_value_of_a_reading() -> None:
    assert render("{{ input.items }}", {"items": 3}) == "3"
    with pytest.raises(TemplateInputError, match="items"):
        render("{{ input.items }}", {"a": 3})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ input % 60 }}", "5"),
        ("{{ '%06.1f mm %d %%' % (input, 12345) }}", "0065.0 mm 12345 %"),
        ("{{ '%5d' | format(input) }}", "   65"),
        ("{{ 'load %d%%: 1000' | format(input) }}", "load 65%: 1000"),
        ("{{ 'x'.ljust(3) }}{{ 'y' | center(3) }}.", "x   y ."),
    ],
)
def test_numbers_can_be_formatted(template: str, text: str) -> None:
    assert render(template, 65) == text


def test_numbers_can_be_multiplied() -> None:
    assert render("{{ input.a * 2 }} {{ input.a ** 2 }}", {"a": 3}) == "6 9"


def test_a_template_that_makes_too_much_of_an_input_is_stopped() -> None:
    text = "{% for a in input %}{% for b in input %}{{ a }}{{ b }}{% endfor %}{% endfor %}"
    assert len(render(text, ["x" * 100] * 100)) == 2_000_000
    with pytest.raises(TemplateInputError, match="it would make more than 4000000 characters"):
        render(text, ["x" * 100] * 1000)
