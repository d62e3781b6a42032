from __future__ import annotations

import json
from dataclasses import replace

from tests.helpers.support import REPLY_FIELDS, Desk, labelled


def test_an_answer_reads_as_in_the_contract() -> None:
    desk = Desk()
    desk.ask({"input": "ü轴", "id": 7}, task="triage", at=1.0)
    desk.dispatcher.finish(replace(labelled(1, normal=0.07, bearing_fault=0.93), started_at=1.0012345), 1.15629)
    payload = desk.publication.payload
    assert b", " not in payload, "replies are compact"
    document = json.loads(payload)
    assert set(document) == REPLY_FIELDS
    assert (document["id"], document["output"], document["error"]) == (7, "bearing fault", None)
    assert document["scores"] == {"normal": 0.07, "bearing fault": 0.93}
    assert document["model"] == {"name": "default", "sha256": "5ha", "quantization": "Q8_0"}
    assert document["usage"] == {
        "prompt_tokens": 20, "cached_tokens": 15, "completion_tokens": 0, "energy_j": None,
    }  # fmt: skip
    assert document["timing"] == {
        "queued_ms": 1.2, "prefill_ms": 150.0, "decode_ms": 50.0, "total_ms": 156.3, "batch": 2,
    }  # fmt: skip
