"""`edge-agent run`, which also records the messages of its signals, as `edge-agent signals replay` reads them.

`python -m rigs.signals.recorded_agent RECORDING run --config FILE`
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from edge_agent.cli import main
from edge_agent.core.messages import Message
from edge_agent.signals.feed import Buffer
from edge_agent.signals.replay import LOST

_take = Buffer.take


def record(path: Path) -> None:
    file = path.open("a", buffering=1, encoding="utf-8")

    def take(self: Buffer, seconds: float) -> Iterator[tuple[float, Message | None]]:
        for at, message in _take(self, seconds):
            if message is None:
                file.write(f"{at!r} {LOST}\n")
            else:
                file.write(f"{at!r} {int(message.is_retained)} {message.payload.hex()} {message.topic}\n")
            yield at, message

    Buffer.take = take  # type: ignore[method-assign]


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
