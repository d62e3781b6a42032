"""One part of the bundle: what it found, what it could not find and why, within a time of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.tools.diag.redaction import scrubbed, scrubbed_value

# Of one file; what is longer is cut at its end.
MOST_BYTES = 400_000


@dataclass(slots=True)
class Part:
    """about: for people. files: by name, ready to be packed. left_out: on purpose. missing: with why."""

    name: str
    about: str
    files: dict[str, bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def text(self, name: str, text: str) -> None:
        """Keeps a text, without credentials."""
        # Some more than is kept, so that no half of a secret is.
        self._keep(name, scrubbed(text[: MOST_BYTES + 1000]))

    def document(self, name: str, value: object) -> None:
        """Keeps what JSON can hold, without credentials."""
        self._keep(name, json.dumps(scrubbed_value(value), indent=1, ensure_ascii=False) + "\n")

    def _keep(self, name: str, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        if len(data) > MOST_BYTES:
            data = data[:MOST_BYTES]
            self.misses(f"{name}: what comes after {MOST_BYTES} bytes")
        self.files[name] = data

    def leaves_out(self, what: str) -> None:
        self.left_out.append(what)

    def misses(self, what: str) -> None:
        """what: with the reason, which may quote anything."""
        self.missing.append(scrubbed(what))


def collect(name: str, about: str, work: Callable[[Part], None], limit_s: float) -> Part:
    """What a part has after its work, or after limit_s seconds of it. No fault of one part is another's.

    A thread that hangs is left behind; it ends with the process.
    """
    part = Part(name, about)

    def run() -> None:
        try:
            work(part)
        except Exception as error:  # noqa: BLE001 - whatever it is, support needs the other parts all the more
            part.misses(f"{_rest(part)}: {str(error) or type(error).__name__}")

    thread = threading.Thread(target=run, name=f"diag-{name}", daemon=True)
    thread.start()
    thread.join(limit_s)
    # What comes later goes into an object that nobody looks at any more.
    found = Part(name, about, dict(part.files), list(part.left_out), list(part.missing))
    if thread.is_alive():
        found.misses(f"{_rest(found)}: not done within {limit_s:g} s")
    return found


def _rest(part: Part) -> str:
    return "the rest" if part.files else "all of it"
