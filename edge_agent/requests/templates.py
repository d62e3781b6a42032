"""A task's user message: Jinja in the sandbox over `input` and `topic`.

A caller's input decides how much a template computes, so the agent renders in a process with limits (renderer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from edge_agent.core.strict_json import compact_json
from edge_agent.core.wording import printable, shown

# No context is larger than such a text.
MAX_CHARACTERS = 4_000_000
_MAX_REASON = 300
_VARIABLES = ("input", "topic")


class TemplateInputError(Exception):
    """The input does not have what the template needs; the message names it."""

    @classmethod
    def misfit(cls, why: str) -> TemplateInputError:
        return cls(f"input: does not fit the task's template: {why}")


def _as_text(value: Any) -> Any:
    """A value of the input as it is printed: text as it is, everything else as JSON (`true`, not `True`)."""
    if callable(value) and not isinstance(value, jinja2.Undefined):
        # `input.items` of a reading without this key is the method of dict.
        name = getattr(value, "__name__", "this value")
        raise jinja2.UndefinedError(f"input: has no {shown(name)}, which the task's template needs")
    if isinstance(value, bool) or value is None or isinstance(value, (Mapping, list, tuple)):
        return compact_json(value)
    return value


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        # A reading with a key "items" or "values" means its own value, never the method of dict.
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


class _Missing(jinja2.StrictUndefined):
    @property
    def _undefined_message(self) -> str:
        if self._undefined_obj is missing and self._undefined_name == "topic":
            return "topic: rows and examples have none, so the task's template needs a `default(…)`"
        return f"input: has no {shown(self._undefined_name)}, which the task's template needs"


_ENVIRONMENT = _Environment(undefined=_Missing, finalize=_as_text, keep_trailing_newline=True)


@lru_cache(maxsize=256)
def compiled(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


def template_fault(template: str) -> str | None:
    try:
        compiled(template)
        unknown = _variables(template) - {*_VARIABLES, *_ENVIRONMENT.globals}
    except (RecursionError, MemoryError):
        return "not a Jinja template: it is nested too deeply"
    except Exception as error:  # noqa: BLE001 - also of the Python code that Jinja makes
        return f"not a Jinja template: {error}"
    return f"the only variables are `input` and `topic`; unknown: {', '.join(sorted(unknown))}" if unknown else None


def _variables(template: str) -> set[str]:
    return find_undeclared_variables(_ENVIRONMENT.parse(template))


@lru_cache(maxsize=256)
def names_topic(template: str) -> bool:
    """Whether a valid template depends on the topic, so that equal inputs on two topics are different requests."""
    return "topic" in _variables(template)


def constant_prefix(template: str) -> str:
    """The text before the first thing that depends on the message. It is the same in every rendering."""
    prefix = ""
    for node in _ENVIRONMENT.parse(template).body:
        if not isinstance(node, nodes.Output):
            return prefix
        for part in node.nodes:
            if not isinstance(part, nodes.TemplateData):
                return prefix
            prefix += part.data
    return prefix


def render(template: str, value: object, topic: str | None = None) -> str:
    """The user message for an input (text, object or list as parsed from JSON). Raises TemplateInputError.

    `topic` is None if the input did not come in a message.
    """
    variables = {"input": value} if topic is None else {"input": value, "topic": topic}
    try:
        text = compiled(template).render(variables)
        if len(text) > MAX_CHARACTERS:
            raise TypeError(f"it produces more than {MAX_CHARACTERS} characters")
        text.encode()  # Fails for half of a surrogate pair, such as `"%c" % 0xd800` makes, which is no text.
    except jinja2.UndefinedError as error:
        raise TemplateInputError(_reason(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # From anything that the template calls.
        raise TemplateInputError.misfit(_reason(error)) from error
    return text


def _reason(error: Exception) -> str:
    # Some errors name what was looked for, which may be as long as the input.
    return printable(str(error)[:_MAX_REASON])
