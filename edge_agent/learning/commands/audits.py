"""`edge-agent audits`: the answers that somebody should still check, with what the task was asked."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.strict_json import compact_json
from edge_agent.core.terminal import UNKNOWN, aligned, fail
from edge_agent.core.wording import cut, printable, printable_json
from edge_agent.learning.answers import KeptAnswer
from edge_agent.learning.commands.rows import NotReadError, kept_input, read_kept
from edge_agent.loader import load_config


def audits(config_path: Path, task: str, *, as_json: bool) -> int:
    """Prints the open audits, the oldest first, without the answers: these would bias people. Raises ConfigError."""
    config = load_config(config_path)
    try:
        table, answers = read_kept(config, task)
    except NotReadError as error:
        return fail(str(error))
    found = [answer for answer in answers if answer.is_audit and not answer.is_marked]
    if as_json:
        entries = list(map(_entry, found))
        print(printable_json({"task": task, "labels": list(table.choices) or None, "open": entries}))
        return 0
    print(printable(f"open audits of {task}: {len(found)}"))
    if not found:
        return 0
    print("\n".join(map(printable, _table(found, time.time()))))
    labels = f", where ANSWER is one of: {', '.join(table.choices)}" if table.choices else ""
    print(printable(f"answer each with: edge-agent feedback {task} ID ANSWER --by NAME{labels}"))
    if not config.feedback.keep_inputs:
        print("feedback.keep_inputs is false: no inputs are kept; `echo_input` puts them into replies instead")
    return 0


def _entry(answer: KeptAnswer) -> dict[str, Any]:
    return {
        "id": json.loads(answer.id),
        "reply_to": answer.reply_topic,
        "at": timestamp(answer.wall_s),
        "machine": answer.machine,
        "input": kept_input(answer),
    }


def _table(found: Sequence[KeptAnswer], now: float) -> list[str]:
    return aligned([["ID", "AGE", "MACHINE", "INPUT"], *(_row(answer, now) for answer in found)], left=4)


def _row(answer: KeptAnswer, now: float) -> list[str]:
    value = kept_input(answer)
    text = UNKNOWN if value is None else cut(value if isinstance(value, str) else compact_json(value))
    return [str(json.loads(answer.id)), _age(now - answer.wall_s), answer.machine or UNKNOWN, text]


def _age(seconds: float) -> str:
    for name, unit_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
