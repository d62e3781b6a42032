from __future__ import annotations

import json
from pathlib import Path

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.requests.tasks import with_built_in
from edge_agent.status.info import info_document
from tests.helpers.facts import worker_facts
from tests.helpers.support import TASKS, config


def test_info_describes_the_board_and_is_null_where_only_a_ready_worker_knows(tmp_path: Path) -> None:
    settings = config(TASKS)
    board, tasks = Board(tmp_path, tmp_path), with_built_in(settings.tasks)
    document = info_document(settings, tasks, board, worker_facts(), None)
    assert document["schema"] == 1
    assert (document["site"], document["device"], document["cpu_features"]) == ("hall1", "board1", [])
    assert document["tasks"]["triage"]["labels"] == ["normal", "bearing fault"]
    assert "generate" in document["tasks"]
    assert {"name", "sha256", "quantization", "licence", "signature"} <= set(document["models"][0])
    assert (document["limits"]["context_tokens"], document["limits"]["max_payload_bytes"]) == (2048, 65536)
    assert document["versions"]["edge_agent"] == __version__
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    loading = info_document(settings, tasks, board, worker_facts(ready=None), None)
    assert loading["limits"]["context_tokens"] is None
    assert set(loading["engine"].values()) == {None}
