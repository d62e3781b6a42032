"""PURE. A task's user message: Jinja in the sandbox over one variable, `input`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.filters import do_format
from jinja2.meta import TrackingCodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_agent.core.errors import printable, shown
from edge_agent.core.strict_json import compact_json


class TemplateInputError(Exception):
    """The input does not have what the template needs; the message names it."""

    @classmethod
    def misfit(cls, why: str) -> TemplateInputError:
        return cls(f"input: does not fit the task's template: {why}")


# With a context, though it needs none: what needs one is never computed while a template is compiled.
@jinja2.pass_context
def _as_text(_context: Any, value: Any) -> Any:
    """How a value of the input is printed: text as it is, everything else as JSON (`true`, not `True`)."""
    if callable(value) and not isinstance(value, jinja2.Undefined):
        # `input.items` of a reading without such a key is the method of dict.
        name = getattr(value, "__name__", "such value")
        raise jinja2.UndefinedError(f"input: has no {shown(name)}, which the task's template needs")
    if isinstance(value, bool) or value is None or isinstance(value, (Mapping, list, tuple)):
        return compact_json(value)
    return value


# What fills a text up to a width; a thousand is more than a prompt needs.
_PADDING = frozenset(("ljust", "rjust", "center", "zfill", "expandtabs", "indent"))
_MOST_WIDTH = 1000
_WIDE_FORMAT = re.compile(r"(?<!%)(?:%%)*%(?!%)[^a-zA-Z%]*(?:\*|[0-9]{4})")


def _check_widths(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and value > _MOST_WIDTH:
            raise TypeError(f"a width should be at most {_MOST_WIDTH} (got {shown(value)})")


def _check_format(text: object) -> None:
    if isinstance(text, str) and _WIDE_FORMAT.search(text):
        raise TypeError(f"a width in a format should be a number below {_MOST_WIDTH} (got {shown(text)})")


# No context holds so many. A loop in a loop makes the square of what it is given.
_MOST_CHARACTERS = 4_000_000
_MOST_TOLD = 300


class _Environment(ImmutableSandboxedEnvironment):
    # The sandbox bounds none of `"x" * 1000000`, `9 ** 9 ** 9`, `"%99999999d" % 1` and `"x".ljust(10 ** 9)`; of all of
    # them any part may come from a reading.
    intercepted_binops = frozenset(("*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in _PADDING & self.filters.keys():
            self.filters[name] = _narrow(self.filters[name])
        self.filters["format"] = _format

    def call_binop(self, _context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            _check_format(left)
            return left % right
        if not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
            raise TypeError(f"{operator} takes two numbers")
        return left * right if operator == "*" else float(left) ** right

    def call(self, context: Any, called: Any, /, *values: Any, **named: Any) -> Any:
        if getattr(called, "__name__", None) in _PADDING:
            _check_widths((*values, *named.values()))
        return super().call(context, called, *values, **named)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A reading with a key "items" or "values" means its own value, never the method of dict.
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def _narrow(pad: Callable[..., str]) -> Callable[..., str]:
    def narrow(*values: Any, **named: Any) -> str:
        _check_widths((*values[1:], *named.values()))
        return pad(*values, **named)

    return narrow


def _format(text: Any, *values: Any, **named: Any) -> str:
    _check_format(text)
    return do_format(text, *values, **named)


class _Missing(jinja2.StrictUndefined):
    @property
    def _undefined_message(self) -> str:
        return f"input: has no {shown(self._undefined_name)}, which the task's template needs"


# Unoptimized, it computes no constants as it compiles: `10 | round(-1000000000)` is one.
_ENVIRONMENT = _Environment(undefined=_Missing, finalize=_as_text, keep_trailing_newline=True, optimized=False)


@lru_cache(maxsize=256)
def _compiled(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


def template_fault(template: str) -> str | None:
    """What is wrong with a template, or None. Nothing of it is computed."""
    try:
        tree = _ENVIRONMENT.parse(template)
        options = [option for node in tree.find_all(nodes.EvalContextModifier) for option in node.options]
        if not all(isinstance(option.value, nodes.Const) for option in options):
            return "autoescape should be true or false"
        _compiled(template)
        unknown = _variables(tree) - {"input", *_ENVIRONMENT.globals}
    except (RecursionError, MemoryError):
        return "not a Jinja template: it is nested too deeply"
    except Exception as error:  # noqa: BLE001 - of the Python that Jinja makes of it, too
        return f"not a Jinja template: {error}"
    calls = [(getattr(node.node, "attr", None), node.args) for node in tree.find_all(nodes.Call)]
    calls += [(node.name, node.args) for node in tree.find_all(nodes.Filter)]
    for name, given in calls:
        widths = [part.value for part in given if isinstance(part, nodes.Const) and isinstance(part.value, int)]
        if name in _PADDING and max(widths, default=0) > _MOST_WIDTH:
            return f"the width of {name} should be at most {_MOST_WIDTH} (got {max(widths)})"
    if unknown:
        return f"the only variable is `input`; unknown: {', '.join(sorted(unknown))}"
    return None


def _variables(tree: nodes.Template) -> set[str]:
    # As jinja2.meta.find_undeclared_variables, which computes constants.
    generator = TrackingCodeGenerator(_ENVIRONMENT)
    generator.optimizer = None
    generator.visit(tree)
    return generator.undeclared_identifiers


def constant_head(template: str) -> str:
    """The text before the first thing that depends on the input: the same in every rendering."""
    head = ""
    for node in _ENVIRONMENT.parse(template).body:
        if not isinstance(node, nodes.Output):
            return head
        for part in node.nodes:
            if not isinstance(part, nodes.TemplateData):
                return head
            head += part.data
    return head


def render(template: str, value: object) -> str:
    """The user message for an input (text, object or list as parsed from JSON). Raises TemplateInputError."""
    pieces: list[str] = []
    left = _MOST_CHARACTERS
    try:
        for piece in _compiled(template).generate(input=value):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise TypeError(f"it would make more than {_MOST_CHARACTERS} characters of it")
        text = "".join(pieces)
        text.encode()  # half of a surrogate pair, as `"%c" % 0xd800` makes one, is no text
    except jinja2.UndefinedError as error:
        raise TemplateInputError(_told(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # of whatever the template calls
        raise TemplateInputError.misfit(_told(error)) from error
    return text


def _told(error: Exception) -> str:
    # Some name what was looked for, which may be as long as the input.
    return printable(str(error)[:_MOST_TOLD])
