from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.core.protocol import Ready
from edge_agent.requests.tasks import with_built_in
from edge_agent.status.info import info_document
from tests.helpers.facts import READY, worker_facts
from tests.helpers.support import TASKS, config


def info(tmp_path: Path, ready: Ready | None) -> dict[str, Any]:
    settings = config(TASKS)
    return info_document(
        settings, with_built_in(settings.tasks), Board(tmp_path, tmp_path), worker_facts(ready=ready), None
    )


def test_info_describes_the_board_and_what_it_can_do(tmp_path: Path) -> None:
    document = info(tmp_path, READY)
    assert document["schema"] == 1
    assert (document["site"], document["device"]) == ("hall1", "board1")
    assert document["cpu_features"] == []
    assert document["tasks"]["triage"]["labels"] == ["normal", "bearing fault"]
    assert "generate" in document["tasks"]
    assert {"name", "sha256", "quantization", "licence", "signature"} <= set(document["models"][0])
    assert document["limits"]["context_tokens"] == 2048
    assert document["limits"]["max_payload_bytes"] == 65536
    assert document["versions"]["edge_agent"] == __version__
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_info_is_null_where_only_a_ready_worker_knows(tmp_path: Path) -> None:
    document = info(tmp_path, None)
    assert document["limits"]["context_tokens"] is None
    assert set(document["engine"].values()) == {None}
