"""`edge-agent run`, which also writes down what its signals' connection got, as `edge-agent signals replay` reads it.

`python -m rigs.signals.recorded_agent RECORDING run --config FILE`
"""

import sys
from pathlib import Path

from edge_agent.cli import main
from edge_agent.core.messages import Message
from edge_agent.signals.feed import Buffer
from edge_agent.signals.replay import LOST

_put = Buffer.put


def record(path: Path) -> None:
    file = path.open("a", buffering=1, encoding="utf-8")

    def put(self: Buffer, message: Message | None) -> None:
        with self._lock:
            # As `put`, without its bounds: the time in the file is the one in the buffer.
            at = self.now()
            self._entries.append((at, message))
        if message is None:
            file.write(f"{at!r} {LOST}\n")
        else:
            file.write(f"{at!r} {int(message.is_retained)} {message.payload.hex()} {message.topic}\n")

    Buffer.put = put  # type: ignore[method-assign]


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
