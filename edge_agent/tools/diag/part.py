"""One part of the archive: what it found, what it could not find and why, within a time of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edge_agent.tools.diag.redaction import scrubbed, scrubbed_value

# Longer files are cut.
MAX_BYTES = 400_000


@dataclass(slots=True)
class Part:
    """files: by name. left_out: on purpose. missing: with the reason. Nothing of it holds credentials."""

    name: str
    about: str
    files: dict[str, bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add_text(self, name: str, text: str) -> None:
        # The margin keeps a secret at the end whole until it is recognised.
        self._add(name, scrubbed(text[: MAX_BYTES + 1000]))

    def add_json(self, name: str, value: object) -> None:
        self._add(name, json.dumps(scrubbed_value(value), indent=1, ensure_ascii=False) + "\n")

    def _add(self, name: str, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        if len(data) > MAX_BYTES:
            data = data[:MAX_BYTES]
            self.add_missing(f"{name}: everything after {MAX_BYTES} bytes")
        self.files[name] = data

    def add_missing(self, what: str) -> None:
        """what: with the reason, which may quote anything."""
        self.missing.append(scrubbed(what))


def collect(name: str, about: str, work: Callable[[Part], None], limit_s: float) -> Part:
    """What a part has after its work, or after limit_s seconds. A failing part does not affect the others.

    A thread that hangs is left behind; it ends with the process.
    """
    part = Part(name, about)

    def run() -> None:
        try:
            work(part)
        except Exception as error:  # noqa: BLE001 - support needs the other parts all the more
            part.add_missing(f"{_rest(part)}: {str(error) or type(error).__name__}")

    thread = threading.Thread(target=run, name=f"diag-{name}", daemon=True)
    thread.start()
    thread.join(limit_s)
    # A copy: the thread may go on.
    found = replace(part, files=dict(part.files), left_out=list(part.left_out), missing=list(part.missing))
    if thread.is_alive():
        found.add_missing(f"{_rest(found)}: not done within {limit_s:g} s")
    return found


def _rest(part: Part) -> str:
    return "the rest" if part.files else "all of it"
