"""A model's chat template: Jinja of unknown origin, rendered within bounds of time and memory.

It runs as in transformers' apply_chat_template. The sandbox protects the objects around it, but does not bound loops or
large texts (`ljust(10 ** 9)`); `bounded` does.
"""

import json
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_agent.core.bounded import FAULTY, OutOfBoundsError, bounded, run_in_child

CLOCK = "strftime_now"
# Qwen2.5's template takes less than a millisecond on a PC.
_CPU_S = 1.0
_MEMORY_BYTES = 64_000_000
# Templates write each message once: text beyond twice the messages is the template's own.
_MAX_OWN_CHARACTERS = 65_536
_TRIALS = ([("user", "a")], [("system", "a"), ("user", "b")])


_T = TypeVar("_T")


class ChatError(Exception):
    """The model's chat template does not take these messages; the message is the template's own."""


class UnusableTemplateError(ChatError):
    """The template does not compile, or exceeds its bounds."""


class ChatTemplate:
    """A template that compiles and stays within its bounds for short messages. Raises UnusableTemplateError."""

    def __init__(self, source: str) -> None:
        try:
            # Jinja computes constants here.
            self._template = _bounded(lambda: _environment().from_string(source))
        except ChatError as error:
            raise UnusableTemplateError(str(error)) from error
        for messages in _TRIALS:
            try:
                self.render(messages)
            except UnusableTemplateError:
                raise
            except ChatError:
                continue  # It may refuse some messages.

    def render(
        self,
        messages: Iterable[tuple[str, str]],
        *,
        bos_token: str = "",
        eos_token: str = "",
        add_generation_prompt: bool = True,
        enable_thinking: bool = True,
    ) -> str:
        """The text of a conversation, given as role and content of each message. Raises ChatError.

        Without `enable_thinking` the templates of Qwen3 and similar models write an empty thought.
        """
        turns = [{"role": role, "content": content} for role, content in messages]
        limit = _MAX_OWN_CHARACTERS + 2 * sum(len(message["content"]) for message in turns)
        text = _bounded(
            lambda: self._template.render(
                messages=turns,
                tools=None,
                bos_token=bos_token,
                eos_token=eos_token,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=enable_thinking,
            )
        )
        if len(text) > limit:
            raise UnusableTemplateError(f"writes {len(text)} characters, at most {limit} are allowed here")
        return text


@lru_cache(maxsize=16)
def chat_template_fault(source: str) -> str | None:
    """Why a template cannot be used, or None. It is tried in a child process, which it may end."""
    try:
        run_in_child("edge_agent.engine.prompt.chat_template", source.encode())
    except OutOfBoundsError as error:
        return str(error)
    return None


def _main() -> int:
    try:
        ChatTemplate(sys.stdin.buffer.read().decode())
    except UnusableTemplateError as error:
        sys.stdout.buffer.write(str(error).encode(errors="backslashreplace"))
        return FAULTY
    return 0


def _bounded(work: Callable[[], _T]) -> _T:
    """Raises UnusableTemplateError where it exceeds the bounds, ChatError where it raises anything."""
    try:
        with bounded(cpu_s=_CPU_S, memory_bytes=_MEMORY_BYTES):
            return work()
    except OutOfBoundsError as error:
        raise UnusableTemplateError(str(error)) from error
    except TemplateSyntaxError as error:
        raise ChatError(f"line {error.lineno}: {error.message}") from error
    except Exception as error:
        raise ChatError(str(error) or type(error).__name__) from error


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals[CLOCK] = _strftime_now
    return environment


def _to_json(value: object, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


if __name__ == "__main__":
    sys.exit(_main())
