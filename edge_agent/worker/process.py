"""The agent's end of the pipe: starts the worker, writes commands, delivers events. It decides nothing."""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from edge_agent.core.environment import child_environment, library_environment
from edge_agent.core.pipe import Command, Event, Load, decode_event, encode_command

log = logging.getLogger(__name__)

# A worker sends Progress every second, also while idle; the longest step, a full batch of a 3B model on a Pi 4, is
# shorter than this.
ANSWER_SILENCE_S = 120.0
_TAIL_LINES = 20
# How long a worker may take from the end of its output to its own end; then it is killed.
_END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExited:
    """The last event of a worker."""

    returncode: int
    """0 after `stop`; the negative number of the signal if one ended it."""
    log_tail: tuple[str, ...]
    """Its last lines on standard error."""


class WorkerProcess:
    """One worker process from its start to its end. Methods may be called from any thread."""

    def __init__(self, load: Load, deliver: Callable[[WorkerProcess, Event | WorkerExited], None]) -> None:
        """Raises OSError if the process cannot be started.

        A thread of this object calls `deliver` with each event in order, the last being exactly one WorkerExited.
        """
        self._deliver = deliver
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        # A thread writes it, because a worker that does not read must not block `send`. None closes the worker's input.
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edge_agent.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**child_environment(), **library_environment()},
            # Ctrl-C in a terminal is for the agent.
            process_group=0,
        )
        self.pid = self._process.pid
        self._write_thread = threading.Thread(target=self._write_commands, name="engine-writes", daemon=True)
        self._event_thread = threading.Thread(target=self._read_events, name="engine-events", daemon=True)
        self._log_thread = threading.Thread(target=self._read_log, name="engine-log", daemon=True)
        self.send(load)
        # The event thread comes last: it waits for the others when the process ends, which may be at once.
        for thread in (self._log_thread, self._write_thread, self._event_thread):
            thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def send(self, command: Command) -> None:
        """Queues a command; never waits. A worker that is gone ignores it, and WorkerExited follows."""
        self._outgoing.put(encode_command(command))

    def _write_commands(self) -> None:
        process = self._process
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:  # the worker may no longer read
            while (line := self._outgoing.get()) is not None:
                process.stdin.write(line)
                process.stdin.flush()

    def stop(self, timeout_s: float) -> None:
        """Ends the worker: closes its input, and sends SIGKILL after `timeout_s`.

        All events have been delivered when it returns. `deliver` must not call it.
        """
        process = self._process
        self._outgoing.put(None)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("worker %d did not end within %.1f s and is killed", process.pid, timeout_s)
            process.kill()
        self._event_thread.join()

    def kill(self) -> None:
        """Sends SIGKILL, for a worker that does not answer; WorkerExited follows."""
        self._process.kill()

    def _read_events(self) -> None:
        process = self._process
        assert process.stdout is not None
        for line in process.stdout:
            try:
                event = decode_event(line)
            except ValidationError:
                # The line was cut by the worker's death, or it is our bug, so nothing after it can be trusted.
                log.exception("worker %d wrote a line that is no event: %r", process.pid, line[:200])
                process.kill()
                break
            self._deliver(self, event)
        try:
            returncode = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            returncode = process.wait()
        self._log_thread.join()
        self._outgoing.put(None)
        self._write_thread.join()
        process.stdout.close()
        self._deliver(self, WorkerExited(returncode=returncode, log_tail=tuple(self._tail)))

    def _read_log(self) -> None:
        process = self._process
        assert process.stderr is not None
        for line in process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            log.debug("worker %d: %s", process.pid, text)
        process.stderr.close()
