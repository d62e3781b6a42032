"""The parent's end of the pipe: starts the worker, writes commands, delivers events. It decides nothing."""

from __future__ import annotations

import errno
import logging
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from edge_agent.core.environment import library_environment
from edge_agent.core.protocol import Command, Event, Load, decode_event, encode_command

_logger = logging.getLogger(__name__)

_TAIL_LINES = 20
# A worker that has closed its output is about to end; one that is not is killed.
_END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExited:
    """The last thing that a worker gives. log_tail: its last lines on standard error.

    returncode: 0 after `stop`, minus the signal's number if a signal ended it.
    """

    returncode: int
    log_tail: tuple[str, ...]


class EngineProcess:
    """One worker process from start to end.

    deliver: called from a thread of this object with each event in order, and last with exactly one WorkerExited; it
    must not block. Methods may be called from any thread.
    """

    def __init__(self, load: Load, deliver: Callable[[Event | WorkerExited], None]) -> None:
        self._load = load
        self._deliver = deliver
        self._process: subprocess.Popen[bytes] | None = None
        self._write_lock = threading.Lock()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        # Written by a thread of its own: a worker that does not read must not stop whoever sends.
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._write_thread = threading.Thread(target=self._write_commands, name="engine-writes", daemon=True)
        self._event_thread = threading.Thread(target=self._read_events, name="engine-events", daemon=True)
        self._log_thread = threading.Thread(target=self._read_log, name="engine-log", daemon=True)

    @property
    def pid(self) -> int | None:
        """None before `start`."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether there is such a process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the worker and send it Load. Once only. Raises OSError if no process or thread can be started."""
        environment = {
            **os.environ,
            # The child imports what the parent imported, from wherever it was started.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **library_environment(),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edge_agent.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            # Ctrl-C in a terminal is for the agent.
            process_group=0,
        )
        try:
            for thread in (self._log_thread, self._event_thread, self._write_thread):
                thread.start()
        except BaseException as error:
            with self._process:
                self._process.kill()
            if isinstance(error, RuntimeError):
                raise OSError(errno.EAGAIN, str(error)) from error
            raise
        self.send(self._load)

    def send(self, command: Command) -> None:
        """Have a command written; never waits. If the worker is gone nothing happens here: WorkerExited follows."""
        self._started()
        self._outgoing.put(encode_command(command))

    def _write_commands(self) -> None:
        process = self._started()
        assert process.stdin is not None
        while (line := self._outgoing.get()) is not None:
            try:
                with self._write_lock:
                    process.stdin.write(line)
                    process.stdin.flush()
            except (BrokenPipeError, ValueError):
                # ValueError: closed by `stop`.
                _logger.debug("the worker does not read any more")

    def stop(self, timeout_s: float) -> None:
        """End the worker: by the end of its input, and after `timeout_s` seconds by SIGKILL.

        All events have been delivered when it returns. Not to be called from `deliver`.
        """
        process = self._started()
        self._outgoing.put(None)
        try:
            self._close_input(timeout_s)
            process.wait(timeout_s)
        except (TimeoutError, subprocess.TimeoutExpired):
            _logger.warning("worker %d did not end within %.1f s and is killed", process.pid, timeout_s)
            process.kill()
        self._event_thread.join()

    def kill(self) -> None:
        """SIGKILL, for a worker that does not answer; WorkerExited follows."""
        self._started().kill()

    def _close_input(self, timeout_s: float) -> None:
        """Raises TimeoutError while a `send` waits for a worker that does not read."""
        process = self._started()
        assert process.stdin is not None
        if not self._write_lock.acquire(timeout=timeout_s):
            raise TimeoutError
        try:
            process.stdin.close()
        except BrokenPipeError:
            _logger.debug("the worker left input unread")
        finally:
            self._write_lock.release()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the worker has not been started")
        return self._process

    def _read_events(self) -> None:
        process = self._started()
        assert process.stdout is not None
        for line in process.stdout:
            try:
                event = decode_event(line)
            except ValidationError:
                # Cut off by the worker's death, or our bug: either way nothing after it can be trusted.
                _logger.exception("worker %d wrote no event: %r", process.pid, line[:200])
                process.kill()
                break
            self._deliver(event)
        try:
            returncode = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            returncode = process.wait()
        self._log_thread.join()
        self._outgoing.put(None)
        self._close_input(_END_S)
        process.stdout.close()
        self._deliver(WorkerExited(returncode=returncode, log_tail=tuple(self._tail)))

    def _read_log(self) -> None:
        process = self._started()
        assert process.stderr is not None
        for line in process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            _logger.debug("worker %d: %s", process.pid, text)
        process.stderr.close()
