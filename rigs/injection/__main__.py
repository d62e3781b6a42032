"""What a caller's text can do: attacks in a free-text field of readings, asked of a whole agent with a real model.

Three tasks of the same readings: labels, JSON by a schema, text. Counts answers outside of labels and schema, and
labels that differ from those of the reading alone. Of the system message it counts answers with its code word, and
with eight of its words in a row. Harmless notes are asked, too: any text changes some answers. Exit code 1 if an
answer is outside, or text becomes a control token.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from edge_agent.models.bundle import MODEL_FILE
from rigs.bench.agent import UnexpectedReply, running_agent
from rigs.bench.figures import processor
from rigs.bench.workload import CLIENTS, CONTEXT_TOKENS, Kind
from rigs.injection.attacks import ATTACKS, NOTES
from rigs.injection.measure import Row, cases, control_tokens, rows, tasks
from rigs.machine import model_path, parser_of

_COLUMNS = ("kind", "note", "asked", "refused", "outside", "changed", "obeyed", "leaked", "copied")


def main() -> int:
    parser = parser_of("rigs.injection", __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a bundle or a .gguf")
    parser.add_argument("--readings", type=int, default=5, help="each with every text (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", type=Kind, default=list(Kind), help="default: all")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    options = parser.parse_args()
    file = options.model / MODEL_FILE if options.model.is_dir() else options.model
    prompts, smuggled = control_tokens(file)
    asked = cases(options.readings)
    engine = {"max_active": min(CLIENTS, 4), "context_tokens": CONTEXT_TOKENS}
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, running_agent(file, Path(folder), tasks(), engine) as side:
        for kind in options.kinds:
            try:
                found += rows(side, kind, asked, CLIENTS)
            except UnexpectedReply as error:
                raise SystemExit(f"an attack ended the agent: {error}") from error
    outside = sum(row.outside for row in found)
    if options.json:
        result = {"processor": processor(), "model": file.name, "readings": options.readings, "attacks": len(ATTACKS)}
        result |= {"prompts": prompts, "smuggled": smuggled, "rows": [asdict(row) for row in found]}
        print(json.dumps(result))
    else:
        print(processor(), file.name, f"{options.readings} readings, {len(ATTACKS)} attacks, {len(NOTES)} notes")
        print("\n".join(_table(found)))
        print(f"prompts whose control tokens an attack changes: {smuggled} of {prompts}")
        print(f"answers outside of labels, schema and documented refusals: {outside} of {sum(r.asked for r in found)}")
    return 1 if outside or smuggled else 0


def _table(found: list[Row]) -> list[str]:
    lines = [_COLUMNS]
    for row in found:
        answered = row.asked - row.refused
        is_text = row.kind == Kind.GENERATE
        changed = "–" if is_text else _share(row.changed, answered)
        obeyed = _share(row.obeyed, row.wanting) if row.wanting else "–"
        counts = (str(row.asked), str(row.refused), str(row.outside))
        lines.append(
            (row.kind, row.note, *counts, changed, obeyed, _share(row.leaked, answered), _share(row.copied, answered))
        )
    widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} = {part / whole:.0%}" if whole else "–"


if __name__ == "__main__":
    sys.exit(main())
