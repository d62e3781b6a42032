"""Counts the way of one warm `classify` through the agent: which files it enters, and how often it changes files.

The way begins with the inbound message and ends with the flushed reply. The link and the worker are fakes, the store is
in memory. A move is a call into another file of edge_agent, or the return from it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import edge_agent
from tests.helpers.support import BASE, Desk, inbound, labelled, received

_PACKAGE = f"{Path(edge_agent.__file__).parent}/"


@dataclass(slots=True)
class Walk:
    """entered: how often each file is called from another one. returns: from one file of edge_agent to another."""

    entered: Counter[str] = field(default_factory=Counter)
    returns: int = 0

    @property
    def files(self) -> int:
        return sum(count > 0 for count in self.entered.values())

    @property
    def moves(self) -> int:
        return self.entered.total() + self.returns

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        """A profile function, as sys.setprofile takes it."""
        file = frame.f_code.co_filename
        if event not in {"call", "return"} or not file.startswith(_PACKAGE):
            return
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(_PACKAGE):
            caller = caller.f_back
        is_move = caller is None or caller.f_code.co_filename != file
        if event == "call":
            self.entered[file.removeprefix(_PACKAGE)] += is_move
        elif caller is not None:
            self.returns += is_move


def warm_classify() -> Walk:
    """The way before the engine and after it, of a task that has answered before."""
    desk, walk = Desk(), Walk()
    for number in (1, 2):
        arrived_at, answered_at = float(number), number + 0.1
        topic, payload = f"{BASE}/infer/triage/request", {"input": "hums", "id": number}
        message = inbound(topic, payload, at=arrived_at, packet_id=number)
        answer = labelled(number, normal=0.1, bearing_fault=0.9)
        sys.setprofile(walk.note if number == 2 else None)
        desk.dispatcher.receive(message, arrived_at)
        desk.delivery.acknowledge_when_stored(received(message, desk.outlet))
        desk.delivery.flush(arrived_at)
        desk.dispatcher.finish(answer, answered_at)
        desk.delivery.flush(answered_at)
        sys.setprofile(None)
    assert [reply["status"] for reply in desk.replies] == ["ok", "ok"]
    return walk


def main() -> int:
    argparse.ArgumentParser(prog="python -m rigs.walk", description=__doc__).parse_args()
    walk = warm_classify()
    for file, count in walk.entered.most_common():
        print(f"{count:4}  {file}")
    print(f"{walk.files} files, {walk.moves} moves between files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
