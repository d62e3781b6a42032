"""Work that may take long, beside the agent's thread, which looks whether it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def in_background(name: str, work: Callable[[], _T]) -> Future[_T]:
    """What comes of it, or its exception. Its thread keeps nobody from ending, as an executor's would."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - told to who asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
