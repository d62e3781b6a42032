"""What a bundle is, for its report: read from its plan, and from what lies in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .conversion import Plan
from .report.quality import Bundle, TunedOn
from .tune.candidates import Target
from .write.manifest import ADAPTER_FILE, CANARIES_FILE, sha256_of

if TYPE_CHECKING:
    from .measure.texts import Texts


def bundle_facts(plan: Plan, target: Target, folder: Path, calibration: Texts | None) -> Bundle:
    """Of a folder that holds all but the report and the manifest."""
    adapter = folder / ADAPTER_FILE
    return Bundle(
        name=plan.name,
        version=plan.version,
        licence=plan.licence,
        quantization=plan.quantization_name,
        bits_per_weight=round(plan.bits_per_weight, 3),
        target=target.value,
        calibration=None if calibration is None else TunedOn(name=calibration.name, sha256=calibration.sha256),
        adapter_sha256=sha256_of(adapter) if adapter.is_file() else None,
        canaries=count_canaries(folder),
    )


def count_canaries(folder: Path) -> int:
    """Requests with recorded answers; 0 for a bundle without."""
    path = folder / CANARIES_FILE
    return len(json.loads(path.read_bytes())["canaries"]) if path.is_file() else 0
