"""What the models are: of the one in force, the one before it and the configured one; manifests, headers, sizes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from edge_agent.board.files import reason
from edge_agent.core.config import ECHO_MODEL, Config
from edge_agent.gguf.header import Array, HeaderError, read_header
from edge_agent.gguf.model import read_model_facts
from edge_agent.models import record as model_record
from edge_agent.models.bundle import MANIFEST_FILE, MODEL_FILE
from edge_agent.tools.diag.files import facts, head, listing
from edge_agent.tools.diag.part import Part

_MOST_MANIFEST_BYTES = 300_000
_MOST_ENTRIES = 200
_LONGEST_VALUE = 200


def models(part: Part, config: Config) -> None:
    """Nothing is hashed here: the check `model` of doctor.json is about that."""
    configured = config.models["default"].path
    record = model_record.read(config)
    document: dict[str, Any] = {
        "configured": str(configured),
        "in_force": str(model_record.in_force(config)),
        "record": _record(config.state_dir / model_record.FILE),
        "models_dir": list(listing(config.models_dir, _MOST_ENTRIES)),
    }
    paths = {configured, model_record.in_force(config), *filter(None, [record.previous if record else None])}
    document["models"] = {str(path): _model(path) for path in sorted(paths)}
    part.document("models.json", document)


def _record(path: Path) -> Any:
    """As it is written, void or not."""
    try:
        return json.loads(head(path, 10_000))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return {"fault": reason(error)}


def _model(path: Path) -> dict[str, Any]:
    if str(path).startswith(ECHO_MODEL):
        return {"echo": "no model: the engine that tries the agent"}
    found: dict[str, Any] = {"file": facts(path)}
    gguf = path
    if path.is_dir():
        gguf = path / MODEL_FILE
        found["files"] = list(listing(path, _MOST_ENTRIES))
        try:
            found["manifest"] = json.loads(head(path / MANIFEST_FILE, _MOST_MANIFEST_BYTES))
        except (OSError, ValueError) as error:
            found["manifest"] = {"fault": reason(error)}
    try:
        found["header"] = _header(gguf)
    except (OSError, HeaderError) as error:
        found["header"] = {"fault": reason(error)}
    return found


def _header(gguf: Path) -> dict[str, Any]:
    """Its single values but for long texts (the chat template), and its tensors by type."""
    header = read_header(gguf)
    counts, nbytes = Counter[str](), Counter[str]()
    for tensor in header.tensors:
        counts[tensor.type.name] += 1
        nbytes[tensor.type.name] += tensor.nbytes
    values = {
        key: f"{len(value)} characters" if isinstance(value, str) and len(value) > _LONGEST_VALUE else value
        for key, value in header.values.items()
        if not isinstance(value, Array)
    }
    try:
        fault = None
        read_model_facts(gguf)
    except HeaderError as error:
        fault = str(error)
    types = {name: {"tensors": counts[name], "bytes": nbytes[name]} for name in counts}
    return {"fault": fault, "values": values, "types": types}
