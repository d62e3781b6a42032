"""Renders the templates of tasks in a process of its own, with limits of time and memory.

A caller's input decides how often a template loops and how much `join` or `replace` makes of it. The agent cannot limit
that in its own process. No signal interrupts a call of C code, and a memory limit would hit its network threads too.
"""

from __future__ import annotations

import gc
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.core.bounded import OutOfBoundsError, bounded
from edge_agent.core.environment import child_environment, keep_heap_small
from edge_agent.core.strict_json import compact_json
from edge_agent.core.wording import how_ended
from edge_agent.requests.templates import TemplateInputError, compiled, render

if TYPE_CHECKING:  # The process needs little of the agent.
    from edge_agent.requests.request import Request

# A reading takes 0.05 ms on a PC, and a context of 131072 tokens 0.1 s. Other templates wait meanwhile.
_CPU_S = 0.5
# Twice what the longest text takes while its pieces are joined.
_MEMORY_BYTES = 64_000_000
# Enough for a busy board, or one that reads the program from a slow card. WatchdogSec= is longer.
_ANSWER_S = 15.0


class RendererError(Exception):
    """There was no answer, which is not the input's fault."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What became of a request's template."""

    request: Request
    outcome: str | Exception

    def text(self, _template: str, _value: object) -> str:
        """Takes the place of `templates.render`. Raises TemplateInputError, RendererError, OSError."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


# Takes a request, the template and the input; see `Renderer.ask`.
AskRenderer = Callable[["Request", str, object], object]


class Renderer:
    """A thread that asks the process and waits for each answer, so that the agent's thread waits for no template."""

    def __init__(self, deliver: Callable[[Rendered], object]) -> None:
        """`deliver` takes what became of each template, on this thread."""
        self._deliver = deliver
        # The process, and the agent's end of its input and output.
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="renderer")

    def start_process(self) -> None:
        """Starts the process before it is needed, so that no request waits for that."""
        self._thread.submit(self.connection)  # If this fails, the first request reports why.

    def ask(self, request: Request, template: str, value: object) -> None:
        """Renders it after those that were asked before, and delivers what became of it.

        A request that has ended by then, because it expired or was cancelled, is skipped.
        """
        self._thread.submit(self._render_for, request, template, value)

    def stop(self) -> None:
        """Ends the thread and the process, and drops requests that are not rendered yet."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.end_process()

    def _render_for(self, request: Request, template: str, value: object) -> None:
        if request.is_answered:
            return
        try:
            outcome: str | Exception = self.render(template, value, request.topic)
        except Exception as error:  # noqa: BLE001 - raised where the request is answered
            outcome = error
        self._deliver(Rendered(request, outcome))

    def render(self, template: str, value: object, topic: str | None = None) -> str:
        """See `templates.render`, with limits. Raises TemplateInputError; RendererError, OSError."""
        connection = self.connection()
        try:
            connection.sendall(compact_json([template, value, topic]).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
        except TimeoutError:
            self.end_process()
            raise RendererError(f"a template was not rendered within {_ANSWER_S:g} s") from None
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            returncode = self.end_process()
            if returncode == -signal.SIGVTALRM:
                raise TemplateInputError.misfit(f"it takes more than {_CPU_S:g} s of CPU time")
            raise RendererError(f"the process that renders templates ended ({how_ended(returncode)})")
        answer: dict[str, str] = json.loads(line)
        if "fault" in answer:
            raise TemplateInputError(answer["fault"])
        return answer["text"]

    def end_process(self) -> int:
        """Ends the process, if there is one. Returns its exit code, even if it has ended by itself."""
        if self._running is None:
            return 0
        (process, connection), self._running = self._running, None
        connection.close()
        process.kill()
        return process.wait()

    def connection(self) -> socket.socket:
        """A connection to the process, which is started if it does not run. Raises OSError."""
        if self._running is not None and self._running[0].poll() is None:
            return self._running[1]
        self.end_process()
        own, other = socket.socketpair()
        with other:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edge_agent.requests.renderer"],
                stdin=other.fileno(),
                stdout=other.fileno(),
                env=child_environment(),
                # Ctrl-C in a terminal is for the agent.
                process_group=0,
            )
        own.settimeout(_ANSWER_S)
        self._running = process, own
        return own


def _serve() -> None:
    keep_heap_small()
    # The collector need not look at what stays.
    gc.freeze()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(compact_json(_answer(*json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()
        # A template may make large objects that refer to themselves.
        gc.collect()


def _answer(template: str, value: object, topic: str | None) -> dict[str, str]:
    # Compiled once, outside the limits, because a large template takes more than they allow.
    compiled(template)
    try:
        with bounded(cpu_s=_CPU_S, memory_bytes=_MEMORY_BYTES):
            return {"text": render(template, value, topic)}
    except TemplateInputError as error:
        return {"fault": str(error)}
    except OutOfBoundsError as error:
        return {"fault": str(TemplateInputError.misfit(f"it {error}"))}


if __name__ == "__main__":
    _serve()
