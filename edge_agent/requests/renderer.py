"""Renders the templates of tasks in a process of its own, within bounds of time and memory.

A caller's input says how often a template loops, and how much `join`, `replace` or `~` makes of it. Within the agent
nothing could bound that: a call of C code hears no signal, and a limit of memory holds for the whole process, whose
network threads would be the ones that find none.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable

from edge_agent.core.bounded import OutOfBoundsError, bounded
from edge_agent.core.config import DEFAULT_TEMPLATE
from edge_agent.core.errors import how_ended
from edge_agent.core.heap import keep_heap_small
from edge_agent.core.strict_json import compact_json
from edge_agent.requests.templates import TemplateInputError, render

# A reading takes 0.05 ms on a PC, and as many as fill a context of 131072 tokens 0.1 s: a board with its small contexts
# has plenty, and while it renders the agent hears nobody else.
_CPU_S = 0.5
# Twice what the longest text takes, in pieces and whole.
_MEMORY_BYTES = 64_000_000
# By the clock, where the board is busy or reads the program from its card: less than WatchdogSec= leaves.
_ANSWER_S = 15.0
_END_S = 2.0


class RendererError(Exception):
    """There was no answer, which is no fault of the input."""


class Renderer:
    """The agent's end. Belongs to the agent's thread, which waits for each answer."""

    def __init__(self) -> None:
        self._child: _Child | None = None

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        return None if self._child is None else self._child.process.pid

    def prepare(self, templates: Iterable[str]) -> None:
        """Starts the process, if one of these needs it, so that no request waits for it. Raises OSError."""
        if not all(template == DEFAULT_TEMPLATE for template in templates):
            self._running()

    def render(self, template: str, value: object) -> str:
        """As `templates.render`, within bounds. Raises TemplateInputError; RendererError, OSError."""
        if template == DEFAULT_TEMPLATE:
            return render(template, value)
        child = self._running()
        try:
            answer = child.ask(compact_json([template, value]).encode())
        except TimeoutError:
            child.process.kill()
            self._replace(child)
            raise RendererError(f"a template was not rendered within {_ANSWER_S:g} s") from None
        except OSError:
            answer = b""
        if not answer:
            returncode = self._replace(child)
            if returncode == -signal.SIGVTALRM:
                raise TemplateInputError.misfit(f"it takes more than {_CPU_S:g} s of CPU time")
            raise RendererError(f"the process that renders templates ended ({how_ended(returncode)})")
        told = json.loads(answer)
        if "fault" in told:
            raise TemplateInputError(told["fault"])
        text: str = told["text"]
        return text

    def stop(self) -> None:
        """Ends the process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _running(self) -> _Child:
        if self._child is None or self._child.process.poll() is not None:
            self.stop()
            self._child = _Child()
        return self._child

    def _replace(self, child: _Child) -> int:
        """How it ended. The next one starts at once: who asks next hardly waits for it."""
        self._child = None
        returncode = child.end()
        with contextlib.suppress(OSError):  # tried again then
            self._running()
        return returncode


class _Child:
    """One process from start to end. Raises OSError if there can be none."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        with other:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "edge_agent.requests.renderer"],
                    stdin=other.fileno(),
                    stdout=other.fileno(),
                    # The child imports what the parent imported, from wherever it was started.
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    # Ctrl-C in a terminal is for the agent.
                    process_group=0,
                )
            except BaseException:
                self._socket.close()
                raise
        self._socket.settimeout(_ANSWER_S)
        self._answers = self._socket.makefile("rb")

    def ask(self, line: bytes) -> bytes:
        """Its answer; b"" if it ended before. Raises TimeoutError, OSError."""
        self._socket.sendall(line + b"\n")
        answer = self._answers.readline()
        return answer if answer.endswith(b"\n") else b""

    def end(self) -> int:
        """How it ended, by the end of its input or SIGKILL, if it had not."""
        self._answers.close()
        self._socket.close()
        try:
            return self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _serve() -> None:
    keep_heap_small()
    # What is here to stay need not be looked through each time.
    gc.freeze()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(compact_json(_answer(*json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()
        # What a template has made may hold itself, and what holds it is a few objects: the collector would not hurry.
        gc.collect()


def _answer(template: str, value: object) -> dict[str, str]:
    try:
        with bounded(cpu_s=_CPU_S, memory_bytes=_MEMORY_BYTES):
            return {"text": render(template, value)}
    except TemplateInputError as error:
        return {"fault": str(error)}
    except OutOfBoundsError as error:
        return {"fault": str(TemplateInputError.misfit(f"it {error}"))}


if __name__ == "__main__":
    _serve()
