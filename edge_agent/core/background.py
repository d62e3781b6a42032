"""Runs slow work in a thread; the agent's thread polls for its end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def in_background(name: str, work: Callable[[], _T]) -> Future[_T]:
    """Gives the result or exception later. The thread does not keep the process alive, unlike an executor's."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - raised by Future.result
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
